"""Which apps are on this server, by Berth's own marks and not by folders of their names."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from ..paths import APP, Paths
from . import prune


def here(paths: Paths) -> bool:
    """Whether an app is set up or released here. What is left of a removed one (its data) does not count."""
    try:
        provisioned = json.loads(paths.provisioned.read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        provisioned = ""
    if provisioned:
        return True
    marked = paths.provisioned.exists() or (paths.state / "journal.jsonl").exists()
    return marked and bool(prune.live_release(paths) or prune.list_releases(paths))


def unnamed(known: Collection[str], root: Path = Path("/")) -> list[str]:
    """Apps that are here and not among those."""
    return [name for name in prune.known(root) if name not in known and here(Paths(name, root))]


def deployed(root: Path = Path("/")) -> list[str]:
    """Every app that ever was deployed here."""
    states = (root / "var/lib/berth").glob("*")
    return sorted(
        path.name for path in states if APP.fullmatch(path.name) and (path / "journal.jsonl").exists()
    )
