"""Dumps of databases that are on servers of others, and what is to be said of them. Reads only.

What is known is told by the program that makes them, as the user whose they are; no such server is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UP, ReleaseError
from ..host import command
from ..payload import backup, dumps
from ..payload.drill import span
from ..runtime import naming, units
from ..services.postgresql import AS_SUPERUSER
from . import telling

Facts = dict[str, Any]
# Code, level, sentence and cure.
Finding = tuple[str, str, str, str]

NAME = "berth-backup-dumps"
UNIT, TIMER = naming.distributions(NAME), naming.by_the_clock(NAME)
PROGRAM = Path("/usr/local/lib/berth/dumps.py")
# It asks systemd one thing.
_PATIENCE = 15.0
_CHECKS = f"journalctl -u {NAME} on the server"
_DUMP = "berth backup makes one now"
UNREHEARSED = (
    "dumps of databases on servers of others are read to their end, and no restore of them is rehearsed"
)


INSTEAD = (
    "Every database of this server's apps is on servers of others, and what there is of them here are dumps: "
    "docs/operations.md says how one is brought back, with pg_restore. Nothing was changed."
)


def alone(root: Path = Path("/")) -> bool:
    """Whether there are dumps of databases elsewhere, and no backups of a PostgreSQL of the server's own."""
    here, there = (root / one.relative_to("/") for one in (backup.SETTINGS, dumps.SETTINGS))
    return there.exists() and not here.exists()


def facts(root: Path = Path("/")) -> Facts | None:
    """All that is known; None where none are made."""
    if not (root / dumps.SETTINGS.relative_to("/")).exists():
        return None
    found: Facts = {"databases": [], "last": {}, "expected": 0, "since": "", "unknown": []}
    try:
        asked = command.run(
            [*AS_SUPERUSER, "/usr/bin/python3", "-I", str(PROGRAM), "state"], timeout=_PATIENCE
        )
        found |= json.loads(asked.out)
    except (ReleaseError, ValueError) as error:
        why = error.sentence if isinstance(error, ReleaseError) else "its answer cannot be read"
        found["unknown"].append(
            f"how dumps of databases on servers of others are is unknown: {why}".rstrip(".")
        )
    states = units.states([UNIT, TIMER])
    return {**found, "unit": states.get(UNIT, "unknown"), "timer": states.get(TIMER, "unknown")}


def judge(found: Facts | None, now: float) -> list[Finding]:
    """What is not well, and what is not done for them."""
    if found is None:
        return []
    said: list[Finding] = [("unknown", "unknown", text, _CHECKS) for text in found["unknown"]]
    at_work = found["unit"] in ("active", "activating")
    for one in found["databases"]:
        of = f"{one['name']} at {one['host']}"
        late = found["expected"] * 1.25 + 3600
        behind = now - telling.seconds(one["at"] or found["since"])
        if not one["at"] and not at_work:
            said.append(("dump", "sick", f"there is no dump of {of}", f"{_DUMP}; {_CHECKS} tells why"))
        elif one["at"] and found["expected"] and behind > late:
            text = f"the newest dump of {of} is {span(behind)} old"
            said.append(("dump", "sick", text, f"{_DUMP}; {_CHECKS} tells why"))
    last = found["last"]
    if last.get("problem") and not at_work:
        text = (
            f"the last dump of databases on servers of others failed at {telling.minute(last['ended'])}: "
            f"{last['problem']}"
        )
        said.append(("failed", "sick", text, _DUMP))
    elif found["unit"] == "failed":
        said.append(("failed", "sick", "the last run that dumped them was cut off", _DUMP))
    if found["timer"] not in ("active", "unknown"):
        text = f"databases on servers of others are dumped by no clock: their timer is {found['timer']}"
        said.append(("timer", "sick", text, UP))
    said.append(("unrehearsed", "note", UNREHEARSED, ""))
    return said


def rows(found: Facts | None) -> list[list[str]]:
    """A row for each database, as in the table of backups."""
    lines = []
    for one in (found or {"databases": []})["databases"]:
        made = telling.minute(one["at"]) if one["at"] else "not yet"
        name = f"dump of {one['name']}"
        lines.append(
            [name, f"{one['kept']} kept", made, "-", f"{one['stored_mb']} MB", "-", f"of {one['host']}"]
        )
    return lines


def summary(found: Facts | None, now: float) -> str:
    """One line for a status; empty where none are made."""
    if found is None:
        return ""
    said = []
    for one in found["databases"]:
        age = f"{span(max(0.0, now - telling.seconds(one['at'])))} ago" if one["at"] else "not yet"
        said.append(f"{one['name']} at {one['host']} {age}")
    return f"dumps: {', '.join(said)}."
