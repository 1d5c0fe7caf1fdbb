"""How far a move of PostgreSQL to another major version came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..paths import Paths
from . import journal

State = dict[str, Any]

# What does the work, on the server.
UNIT = "berth-upgrade-postgresql"
# Beside the apps' folders; no app's name has a dot.
_FOLDER = Path("var/lib/berth/postgresql.upgrade")
# Phases in which nothing is at work.
OVER = ("done", "failed")
# Asked by the proxy at each request of a site.
_MAINTENANCE = "maintenance"


def folder(root: Path = Path("/")) -> Path:
    return root / _FOLDER


def read(root: Path = Path("/")) -> State:
    """Empty where there never was one."""
    try:
        found = json.loads((folder(root) / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def unfinished(state: State) -> bool:
    """Whether a move ended where neither cluster is proved to serve, so that it has to be gone on with."""
    return state.get("phase") == "failed" and bool(state.get("closed")) and not state.get("back")


def write(state: State, root: Path = Path("/")) -> None:
    folder(root).mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps(state, indent=1, sort_keys=True) + "\n"
    journal.replace_text(folder(root) / "state.json", text, 0o600)


def close(paths: Paths) -> None:
    """From now on the proxy answers 503 for this app. A reboot forgets it."""
    paths.sockets.mkdir(mode=0o755, parents=True, exist_ok=True)
    (paths.sockets / _MAINTENANCE).touch()


def open_again(paths: Paths) -> None:
    (paths.sockets / _MAINTENANCE).unlink(missing_ok=True)
