"""What systemd noted: the state of many units at once, and what became of them, of its own journal."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import Any

from ..host import command
from . import units

# systemd's own names for what it writes into the journal.
RESTART = "5eb03494b6584870a536b337290809b2"
MEMORY = "fe6faa94e7774663a0da52717891d8ef"
FAILED, FINISHED = "d9b373ed55a64feb8242e02dbe79a49c", "39f53479d3a045ac8e11786248231fbf"
_UNIT = (
    "ActiveState", "SubState", "Result", "NRestarts", "ExecMainStatus", "ExecMainStartTimestamp",
    "ExecMainExitTimestamp", "MemoryCurrent", "NextElapseUSecRealtime",
)  # fmt: skip


def events(since: float, patience: float) -> list[dict[str, Any]]:
    """Restarts and kills for want of memory of all units, in so many seconds."""
    query = [f"MESSAGE_ID={RESTART}", f"MESSAGE_ID={MEMORY}"]
    return [
        {"unit": one.get("UNIT", ""), "memory": one.get("MESSAGE_ID") == MEMORY, "ago": one["ago"]}
        for one in _journal(*query, since=since, lines=5000, patience=patience)
    ]


def ends(units: list[str], since: float, patience: float) -> list[dict[str, Any]]:
    """How the last of these units ended, if one did: `failed` has the reason, or is empty."""
    kinds = [f"MESSAGE_ID={FAILED}", f"MESSAGE_ID={FINISHED}"]
    found = _journal(*kinds, *(f"UNIT={unit}" for unit in units), since=since, lines=1, patience=patience)
    return [
        {
            "ago": one["ago"],
            "failed": str(one.get("UNIT_RESULT") or "exit-code") if one.get("MESSAGE_ID") == FAILED else "",
        }
        for one in found
    ]


def _journal(*matches: str, since: float, lines: int, patience: float) -> list[dict[str, Any]]:
    """systemd's own entries, the newest first; `ago` in seconds."""
    query = ["journalctl", "-q", "-r", "-o", "json", "--no-pager", "-n", str(lines), "_PID=1", *matches]
    query += ["--output-fields=MESSAGE_ID,UNIT,UNIT_RESULT", f"--since=@{time.time() - since:.0f}"]
    found = []
    for line in command.run(query, timeout=patience).out.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            entry["ago"] = max(0, round(time.time() - int(entry["__REALTIME_TIMESTAMP"]) / 1e6))
            found.append(entry)
    return found


def states(names: list[str], patience: float) -> dict[str, dict[str, Any]]:
    """systemd's view of units in one call; times in UTC."""
    if not names:
        return {}
    query = ["systemctl", "show", f"--property=Id,{','.join(_UNIT)}", *names]
    rows = units.blocks(command.run(query, timeout=patience, env={"TZ": "UTC"}).out)
    return {row["Id"]: row for row in rows if "Id" in row}


def moment(text: str) -> str:
    """systemd's `Sat 2026-11-28 03:00:01 UTC` as `2026-11-28T03:00:01Z`; empty where there is none."""
    found = re.search(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)", text)
    return f"{found[1]}T{found[2]}Z" if found else ""
