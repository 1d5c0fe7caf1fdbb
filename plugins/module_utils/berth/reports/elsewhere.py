"""Dumps of databases that are on servers of others, and what is to be said of them. Reads only.

What is known is told by the program that makes them, as the user whose they are; no such server is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UP, ReleaseError
from ..host import command
from ..paths import Paths
from ..payload import backup, clock, dumps
from ..payload.drill import span
from ..runtime import naming, units
from ..services.postgresql import AS_SUPERUSER
from ..store import journal
from . import drills, telling

Facts = dict[str, Any]
# Code, level, sentence and cure.
Finding = tuple[str, str, str, str]

NAME = "berth-backup-dumps"
UNIT, TIMER = naming.distributions(NAME), naming.by_the_clock(NAME)
REHEARSAL = f"{NAME}-drill"
REHEARSAL_UNIT, REHEARSAL_TIMER = naming.distributions(REHEARSAL), naming.by_the_clock(REHEARSAL)
PROGRAM = Path("/usr/local/lib/berth/dumps.py")
# It asks systemd one thing.
_PATIENCE = 15.0
_CHECKS = f"journalctl -u {NAME} on the server"
_DUMP = "berth backup makes one now"
_DRILL = "berth drill tries again"
UNREHEARSED = (
    "dumps of databases on servers of others are read to their end, and no restore of them is rehearsed by "
    "the clock (server.backup.drill)"
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
    found: Facts = {
        "databases": [],
        "last": {},
        "expected": 0,
        "since": "",
        "unknown": [],
        "drill": {},
        "drill_expected": 0,
        "drills_since": "",
    }
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
    ours = {
        "unit": UNIT,
        "timer": TIMER,
        "drill_unit": REHEARSAL_UNIT,
        "drill_timer": REHEARSAL_TIMER,
    }
    states = units.states(list(ours.values()))
    found |= {key: states.get(unit, "unknown") for key, unit in ours.items()}
    try:
        found["released"] = _released(found, root)
        judge({**found, "unknown": []}, 0.0), drill_table(found), drill_verdict(found)
    except drills.UNREADABLE:
        found |= {"drill": {}, "released": {}}
        found["unknown"].append("how the last drill of dumps went cannot be read")
    return found


def _released(found: Facts, root: Path) -> dict[str, str]:
    """By database the revision at which its app's last run left its schema before it was dumped."""
    known = {}
    for one in (found["drill"] or {}).get("databases", []):
        runs = [
            entry["schema_to"]
            for entry in journal.entries(Paths(one["app"], root).audit)
            if entry.get("app") == one["app"] and entry.get("schema_to") and entry["at"] <= one["at"]
        ]
        if runs:
            known[one["name"]] = str(runs[-1])
    return known


def judge(found: Facts | None, now: float) -> list[Finding]:
    """What is not well, and what is not done for them."""
    if found is None:
        return []
    said: list[Finding] = [("unknown", "unknown", text, _CHECKS) for text in found["unknown"]]
    at_work = found["unit"] in ("active", "activating")
    for one in found["databases"]:
        of = f"{one['name']} at {one['host']}"
        late = clock.late(found["expected"])
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
    return said + _rehearsed(found, now)


def _rehearsed(found: Facts, now: float) -> list[Finding]:
    """As of the drill of this server's own PostgreSQL: the last failed, there was none, or none will come."""
    last, schedule, said = found["drill"], found["drill_expected"], []
    at_work = found["drill_unit"] in ("active", "activating")
    if last and not at_work:
        failed = f"the last drill of dumps failed at {telling.minute(last['ended'])}"
        said += [("dumps-drill", "sick", f"{failed}: {text}", _DRILL) for text in _failures(found)]
    if not schedule:
        return [*said, ("unrehearsed", "note", UNREHEARSED, "")]
    if found["drill_timer"] not in ("active", "unknown"):
        text = f"no restore of a dump is rehearsed by the clock: its timer is {found['drill_timer']}"
        said.append(("timer", "sick", text, UP))
    since = last["ended"] if last else found["drills_since"]
    age = now - telling.seconds(since) if since else 0.0
    if age > max(drills.OLD, clock.late(schedule)):
        text = (
            f"the last drill of dumps was {span(age)} ago"
            if last
            else f"there was no drill of dumps in {span(age)}"
        )
        said.append(("no-dumps-drill", "sick", f"{text}, so that no restore was seen to work since", _DRILL))
    return said


def _failures(found: Facts) -> list[str]:
    """What the last drill said, and where a dump's schema is not the one that its release left."""
    last = found["drill"]
    said = [str(one["text"]) for one in last["failed"]]
    for one in last["databases"]:
        left = found.get("released", {}).get(one["name"])
        revisions = [revision for revision in one["schema"].values() if revision]
        if left and revisions and left not in revisions:
            said.append(
                f"{one['name']} at {one['host']}: its dump {one['dump']} has the schema "
                f"{', '.join(revisions)}, and the release of then left it at {left}"
            )
    return said


def drill_table(found: Facts) -> str:
    """The last drill for people. What did not come back is its verdict."""
    last = found["drill"]
    if not last:
        return "No restore of a dump was rehearsed yet."
    how = "failed" if _failures(found) else "well"
    lines = [f"Drill of dumps of {telling.minute(last['began'])}: {how}, {last['seconds']:.0f} s.", ""]
    if last["databases"]:
        rows = [["DATABASE", "DUMP", "TOOK", "SIZE", "TABLES", "ROWS", "SCHEMA"]]
        for one in last["databases"]:
            schema = ", ".join(filter(None, one["schema"].values())) or "-"
            size = f"{one['bytes'] / 2**20:.0f} MB"
            name = f"{one['name']} at {one['host']}"
            took = f"{one['seconds']:.1f} s"
            rows.append(
                [name, telling.minute(one["at"]), took, size, f"{one['tables']}", f"{one['rows']}", schema]
            )
        lines += telling.columns(rows)
    lines += [f"(note) {telling.capital(text)}." for text in last["notes"]]
    return "\n".join(lines)


def drill_verdict(found: Facts) -> str:
    """Why the last one failed, a line for each reason; empty where it did not."""
    if not found["drill"]:
        return "There was no drill of dumps, or it was cut off before it began."
    return "\n".join(f"{telling.capital(text)}." for text in _failures(found))


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
    last = found["drill"]
    ended = span(max(0.0, now - telling.seconds(last["ended"]))) if last else ""
    drilled = f"; their drill {'failed' if _failures(found) else 'went well'} {ended} ago" if last else ""
    return f"dumps: {', '.join(said)}{drilled}."
