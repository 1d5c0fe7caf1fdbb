"""What a rehearsal of migrations found, for people. Takes what the rehearsal says, and asks nobody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import ReleaseError, cut
from ..payload import backup, side
from . import telling

Facts = dict[str, Any]

ENDED = (
    "The copy's server ended while the migrations ran, perhaps since memory ended. Nothing live was changed."
)
ENDED_FULL = (
    f"The rehearsal was stopped when the server's disk had less than {side.RESERVE // 2 // backup.MB} MB "
    "left, which the live server needs. It is removed, and nothing live was changed."
)
UNTOUCHED = "Nothing live was changed: the copy is gone, and so is the release that was built for it."
# Seconds from which on a statement, or a lock, is worth a line; and how many of them are told.
_LONG = 0.05
_HELD = 0.2
_SHOWN = 5
_WIDE = 100
# What Postgres and drivers quote of a row.
_OF_ROWS = (
    (re.compile(r"(Key \(.*?\)=)\(.*\)"), r"\1(…)"),
    (re.compile(r"(Failing row contains )\(.*\)"), r"\1(…)"),
    (re.compile(r"(\[parameters: ).*"), r"\1…]"),
    (re.compile(r"((?:invalid input (?:syntax|value)|out of range)[^\"]*: )\".*\""), r'\1"…"'),
)
_VALUE = re.compile(r"'(?:[^']|'')*(?:'|$)")


def begin(app: str, version: str, notes: list[str]) -> Facts:
    """What there is to be said before anything is known."""
    return {
        "app": app,
        "version": version,
        "command": "",
        "schema": {"from": "", "to": ""},
        "migrations": [],
        "copy": None,
        "seconds": 0.0,
        "revisions": [],
        "statements": [],
        "locks": [],
        "lint": [],
        "refused": False,
        "problem": "",
        "left": [],
        "log": [],
        "advice": "",
        "nothing": "",
        "notes": list(notes),
    }


def stem(revision: Facts) -> str:
    """What a revision's file is called."""
    return Path(str(revision["file"])).stem


def sql(statements: list[Facts]) -> str:
    """The statements that ran, as Alembic's offline mode writes them: one to a line, under its revision."""
    lines, revision = [], ""
    for one in statements:
        if one["revision"] != revision:
            revision = one["revision"]
            lines.append(f"-- Running upgrade -> {revision}")
        lines.append(f"{one['sql']};")
    return "\n".join(lines)


def without_rows(text: str) -> str:
    """What a program said of a failure, without values of rows."""
    for pattern, instead in _OF_ROWS:
        text = pattern.sub(instead, text)
    return _VALUE.sub("'…'", text) if text.lstrip().startswith("[SQL:") else text


def left(said: str) -> str:
    """What stays in a database, without how to clear it: the copy is gone."""
    return re.sub(r" Clear them with: .*", "", said)


def failure(error: ReleaseError, advice: str) -> Facts:
    """Of a migration that failed."""
    return {
        "problem": without_rows(error.sentence),
        "left": [left(without_rows(one)) for one in error.also],
        "log": [without_rows(one) for one in error.log],
        "advice": f"{advice.rstrip('.')}.".replace("deploy again", "rehearse again"),
    }


def table(found: Facts) -> str:
    """For people: how long it took, what would have to wait, and what the live release would meet."""
    what = f"{found['app']} {found['version'][:7]}"
    if found["nothing"]:
        return "\n".join([f"{what}: {found['nothing']} Nothing is to be rehearsed.", *_notes(found)])
    copy, schema = found["copy"], found["schema"]
    lines = [
        f"Copy: {copy['bytes'] // backup.MB} MB from backup {copy['backup']} and all WAL after it, "
        f"in {copy['seconds']:.0f} s; last commit {copy['last_commit'] or 'that of the backup'}.",
    ]
    took = f"{found['command']}: {found['seconds']:.1f} s"
    way = f"schema from {schema['from'] or 'none'} to {schema['to'] or 'none'}"
    lines.append(f"{took}, and failed." if found["problem"] else f"{took}, {way}.")
    if found["revisions"]:
        rows = [[one["file"], f"{one['seconds']:.1f} s"] for one in found["revisions"]]
        lines += ["", *telling.columns([["REVISION", "TOOK"], *rows])]
    long = [one for one in found["statements"] if one["seconds"] >= _LONG][:_SHOWN]
    if long:
        rows = [[f"{one['seconds']:.1f} s", _times(one), cut(one["sql"], _WIDE)] for one in long]
        lines += ["", *telling.columns([["TOOK", "TIMES", "STATEMENT"], *rows])]
    held = [one for one in found["locks"] if one["seconds"] >= _HELD][:_SHOWN]
    if held:
        lines += ["", "Meanwhile, at a stretch:"]
        lines += [
            f"  nobody {'reads or writes' if one['reads'] else 'writes to'} {one['table']} for "
            f"{one['seconds']:.1f} s"
            for one in held
        ]
    if found["lint"]:
        lines.append("")
        lines += [f"({one['kind']}) {one['sentence']}" for one in found["lint"]]
    if found["refused"]:
        lines.append(
            "migrations.destructive is refuse: a deploy would stop before them, until it is warn for that "
            "one."
        )
    lines += ["", *(f"Left in the copy: {one}" for one in found["left"])] if found["left"] else [""]
    return "\n".join([*lines, *_notes(found), UNTOUCHED])


def _times(one: Facts) -> str:
    return f"{one['times']}{', failed' if one['failed'] else ''}"


def _notes(found: Facts) -> list[str]:
    said = [*found["notes"], *((found["copy"] or {}).get("notes") or [])]
    return [f"(note) {telling.capital(text.rstrip('.'))}." for text in said]


def verdict(found: Facts) -> str:
    """Why a deploy would fail; empty where its migrations would not."""
    if not found["problem"]:
        return ""
    log = [cut(line, 10 * _WIDE) for line in found["log"]]
    return "\n".join(
        [
            f"A deploy of {found['app']} {found['version'][:7]} would fail: {found['problem']}",
            *(["Last log lines:", *(f"  {line}" for line in log)] if log else []),
            f"Next: {found['advice']}",
        ]
    )
