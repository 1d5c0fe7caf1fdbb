"""Where a project is inside its source, and the folder that its server runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from . import alembic, dependencies, project, targets
from .toml import load_toml

# In every release: what units name does not change with the project's folder.
PROJECT = ".berth/project"
WORK = ".berth/work"
_DEPTH = 3


@dataclass(frozen=True)
class Place:
    """A folder, and what says so."""

    folder: Path
    why: str


def locate(root: Path, app: dict[str, Any]) -> Place:
    """The project's folder: what is configured, the top, or the only project below it."""
    built = _link(root, PROJECT)
    if built:
        return Place(built, "the release")
    subdir = app["source"]["subdir"]
    if subdir:
        return Place(project_folder(root, subdir), "source.subdir")
    if app["python"]["directory"] or _is_project(root, app):
        return Place(root, "the top of the source")
    below = list(_projects(root))
    if len(below) > 1:
        names = ", ".join(os.path.relpath(folder, root) for folder in below)
        raise ReleaseError(
            f"The source holds {len(below)} projects and none at its top: {names}. Set source.subdir to the "
            "one that this app is."
        )
    if below:
        return Place(below[0], "the only folder with a dependency file and an app (source.subdir)")
    return Place(root, "the top of the source")


def project_folder(root: Path, subdir: str) -> Path:
    """Where the app itself is; a subfolder that is missing or leads out of the source is refused."""
    project = root / subdir
    if not project.is_dir() or not project.resolve().is_relative_to(root.resolve()):
        raise ReleaseError(f"source.subdir: there is no folder {subdir} in the source.")
    return project


def remember(release: Path, folder: Path, work_folder: Path) -> None:
    """Note both in a release; what its units name leads through here."""
    own = release / ".berth"
    for name, there in ((PROJECT, folder), (WORK, work_folder)):
        if not (release / name).is_symlink():
            (release / name).symlink_to(os.path.relpath(there, own))


def _link(root: Path, name: str) -> Path | None:
    link = root / name
    if not link.is_symlink():
        return None
    folder = Path(os.path.normpath(link.parent / link.readlink()))
    return folder if folder.is_relative_to(root) else None


def _is_project(root: Path, app: dict[str, Any]) -> bool:
    """Whether the top is more than a roof over projects: it says what to install, and has an app."""
    toml = load_toml(root / "pyproject.toml")
    if "workspace" in toml.get("tool", {}).get("uv", {}) and not toml.get("project"):
        return False
    if not _installs(root):
        return False
    web = project.web(app)
    if web["app"] or web["command"]:
        return True
    return bool(targets.find_targets(root, root, web["directory"]))


def _installs(folder: Path) -> bool:
    """Whether it says what to install, be it in a way that is refused later."""
    try:
        return dependencies.find_installer(folder).kind != "none"
    except ReleaseError:
        return True


def _projects(root: Path) -> Iterator[Path]:
    """The outermost folders below the top with a dependency file and an ASGI target."""
    for name, folders, _ in os.walk(root):
        folder = Path(name)
        folders[:] = sorted(one for one in folders if one not in project.NO_APPS and not one.startswith("."))
        if folder == root:
            continue
        if _installs(folder) and targets.find_targets(folder):
            yield folder
            folders.clear()
        elif len(folder.relative_to(root).parts) >= _DEPTH:
            folders.clear()


def work(root: Path, app: dict[str, Any], folder: Path) -> Place:
    """Where the server and everything else of the app runs, and imports start from."""
    built = _link(root, WORK)
    if built:
        return Place(built, "the release")
    wish = project.web(app)["directory"]
    if not wish:
        return Place(folder, "the project")
    there = folder / wish
    if not there.is_dir() or not there.resolve().is_relative_to(root.resolve()):
        raise ReleaseError(f"processes.web.directory: there is no folder {wish} in the project.")
    return Place(there, "processes.web.directory")


def refuse_code(app: dict[str, Any], folder: Path, parts: dict[str, Path]) -> None:
    """Refuse to make a folder with the app's own code writable: a link into data/ would never change again.

    `parts` are what must stay in the release: what each is, and where.
    """
    for key in ("persistent", "scratch"):
        for name in app[key]:
            there = Path(os.path.normpath(folder / name))
            for what, part in parts.items():
                if part == there or there in part.parents:
                    raise ReleaseError(
                        f"{key}: {name} holds {what} ({os.path.relpath(part, folder)}), which belongs to the "
                        "release: name the folder below it that the app writes."
                    )


def code_parts(app: dict[str, Any], root: Path, folder: Path, work: Path, target: str) -> dict[str, Path]:
    """What no folder may hold that the app can write: the project, what is installed, served or migrated."""
    parts = {"the project": folder}
    installer = dependencies.find_installer(folder, root, app["python"]["directory"])
    if installer.file:
        parts["what is installed"] = installer.path
    if ini := alembic.find_ini(folder, root):
        parts["Alembic's settings"] = ini / alembic.INI
    for start in project.python_path(work) if target else []:
        module = start.joinpath(*target.partition(":")[0].split("."))
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            if path.is_file():
                parts[f"the code of {target}"] = path
    return parts
