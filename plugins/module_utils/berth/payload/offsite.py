"""Places off this server: passes on to each what the local repository of backups gets.

Runs by itself, as the user postgres, from the units of role backup:

    offsite.py relay NAME    pass on WAL as it is archived here, for ever
    offsite.py backup        make at each place the backup that was made here since, where there is one

Each place is a repository of pgBackRest of its own, with a configuration and a key of its own. The server
archives into the local one alone: a place that cannot be reached delays nothing here, and its WAL waits in
the local repository, where it is kept anyway. How it is with a place is kept in `offsite/NAME.relay.json` and
`offsite/NAME.backups.json`, so that whoever asks waits for no network.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, reasons

Facts = dict[str, Any]

# Seconds between two looks; for one answer of a place, after which it counts as unreachable; and to the next
# try after a failure, at first and at most.
LOOK = 2.0
PATIENCE = 300.0
AGAIN = (5.0, 60.0)
# Seconds after which it is said anew that a relay is at work, though nothing happened.
ALIVE = 30.0
# Seconds after which it is asked anew whether no other server goes on at a place.
SOLE = 600.0
# Seconds for a segment that is archived to be at a place.
RECEIVED = 120
# Seconds for a place to get the WAL that a backup needs, before the backup is begun and before it ends.
CAUGHT_UP = 600
_SEGMENT = re.compile(r"([0-9A-F]{24})-")
_FOLDER = re.compile(r"[0-9A-F]{16}")
_HISTORY = re.compile(r"[0-9A-F]{8}\.history")


def places(settings: Facts) -> list[Facts]:
    """Each with its `name` and `config`, the file that says how pgBackRest reaches it."""
    found: list[Facts] = settings.get("offsite") or []
    return found


def at(settings: Facts, name: str) -> Facts:
    """The settings with which pgBackRest is asked of a place; BackupError where there is none of the name."""
    for place in places(settings):
        if place["name"] == name:
            return {**settings, "config": place["config"], "from": name}
    known = ", ".join(place["name"] for place in places(settings)) or "none"
    raise backup.BackupError(f"there is no off-site place {name} (server.backup.offsite has {known})")


def received(settings: Facts, segment: str) -> bool:
    """Whether a segment gets to the place that these settings are of, where they are of one, in time."""
    end = time.monotonic() + RECEIVED
    while settings.get("from"):
        if read(settings, settings["from"], "relay").get("pushed", "") >= segment:
            break
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


# What is kept -----------------------------------------------------------------------------------------------


def file_of(settings: Facts, name: str, what: str) -> Path:
    return Path(settings["state"]) / "offsite" / f"{name}.{what}.json"


def read(settings: Facts, name: str, what: str) -> Facts:
    """What was last said of a place; empty where nothing was, or it cannot be read."""
    try:
        return backup.last_run(settings, f"offsite/{name}.{what}")
    except (OSError, ValueError):
        return {}


def keep(settings: Facts, name: str, what: str, said: Facts) -> None:
    path = file_of(settings, name, what)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    backup.keep(path, json.dumps(said) + "\n")


# WAL --------------------------------------------------------------------------------------------------------


def archive(settings: Facts) -> tuple[str, Path | None]:
    """The newest part of the local archive, of one version of the cluster; empty before there is one."""
    top = Path(settings["repository"]) / "archive" / settings["stanza"]
    found = [one for one in top.glob("*-*") if one.name.rpartition("-")[2].isdecimal()]
    newest = max(found, key=lambda one: int(one.name.rpartition("-")[2]), default=None)
    return (newest.name if newest else "", newest)


def segments(folder: Path, after: str = "") -> list[str]:
    """Names of the segments in an archive that follow one, in order; all of them without.

    There may be hundreds of thousands. They lie in folders by the first two thirds of their names, so few are
    read.
    """
    names = []
    for top in (one for one in folder.iterdir() if _FOLDER.fullmatch(one.name) and one.name >= after[:16]):
        with contextlib.suppress(FileNotFoundError):
            whole = (one.name for one in top.iterdir() if one.suffix != ".tmp")
            names += [found[1] for one in whole if (found := _SEGMENT.match(one))]
    return sorted(one for one in names if one > after)


def histories(folder: Path) -> list[str]:
    """Of the timelines that began here; each server that was restored has one."""
    return sorted(one.name for one in folder.iterdir() if _HISTORY.fullmatch(one.name))


def timeline(folder: Path) -> int:
    """The newest of an archive; 0 of one that is empty."""
    tops = [one.name for one in folder.iterdir() if _FOLDER.fullmatch(one.name)]
    return max((int(one[:8], 16) for one in (*tops, *histories(folder))), default=0)


def refuse_successor(settings: Facts, there: Facts) -> None:
    """BackupError where a server that was built anew from what lies at a place goes on there.

    Each that was restored begins a timeline. One that this server knows nothing of began elsewhere, and a
    backup made here would be the newest there, from which nobody comes to what that server archived.
    """
    _, folder = archive(settings)
    own, clusters = timeline(folder) if folder else 0, backup.info(there, PATIENCE).get("db") or []
    if not own or not clusters:
        return
    # By the cluster's own archive: in that of a major version before, timelines count on from others.
    held = f"archive/{settings['stanza']}/{clusters[-1]['version']}-{clusters[-1]['id']}"
    listed = backup.pgbackrest(there, "repo-ls", held, timeout=PATIENCE)
    if any(int(one[:8], 16) > own for one in listed.split() if _HISTORY.fullmatch(one)):
        raise backup.BackupError(
            "another server was built anew from what lies there, and goes on with it: switch this one off "
            "for good, or write another path for it"
        )


def since(folder: Path, name: str) -> float:
    """When a segment came into the archive."""
    times = [one.stat().st_mtime for one in (folder / name[:16]).glob(f"{name}-*")]
    return max(times, default=time.time())


class Relay:
    """Of one place: what it has, and what waits for it."""

    def __init__(self, settings: Facts, name: str) -> None:
        self.local, self.there, self.name = settings, at(settings, name), name
        self.known: Facts = {
            "archive": "", "pushed": "", "pushed_at": "", "histories": [], "gap": None, "failing_since": "",
            **read(settings, name, "relay"), "behind": 0, "since": "", "problem": "",
        }  # fmt: skip
        self.ready = False
        self.wait = 0.0
        self.told = 0.0
        # When it was last sure that no other server goes on there.
        self.sole = -SOLE

    def tell(self) -> None:
        """Write down how it is."""
        self.told = time.monotonic()
        keep(self.local, self.name, "relay", {**self.known, "at": backup.stamp(time.time())})

    def begin(self) -> None:
        """Make the place's repository where it is missing, and find out what it has."""
        try:
            backup.pgbackrest(self.there, "stanza-create", timeout=PATIENCE)
        except backup.BackupError as error:
            if re.search(r"\.info is missing", str(error)):
                self.begin_anew()
            elif re.search(reasons.OTHER_CLUSTER, str(error), re.I) and self.is_of_before():
                backup.pgbackrest(self.there, "stanza-upgrade", timeout=PATIENCE)
            else:
                raise
        if not self.known["pushed"]:
            held = backup.info(self.there, PATIENCE)["archive"]
            here, folder = archive(self.local)
            # What was archived before belongs to no backup there. Of two archives only the newest goes on.
            if held and held[-1]["id"] == here and held[-1].get("max"):
                self.known.update(archive=here, pushed=held[-1]["max"])
            elif folder and len(names := segments(folder)) > 1:
                self.known.update(archive=here, pushed=names[-2])
        self.ready = True

    def is_of_before(self) -> bool:
        """Whether the place's cluster is one that was moved to another major version here, or back."""
        here, there = (
            [one["system-id"] for one in backup.info(settings, PATIENCE).get("db", [])]
            for settings in (self.local, self.there)
        )
        return bool(there) and there[-1] in here[:-1]

    def begin_anew(self) -> None:
        """Make the repository of a place again whose making was cut off, where it holds nothing else."""
        listed = backup.pgbackrest(self.there, "repo-ls", "--recurse", timeout=PATIENCE).splitlines()
        files = [one for one in listed if "." in one]
        if not all(re.search(r"/(archive|backup)\.info(\.copy)?$", one) for one in files):
            raise backup.BackupError(
                "a part of its repository is missing, and what is left is not Berth's to remove"
            )
        for one in files:
            backup.pgbackrest(self.there, "repo-rm", one, timeout=PATIENCE)
        backup.pgbackrest(self.there, "stanza-create", timeout=PATIENCE)

    def look(self) -> list[str]:
        """What waits, timelines first."""
        here, folder = archive(self.local)
        if folder is None:
            return []
        if here != self.known["archive"]:
            # Another major version, or back: begun anew there, whatever was not passed on of the one before.
            self.known.update(archive=here, pushed="", histories=[], gap=None)
            self.ready = False
        waiting = segments(folder, self.known["pushed"])
        self.known["behind"] = len(waiting)
        self.known["since"] = backup.stamp(since(folder, waiting[0])) if waiting else ""
        return [*(one for one in histories(folder) if one not in self.known["histories"]), *waiting]

    def push(self, name: str) -> None:
        """One file from the local repository to the place."""
        with tempfile.TemporaryDirectory(prefix="berth-relay-") as folder:
            path = str(Path(folder) / name)
            try:
                backup.pgbackrest(self.local, "archive-get", name, path, timeout=PATIENCE)
            except backup.BackupError as error:
                raise backup.BackupError(
                    f"{name} cannot be read from the local repository ({error})"
                ) from None
            try:
                backup.pgbackrest(self.there, "archive-push", path, timeout=PATIENCE)
            except backup.BackupError as error:
                raise backup.BackupError(reasons.plainly(str(error))) from None
        if _HISTORY.fullmatch(name):
            self.known["histories"] = [*self.known["histories"], name]
            return
        self.note_gap(name)
        self.known.update(pushed=name, pushed_at=backup.stamp(time.time()))

    def note_gap(self, name: str) -> None:
        """Where what lies between was removed here before it was passed on, only a full backup leads on."""
        before = self.known["pushed"]
        if before and before[:8] == name[:8] and backup.gaps([before, name], backup.SEGMENT):
            found = backup.gaps([before, name], backup.segment_size(self.local))
            if found:
                self.known["gap"] = found[0]

    def once(self) -> None:
        """Begin where that is to be done, and pass on all that waits; BackupError at the first that fails."""
        waiting = self.look()
        try:
            if not self.ready:
                self.begin()
                waiting = self.look()
            if waiting and time.monotonic() - self.sole >= SOLE:
                refuse_successor(self.local, self.there)
                self.sole = time.monotonic()
        except backup.BackupError as error:
            raise backup.BackupError(reasons.plainly(str(error))) from None
        for name in waiting:
            self.push(name)
            self.known.update(problem="", failing_since="")
            self.tell()
            self.wait = 0.0
        if waiting:
            self.look()

    def turn(self) -> float:
        """One look; the seconds to the next."""
        before = dict(self.known)
        try:
            self.once()
            self.known.update(problem="", failing_since="")
            self.wait = 0.0
        except (backup.BackupError, OSError, ValueError, LookupError, TypeError) as error:
            text = str(error) if isinstance(error, backup.BackupError) else f"{error!r}"
            if text != self.known["problem"]:
                print(f"Off-site {self.name}: {text}. WAL waits in the local repository.", file=sys.stderr)
            began = self.known["failing_since"] or backup.stamp(time.time())
            self.known.update(problem=text, failing_since=began)
            # A place that was out of reach may have another server since.
            self.sole = -SOLE
            with contextlib.suppress(OSError):
                self.look()
            self.wait = min(max(self.wait * 2, AGAIN[0]), AGAIN[1])
        if before["problem"] and not self.known["problem"]:
            print(f"Off-site {self.name}: all that waited is there.")
        sys.stdout.flush()
        if before != self.known or time.monotonic() - self.told > ALIVE:
            self.tell()
        return self.wait or LOOK


def relay(settings: Facts, name: str) -> None:
    """For ever. One that is ended in the middle of a file passes it on again, which changes nothing there."""
    one = Relay(settings, name)
    while True:
        time.sleep(one.turn())


# Backups ----------------------------------------------------------------------------------------------------


def wanted(local: list[Facts], there: list[Facts], gap: Facts | None) -> str:
    """The kind of backup that a place lacks: the newest's here, or a full one to begin with; empty for none.

    Where WAL is missing there since its newest backup, what comes after it needs a full one.
    """
    if not local:
        return ""
    if not there or (gap and there[-1]["archive"]["start"][8:] < gap["before"][8:]):
        return "full"

    def last(backups: list[Facts], *kinds: str) -> float:
        return max((float(one["timestamp"]["stop"]) for one in backups if one["type"] in kinds), default=0.0)

    if last(local, "full") > last(there, "full"):
        return "full"
    # One that was made here while one was made there is younger by no more than that took.
    newest = max(local, key=lambda one: float(one["timestamp"]["stop"]))
    return "incremental" if float(newest["timestamp"]["start"]) > last(there, "full", "incr", "diff") else ""


def caught_up(settings: Facts, name: str) -> None:
    """Wait until the place has the WAL of up to now; BackupError where it does not get it."""
    end = time.monotonic() + CAUGHT_UP
    while True:
        known = read(settings, name, "relay")
        alive = known and time.time() - backup.seconds_of(known["at"]) < 2 * (ALIVE + AGAIN[1])
        of_this = known.get("archive", "") == archive(settings)[0]
        if alive and of_this and not known["problem"] and known["behind"] <= 1:
            return
        if time.monotonic() > end or known.get("problem"):
            raise backup.BackupError(
                known.get("problem") or "WAL does not get there (its relay is not at work)"
            )
        time.sleep(1)


def back_up(settings: Facts, place: Facts, local: list[Facts]) -> str:
    """The backup that a place lacks, and what is to be said of it; empty where it lacks none."""
    name, began = place["name"], time.time()
    said, problem, rows = "", "", read(settings, name, "backups").get("backups", [])
    there = at(settings, name)
    try:
        known = backup.info(there, PATIENCE)
        if known["status"]["code"] not in (0, 1, 2, 3):
            raise backup.BackupError(str(known["status"].get("message")))
        kind = wanted(local, backup.current(known), read(settings, name, "relay").get("gap"))
        if kind:
            caught_up(settings, name)
            refuse_successor(settings, there)
            words = (f"--type={backup.KINDS[kind]}", f"--archive-timeout={CAUGHT_UP}")
            backup.pgbackrest(there, *words, "backup")
            known = backup.info(there, PATIENCE)
            made = known["backup"][-1]
            took = time.time() - began
            size = backup.stored(made) / backup.MB
            said = f"{kind} backup {made['label']} at {name}: {size:.1f} MB, {took:.0f} s"
        rows = [
            {**backup.backup_row(one, backup.versions(known)), "where": name, "from": one["archive"]["start"]}
            for one in known["backup"]
        ]
    except backup.BackupError as error:
        problem = reasons.plainly(str(error))
    asked = backup.stamp(time.time())
    keep(settings, name, "backups", {"asked": asked, "problem": problem, "backups": rows})
    if problem:
        raise backup.BackupError(problem)
    return said


def back_up_everywhere(settings: Facts) -> int:
    """At each place the backup that it lacks; one that fails leaves the others alone. The exit status."""
    status = 0
    # Apart from the local ones: a place that is slow holds up none of them.
    with backup.alone(Path(settings["state"]), name="lock-offsite"):
        local = backup.current(backup.info(settings, backup.AT_WORK))
        for place in places(settings):
            try:
                said = back_up(settings, place, local)
                print(f"Made: {said}." if said else f"{place['name']} has what it should.")
            except backup.BackupError as error:
                print(f"No backup at {place['name']}: {error}.", file=sys.stderr)
                status = 1
    return status


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    if argv != ["backup"] and not (len(argv) == 2 and argv[0] == "relay"):
        print("offsite.py relay NAME | backup", file=sys.stderr)
        return 2
    os.umask(0o077)
    # So that what was begun is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = json.loads(backup.SETTINGS.read_text())
        if argv == ["backup"]:
            return back_up_everywhere(settings)
        relay(settings, argv[1])
    except (backup.BackupError, OSError, ValueError, LookupError, TypeError) as error:
        print(f"{error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
