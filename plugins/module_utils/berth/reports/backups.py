"""The backups of this server, and what is to be said of them. Reads only, needs no lock.

What is known is asked by the program that makes them, as the user whose they are; the shapes are those of
`berth backups --json`. A finding is one of `findings`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UP, ReleaseError
from ..host import command
from ..payload import backup, clock
from ..payload.drill import span
from ..runtime import naming, units
from ..services.postgresql import AS_SUPERUSER
from . import drills, elsewhere, files, places, restores, telling
from .telling import capital, minute, seconds

Facts = dict[str, Any]
# Code, level, sentence and cure.
Finding = tuple[str, str, str, str]

KINDS = ("full", "incremental", "dump")
# Seconds for the program to answer, which asks up to four questions itself, and for WAL to wait until
# somebody should look.
_PATIENCE = 4 * backup.ANSWER + 5
_LAG = 120
# A disk is nearly full when both are true, as for status.
_DISK_USED, _DISK_FREE_MB = 90, 10 * 1024
_CHECKS = "journalctl -u 'berth-backup-*' on the server"
NONE = "there are no backups on this server"


def facts(root: Path = Path("/")) -> Facts | None:
    """All that is known; None on a server that makes no backups."""
    if not (root / backup.SETTINGS.relative_to("/")).exists():
        return None
    # By its text, and not by the copy on the server: that may be an earlier Berth's.
    asked = [*AS_SUPERUSER, "/usr/bin/python3", "-I", "-", "state"]
    done = command.run(asked, timeout=_PATIENCE, stdin=command.module_source(backup))
    if done.code != 0:
        raise ReleaseError(f"Asking for them failed: {done.lines[-1] if done.lines else done.code}")
    try:
        found = _with_units(json.loads(done.out))
        if not drills.readable(found):
            found["drill"] = {}
            text = "How the last drill went is unknown: what the server says of it cannot be read."
            found["unknown"].append(text)
        # What is asked here may fail; what is made of it later must not, for it would take all else along.
        judge(found, 0.0), table(found, 0.0), summary(found, 0.0)
    except drills.UNREADABLE:
        raise ReleaseError("What the server says of its backups cannot be read") from None
    return found


def _with_units(found: Facts) -> Facts:
    """With how their timers and services are."""
    others = ("drill", *(["offsite"] if found.get("offsite") else []))
    names = {kind: f"berth-backup-{kind}" for kind in (*KINDS, *others)}
    timers = [naming.by_the_clock(name) for name in names.values()]
    services = [naming.distributions(name) for name in names.values()]
    states = units.states([*timers, *services, restores.UNIT])
    found["timers"] = {kind: states.get(naming.by_the_clock(name), "unknown") for kind, name in names.items()}
    found["at_work"] = [
        kind for kind, name in names.items() if states.get(naming.distributions(name)) == "activating"
    ]
    found["restored"]["unit"] = states.get(restores.UNIT, "unknown")
    found["files"] = files.facts()
    return found


def judge(found: Facts | None, now: float) -> list[Finding]:
    """What is not well: code, level (`sick`, `unknown`, `note`), sentence and cure, the worst first."""
    if found is None:
        return []
    said = [("unknown", "unknown", text.rstrip("."), _CHECKS) for text in found["unknown"]]
    said += _repository(found, now) + _archiving(found) + _window(found) + _dumps(found, now) + _runs(found)
    said += places.judge(found, now) + drills.judge(found, now) + restores.judge(found["restored"])
    said += restores.judge_kept(found.get("kept") or []) + files.judge(found["files"], now)
    order = ("sick", "unknown", "note")
    return sorted(said, key=lambda one: order.index(one[1]))


def _of_before(one: Facts, found: Facts) -> bool:
    """Whether a backup is of a cluster that was moved to another version since."""
    return one.get("version") not in (None, found["settings"].get("version"))


def too_old(when: str, expected: float, now: float) -> bool:
    """Later than it could be; never where none is expected."""
    return bool(expected) and now - seconds(when) > clock.late(expected)


def _repository(found: Facts, now: float) -> list[Finding]:
    said = []
    stanza, expected = found["stanza"], found["settings"]["expected"]
    backups = [one for one in found["backups"] if not _of_before(one, found)]
    if stanza and stanza["code"] in (1, 3):
        said.append(("stanza", "sick", "the repository of backups is gone or was never made", UP))
    elif stanza and stanza["code"] not in (0, 2):
        text = f"the repository of backups cannot be read: {stanza.get('message', 'no reason known')}"
        said.append(("stanza", "sick", text, _CHECKS))
    elif stanza and not backups and "full" not in found["at_work"]:
        said.append(("backup", "sick", "no backup was made yet", "berth backup"))
    if backups:
        newest = backups[-1]
        if too_old(newest["ended"], expected["backup"], now):
            age = span(now - seconds(newest["ended"]))
            text = f"the newest backup is {age} old, and there should be one every {span(expected['backup'])}"
            said.append(("old", "sick", text, f"berth backup; {_CHECKS} tells why there is none"))
        if newest["damaged"]:
            text = f"backup {newest['label']} found damaged pages in the database"
            ask = f"pgbackrest --stanza={found['settings']['stanza']} --set={newest['label']} info"
            then = f"{ask}, as postgres on the server, names their files"
            said.append(("damaged", "sick", text, then))
    disk = found["repository"]
    if disk and disk["used_percent"] >= _DISK_USED and disk["free_mb"] < _DISK_FREE_MB:
        text = (
            f"the disk of the backups ({disk['path']}) is {disk['used_percent']} % full, "
            f"{disk['free_mb']} MB are free"
        )
        said.append(("backup-disk", "sick", text, "make room there, or lower server.backup.retention_days"))
    return said


def _archiving(found: Facts) -> list[Finding]:
    known, logs = found["archiving"], "the log of Postgres (/var/log/postgresql) tells why"
    if not known:
        return []
    if known["mode"] != "on" or not known["ours"]:
        what = (
            f"archive_mode is {known['mode']}" if known["mode"] != "on" else "archive_command is not Berth's"
        )
        return [("archive", "sick", f"WAL does not get into the repository of backups: {what}", UP)]
    said = []
    count = "a segment waits" if known["waiting"] == 1 else f"{known['waiting']} segments wait"
    waits = f"{count}, {known['wal_mb']} MB of WAL are on the disk"
    if known["failing"]:
        said.append(
            ("archive", "sick", f"archiving WAL fails (last at {minute(known['failed'])}): {waits}", logs)
        )
    elif known["oldest_seconds"] > _LAG:
        late = span(known["oldest_seconds"])
        said.append(("archive", "sick", f"archiving WAL is {late} late: {waits}", logs))
    return said


def _window(found: Facts) -> list[Finding]:
    window = found["window"]
    if not window or not window["missing"]:
        return []
    gap = window["missing"][-1]
    count, verb = ("a segment", "is") if gap["segments"] == 1 else (f"{gap['segments']} segments", "are")
    text = f"{count} of WAL after {gap['after']} {verb} not in the repository"
    if not window["broken"]:
        return [("gap", "note", f"{text}: what can be restored begins after it", "")]
    return [
        ("gap", "sick", f"{text}: nothing that came after it can be restored", "berth backup begins anew")
    ]


def _dumps(found: Facts, now: float) -> list[Finding]:
    expected, said = found["settings"]["expected"]["dump"], []
    for one in found["dumps"]:
        current = not found.get("databases") or one["of"] in found["databases"] or one["roles"]
        if current and too_old(one["at"], expected, now):
            text = f"the newest dump of {one['of']} is {span(now - seconds(one['at']))} old"
            said.append(("dump", "sick", text, _CHECKS))
    first = found["backups"][0]["ended"] if found["backups"] else ""
    if not found["dumps"] and first and too_old(first, expected, now):
        said.append(("dump", "sick", "there is no dump of any database", _CHECKS))
    return said


def _runs(found: Facts) -> list[Finding]:
    """The last run of each kind, unless one that does as well came after it; and the clock."""
    said, runs = [], found["runs"]
    for kind in KINDS:
        run = runs.get(kind) or {}
        alike = [
            runs.get(other) or {} for other in (("dump",) if kind == "dump" else ("full", "incremental"))
        ]
        later = any(not one.get("problem") and one.get("ended", "") > run.get("ended", "") for one in alike)
        if run.get("problem") and not later and kind not in found["at_work"]:
            what = kind if kind == "dump" else f"{kind} backup"
            text = f"the last {what} failed at {minute(run['ended'])}: {run['problem']}"
            said.append(("failed", "sick", text, "berth backup makes one now" if kind != "dump" else _CHECKS))
        if found["timers"][kind] not in ("active", "unknown"):
            text = f"no {kind} is made by the clock: its timer is {found['timers'][kind]}"
            said.append(("timer", "sick", text, UP))
    return said


def table(found: Facts | None, now: float) -> str:
    """The same for people: backups, dumps, what can be restored, and what is not well."""
    if found is None:
        return f"{capital(NONE)}: server.backup.enabled is false, or {UP} has not run since."
    rows = [["BACKUP", "KIND", "MADE", "TOOK", "STORED", "DATA", "WHERE"]]
    for one in [*found["backups"], *places.rows(found)]:
        sizes = [f"{one['stored_mb']} MB", f"{one['data_mb']} MB"]
        where = "this server" if one["where"] == "server" else one["where"]
        before = f" of PostgreSQL {one['version']}" if _of_before(one, found) else ""
        made = [one["label"], f"{one['kind']}{before}", minute(one["began"]), f"{one['seconds']} s"]
        rows.append([*made, *sizes, where])
    for one in found["dumps"]:
        name = "roles" if one["roles"] else one["of"]
        of = [f"dump of {name}", f"{one['kept']} kept", minute(one["at"]), "-", f"{one['stored_mb']} MB"]
        rows.append([*of, "-", "this server"])
    rows += files.rows(found["files"])
    lines = [*telling.columns(rows), "", restorable(found["window"])]
    lines += map(capital, places.summary(found, now))
    if drilled := drills.summary(found, now):
        lines.append(capital(drilled))
    if stored := files.summary(found["files"], now):
        lines.append(capital(stored))
    if found["at_work"]:
        lines.append(f"At work now: {', '.join(found['at_work'])}.")
    said = [f"{'(note) ' if one[1] == 'note' else ''}{sentence(one)}" for one in judge(found, now)]
    return "\n".join([*lines, *([""] if said else []), *said])


def restorable(window: Facts | None) -> str:
    """From when to when."""
    if not window or not window["from"]:
        return "Nothing can be restored to a chosen second."
    begin, end = (stamp.replace("T", " ").rstrip("Z") for stamp in (window["from"], window["to"]))
    return f"Each second from {begin} to {end} UTC can be restored."


def summary(found: Facts | None, now: float) -> str:
    """A line for a status, and one of the last drill; empty where there are none."""
    if found is None:
        return ""
    said = "backups: none was made yet."
    if found["backups"]:
        newest = found["backups"][-1]
        kind, age = newest["kind"], span(max(0.0, now - seconds(newest["ended"])))
        said = f"backups: the newest ({kind}) {age} ago. {restorable(found['window'])}"
    more = [*places.summary(found, now), drills.summary(found, now), files.summary(found["files"], now)]
    return "\n".join([said, *filter(None, more)])


def sentence(one: Finding) -> str:
    then = f" Next: {one[3]}." if one[3] else ""
    return f"{capital(one[2])}.{then}"


def verdict(found: Facts | None, now: float, there: Facts | None = None, stored: Facts | None = None) -> str:
    """What is not well, a line each; empty where all is.

    `there` is what is known of dumps of databases elsewhere, and `stored` of files where there is no more.
    """
    if found is None and there is None:
        return f"{capital(NONE)}. Next: set server.backup.enabled to true, and {UP}."
    said = judge(found, now) + elsewhere.judge(there, now) + files.judge(stored, now)
    return "\n".join(sentence(one) for one in said if one[1] != "note")


def describe(root: Path = Path("/")) -> Facts:
    """The whole answer: facts with their state and findings, the table and the verdict."""
    found, there, now = facts(root), elsewhere.facts(root), time.time()
    # Where every database is elsewhere, files may be stored off the server all the same.
    stored = files.facts(root) if found is None and there is not None else None
    said = judge(found, now) + elsewhere.judge(there, now) + files.judge(stored, now)
    bad = (found is None and there is None) or any(one[1] != "note" for one in said)
    keys = ("code", "level", "text", "next")
    answer = {
        "state": "sick" if bad else "well",
        "findings": [dict(zip(keys, one, strict=True)) for one in said],
        **(found or {"backups": [], "dumps": [], "window": None, **({"files": stored} if stored else {})}),
        "elsewhere": there,
    }
    return {
        "answer": answer,
        "table": table(found, now) if there is None else _with(found, there, stored, now),
        "verdict": verdict(found, now, there, stored),
        "well": "\n".join(["Backups are well.", *(sentence(one) for one in said if one[1] == "note")]),
        "missed": places.missed(found),
        "drill": "\n\n".join(_drills(found, there, drills.table, elsewhere.drill_table)),
        "drill_verdict": "\n".join(_drills(found, there, drills.verdict, elsewhere.drill_verdict)),
    }


def _drills(
    found: Facts | None,
    there: Facts | None,
    here: Callable[[Facts | None], str],
    away: Callable[[Facts], str],
) -> list[str]:
    """What is to be said of the drill of backups, of that of dumps of databases elsewhere, or of both."""
    said = [here(found)] if found or there is None else []
    return list(filter(None, [*said, *([away(there)] if there else [])]))


def _with(found: Facts | None, there: Facts, stored: Facts | None, now: float) -> str:
    """The table, with dumps of databases on servers of others below what is backed up here."""
    rows = [["DUMP", "KEPT", "MADE", "TOOK", "STORED", "DATA", "WHERE"], *elsewhere.rows(there)]
    rows += files.rows(stored)
    said = elsewhere.judge(there, now) + files.judge(stored, now)
    lines = [f"{'(note) ' if one[1] == 'note' else ''}{sentence(one)}" for one in said]
    below = "\n".join([*telling.columns(rows), "", *lines])
    return f"{table(found, now)}\n\n{below}" if found else below
