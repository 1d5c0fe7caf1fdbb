"""The last rehearsed restore, and what is to be said of it. Takes what `backups.facts` found, asks nobody."""

from __future__ import annotations

from typing import Any

from ..errors import UP
from ..payload import clock
from ..payload.drill import span, tables_of
from . import telling

Facts = dict[str, Any]
# Code, level, sentence and cure.
Finding = tuple[str, str, str, str]

# A restore that nobody saw work for so many seconds is hoped for; with a rarer schedule, for a quarter more.
OLD = 48 * 3600
_TRY = "berth drill tries again"
# What is raised by a report of another shape, as a damaged or forged file has it.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def readable(found: Facts) -> bool:
    """Whether the last drill's report can be told, whatever it says."""
    try:
        judge({**found, "at_work": []}, 0.0), summary(found, 0.0), table(found), verdict(found)
    except UNREADABLE:
        return False
    return isinstance(found["drill"], dict)


def judge(found: Facts, now: float) -> list[Finding]:
    """What is not well with drills: the last one failed, there was none for too long, or none will come."""
    last, schedule = found["drill"], found["settings"]["expected"].get("drill", 0)
    said: list[Finding] = []
    # Of one that is at work there is no word yet.
    if last and not last["ok"] and "drill" not in found["at_work"]:
        failed = f"the last drill failed at {telling.minute(last['ended'])}"
        said += [("drill", "sick", f"{failed}: {one['text']}", _TRY) for one in last["failed"]]
    if schedule:
        state = found["timers"].get("drill", "unknown")
        if state not in ("active", "unknown"):
            said.append(("timer", "sick", f"no restore is rehearsed by the clock: its timer is {state}", UP))
        since = last["ended"] if last else found["drills_since"]
        age = now - telling.seconds(since) if since else 0.0
        if age > max(OLD, clock.late(schedule)):
            text = f"the last drill was {span(age)} ago" if last else f"there was no drill in {span(age)}"
            said.append(("no-drill", "sick", f"{text}, so that no restore was seen to work since", _TRY))
    return said


def summary(found: Facts, now: float) -> str:
    """One line for a status; empty where there was none."""
    last = found["drill"]
    if not last:
        return ""
    age = span(max(0.0, now - telling.seconds(last["ended"])))
    if not last["ok"]:
        return f"drill: failed {age} ago."
    size, rows = _size(_bytes(last, "restore")), last["rows"]["rows"]
    unknown = last["rows"]["unknown"]
    left = f" ({tables_of(unknown)} not compared)" if unknown else ""
    return f"drill: {size} with {rows} rows restored and checked in {last['seconds']:.0f} s, {age} ago{left}."


def table(found: Facts | None) -> str:
    """The last drill for people: its steps, and what came back. What did not is its verdict."""
    last = found["drill"] if found else {}
    if not last:
        return "No restore was rehearsed yet."
    how = "well" if last["ok"] else "failed"
    lines = [
        f"Drill of {telling.minute(last['began'])}: {how}, {last['seconds']:.0f} s"
        + (f", from backup {last['backup']}" if last["backup"] else "")
        + (f" at off-site {last['from']}" if last.get("from") else "")
        + ".",
        "",
    ]
    rows = [["STEP", "TOOK", "SIZE"]]
    for one in last["steps"]:
        rows.append([one["step"], f"{one['seconds']:.1f} s", _size(one["bytes"]) if one["bytes"] else "-"])
    lines += [*telling.columns(rows), ""]
    if commit := last["last_commit"]:
        lost = f"{commit['lost_seconds']:.0f} s are lost" if commit["lost_seconds"] else "nothing is lost"
        here, there = _second(commit["live"]), _second(commit["restored"])
        lines.append(f"Last commit: {here} in the live server, {there} in what was restored: {lost}.")
    if counted := last["rows"]:
        several = "database" if counted["databases"] == 1 else f"{counted['databases']} databases"
        lines.append(f"Rows: {counted['rows']} in {counted['tables']} tables of the {several}.")
    lines += [
        f"Schema of {database}: {revision or 'no revision'}."
        for database, tables in last["schema"].items()
        for revision in tables.values()
    ]
    lines += [f"(note) {telling.capital(text)}." for text in last["notes"]]
    return "\n".join(lines)


def verdict(found: Facts | None) -> str:
    """Why the last drill failed, a line for each reason; empty where it did not."""
    last = found["drill"] if found else {}
    if not last:
        return "There was no drill: server.backup.enabled is false, or it was cut off before it began."
    return "\n".join(f"{telling.capital(one['text'])}." for one in last["failed"])


def _bytes(last: Facts, step: str) -> int:
    return next((int(one["bytes"]) for one in last["steps"] if one["step"] == step), 0)


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GB" if number >= 10 << 30 else f"{number / 2**20:.0f} MB"


def _second(stamp: str) -> str:
    return f"{stamp[:10]} {stamp[11:19]} UTC"
