"""What was backed up, restored beside the live server for people to look at, until they drop it.

Runs by itself, as the user postgres, from the unit of role backup and for whoever asks:

    restore.py serve    restore what the request says, tell systemd, and stay until that server ends
    restore.py plan     what a request, as JSON on standard input, would restore, as JSON
    restore.py drop     end what is there, and remove it

A request is a target: `kind` (latest, time, name), `target` (a time or a restore point's name), `at` (that
time, in seconds) and `said`, the same for people; with `from`, a place off this server is
read. How it went is kept in `restored.json`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, drill, offsite, side

Facts = dict[str, Any]

# Root's; gone with a reboot, so that nothing restores again by itself.
REQUEST = Path("/run/berth-restore.json")
LATEST: Facts = {"kind": "latest", "target": "", "at": 0.0, "said": "the latest commit"}
# Tables of which the difference is told.
TOLD = 20
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(?::(\d\d(?:\.\d{1,6})?))? ?(Z|UTC|[+-]\d\d(?::?\d\d)?)", re.ASCII
)


# Deciding ---------------------------------------------------------------------------------------------------


def to_time(text: str, now: float) -> Facts:
    """The request for the moment that somebody wrote; BackupError where it is none, or not yet."""
    found = _TIME.fullmatch(text.strip())
    shown = drill.printable(text[:60])
    try:
        if not found:
            raise ValueError
        day, minute, second, zone = found.groups()
        whole, _, fraction = (second or "0").partition(".")
        moment = datetime.strptime(f"{day} {minute}:{whole}", "%Y-%m-%d %H:%M:%S")
        moment = moment.replace(microsecond=int(fraction.ljust(6, "0")), tzinfo=timezone.utc)
        moment -= _offset(zone)
    except (ValueError, OverflowError):
        raise backup.BackupError(
            f"'{shown}' is no time with its zone; write it as '2026-11-30 11:59:00+00'"
        ) from None
    if moment.timestamp() > now:
        raise backup.BackupError(
            f"'{shown}' is in the future: on the server it is {drill.clock(now)}; "
            "leave it away for the latest"
        )
    target = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    said = f"{target.rstrip('0').rstrip('.')} UTC"
    return {"kind": "time", "target": f"{target}+00", "at": moment.timestamp(), "said": said}


def _offset(zone: str) -> timedelta:
    if zone in ("Z", "UTC"):
        return timedelta()
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 15 or minutes > 59:
        raise ValueError
    return timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)


def to_point(name: str, at: float) -> Facts:
    """The request for a restore point that was made at this time."""
    return {"kind": "name", "target": name, "at": at, "said": f"restore point {name} ({drill.clock(at)})"}


def choose(request: Facts, backups: list[Facts]) -> Facts:
    """The backup to begin with: the newest, or the newest that was complete before the target.

    A backup tells whole seconds, so one that ended in the target's own second may be too late.
    """
    if not backups:
        raise backup.BackupError("there is no backup yet; berth backup makes one")
    if request["kind"] == "latest":
        return backups[-1]
    fit = [one for one in backups if int(one["timestamp"]["stop"]) + 1 <= math.floor(request["at"])]
    if not fit:
        first = drill.clock(float(backups[0]["timestamp"]["stop"]) + 1)
        raise backup.BackupError(f"{request['said']} is before what can be restored, which begins at {first}")
    return fit[-1]


def words(request: Facts, chosen: Facts) -> list[str]:
    """pgBackRest's own for it."""
    found = [f"--set={chosen['label']}"]
    if request["kind"] != "latest":
        found += [f"--type={request['kind']}", f"--target={request['target']}", "--target-action=promote"]
    return found


def plan(settings: Facts, request: Facts, folder: Path | None = None, more: int = 0) -> Facts:
    """What would be restored and the room for it; BackupError where it cannot be.

    `folder` is another one than that of what is to be looked at, `more` are bytes that will come to it.
    """
    settings = source(settings, request)
    chosen = choose(request, backup.current(side.readable(settings)))
    size = 0
    # One that does not answer is no reason against a restore.
    with contextlib.suppress(backup.BackupError):
        size = int(side.live(settings).ask(backup.SIZE))
    folder = folder or backup.restored_folder(settings)
    if not folder.is_dir():
        raise backup.BackupError(f"{folder} is not there; berth up (site.yml) makes it")
    # What is left there of an earlier one goes first.
    need = side.needed(size, chosen) + more
    side.have_room(folder, need, backup.free(folder) + backup.taken(folder), "restore")
    return {"backup": chosen["label"], "need": need, "chosen": chosen}


def source(settings: Facts, request: Facts) -> Facts:
    """The settings by which what is asked for is read: from the server itself, or from a place off it."""
    return offsite.at(settings, str(request["from"])) if request.get("from") else settings


def differences(restored: Facts, live: Facts) -> tuple[list[Facts], int]:
    """Tables of which the live database has more or fewer rows, those that lost most first; and how many
    could not be counted. A number is None where the table or its database is not there."""
    found, unknown = [], 0
    for database in sorted({*restored, *live}):
        ours, theirs = restored.get(database), live.get(database)
        known: list[Facts] = [one["tables"] if one else {} for one in (ours, theirs)]
        for oid in sorted({*known[0], *known[1]}):
            table = known[0].get(oid) or known[1][oid]
            if table["persistence"] != "p":
                continue
            counts = [
                one["rows"].get(oid, -1) if one and oid in one["tables"] else None for one in (ours, theirs)
            ]
            if -1 in counts:
                unknown += 1
            elif counts[0] != counts[1]:
                row = {"database": database, "table": table["name"], "quoted": table["quoted"]}
                found.append({**row, "restored": counts[0], "live": counts[1]})
    found.sort(key=lambda one: (one["live"] or 0) - (one["restored"] or 0))
    return found, unknown


def schemas(restored: Facts, live: Facts) -> list[Facts]:
    """Where the schema's revision is another one than the live database's."""
    found = []
    for database in sorted({*restored, *live}):
        ours, theirs = (one.get(database, {}).get("schema", {}) for one in (restored, live))
        for table in sorted({*ours, *theirs}):
            pair = ours.get(table, ""), theirs.get(table, "")
            if pair[0] != pair[1]:
                found.append({"database": database, "table": table, "restored": pair[0], "live": pair[1]})
    return found


# Doing ------------------------------------------------------------------------------------------------------


class Restore:
    """One restore, up to a server that answers."""

    # Who may connect to that server, and settings of its own.
    hba = side.OWNER_ALONE
    options: Mapping[str, str] = {"default_transaction_read_only": "on"}

    def __init__(self, settings: Facts, request: Facts, folder: Path | None = None) -> None:
        self.settings, self.request, self.source = settings, request, settings
        self.folder = folder or backup.restored_folder(settings)
        self.live, self.side = side.live(settings), side.beside(settings, self.folder)
        self.notes: list[str] = []
        self.facts: Facts = {}

    def run(self) -> None:
        self.source = source(self.settings, self.request)
        planned = plan(self.settings, self.request)
        self.facts["backup"] = planned["backup"]
        side.remove(self.folder)
        try:
            self.restore(planned["chosen"])
            self.compare()
        except BaseException:
            side.remove(self.folder)
            raise

    def restore(self, chosen: Facts) -> None:
        known: dict[str, int] = {}
        marked = self.mark()
        with contextlib.suppress(backup.BackupError):
            known = side.limits(self.live)
        side.restore(self.source, self.folder, *words(self.request, chosen))
        side.configure(self.settings, self.folder, known, self.hba, **self.options)
        self.facts["bytes"] = backup.taken(self.folder)
        try:
            side.start(self.settings, self.folder)
        except backup.BackupError as error:
            raise backup.BackupError(self.unreached(str(error))) from None
        found = drill.replayed(self.side, marked or {"number": 3})
        last, made = found["last"], float(chosen["timestamp"]["stop"])
        self.facts["last_commit"] = drill.precise(last) if last else ""
        if self.request["kind"] == "latest" and marked:
            end = side.ended_at(self.folder)
            self.notes += drill.judge_commits(marked, found, made, self.missing(), end)

    def mark(self) -> Facts | None:
        """Have archived what was committed up to now: it may be what is wanted, and replay that is to end
        at a time ends at the first commit after it."""
        try:
            marked = drill.mark(self.live)
            if not drill.archived(self.live, marked["segment"]):
                self.notes.append(f"the live server did not archive {marked['segment']}; what is newer lacks")
            elif not offsite.received(self.source, marked["segment"]):
                self.notes.append(
                    f"{marked['segment']} did not get to {self.request['from']}; what is newer lacks"
                )
        except backup.BackupError as error:
            self.notes.append(f"the live server does not answer ({error}): what it did not archive lacks")
            return None
        return marked

    def missing(self) -> list[Facts]:
        with contextlib.suppress(backup.BackupError, OSError, KeyError, IndexError):
            if self.request.get("from"):
                return []
            known = backup.info(self.settings, side.PATIENCE)
            missing: list[Facts] = backup.window(self.settings, known)["missing"]
            return missing
        return []

    def unreached(self, said: str) -> str:
        if "before configured recovery target was reached" not in said:
            return f"what was restored does not start: {said}"
        missing = self.missing()
        hole = f": the archive lacks what follows {missing[-1]['after']}" if missing else ""
        return f"the WAL that is archived does not lead to {self.request['said']}{hole}"

    def compare(self) -> None:
        queries = self.folder / "queries"
        restored = drill.look(self.side, queries, lambda *_: True, drill.READING)
        counts = [one["rows"] for one in restored.values()]
        self.facts["databases"] = sorted(restored)
        self.facts["tables"] = sum(map(len, counts))
        self.facts["rows"] = sum(sum(one.values()) for one in counts)
        try:
            live = drill.look(self.live, queries, lambda *_: True, drill.GENTLY)
        except backup.BackupError as error:
            self.notes.append(f"the live server does not answer ({error}): nothing was compared")
            return
        found, unknown = differences(restored, live)
        self.facts.update(differs=found[:TOLD], more=len(found[TOLD:]), schemas=schemas(restored, live))
        if unknown:
            self.notes.append(f"{unknown} tables could not be compared with the live ones")


def report(made: Restore, began: float, problem: str) -> Facts:
    empty: Facts = {"backup": "", "bytes": 0, "last_commit": "", "databases": [], "tables": 0, "rows": 0}
    return {
        "began": backup.stamp(began),
        "ended": backup.stamp(time.time()),
        "seconds": round(time.time() - began, 1),
        "request": made.request,
        "problem": problem,
        "notes": made.notes,
        "socket": made.side.socket,
        "port": made.side.port,
        **empty,
        "differs": None,
        "more": 0,
        "schemas": [],
        **made.facts,
    }


def tell_systemd(text: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(text.encode(), f"\0{path[1:]}" if path.startswith("@") else path)


def serve(settings: Facts, request: Facts) -> int:
    """Restore, and stay as long as the restored server does."""
    # So that what was begun is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    made, kept = Restore(settings, request), Path(settings["state"]) / "restored.json"
    began, problem = time.time(), ""
    backup.keep(kept, json.dumps(report(made, began, "it was cut off")) + "\n")
    try:
        with backup.alone(Path(settings["state"])):
            made.run()
    except backup.BackupError as error:
        problem = str(error)
    except (OSError, LookupError, TypeError, ValueError) as error:
        problem = f"{error!r}"
    backup.keep(kept, json.dumps(report(made, began, problem)) + "\n")
    if problem:
        print(f"Nothing was restored: {problem}.", file=sys.stderr)
        return 1
    print(f"Restored {request['said']} from backup {made.facts['backup']}; it stands at {made.side.socket}.")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: end(settings, made.folder))
    tell_systemd("READY=1")
    while side.postmaster(made.folder / "data"):
        time.sleep(1)
    print("The restored server ended.", file=sys.stderr)
    return 1


def end(settings: Facts, folder: Path) -> None:
    """An orderly end of what stands there. Its files stay until they are dropped."""
    with contextlib.suppress(backup.BackupError):
        side.stop(settings, folder)
    sys.exit(0)


def drop(settings: Facts) -> str:
    """End and remove it, whatever state it is in; what was there."""
    folder = backup.restored_folder(settings)
    there = (folder / "data").exists()
    size = backup.taken(folder)
    if folder.is_dir():
        side.remove(folder)
    if settings.get("state"):
        (Path(settings["state"]) / "restored.json").unlink(missing_ok=True)
    if not there:
        return "No restored server is there."
    return f"The restored server is gone, and {size // backup.MB} MB are free again."


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    if len(argv) != 1 or argv[0] not in ("serve", "plan", "drop"):
        print("restore.py serve | plan | drop", file=sys.stderr)
        return 2
    os.umask(0o077)
    settings: Facts = {}
    if backup.SETTINGS.exists():
        settings = json.loads(backup.SETTINGS.read_text())
    try:
        if argv[0] == "drop":
            print(drop(settings))
            return 0
        if not settings:
            raise backup.BackupError("there are to be no backups on this server (server.backup.enabled)")
        if argv[0] == "serve":
            return serve(settings, json.loads(REQUEST.read_text()))
        print(json.dumps(plan(settings, json.loads(sys.stdin.read()))))
    except (backup.BackupError, OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
