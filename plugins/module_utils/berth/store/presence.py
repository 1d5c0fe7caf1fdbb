"""Which apps are on this server, by Berth's own marks and not by folders of their names."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from ..paths import APP, Paths
from ..services.service import Service
from . import releases


def here(paths: Paths) -> bool:
    """Whether an app is set up or released here. What is left of a removed one (its data) does not count."""
    try:
        provisioned = json.loads(paths.provisioned.read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        provisioned = ""
    if provisioned:
        return True
    marked = paths.provisioned.exists() or (paths.state / "journal.jsonl").exists()
    return marked and bool(releases.live(paths) or releases.records(paths))


def unnamed(named: Collection[str], root: Path = Path("/")) -> list[str]:
    """Apps that are here and not among those."""
    return [name for name in known(root) if name not in named and here(Paths(name, root))]


def known(root: Path = Path("/")) -> list[str]:
    """Every app that ever was set up on this server and not purged."""
    states = (root / "var/lib/berth").glob("*")
    return sorted(path.name for path in states if path.is_dir() and APP.fullmatch(path.name))


def deployed(root: Path = Path("/")) -> list[str]:
    """Those of them that ever were deployed."""
    return [name for name in known(root) if (Paths(name, root).state / "journal.jsonl").exists()]


def uses(service: Service, app: str, root: Path = Path("/")) -> bool:
    """Whether a release that is on the server, the live one or one to go back to, had this service."""
    found = releases.records(Paths(app, root)).values()
    return any(service.used(record["app"]) for record in found if record.get("app"))
