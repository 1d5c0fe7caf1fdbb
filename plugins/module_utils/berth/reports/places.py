"""How it is with backups at places off this server. Takes what `backups.facts` found, asks nobody."""

from __future__ import annotations

from typing import Any

from ..errors import UP
from ..payload.drill import span
from . import telling

Facts = dict[str, Any]
# Code, level, sentence and cure.
Finding = tuple[str, str, str, str]

# Seconds that a failure, or WAL that waits, is told of after; and that a relay may be silent for.
_LATE, _SILENT = 60, 600
_HEALS = "set that right there; it makes up for what it missed by itself"


def judge(found: Facts, now: float) -> list[Finding]:
    """What is not well at each place."""
    said = []
    for place in found.get("offsite") or []:
        sentences = [*_wal(place, now), *_backups(found, place, now)]
        said += [("offsite", "sick", f"off-site {place['name']}: {text}", cure) for text, cure in sentences]
    return said


def _wal(place: Facts, now: float) -> list[tuple[str, str]]:
    relay = place["relay"]
    if place.get("problem"):
        return [(place["problem"], UP)]
    log = f"journalctl -u berth-backup-relay@{place['name']} on the server"
    if not relay:
        return [("nothing was sent there yet", f"{UP}; {log} tells why")]
    silent = now - telling.seconds(relay["at"])
    if silent > _SILENT:
        return [(f"its relay has not been at work for {span(silent)}", log)]
    began = relay["failing_since"] if relay["problem"] else relay["since"]
    if not began or now - telling.seconds(began) < _LATE:
        return []
    if not relay["behind"]:
        return [(relay["problem"], _HEALS)]
    count = "a segment" if relay["behind"] == 1 else f"{relay['behind']} segments"
    return [(f"{count} behind since {telling.minute(relay['since'])}: {_reason(relay)}", _HEALS)]


def _reason(relay: Facts) -> str:
    return str(relay["problem"]) or "it is slower than what is written here"


def _backups(found: Facts, place: Facts, now: float) -> list[tuple[str, str]]:
    known, gap, said = place["backups"], place["relay"].get("gap"), []
    if place.get("problem") or not known or "offsite" in found["at_work"]:
        return []
    rows = known["backups"]
    problem = known["problem"]
    if problem and problem != place["relay"].get("problem"):
        said.append(
            (f"no backup is made there (tried at {telling.minute(known['asked'])}): {problem}", _HEALS)
        )
    expected = found["settings"]["expected"]["backup"]
    if rows and expected and now - telling.seconds(rows[-1]["ended"]) > expected * 1.25 + 2 * 3600:
        age = span(now - telling.seconds(rows[-1]["ended"]))
        said.append((f"the newest backup there is {age} old", "berth backup makes one"))
    if rows and gap and rows[-1]["from"][8:] < gap["before"][8:]:
        lost = "a segment" if gap["segments"] == 1 else f"{gap['segments']} segments"
        text = f"{lost} of WAL after {gap['after']} never got there: nothing later can be restored from there"
        said.append((text, "berth backup begins anew there"))
    return said


def rows(found: Facts) -> list[Facts]:
    """Every backup at a place, as those on the server are told."""
    return [row for place in found.get("offsite") or [] for row in place["backups"].get("backups") or []]


def summary(found: Facts, now: float) -> list[str]:
    """A line for each place."""
    lines = []
    for place in found.get("offsite") or []:
        relay, kept = place["relay"], place["backups"].get("backups") or []
        if judge({**found, "offsite": [place]}, now) or not relay:
            state = "not well"
        elif relay["behind"]:
            state = "in step"
        else:
            state = "up to date"
        newest = "no backup there yet"
        if kept:
            age = span(max(0.0, now - telling.seconds(kept[-1]["ended"])))
            newest = f"the newest backup ({kept[-1]['kind']}) {age} ago"
        lines.append(f"off-site {place['name']} ({place['where']}): {state}, {newest}.")
    return lines


def missed(found: Facts | None) -> str:
    """At which places the last try to make a backup failed, a sentence each; empty where none did."""
    known = [(one["name"], one["backups"].get("problem")) for one in (found or {}).get("offsite") or []]
    return " ".join(f"There is none at {name}: {problem}." for name, problem in known if problem)
