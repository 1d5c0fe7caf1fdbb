"""What role proxy applied last: its sites as they were given, and what its provider says of itself.

The role leaves this receipt, so that nobody else has to know a provider by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path("/")
# Beside the apps' folders; no app's name has a dot.
RECEIPT = Path("/var/lib/berth/proxy.json")
_FORMAT = 1
# Where an earlier Berth kept the sites alone, site by site, and what was true of all it set up.
BEFORE = Path("/etc/caddy/berth.applied.json")
_PUBLISHED_BEFORE = {
    "provider": "caddy",
    "program": "Caddy",
    "unit": "caddy",
    "group": "caddy",
    "certificates": "/var/lib/caddy/.local/share/caddy/certificates/*/{domain}/{domain}",
    "upstream_idle": 30,
    "authority": {"name": "Caddy Local Authority"},
}


@dataclass(frozen=True)
class Applied:
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    # What it is called in inventories and in sentences, and its unit; empty where role proxy has never been.
    provider: str = ""
    program: str = ""
    unit: str = ""
    # Whose its processes are: a user of this name, too.
    group: str = ""
    # Where certificates (.crt) and their keys (.key) are, but for the ending; empty where they are not so.
    certificates: str = ""
    # All that runs for it, in the order in which it ends.
    units: tuple[str, ...] = ()
    # Seconds for which it keeps a connection to an app that nothing goes over.
    upstream_idle: int = 30
    # How its own certificate authority calls itself; empty where it has none.
    authority: str = ""


def _left(root: Path) -> list[Path]:
    return [path for path in (root / one.relative_to("/") for one in (RECEIPT, BEFORE)) if path.exists()]


def text(root: Path = ROOT) -> str:
    """The receipt as it stands on this server; empty where there is none.

    Of two the newer: an earlier Berth may have been here since.
    """
    try:
        newest = max(_left(root), key=lambda path: path.stat().st_mtime_ns)
        return newest.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def here(root: Path = ROOT) -> bool:
    """Whether the role has left a receipt, be it one that cannot be read."""
    return bool(_left(root))


def read(root: Path = ROOT) -> Applied:
    """What was applied; nothing where there is no receipt, or none that can be read."""
    return parse(text(root))


def parse(receipt: str) -> Applied:
    """The same from the receipt's text."""
    try:
        found = json.loads(receipt)
    except ValueError:
        return Applied()
    if not isinstance(found, dict):
        return Applied()
    # An earlier Berth's had the apps' names here, each with a site.
    if not isinstance(found.get("format"), int):
        found = {"sites": found, "published": _PUBLISHED_BEFORE}
    sites, published = (_mapping(found.get(key)) for key in ("sites", "published"))
    idle = published.get("upstream_idle")
    unit, units = str(published.get("unit") or ""), published.get("units")
    if not isinstance(units, list):
        units = [unit] if unit else []
    return Applied(
        sites={name: site for name, site in sites.items() if isinstance(site, dict)},
        provider=str(published.get("provider") or ""),
        program=str(published.get("program") or ""),
        unit=unit,
        group=str(published.get("group") or ""),
        certificates=str(published.get("certificates") or ""),
        units=tuple(map(str, units)),
        upstream_idle=idle if isinstance(idle, int) else Applied.upstream_idle,
        authority=str(_mapping(published.get("authority")).get("name") or ""),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def written(sites: Mapping[str, Any], published: Mapping[str, Any]) -> str:
    """A receipt's text, the same for the same content."""
    content = {"format": _FORMAT, "published": published, "sites": sites}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
