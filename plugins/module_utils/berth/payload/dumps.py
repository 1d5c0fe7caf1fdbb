"""Dumps of databases that are on servers of others: makes them, and tells how they are.

Runs by itself, from the unit of role dumps and for whoever asks:

    dumps.py dump     one sentence on what was made; or why not, and exit status 1
    dumps.py state    all that is known of them, as JSON; exit status 0

Each database is dumped by the role that owns it. The unit begins as root, reads the passwords of these roles,
and is the user postgres before it does anything else. Each dump is read to its end before it counts; what the
database held at that very moment is kept beside the newest one, for the drill (`dumps_drill`).
"""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, clock, snapshot

Facts = dict[str, Any]

SETTINGS = Path("/etc/berth/backup/dumps.json")
PASSWORDS = Path("/etc/berth/postgresql")
USER = "postgres"
# How its last run ended.
KIND = "dumps"
# Seconds for a server to answer a question.
ANSWER = 60.0
# All that a dump holds is unpacked and thrown away.
READS = ["-f", "/dev/null"]
INSTEAD = "or set server.backup.enabled to false"
# What the newest dump has to bring back.
HELD = "newest.json"


def folder_of(settings: Facts, database: Facts) -> Path:
    """Where the dumps of a database lie, apart from those of this server's own."""
    place = f"at-{urllib.parse.quote(database['host'], safe='')}"
    return Path(settings["dumps"]) / place / backup.folder_of(database["name"])


def passwords(settings: Facts) -> dict[str, str]:
    """By role, for root; a role whose file is not there has none."""
    found = {}
    for owner in {one["owner"] for one in settings["databases"]}:
        try:
            found[owner] = (PASSWORDS / owner).read_text().strip()
        except OSError:
            continue
    return found


def become(name: str) -> None:
    """Be this user from now on, for good."""
    user = pwd.getpwnam(name)
    os.initgroups(name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def environment(database: Facts, known: Mapping[str, str]) -> dict[str, str]:
    """How the client finds a database, and what it logs in with."""
    owner = database["owner"]
    if owner not in known:
        raise backup.BackupError(f"there is no password of {owner} on this server")
    found = {"PGHOST": database["host"], "PGPORT": str(database["port"]), "PGUSER": owner}
    tls = {f"PG{key.upper()}": database[key] for key in ("sslmode", "sslrootcert") if database.get(key)}
    return {**found, **tls, "PGPASSWORD": known[owner], "PGCONNECT_TIMEOUT": "15"}


def packing() -> str:
    """By zstd where pg_dump knows it."""
    found = re.search(r"\b(\d+)", backup.run(["pg_dump", "--version"], ANSWER))
    return "zstd:3" if found and int(found[1]) >= 16 else "6"


def dump(settings: Facts, known: Mapping[str, str]) -> str:
    """A dump of each database, and the end of old ones. The others go on where one fails."""
    began, problems, total, made = time.monotonic(), [], 0, 0
    top = Path(settings["dumps"])
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    argv = ["pg_dump", "-Fc", "-Z", packing(), "--lock-wait-timeout=10min"]
    ways = {**settings, "reads": READS, "instead": INSTEAD}
    for database in settings["databases"]:
        name, place = database["name"], f"{database['name']} at {database['host']}"
        try:
            env = environment(database, known)
            folder = folder_of(settings, database)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            keep = backup.shared_reserve(top)
            with snapshot.Snapshot(**env, PGDATABASE=name, PGAPPNAME="berth-dump") as seen:
                held = seen.holds()
                words = [*argv, f"--snapshot={seen.name}"]
                total += backup.dump_one(ways, folder, name, held["bytes"], keep, words, **env)
            newest = backup.dumps_in(folder)[-1]
            backup.keep(folder / HELD, json.dumps({"file": newest.name, **held}) + "\n")
            made += 1
        except (backup.BackupError, OSError, ValueError) as error:
            problems.append(f"{place}: {error}")
    forget_old(top, settings)
    if problems:
        raise backup.BackupError("; ".join(problems))
    plural = "database" if made == 1 else "databases"
    size_mb, took = total / backup.MB, time.monotonic() - began
    return f"dumps of {made} {plural} on servers of others: {size_mb:.1f} MB, {took:.0f} s"


def forget_old(top: Path, settings: Facts) -> None:
    """Dumps of databases that no app has there any more end with the days that can be gone back to."""
    current = {folder_of(settings, one) for one in settings["databases"]}
    for place in top.glob("at-*"):
        mine = {one.name for one in current if one.parent == place}
        for folder in place.glob("*"):
            if folder.name not in mine and not backup.dumps_in(folder):
                (folder / HELD).unlink(missing_ok=True)
        backup.forget_old(place, mine, settings)
        if not any(place.iterdir()):
            place.rmdir()


def facts_of(folder: Path) -> Facts:
    """What the newest dump has to bring back; empty where that is not known."""
    try:
        found = json.loads((folder / HELD).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def expected(schedule: str) -> int:
    """The most seconds from one of a schedule to the next; 0 where that cannot be told."""
    for newer in (True, False):
        try:
            answer = backup.run(clock.calendar(schedule, newer=newer), backup.ANSWER, TZ="UTC")
        except backup.BackupError:
            continue
        return clock.longest_gap(clock.instants(answer))
    return 0


def state(settings: Facts) -> Facts:
    """The newest dump of each database, how the last run ended, and how often there should be one."""
    rows = []
    for database in settings["databases"]:
        files = backup.dumps_in(folder_of(settings, database))
        last = files[-1].stat() if files else None
        rows.append(
            {
                **{key: database[key] for key in ("app", "name", "host")},
                "at": backup.stamp(last.st_mtime) if last else "",
                "file": str(files[-1]) if files else "",
                "kept": len(files),
                "stored_mb": round(last.st_size / backup.MB, 1) if last else 0.0,
            }
        )
    return {
        "databases": rows,
        "last": backup.last_run(settings, KIND),
        "expected": expected(settings["schedule"]),
        "since": backup.stamp(SETTINGS.stat().st_mtime),
        # How the newest drill went, how often there is to be one (0: never by the clock), and since when.
        "drill": backup.last_run(settings, "dumps-drill"),
        "drill_expected": expected(settings["drill_schedule"]) if settings.get("drill_schedule") else 0,
        "drills_since": backup.folder_since(settings),
    }


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    if argv not in (["dump"], ["state"]):
        print("dumps.py dump | state", file=sys.stderr)
        return 2
    os.umask(0o077)
    try:
        settings = json.loads(SETTINGS.read_text())
    except FileNotFoundError:
        print(f"No dump: there are to be none of other servers ({SETTINGS}).", file=sys.stderr)
        return 1
    if argv == ["state"]:
        print(json.dumps(state(settings)))
        return 0
    known: dict[str, str] = {}
    if os.geteuid() == 0:
        known = passwords(settings)
        become(USER)
    folder, began, problem, said = Path(settings["state"]), time.time(), "", ""
    try:
        with backup.alone(folder, name=f"{KIND}.lock", busy="another dump is at work"):
            said = dump(settings, known)
    except backup.BackupError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or folder}: {error.strerror}"
    return backup.conclude(folder, KIND, began, problem, said, "dump")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
