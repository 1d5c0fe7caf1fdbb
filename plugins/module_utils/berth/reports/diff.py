"""What a deploy would bring: commits or files, settings, migrations. Changes nothing, needs no lock."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import IO, Any

from ..errors import ReleaseError, run_of
from ..host import untrusted
from ..host.untrusted import Owner
from ..migrations import database, lint, offline, schema
from ..packaging.environments import Environments
from ..packaging.once import Code
from ..packaging.tree import Tree
from ..paths import Paths
from ..reading import places, project, tables
from ..runtime import naming
from ..sources import source
from ..sources.pack import is_env_file
from ..store import releases, settings
from . import history

_SHOWN = 40
_SHOWN_SQL = 300
_NO_ENVIRONMENT = (
    "Their SQL needs the environment of the new code's dependencies, which a deploy builds, and so does "
    "berth rehearse (rehearse.yml); these are their files."
)
_HIDDEN = "(not shown)"
# Where values may be secret, only their names are told.
_MASKED = re.compile(r"^(env\.|proxy\.headers|proxy\.basic_auth|secrets)")
_NOT_OF_A_RELEASE = set(untrusted.OURS)
_OWN = Owner(0, 0)


def file_digest(path: Path) -> str:
    """Content, executable bit and kind of one file."""
    if path.is_symlink():
        return f"l{path.readlink()}"
    kind = "x" if path.stat().st_mode & 0o100 else "f"
    total = hashlib.sha256()
    with untrusted.opened(path) as (handle, _):
        while part := handle.read(1 << 20):
            total.update(part)
    return kind + total.hexdigest()


def manifest(root: Path, names: list[str]) -> dict[str, str]:
    """What the controller tells of a source folder."""
    return {name: file_digest(root / name) for name in names}


def scripts(root: Path, app: dict[str, Any]) -> dict[str, Any]:
    """What a source says of its migrations: its revisions, and why none would run where that is so."""
    found = history.known_to(root, app).values()
    why = ""
    try:
        decision = tables.decide(places.locate(root, app).folder, root, app["migrations"])
        why = "" if decision.command else decision.why
    except ReleaseError as error:
        why = error.sentence
    return {"revisions": [one.as_dict() for one in found], "why": why}


def describe(paths: Paths, args: dict[str, Any], body: IO[bytes] | None = None) -> dict[str, Any]:
    """What a deploy would bring. A folder's content is asked for (`upload`) where that says more."""
    app: dict[str, Any] = args["app"]
    records = releases.records(paths)
    live = releases.live(paths)
    record = records.get(live, {})
    now = history.today(record) if record else ""
    answer: dict[str, Any] = {
        "app": paths.app,
        "live": live,
        "schema": now,
        "commits": [],
        "files": [],
        "settings": setting_changes(record.get("app") or {}, app) if record else [],
        "migrations": [],
        "sql": "",
        "lint": [],
        "notes": [],
    }
    answer["settings"] += [
        {"key": f"secrets.{name}", "from": _HIDDEN, "to": _HIDDEN} for name in args.get("secrets") or []
    ]
    with tempfile.TemporaryDirectory(prefix="berth-diff-", dir="/var/tmp") as work:
        tree = Path(work) / "tree"
        if app["source"]["git"]:
            _from_git(paths, app, record, args.get("version") or "", answer, tree)
            said = scripts(tree, app)
        else:
            tree.mkdir()
            answer["version"] = str(args["digest"])[:7]
            if record:
                answer["files"] = file_changes(paths.release(live), args["files"], app)
            said = args["scripts"]
        found, note = pending(app, said, now)
        answer["migrations"] = [one.as_dict() for one in found]
        answer["notes"] += [note] if note else []
        upload = bool(found and record and not app["source"]["git"] and not body)
        if found and not upload:
            made = _sql(paths, app, tree, args, body, live, now)
            answer["sql"] = made.text
            answer["notes"] += [made.note] if made.note else []
            answer["lint"] = _linted(app, found, made) if now else []
    problem = settings.compare(paths, app, {})["problem"] if record else ""
    if problem:
        answer["notes"].append(problem)
    answer["text"] = text(answer)
    return {"answer": answer, "upload": upload}


def pending(app: dict[str, Any], said: dict[str, Any], now: str) -> tuple[list[schema.Revision], str]:
    """The revisions that a deploy would run, the oldest first, or why that is not known."""
    wishes = app["migrations"]
    known = {one["id"]: schema.noted(one) for one in said["revisions"]}
    if not wishes["enabled"]:
        return [], "Migrations are switched off."
    if wishes["command"]:
        command = wishes["command"]
        return [], (
            f"Migrations run by a command of your own ({command}): what it would do is not known; "
            f"{run_of('rehearse', app['name'])} runs it on a copy of the live rows."
        )
    if not known:
        return [], ""
    if not app["database"]["enabled"]:
        return [], "No migrations would run: database.enabled is false."
    if said["why"]:
        return [], f"No migrations would run: {said['why'].rstrip('.')}."
    if any(name not in known for name in schema.split(now)):
        return [], f"The database is at {now}, which the new code does not know."
    return schema.between(known, now, ",".join(schema.heads(known))), ""


def _linted(app: dict[str, Any], pending: list[schema.Revision], made: offline.Sql) -> list[dict[str, Any]]:
    """What their SQL does to the release that is live, each with a sentence."""
    found = made.found or ()
    if found:
        with contextlib.suppress(ReleaseError, OSError):
            found = tuple(lint.weighty(found, database.Database(app).sizes(found)))
    files = {one.id: one.stem() for one in pending}
    return [{**one.as_dict(), "sentence": one.sentence(files)} for one in found]


def _sql(
    paths: Paths,
    app: dict[str, Any],
    tree: Path,
    args: dict[str, Any],
    body: IO[bytes] | None,
    live: str,
    now: str,
) -> offline.Sql:
    """Made by the new code, in the environment of a release that has the same dependencies."""
    if not live:
        return offline.Sql(note=_NO_ENVIRONMENT)
    new = Tree(paths, app, live, tree)
    environments = Environments(new)
    try:
        if args.get("upload_failed"):
            raise ReleaseError(f"the server's disk is full ({args['upload_failed']}).")
        if body:
            source.unpack(body, tree)
            source.tidy(tree, _OWN)
        decision = tables.decide(new.project, tree, app["migrations"])
        _, interpreter, installer = environments.choose(bring=False)
        env = paths.envs / environments.key(interpreter, installer)
        # Other packages of its workspace are installed into a release when that is built.
        others = [folder for folder in new.packages() if folder != new.project]
        if others or not paths.env_mark(env.name).exists():
            return offline.Sql(note=_NO_ENVIRONMENT)
        new.share()
    except (ReleaseError, OSError) as error:
        return offline.Sql(note=f"Their SQL is not known: {error}")
    site = paths.release(live) / ".berth/site"
    path = project.python_path(new.work) + ([site] if site.is_dir() else [])
    place = offline.Place(tree, decision.directory, Code(paths, live, env, path))
    # It needs no lock, so several may run at a time.
    unit = f"{naming.transient('diff', paths.app)}-{os.getpid()}"
    return offline.make(unit, place, now, decision.command.split()[-1])


def file_changes(folder: Path, files: dict[str, str], app: dict[str, Any]) -> list[str]:
    """`A name`, `M name`, `D name` against a release's folder."""
    place = places.locate(folder, app).folder.relative_to(folder) if app["persistent"] else Path()
    kept = [str(place / name) for name in app["persistent"]]

    def counts(name: str) -> bool:
        outside = any(name == one or name.startswith(f"{one}/") for one in kept)
        top = name.split("/")[0]
        return not (outside or top in _NOT_OF_A_RELEASE or is_env_file(Path(name).name))

    changes = []
    for name, digest in files.items():
        if not counts(name):
            continue
        path = folder / name
        if not path.is_symlink() and not path.is_file():
            changes.append(f"A {name}")
        elif file_digest(path)[1:] != digest[1:]:  # a release's files have modes of their own
            changes.append(f"M {name}")
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("__pycache__", *_NOT_OF_A_RELEASE)]
        for file in names:
            name = str((Path(parent) / file).relative_to(folder))
            if name not in files and counts(name) and not name.endswith(".pyc"):
                changes.append(f"D {name}")
    return sorted(changes, key=lambda line: line[2:])


def setting_changes(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, str]]:
    """Every key of the app's entry that differs; values where they cannot be secret."""
    before, after = _flat("", old), _flat("", new)
    changes = []
    for key in sorted(set(before) | set(after)):
        if before.get(key) == after.get(key) or key in ("source.path", "source.version"):
            continue
        values = [side.get(key, "(none)") for side in (before, after)]
        if _MASKED.match(key):
            values = [value if value == "(none)" else _HIDDEN for value in values]
        changes.append({"key": key, "from": source.public_url(values[0]), "to": source.public_url(values[1])})
    return changes


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict) and value:
        found: dict[str, str] = {}
        for key, below in value.items():
            found.update(_flat(f"{prefix}.{key}" if prefix else str(key), below))
        return found
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        return _flat(
            prefix, {one["name"]: {k: v for k, v in one.items() if k != "name"} or "yes" for one in value}
        )
    return {prefix: str(value)}


def _from_git(
    paths: Paths,
    app: dict[str, Any],
    record: dict[str, Any],
    version: str,
    answer: dict[str, Any],
    tree: Path,
) -> None:
    """Commits, files and the tree from a repository of the moment, which borrows what the mirror has."""
    origin = {**app["source"], **({"version": version} if version else {})}
    old = str(record.get("version", ""))
    with source.Repository(paths, {**app, "source": origin}, target=tree) as repository:
        commit = repository.resolve()
        answer["version"] = commit[:7]
        found = repository.compare(old, commit)
    if found:
        answer["commits"], answer["files"] = found[0], [line.replace("\t", " ") for line in found[1]]
    elif old:
        answer["notes"].append(f"The live commit {old[:7]} is not in the repository any more.")
    source.tidy(tree, _OWN)


def text(answer: dict[str, Any]) -> str:
    """The same for people."""
    app, live = answer["app"], answer["live"]
    lines: list[str] = []
    lines += _part("Commits", answer["commits"])
    lines += _part("Files", answer["files"])
    lines += _part("Settings", [f"{one['key']}: {one['from']} -> {one['to']}" for one in answer["settings"]])
    steps = [
        f"{one['file']}{': ' + one['title'] if one['title'] else ''}"
        + (f"  ! {'; '.join(one['risks'])}" if one["risks"] else "")
        for one in answer["migrations"]
    ]
    lines += _part(f"Migrations from schema {answer['schema'] or 'none'}", steps)
    lines += _part("What they do to the live release", [one["sentence"] for one in answer["lint"]])
    lines += _part("Their SQL, in lines", answer["sql"].strip().splitlines(), _SHOWN_SQL)
    notes = [f"  {note}" for note in answer["notes"]]
    if not live:
        return "\n".join(
            [f"{app}: nothing is live; a deploy brings {answer['version']} as a whole.", *lines, *notes]
        )
    if not lines:
        return "\n".join([f"{app}: {live} is what a deploy would bring; nothing would change.", *notes])
    return "\n".join([f"{app}: against {live}, a deploy of {answer['version']} brings", *lines, *notes])


def _part(title: str, entries: list[str], shown: int = _SHOWN) -> list[str]:
    if not entries:
        return []
    lines = [f"{title} ({len(entries)}):", *(f"  {one}".rstrip() for one in entries[:shown])]
    return lines + ([f"  … and {len(entries) - shown} more"] if len(entries) > shown else [])
