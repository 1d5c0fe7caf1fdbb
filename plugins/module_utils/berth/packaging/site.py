"""The project itself as a package of its release: an environment is shared, and holds none of its code."""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import venv
from ..host import untrusted
from ..paths import ids
from .tree import Tree
from .uv import Uv


def install(tree: Tree, uv: Uv) -> None:
    """Put the project itself into the release, where it has to be a package."""
    for folder in tree.packages():
        _install(tree, uv, folder)


def _install(tree: Tree, uv: Uv, folder: Path) -> None:
    site, work = tree.folder / ".berth/site", tree.folder / ".berth/build"
    site.mkdir(parents=True, exist_ok=True)
    # Build backends write beside the sources, so they get a copy.
    shutil.copytree(folder, work, symlinks=True, ignore=shutil.ignore_patterns(".berth", venv.LINK))
    builder = ids(tree.paths.build_user)
    untrusted.give(work, *builder)
    untrusted.give(site, *builder)
    env = venv.of(tree.folder).resolve()
    words = ["pip", "install", "--no-deps", "--target", str(site), str(work)]
    uv.run(words, env, [site, work], cwd=uv.beside(site))
    untrusted.remove(work)
    untrusted.take(site, tree.while_built, "the installed project")
