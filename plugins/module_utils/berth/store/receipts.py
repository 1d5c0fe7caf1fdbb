"""What a role has brought about on this server: for each app the digest of what the role was given of it.

The role writes it last, when all else has succeeded. A deploy believes nothing else about a role's work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..paths import text_digest
from ..services import table as services
from . import applies, journal
from .lock import hostwide

# The role that makes the units; each service names its own (`ansible_role`).
UNITS = "service"
# The role that keeps apps from connecting to what is not theirs, and what it is told of most apps.
EGRESS = "firewall"
ANYWHERE = {"policy": "open", "allow": [], "metadata": False}
FORMAT = 4  # of env files and units; a newer one has them written again


def given(entry: Mapping[str, Any], role: str) -> str:
    """The digest of what a role is given of an app's entry; empty where that is nothing."""
    if role == UNITS:
        shape = {**applies.part(entry, applies.UNIT), "format": FORMAT}
    elif role == EGRESS:
        shape = applies.part(entry, applies.FIREWALL)
        # Of this server's own database its address says nothing.
        if not shape.get("database"):
            shape.pop("database", None)
        if shape.get("egress") in (None, ANYWHERE) and "database" not in shape:
            return ""
    else:
        service = next(one for one in services.ALL if one.ansible_role == role)
        if not (entry.get(service.key) and service.used(entry)):
            return ""
        shape = applies.part({service.key: service.settings(entry)}, service.key)
    return text_digest(json.dumps(shape, sort_keys=True, default=str))


def path(role: str, root: Path = Path("/")) -> Path:
    """Beside the apps' folders; no app's name has a dot."""
    return root / "var/lib/berth" / f"{role}.json"


def read(role: str, root: Path = Path("/")) -> dict[str, str]:
    """Nothing was applied where there is no receipt, or one that cannot be read."""
    try:
        found = json.loads(path(role, root).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(role: str, receipt: Mapping[str, str], check: bool, root: Path = Path("/")) -> bool:
    """Whether it differs from the last one; in check mode that stays."""
    if path(role, root).exists() and read(role, root) == receipt:
        return False
    if not check:
        path(role, root).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        journal.replace_text(path(role, root), json.dumps(receipt, indent=1, sort_keys=True) + "\n", 0o600)
    return True


def forget(app: str, root: Path = Path("/")) -> None:
    """An app is about to be removed, and with it what was applied."""
    for role in (UNITS, EGRESS, *(service.ansible_role for service in services.ALL)):
        if app in read(role, root):
            with hostwide(root):
                known = read(role, root)
                write(role, {name: digest for name, digest in known.items() if name != app}, False, root)
