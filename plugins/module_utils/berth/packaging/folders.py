"""Folders of a release that are not plain code: those that outlive it, are written to, or are served.

The release was taken before, so its own paths are safe. `data` is the app's: root only looks there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from .. import venv
from ..errors import ReleaseError, cut
from ..host import sandbox, untrusted
from ..host.command import module_source
from ..paths import Paths, ids
from ..payload import seed
from ..runtime import naming
from ..runtime.transient import Work, transient
from ..store import public


def link_persistent(paths: Paths, app: dict[str, Any], folder: Path, project: Path) -> None:
    """Folders that outlive releases: seeded from what the source brings, then linked into the release."""
    todo: list[str] = []
    links = []
    for name in app["persistent"]:
        inside = _inside(folder, project / name, f"persistent: {name}")
        outside = paths.data / name
        there = _is_the_apps(paths, outside, name)
        brings = inside.is_dir() and not inside.is_symlink()
        if not there or (brings and seed.missing(inside, outside)):
            # An empty name brings nothing, and makes the folder.
            todo += [str(inside) if brings else "", str(outside)]
        links.append((inside, outside))
    if todo:
        _seed(paths, todo)
    for inside, outside in links:
        untrusted.remove(inside)
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.symlink_to(outside)


def _inside(folder: Path, path: Path, what: str) -> Path:
    """Where a folder of the project really is, whose last part may be missing, or a link."""
    return untrusted.resolve(folder, path.parent, what) / path.name


def _is_the_apps(paths: Paths, outside: Path, name: str) -> bool:
    """Whether a persistent folder is there; refused where it is not the app's, or leads elsewhere."""
    uid = ids(paths.app)[0]
    for path, known in untrusted.folders(paths.data, outside):
        if known is None:
            return False
        if not stat.S_ISDIR(known.st_mode):
            kind = "a link" if stat.S_ISLNK(known.st_mode) else "no folder"
            raise ReleaseError(
                f"persistent: {name}: {path} is {kind}, and has to be a folder of the app's: look who put it "
                "there, and move it away."
            )
        if known.st_uid != uid:
            raise ReleaseError(
                f"persistent: {name}: {path} does not belong to {paths.app}: chown -R {paths.app}: {path}"
            )
    return True


def _seed(paths: Paths, words: list[str]) -> None:
    """As the app: nobody else writes into its data."""
    result = transient(
        Work(
            naming.transient("seed", paths.app),
            ["/usr/bin/python3", "-I", "-c", module_source(seed), *words],
            user=paths.app,
            sandbox=sandbox.proof(),
            writable=[paths.data],
            timeout=600,
        )
    )
    if result.code != 0:
        last = result.lines[-1] if result.lines else f"exit status {result.code}"
        raise ReleaseError(f"The persistent folders could not be filled as {paths.app}: {cut(last, 300)}")


def open_scratch(paths: Paths, app: dict[str, Any], folder: Path, project: Path) -> None:
    """Folders of this release that the app may write, with what the source brings in them."""
    uid, gid = ids(paths.app)
    for name in app["scratch"]:
        inside = _inside(folder, project / name, f"scratch: {name}")
        if inside.is_symlink():
            raise ReleaseError(f"scratch: {name} is a link in the source: put a folder there, or nothing.")
        inside.mkdir(parents=True, exist_ok=True)
        for parent in inside.parents:
            if parent == folder.resolve():
                break
            os.chown(parent, 0, gid)
            parent.chmod(parent.stat().st_mode | 0o050)
        untrusted.give(inside, uid, gid, 0o750, 0o640)


def serve(app: dict[str, Any], folder: Path, project: Path, top: Path) -> None:
    """What the proxy serves, under its paths: which release is live decides it all.

    It reads nothing of a release that was never live: until then it may not enter `top`.
    """
    top.mkdir(mode=0o700, parents=True)
    top.parent.chmod(0o755)
    folder.joinpath(".berth").chmod(0o751)
    env = venv.of(folder).resolve()
    for static in app["static"]:
        place = project / static["path"]
        what = f"static: {static['path']}"
        real = place.resolve()
        # A folder of a package in the environment is everybody's to read already.
        if not real.is_relative_to(env):
            real = untrusted.resolve(folder, place, what)
        if real.is_dir():
            public.publish(real, top / static["url"].lstrip("/"), what)
    (folder / public.STATIC).symlink_to(top)
