"""Who makes the tables of an app: migrations, the app itself when it starts, or nobody. Read, not run."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host import untrusted
from . import alembic

# A revision or an env.py that leaves the transaction: what it did stays when it fails halfway.
_LEAVES = re.compile(r"autocommit|\bcommit\b", re.IGNORECASE)
_WITHOUT = re.compile(r"autocommit|transactional_ddl\s*=\s*False", re.IGNORECASE)
_AT_START = re.compile(
    r"\.create_all\b|\bcommand\.(upgrade|stamp)\(|\bcreate_db_and_tables\b|\bCREATE TABLE\b"
)


@dataclass(frozen=True)
class Decision:
    """Whether and how the schema is brought up to date, and why so."""

    command: str
    directory: Path
    why: str


def decide(project: Path, root: Path, wishes: Mapping[str, Any]) -> Decision:
    """Alembic is run only where it would work; otherwise the reason and the way to set it are said."""
    wish = str(wishes["directory"])
    start = project / wish if wish else project
    if not wishes["enabled"]:
        return Decision("", start, "migrations.enabled is false")
    if wishes["command"]:
        return Decision(str(wishes["command"]), start, "migrations.command")
    folder = start if wish else alembic.find_ini(project, root)
    config = alembic.config(folder) if folder else None
    if folder is None or config is None:
        return Decision("", start, "there is no alembic.ini")
    place = os.path.relpath(config, root)
    if others := alembic.other_sections(folder):
        why = f"{place} has no section [alembic] but {', '.join(others)}"
        how = f"set migrations.command, such as: alembic -n {others[0]} upgrade head"
        return Decision("", folder, f"{why}: {how}")
    revisions = alembic.read_revisions(folder, root)
    if not revisions:
        return Decision("", folder, f"{place} has no revisions yet")
    if alembic.has_literal_url(folder, root):
        why = f"the address of a database is written in {place} and its env.py reads no other"
        return Decision("", folder, f"{why}: set migrations.command if it shall run all the same")
    heads = alembic.find_heads(revisions)
    if len(heads) > 1 and alembic.have_labels(revisions, heads):
        return Decision("alembic upgrade heads", folder, f"{place}, with branches that have labels")
    if len(heads) > 1:
        raise ReleaseError(
            f"The migrations have {len(heads)} heads ({', '.join(sorted(heads))}), so it is not clear which "
            "schema the release needs. The database is unchanged.",
            advice="merge them with `alembic merge heads`, or set migrations.command: alembic upgrade heads.",
        )
    return Decision("alembic upgrade head", folder, place)


def role(app: Mapping[str, Any], project: Path, root: Path) -> tuple[str, str]:
    """The database role that the app itself gets, and why."""
    database = app["database"]
    if database["role"]:
        return str(database["role"]), "database.role"
    if not database["enabled"]:
        return "runtime", "has no database"
    if decide(project, root, app["migrations"]).command:
        return "runtime", "migrations make the tables"
    place = schema_at_start(project)
    return ("owner", f"creates its tables itself ({place})") if place else ("runtime", "makes no tables")


def schema_at_start(project: Path) -> str:
    """Where the app makes or migrates its tables by itself; empty where it does not."""
    for parent, folders, files in os.walk(project):
        folders[:] = sorted(
            name for name in folders if name not in alembic.SKIPPED | {"migrations", "alembic", "scripts"}
        )
        for name in sorted(files):
            if not name.endswith(".py") or name.startswith("test_") or name == "conftest.py":
                continue
            path = Path(parent) / name
            try:
                text = untrusted.read_text(path, errors="replace")
            except OSError:
                continue
            match = _AT_START.search(text)
            if match:
                return f"{path.relative_to(project)}:{text.count(chr(10), 0, match.start()) + 1}"
    return ""


def makes_itself(project: Path, before: str) -> str:
    """What to write where migrations failed on an empty database that the app fills itself at its start."""
    place = "" if before else schema_at_start(project)
    if not place:
        return ""
    return f"if the app creates its tables itself ({place}), write migrations: {{enabled: false}}"


def is_transactional(folder: Path, root: Path, files: Collection[str]) -> bool:
    """Whether a try that fails leaves nothing behind, as far as env.py and these revisions' files say."""
    for path in alembic.read(folder, root).files():
        pattern = _WITHOUT if path.name == "env.py" else _LEAVES if path.name in files else None
        if pattern and pattern.search(untrusted.read_text(path, errors="replace")):
            return False
    return True


def scripts_digest(project: Path, root: Path) -> str:
    """What the revisions are, so that an unchanged set on an unchanged schema is not run again."""
    total = hashlib.sha256()
    for path in alembic.read(project, root).files():
        total.update(f"{os.path.relpath(path, project)}:".encode() + untrusted.read_bytes(path))
    return total.hexdigest()
