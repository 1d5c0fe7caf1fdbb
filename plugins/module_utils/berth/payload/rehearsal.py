"""A copy of what is live, for migrations to run on before a deploy, and what they did to it.

Runs by itself, as the user postgres, in a unit that the engine makes for it, which has a network of its own:

    rehearsal.py    answers each line of JSON on its input with one; ends with its input, and nothing is left

The first one asks for the copy: the newest backup and all WAL, restored where drills are, with a `database`,
its `owner`, the `roles` that may connect, and for how many seconds (`wait`) another backup is waited for. The
server listens at the live one's address, in that network alone, and at a socket in its folder. Any other line
asks what the owner's sessions did since: which statements took how long, and what they locked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, restore, side

Facts = dict[str, Any]

BUSY = "a backup, a drill or a restore is at work on this server; try again when it is done"
# Of a statement so many characters are read; of all that change the schema so many are told.
LONGEST = 64 << 10
MOST = 512 << 10
# Kinds of statements that are told apart, and how many of those that took longest are told.
KINDS = 5000
TOLD = 20
# Seconds between two looks at what is locked, and at the room on the disk.
LOOK = 0.1
# Begins each record in the log; the lines of a statement that follow the first begin with a tab.
_PREFIX = "berth"
LOG = {
    "log_line_prefix": f"{_PREFIX} %n %u %d [%a] ",
    "log_min_duration_statement": "0",
    "log_min_error_statement": "error",
    # Neither values nor what an error tells of a row.
    "log_parameter_max_length": "0",
    "log_error_verbosity": "terse",
}
_RECORD = re.compile(rf"{_PREFIX} (\d+\.\d+) (\S*) (\S*) \[(.*?)\] (\w+):  (.*)", re.DOTALL)
# What the engine's own sessions are called, which look and migrate nothing.
_LOOKS = "berth"
_TOOK = re.compile(r"duration: (\d+\.\d+) ms  (?:statement|execute [^:]*): (.*)", re.DOTALL)
_VERSION = re.compile(
    r"(?:UPDATE|INSERT\s+INTO)\s+(?:[\w\"]+\.)?\"?alembic_version\"?\s.*?"
    r"(?:version_num\"?\s*=\s*|VALUES\s*\(\s*)'([^']+)'",
    re.IGNORECASE | re.DOTALL,
)
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))"""
    r"""|(?P<string>\b[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)|(?:\b[bBnNxX]|\b[uU]&)?'(?:[^']|'')*(?:'|\Z)"""
    r"""|\$((?:[A-Za-z_]\w*)?)\$.*?(?:\$\3\$|\Z))"""
    r"""|(?P<name>"(?:[^"]|"")*(?:"|\Z))"""
    r"""|(?P<parameter>\$\d+)"""
    r"""|(?P<number>(?<![\w.])\d+(?:\.\d+)?)"""
    r"""|(?P<end>;)"""
    r"""|(?P<space>\s+)""",
    re.DOTALL,
)
_CHANGES_SCHEMA = re.compile(r"(?:ALTER|CREATE|DROP|TRUNCATE|REINDEX)\b", re.IGNORECASE)
# Tables that were there before, and who must wait for them: what is new is nothing to what is live.
_BEFORE = """
    create temp table before as select c.oid, n.nspname || '.' || c.relname as name
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'm') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema';
"""
_HELD = """
    select coalesce(json_object_agg(name, all_of_it), '{}') from (
      select b.name, bool_or(l.mode = 'AccessExclusiveLock') as all_of_it
      from pg_locks l join before b on b.oid = l.relation
      where l.granted and l.database = (select oid from pg_database where datname = current_database())
        and l.mode in ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')
      group by b.name) held;
"""
# A table that is written anew is there twice until that is committed.
_LARGEST = "select coalesce(max(pg_total_relation_size(oid)), 0) from pg_class where relkind in ('r', 'm')"


# Reading the log --------------------------------------------------------------------------------------------


class Statement(NamedTuple):
    """One that ran: when it had ended, how many seconds it took (None: it failed), and its text."""

    at: float
    seconds: float | None
    text: str


def statements(lines: Iterable[str], owner: str, database: str) -> Iterator[Statement]:
    """Those of the owner's sessions, in the order in which they ended."""
    for record in _records(lines):
        found = _RECORD.fullmatch(record)
        if not found or (found[2], found[3]) != (owner, database) or found[4] == _LOOKS:
            continue
        at, kind, said = float(found[1]), found[5], found[6]
        if kind == "STATEMENT":
            yield Statement(at, None, said)
        elif kind == "LOG" and (took := _TOOK.fullmatch(said)):
            yield Statement(at, float(took[1]) / 1000, took[2])


def _records(lines: Iterable[str]) -> Iterator[str]:
    record, whole = "", True
    for line in lines:
        # A line that was too long to be read at once comes in parts.
        goes_on = not whole or line.startswith("\t")
        whole = line.endswith("\n")
        if not goes_on:
            yield record.rstrip("\n")
            record = ""
        if len(record) < LONGEST:
            record += line[1:] if line.startswith("\t") and goes_on else line
    yield record.rstrip("\n")


def in_parts(file: IO[str]) -> Iterator[str]:
    """The lines of a file; long ones in several parts."""
    return iter(lambda: file.readline(LONGEST), "")


def plain(text: str) -> list[str]:
    """The statements of a text on a line each, without comments, and without what may be of a row."""
    parts = [""]
    changes_rows = not _CHANGES_SCHEMA.match(_TOKEN.sub(_uncommented, text[:200]).lstrip())
    at = 0
    for token in _TOKEN.finditer(text):
        parts[-1] += text[at : token.start()]
        at = token.end()
        kind = token.lastgroup
        if kind == "end":
            parts.append("")
        elif kind in ("comment", "space"):
            parts[-1] += " "
        elif kind == "number":
            parts[-1] += "0" if changes_rows else token[0]
        elif kind == "name":
            parts[-1] += " ".join(token[0].split())
        else:
            parts[-1] += "NULL" if kind == "parameter" else "'…'"
    parts[-1] += text[at:]
    found = [" ".join(part.split()) for part in parts]
    return [part for part in found if part]


def _uncommented(token: re.Match[str]) -> str:
    return " " if token.lastgroup == "comment" else token[0]


def account(ran: Iterable[Statement]) -> Facts:
    """What ran, by the revisions of Alembic that it belongs to: each ends with the note of its number."""
    revisions: list[Facts] = []
    kinds: dict[tuple[int, str], Facts] = {}
    schema: list[Facts] = []
    began, said, left_out = 0.0, 0, False
    for one in ran:
        number = len(revisions)
        began = began or one.at - (one.seconds or 0)
        for text in plain(one.text):
            if _CHANGES_SCHEMA.match(text):
                # Of one that is not whole nothing can be said.
                if len(one.text) >= LONGEST - 200 or said + len(text) > MOST:
                    left_out = True
                else:
                    said += len(text)
                    schema.append({"revision": number, "sql": text})
        kind = "; ".join(plain(one.text[:2000]))
        if (number, kind) in kinds or len(kinds) < KINDS:
            entry = {"revision": number, "sql": kind, "times": 0, "seconds": 0.0, "failed": False}
            known = kinds.setdefault((number, kind), entry)
            known["times"] += 1
            known["seconds"] += one.seconds or 0
            known["failed"] |= one.seconds is None
        if one.seconds is not None and (version := _VERSION.match(one.text.lstrip())):
            revisions.append({"revision": version[1], "seconds": round(one.at - began, 3)})
            began = one.at
    names = dict(enumerate(one["revision"] for one in revisions))

    def named(entry: Facts) -> Facts:
        return {**entry, "revision": names.get(entry["revision"], "")}

    longest = sorted(kinds.values(), key=lambda one: -one["seconds"])[:TOLD]
    return {
        "revisions": revisions,
        "statements": [{**named(one), "seconds": round(one["seconds"], 3)} for one in longest],
        "schema": [named(one) for one in schema],
        "left_out": left_out,
    }


# Watching ---------------------------------------------------------------------------------------------------


class Locks:
    """For how long each table could not be written, or not even be read, at a stretch."""

    def __init__(self) -> None:
        self.since: dict[tuple[str, bool], float] = {}
        self.longest: dict[tuple[str, bool], float] = {}

    def see(self, held: dict[str, bool], now: float) -> None:
        """`held`: tables that nobody can write to, and whether nobody can read them either."""
        there = {(name, kind) for name, all_of_it in held.items() for kind in ({False, all_of_it})}
        for one in list(self.since):
            if one not in there:
                del self.since[one]
        for one in there:
            took = now - self.since.setdefault(one, now)
            self.longest[one] = max(took, self.longest.get(one, 0.0))

    def told(self) -> list[Facts]:
        """Those that were held longest come first; of a table that could not be read, only that."""
        found: list[Facts] = []
        for (name, reads), seconds in self.longest.items():
            if reads or seconds > self.longest.get((name, True), -1.0) + LOOK:
                found.append({"table": name, "reads": reads, "seconds": round(seconds, 1)})
        return sorted(found, key=lambda one: (-one["seconds"], one["table"], not one["reads"]))[:TOLD]


class Watch(threading.Thread):
    """Looks at what is locked, and ends the server before it takes the room that the live one needs."""

    def __init__(self, server: side.Server, database: str, folder: Path) -> None:
        super().__init__(daemon=True)
        self.server, self.database, self.folder = server, database, folder
        self.locks, self.over, self.full = Locks(), threading.Event(), False

    def run(self) -> None:
        argv = ["psql", "-XAtq", *self.server.words(), "-d", self.database]
        # What it asks ten times a second is none of the migration's, and would fill the log.
        options = "-c search_path=pg_catalog -c log_min_duration_statement=-1"
        env = {**backup.ENVIRONMENT, "PGAPPNAME": "berth-rehearsal", "PGOPTIONS": options}
        pipe, asked = subprocess.PIPE, False
        # Where the server has ended, so has psql.
        with (
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env) as psql,
        ):
            assert psql.stdin is not None
            assert psql.stdout is not None
            psql.stdin.write(_line(_BEFORE))
            while not self.over.wait(LOOK):
                if backup.free(self.folder) < side.RESERVE // 2:
                    self.full = True
                    kill(self.folder)
                    break
                # The room is looked at also while no answer comes.
                if not asked:
                    psql.stdin.write(_line(_HELD))
                    psql.stdin.flush()
                    asked = True
                if select.select([psql.stdout], [], [], LOOK / 2)[0]:
                    asked = False
                    with contextlib.suppress(ValueError):
                        self.locks.see(json.loads(psql.stdout.readline()), time.monotonic())
            psql.kill()


def _line(query: str) -> bytes:
    return f"{' '.join(query.split())}\n".encode()


def kill(folder: Path) -> None:
    """End the server at once."""
    if number := side.postmaster(folder / "data"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGQUIT)


# Doing ------------------------------------------------------------------------------------------------------


def rules(database: str, owner: str, roles: Iterable[str]) -> str:
    """Who may connect to the copy: its superuser, and by their own passwords the app's roles."""
    names = ",".join(f'"{one}"' for one in roles)
    return (
        f'local all postgres peer\nlocal "{database}" "{owner}" scram-sha-256\n'
        f'host "{database}" {names} 127.0.0.1/32 scram-sha-256\n'
        f'host "{database}" {names} ::1/128 scram-sha-256\n'
    )


class Rehearsal(restore.Restore):
    """One copy, from its request to its end."""

    def __init__(self, settings: Facts, asked: Facts) -> None:
        super().__init__(settings, restore.LATEST, Path(settings["drill"]))
        self.database, self.owner = str(asked["database"]), str(asked["owner"])
        self.hba = rules(self.database, self.owner, asked["roles"])
        # In the network of its unit alone; that has no IPv6 where the server has none.
        self.options = {**LOG, "listen_addresses": "127.0.0.1,::1"}
        self.watch: Watch | None = None
        self.begun = 0

    def run(self) -> None:
        more = int(self.live.ask(_LARGEST, self.database))
        planned = restore.plan(self.settings, self.request, self.folder, more)
        self.facts["backup"] = planned["backup"]
        side.remove(self.folder)
        self.restore(planned["chosen"])
        self.begun = (self.folder / "log").stat().st_size
        self.watch = Watch(self.side, self.database, self.folder)
        self.watch.start()

    def told(self) -> Facts:
        """What was done to it since it stands."""
        assert self.watch is not None
        self.watch.over.set()
        self.watch.join(10)
        ended = not side.postmaster(self.folder / "data")
        with (self.folder / "log").open(errors="replace", newline="\n") as log:
            log.seek(self.begun)
            found = account(statements(in_parts(log), self.owner, self.database))
        return {**found, "locks": self.watch.locks.told(), "full": self.watch.full, "ended": ended}


def answer(made: Rehearsal) -> Facts:
    """What is said of a copy that stands."""
    return {
        "problem": "",
        "notes": made.notes,
        "socket": made.side.socket,
        "port": made.side.port,
        **made.facts,
    }


def serve(settings: Facts, questions: IO[str], say: Any) -> None:
    """Until nobody asks any more; then it is as if there had been none."""
    asked, began = json.loads(questions.readline()), time.monotonic()
    with backup.alone(Path(settings["state"]), float(asked["wait"]), busy=BUSY):
        made = Rehearsal(settings, asked)
        try:
            made.run()
            say({**answer(made), "seconds": round(time.monotonic() - began, 1)})
            while questions.readline():
                say(made.told())
        finally:
            side.remove(made.folder)


def say(facts: Facts) -> None:
    print(json.dumps(facts), flush=True)


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    if argv:
        print("rehearsal.py takes no argument", file=sys.stderr)
        return 2
    os.umask(0o077)
    # So that what was begun is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        serve(json.loads(backup.SETTINGS.read_text()), sys.stdin, say)
    except (backup.BackupError, OSError, LookupError, TypeError, ValueError) as error:
        say({"problem": str(error) if isinstance(error, backup.BackupError) else f"{error!r}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
