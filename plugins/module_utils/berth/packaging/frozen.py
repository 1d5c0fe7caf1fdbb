"""A release's own copies of what the server holds for its app: a rollback brings them back."""

from __future__ import annotations

import os
import re

from ..paths import Paths, ids
from ..reading import places
from ..runtime import naming
from ..store import journal
from .tree import Tree


def keep_settings(tree: Tree) -> None:
    """Its env files."""
    _, group = ids(tree.paths.app)
    tree.paths.frozen.mkdir(mode=0o750, exist_ok=True)
    os.chown(tree.paths.frozen, 0, group)
    role = tree.role()[0]
    env = (tree.paths.etc / ("owner.env" if role == "owner" else "env")).read_text()
    journal.replace_text(tree.paths.env(tree.release), env, 0o640, 0, group)
    migrate_env = (tree.paths.etc / "migrate.env").read_text()
    journal.replace_text(tree.paths.migrate_env(tree.release), migrate_env, 0o600)


def keep_unit(paths: Paths, template: str, release: str) -> None:
    """systemd prefers the file of an instance to its template. Nothing in it comes from the source: where in
    the release the app runs is told by a link of the release's own.
    """
    text = (paths.units / template).read_text()
    text = re.sub(r"(?m)^WorkingDirectory=.*/releases/%i$", lambda line: f"{line[0]}/{places.WORK}", text)
    journal.replace_text(paths.units / naming.instance_file(template, release), text, 0o644)
