"""Who looks after the server, as Berth has set it up: the receipt, and the keys in a user's own file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

# Beside the apps' folders, and no folder: those are apps.
RECEIPT = Path("/var/lib/berth/admins.json")
DROP_IN = Path("/etc/sudoers.d/50-berth")
_KEY = re.compile(r"(?:^|\s)(?:ssh-\S+|ecdsa-sha2-\S+|sk-\S+)\s+([A-Za-z0-9+/]+={0,3})(?:\s|$)")


def recorded(receipt: Path = RECEIPT, drop_in: Path = DROP_IN) -> dict[str, dict[str, Any]]:
    """What was applied, by user: `keys` (fingerprints), `made` (the account is Berth's) and `gone`.

    Of a Berth that kept no receipt there is the user that its sudo drop-in names.
    """
    try:
        known = json.loads(receipt.read_text())
        if isinstance(known, dict):
            return known
    except (OSError, ValueError):
        pass
    try:
        text = drop_in.read_text()
    except OSError:
        return {}
    return {name: {"keys": [], "made": True} for name in re.findall(r"(?m)^([a-z_][a-z0-9_-]*) ALL=", text)}


def present(known: dict[str, dict[str, Any]]) -> list[str]:
    """Those that can log in."""
    return [name for name, entry in known.items() if not entry.get("gone")]


def fingerprint(line: str) -> str:
    """As `ssh-keygen -l` tells it; empty for a line without a key."""
    match = None if line.lstrip().startswith("#") else _KEY.search(line)
    try:
        blob = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        blob = b""
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}" if blob else ""


def edit(text: str, wanted: Sequence[str], mine: Collection[str]) -> tuple[str, list[str]]:
    """An authorized_keys file with the wanted lines and without those of `mine` that are wanted no more.

    Second, the fingerprints of keys that somebody else put there. They and what is no key stay as they are.
    """
    lines = {fingerprint(line): line.strip() for line in wanted}
    missing = dict(lines)
    kept, others = [], []
    for line in text.splitlines():
        known = fingerprint(line)
        if known in lines:
            if known in missing:
                kept.append(missing.pop(known))
        elif not known or known not in mine:
            kept.append(line)
            others += [known] if known else []
    return "".join(f"{line}\n" for line in [*kept, *missing.values()]), others
