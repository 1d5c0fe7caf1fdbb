"""Which apps are on this server, by Berth's own marks and not by folders of their names."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from ..paths import Paths
from ..release.plan import PROVISIONED
from . import prune


def here(paths: Paths) -> bool:
    """Whether an app is set up or released here. What is left of a removed one (its data) does not count."""
    try:
        provisioned = json.loads((paths.etc / PROVISIONED).read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        provisioned = ""
    if provisioned:
        return True
    marked = (paths.etc / PROVISIONED).exists() or (paths.state / "journal.jsonl").exists()
    return marked and bool(prune.live_release(paths) or prune.list_releases(paths))


def unnamed(known: Collection[str], root: Path = Path("/")) -> list[str]:
    """Apps that are here and not among those."""
    return [name for name in prune.known(root) if name not in known and here(Paths(name, root))]
