"""What a deploy would find in a source, and why: the engine's own decisions, shown without a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..packaging import index
from ..reading import (
    dependencies,
    front_end,
    interpreters,
    packages,
    places,
    pools,
    project,
    randoms,
    tables,
    targets,
)
from ..sources import origins, pack
from . import hints

Row = tuple[str, str, str]


def describe(app: dict[str, Any], root: Path, connections: int = 0) -> list[Row]:
    """What, its value, and where that comes from or how to set it.

    `connections` is how many of the database's the server will give one app; 0 where that is not known.
    """
    found = places.locate(root, app)
    folder = found.folder
    python = app["python"]
    rows: list[Row] = [("project", _below(folder, root), found.why)]
    rows.append(_work(app, folder, root))
    wish = interpreters.wanted_python(folder, root, python["version"])
    bring = "; uv brings one where the server has none" if python["install"] else ""
    rows.append(("python", wish.version or wish.range or "the newest", wish.why + bring))
    installer = dependencies.find_installer(folder, root, python["directory"])
    what = installer.kind + (f" (package {installer.package})" if installer.package else "")
    place = _below(installer.path, root) if installer.file else "no lock, requirements or [project] table"
    rows.append(("dependencies", what, place))
    try:
        origins.check(root, folder, installer)
    except ReleaseError as error:
        rows.append(("", "refused", error.sentence))
    foreign = index.other(installer.path, index.named(app)) if installer.kind == "uv" else ""
    if foreign:
        why = f"server.python.index_url; the lock names {index.public(foreign)}"
        rows.append(("index", app["packages"]["index_url"], why))
    package = "yes" if packages.is_package(folder, installer) else "no"
    rows.append(("installed", package, "whether the project itself has to be installed as a package"))
    rows += _application(app, folder, root)
    try:
        refuse_code(app, root)
    except ReleaseError as error:
        rows.append(("", "refused", error.sentence))
    rows += _schema(app, folder, root)
    rows += _pools(app, folder, connections)
    dropped = [name for name in pack.list_files(root) if pack.is_env_file(name.rsplit("/", 1)[-1])]
    if dropped:
        rows.append(("left out", ", ".join(dropped), "would override the settings"))
    said = [] if app["build"] else front_end.unbuilt(root, folder)
    said += [one.sentence() for one in randoms.unset(folder, app)]
    said += hints.of_python(folder, root, wish, installer)
    said += hints.of_source(app, folder, root, _work_folder(app, folder, root))
    return rows + [("hint", "", hint) for hint in said]


def refuse_code(app: dict[str, Any], root: Path) -> None:
    """Refuse `persistent` and `scratch` that hold the app's own code, which a deploy would refuse later."""
    if not (app["persistent"] or app["scratch"]):
        return
    try:
        folder = places.locate(root, app).folder
        target = str(project.web(app)["app"])
        if not target and not app["build"] and not project.web(app)["command"]:
            target = next((one.target for one in _targets(app, folder, root)), "")
        parts = places.code_parts(app, root, folder, _work_folder(app, folder, root), target)
    except (ReleaseError, OSError):
        return  # whoever asks for these has a word for it
    places.refuse_code(app, folder, parts)


def _work(app: dict[str, Any], folder: Path, root: Path) -> Row:
    """Where the server, the other processes and the jobs run."""
    work = places.work(root, app, folder)
    if found := _elsewhere(app, folder, root):
        return ("runs in", _below(folder / found.directory, root), found.where)
    return ("runs in", _below(work.folder, root), f"{work.why}; set processes.web.directory for another")


def _elsewhere(app: dict[str, Any], folder: Path, root: Path) -> targets.Target | None:
    """The application that is taken, where its author's command runs it in a folder of the project."""
    web = project.web(app)
    found = [] if web["app"] or web["command"] else _targets(app, folder, root)[:1]
    return found[0] if found and found[0].directory else None


def _work_folder(app: dict[str, Any], folder: Path, root: Path) -> Path:
    found = _elsewhere(app, folder, root)
    return folder / found.directory if found else places.work(root, app, folder).folder


def _targets(app: dict[str, Any], folder: Path, root: Path) -> list[targets.Target]:
    return targets.find_targets(folder, root, project.web(app)["directory"])


def _application(app: dict[str, Any], folder: Path, root: Path) -> list[Row]:
    web = project.web(app)
    if web["command"]:
        return [("app", web["command"], "processes.web.command")]
    if web["app"]:
        return [("app", web["app"], "processes.web.app")]
    found = _targets(app, folder, root)
    if not found:
        broken = project.syntax_error(folder)
        return [("app", "none", broken or "set processes.web.app, such as main:app")]
    rest = [("", hit.target, f"{hit.where}; only if the one above is not there") for hit in found[1:4]]
    return [("app", found[0].target, found[0].where), *rest]


def _schema(app: dict[str, Any], folder: Path, root: Path) -> list[Row]:
    if not app["database"]["enabled"]:
        return [("migrations", "none", "database.enabled is false")]
    try:
        decision = tables.decide(folder, root, app["migrations"])
    except ReleaseError as error:
        return [("migrations", "refused", error.sentence)]
    rows = [("migrations", decision.command or "none", decision.why)]
    if decision.command:
        rows.append(("", f"in {_below(decision.directory, root)}", "migrations.directory"))
    return [*rows, ("database role", *tables.role(app, folder, root))]


def _pools(app: dict[str, Any], folder: Path, connections: int) -> list[Row]:
    """How many connections to the database the app may open, and whether the server will have them."""
    if not app["database"]["enabled"]:
        return []
    wanted = pools.demand(app, folder)
    rows = [
        ("connections", "unknown", f"{one.where}: {one.says}") for one in wanted.pools if one.most is None
    ]
    if wanted.most:
        rows.append(("connections", f"up to {wanted.most}", wanted.sum))
    if app["pooler"]["enabled"] or app["database"]["host"]:
        return rows  # what somebody else's server has is asked by a deploy
    if connections and wanted.most > connections:
        rows.append(("", "too many", pools.shortage(connections, "the server")))
    elif connections and 2 * wanted.most > connections:
        twice = f"up to {2 * wanted.most} while two releases overlap, and "
        rows.append(("", "tight", twice + pools.shortage(connections, "the server")))
    return rows


def _below(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)


def table(name: str, rows: Sequence[Row]) -> str:
    """The rows as text, in columns."""
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{a.ljust(first)}  {b.ljust(min(second, 44))}  {c}".rstrip() for a, b, c in rows]
    return "\n".join([name, *(f"  {line}" for line in lines)])
