"""What is stored off this server beside Postgres' backups, and what is to be said of it. Reads only.

All of it is root's own notes of the runs. No place is asked: an answer takes no longer when one is down.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

from ..errors import UP, ReleaseError
from ..paths import Paths
from ..payload import backup, files, parts, restore
from ..payload.drill import span
from ..runtime import naming, units
from . import telling

Facts = dict[str, Any]
# Code, level, sentence and cure.
Finding = tuple[str, str, str, str]

NAME = "berth-backup-files"
UNIT, TIMER = naming.distributions(NAME), naming.by_the_clock(NAME)
RESTORED = naming.distributions(f"{NAME}-restored")
# Each night, half an hour at random, and the time that it takes.
_OLD = 26 * 3600
_CHECKS = f"journalctl -u {NAME} on the server"
_STORE = "berth backup stores them now"


def facts(root: Path = Path("/")) -> Facts | None:
    """All that is known; None where nothing is stored off this server."""
    settings = root / parts.SETTINGS.relative_to("/")
    if not settings.exists():
        return None
    notes, known = root / parts.STATE.relative_to("/"), json.loads(settings.read_text())
    places = [{**_place(notes, one["name"]), "name": one["name"]} for one in known["places"]]
    states = units.states([UNIT, TIMER, RESTORED])
    last = files.read(notes / "last-store.json")
    return {
        "places": places,
        "since": backup.stamp(settings.stat().st_mtime),
        "last": {key: last.get(key) or "" for key in ("began", "ended", "problem")},
        "notes": [str(one) for one in last.get("notes") or []],
        "restored": sorted(str(path) for path in (root / "srv").glob("*/data.restored-*")),
        "timer": states.get(TIMER, "unknown"),
        "unit": states.get(UNIT, "unknown"),
    }


def _place(notes: Path, name: str) -> Facts:
    found = files.read(notes / f"{name}.json")
    parts = {key: dict(part) for key, part in (found.get("parts") or {}).items()}
    checked = found.get("checked") or {}
    text = {key: str(found.get(key) or "") for key in ("where", "began", "ended", "stored", "problem")}
    return {**text, "parts": parts, "checked": checked}


def judge(found: Facts | None, now: float) -> list[Finding]:
    """What is not well: a place that fails, is behind, or is damaged; no clock; and what lies about."""
    if found is None:
        return []
    said: list[Finding] = []
    at_work = found["unit"] in ("active", "activating")
    for place in found["places"]:
        at, name = place["stored"], place["name"]
        if place["problem"] and not at_work:
            text = f"files were not stored at {name} at {telling.minute(place['ended'])}: {place['problem']}"
            said.append(("files", "sick", text, _STORE))
        behind = now - telling.seconds(at or found["since"])
        if behind > _OLD:
            text = (
                f"the files stored at {name} are {span(behind)} old"
                if at
                else f"no files are stored at {name}"
            )
            said.append(("files-old", "sick", text, f"{_STORE}; {_CHECKS} tells why"))
    # Of what was wrong at a place that place tells.
    if found["last"]["problem"] and not at_work and not any(one["problem"] for one in found["places"]):
        last = found["last"]
        text = f"files were not all stored at {telling.minute(last['ended'])}: {last['problem']}"
        said.append(("files", "sick", text, _STORE))
    elif found["unit"] == "failed" and not said:
        said.append(
            ("files", "sick", "the last run that stored files was cut off", f"{_STORE}; {_CHECKS} tells why")
        )
    if found["timer"] not in ("active", "unknown"):
        text = f"files are stored by no clock: their timer is {found['timer']}"
        said.append(("timer", "sick", text, UP))
    said += [("files-large", "note", text, "") for text in found["notes"]]
    said += [
        ("files-restored", "note", f"what was restored lies in {folder}", "remove it when it is not needed")
        for folder in found["restored"]
    ]
    return said


def rows(found: Facts | None) -> list[list[str]]:
    """A row for each part at each place, as in the table of backups."""
    lines = []
    for place in (found or {"places": []})["places"]:
        for name, part in place["parts"].items():
            sizes = [f"{part['added'] / 2**20:.1f} MB", f"{part['bytes'] / 2**20:.1f} MB"]
            made = [telling.minute(part["at"]), f"{part['seconds']} s"]
            lines.append(
                [part["snapshot"], f"files of {name.removeprefix('app ')}", *made, *sizes, place["name"]]
            )
    return lines


def summary(found: Facts | None, now: float) -> str:
    """One line for a status; empty where nothing is stored."""
    if found is None:
        return ""
    said = []
    for place in found["places"]:
        age = (
            f"{span(max(0.0, now - telling.seconds(place['stored'])))} ago" if place["stored"] else "not yet"
        )
        said.append(f"at {place['name']} {age}")
    return f"files off this server: {', '.join(said)}."


def plan(app: str, to_time: str, place: str, root: Path = Path("/")) -> Facts:
    """What would be brought back, as a request and a sentence; ReleaseError where it cannot be."""
    nothing = "Nothing was changed."
    settings = root / parts.SETTINGS.relative_to("/")
    if not settings.exists():
        raise ReleaseError(
            "No files are stored off this server, so none can be brought back: write server.backup.offsite, "
            f"and {UP}. {nothing}"
        )
    names = [one["name"] for one in json.loads(settings.read_text())["places"]]
    if place and place not in names:
        raise ReleaseError(
            f"There is no place {place} in server.backup.offsite, but {', '.join(names)}. {nothing}"
        )
    if not app:
        raise ReleaseError(f"Say whose files with --files APP (-e app=NAME). {nothing}")
    if not Paths(app, root).base.is_dir():
        raise ReleaseError(f"There is no app {app} on this server. {nothing}")
    at, when = 0.0, "as they were stored last"
    if to_time not in ("", "latest"):
        try:
            wanted = restore.to_time(to_time, time.time())
        except backup.BackupError as error:
            raise ReleaseError(f"to_time: {error}. {nothing}") from None
        at, when = wanted["at"], f"as they were stored last up to {wanted['said']}"
    request = {"app": app, "at": at, "place": place, "asked": time.time()}
    where = place or " or ".join(names)
    return {"request": request, "said": f"Would bring back the files of {app} from {where}, {when}."}


def describe(request: Facts, root: Path = Path("/")) -> Facts:
    """How it went that was asked for; ReleaseError where it did not."""
    made = files.read(root / parts.STATE.relative_to("/") / "last-restore.json")
    if made.get("request") != request:
        raise ReleaseError(f"Nothing was restored; journalctl -u {RESTORED} on the server tells why.")
    if made["problem"]:
        raise ReleaseError(f"Nothing was restored: {made['problem']}. Nothing that was there was touched.")
    return {"answer": made, "table": restored(made)}


def restored(made: Facts) -> str:
    """For people: what came back, where it is, and what to type next."""
    app, folder = made["app"], shlex.quote(made["folder"])
    data, size = f"/srv/{app}/data", f"{made['bytes'] / 2**20:.1f} MB"
    swap = f"mv {data} {data}.before && mv {folder} {data}"
    return "\n".join(
        [
            f"Restored {made['files']} files of {app}, {size}, in {made['seconds']} s: as they were on "
            f"{telling.minute(made['of'])}, from {made['place']}.",
            "",
            f"They lie in {folder}, beside those of today. Next, on the server:",
            f"  compare                 sudo -u {app} diff -rq --no-dereference {folder} {data}",
            f"  bring lost files back   sudo -u {app} cp -a --no-clobber {folder}/. {data}/",
            f"  and then                sudo rm -r {folder}",
            f"  or put all in place     sudo sh -c {shlex.quote(swap)}",
            f"  and then                berth deploy {app} --force, since what runs keeps the folder it had",
        ]
    )
