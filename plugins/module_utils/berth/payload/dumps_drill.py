"""The drill of dumps: the newest one of each database on servers of others, restored here, checked, removed.

Runs by itself, as the user postgres, from the unit of role dumps:

    dumps_drill.py     one sentence on what came back; or one for each thing that did not, and exit status 1

A server of its own is made for it in a folder of its own, and each dump is restored into that as the docs
say. What is in a dump was written by an app, and by somebody else's server: so it is restored by the role
that owns the database, who is no superuser there either, and the unit has neither network nor live cluster.
How it went is kept in `dumps-drill.json`, and the last ones, a line each, in `dumps-drills.jsonl`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, clock, drill, dumps, side
from .side import quoted

Facts = dict[str, Any]

KIND = "dumps-drill"
PROGRAMS = Path("/usr/lib/postgresql")
PORT = 5432
# What a restore of a dump by hand says, too (docs/operations.md).
RESTORE = ("--single-transaction", "--no-owner", "--no-acl", "--no-comments")
# A database elsewhere may publish and subscribe; its copy here does neither.
ALONE = ("--no-publications", "--no-subscriptions", "--no-security-labels", "--no-tablespaces")
# Seconds between two looks at the disk, which a dump may fill with more than its database had.
LOOK = 1.0


def newest_server() -> int:
    """The major version of the newest PostgreSQL whose server's programs are here; 0 where none are."""
    found = [path.parents[1].name for path in PROGRAMS.glob("*/bin/initdb")]
    return max((int(name) for name in found if name.isdigit()), default=0)


class Drill:
    """One drill, of all databases: what came back of each, and what did not."""

    def __init__(self, settings: Facts) -> None:
        self.folder = Path(settings["drill"])
        self.settings = {**settings, "version": newest_server(), "port": PORT}
        self.side = side.beside(self.settings, self.folder)
        self.expected = dumps.expected(settings["schedule"])
        self.failed: list[Facts] = []
        self.notes: list[str] = []
        self.databases: list[Facts] = []

    def fail(self, check: str, *texts: str) -> None:
        self.failed += [{"check": check, "text": text} for text in texts]

    def run(self) -> None:
        """All of it; what is left of an earlier one goes first, and what this one made at its end."""
        if not self.settings["version"]:
            raise drill.FailedError(
                "begin",
                "no server of PostgreSQL's is installed here to restore into; berth up (site.yml) does",
            )
        side.remove(self.folder)
        try:
            self.make()
            for database in self.settings["databases"]:
                place = f"{database['name']} at {database['host']}"
                try:
                    self.rehearse(database, place)
                except drill.FailedError as error:
                    self.fail(error.check, f"{place}: {error}")
                except (backup.BackupError, OSError) as error:
                    self.fail("restore", f"{place}: {error}")
        finally:
            side.remove(self.folder)

    def make(self) -> None:
        """An empty server, as closed as one that backups are restored into."""
        data = self.folder / "data"
        side.have_room(self.folder, side.WAL, backup.free(self.folder), "drill of dumps")
        try:
            (self.folder / "socket").mkdir(mode=0o700)
            program = side.program(self.settings, "initdb")
            words = ["-U", dumps.USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
            backup.run([program, "-D", str(data), *words], 600)
            text = side.configuration(
                self.folder, PORT, int(self.settings["version"]), {}, max_wal_size="256MB"
            )
            (data / "postgresql.conf").write_text(text)
            (data / "pg_hba.conf").write_text(side.OWNER_ALONE)
            side.start(self.settings, self.folder)
        except (backup.BackupError, OSError) as error:
            raise drill.FailedError("begin", f"there is no server to restore into: {error}") from None

    def rehearse(self, database: Facts, place: str) -> None:
        """One database: its newest dump restored, looked at, and dropped."""
        began, folder = time.monotonic(), dumps.folder_of(self.settings, database)
        files = backup.dumps_in(folder)
        if not files:
            raise drill.FailedError("dump", "there is no dump of it; berth backup makes one")
        dump, known = files[-1], dumps.facts_of(folder)
        self.age(dump)
        if known.get("file") != dump.name:
            known = {}
            self.notes.append(
                f"{place}: what the database held then is not known of {dump.name}, nor compared"
            )
        need = int(known.get("bytes") or dump.stat().st_size * 10) + side.WAL
        side.have_room(self.folder, need, backup.free(self.folder), f"restore of {database['name']}")
        self.create(database)
        self.restore(database, dump)
        found = drill.survey(
            self.side, database["name"], self.folder / "queries", lambda *_: True, drill.READING
        )
        self.compare(place, known, found)
        self.questions(database, place)
        size = int(self.side.ask("select pg_database_size(current_database())", database["name"]))
        self.side.ask(f"drop database {quoted(database['name'])} with (force)")
        self.databases.append(
            {
                **{key: database[key] for key in ("app", "name", "host")},
                "dump": dump.name,
                "at": backup.stamp(dump.stat().st_mtime),
                "seconds": round(time.monotonic() - began, 1),
                "bytes": size,
                "tables": len(found["rows"]),
                "rows": sum(found["rows"].values()),
                "schema": found["schema"],
            }
        )

    def age(self, dump: Path) -> None:
        """One that is too old is no way back, whatever it holds."""
        age = time.time() - dump.stat().st_mtime
        if self.expected and age > clock.late(self.expected):
            raise drill.FailedError(
                "age", f"its newest dump is {drill.span(age)} old; berth backup makes one"
            )

    def create(self, database: Facts) -> None:
        """An empty database with its owner, its roles, and the extensions that its inventory asks for."""
        name, owner = database["name"], database["owner"]
        for role in (owner, *database.get("roles", ())):
            self.side.ask(f"create role {quoted(role)} login")
        # No rights of everybody's: of template1 nothing comes along.
        self.side.ask(f"create database {quoted(name)} owner {quoted(owner)} template template0", timeout=600)
        for extension in database.get("extensions", ()):
            try:
                self.side.ask(f"create extension {quoted(extension)} schema public cascade", name, 600)
            except backup.BackupError as error:
                if "is not available" not in str(error):
                    raise
                package = f"postgresql-{self.settings['version']}-{extension}"
                raise drill.FailedError(
                    "extensions",
                    f"the extension {extension} is not on this server, so that it cannot be restored here; "
                    f"add its package to the server's packages (often {package})",
                ) from None

    def restore(self, database: Facts, dump: Path) -> None:
        """By the role that owns it; ended where the disk gets full."""
        argv = [
            *(side.program(self.settings, "pg_restore"), *RESTORE, *ALONE, *self.side.words()),
            *("-U", database["owner"], "-d", database["name"], str(dump)),
        ]
        env = {**backup.ENVIRONMENT, "PGAPPNAME": "berth-backup", "PGCONNECT_TIMEOUT": "10"}
        # Beside it, and not through a pipe: whatever it says, it does not wait for a reader.
        said = self.folder / "queries"
        with said.open("w") as file:
            done = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file
            )
            try:
                while done.poll() is None:
                    if backup.free(self.folder) < side.RESERVE:
                        raise drill.FailedError(
                            "room",
                            f"what it restores leaves less than {side.RESERVE // backup.MB} MB free in "
                            f"{self.folder}; make room there",
                        )
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        done.wait(LOOK)
            finally:
                done.kill()
                done.wait()
        if done.returncode != 0:
            text = said.read_text(errors="replace")
            raise drill.FailedError("restore", f"{dump.name} cannot be restored: {why(text)}")

    def compare(self, place: str, known: Facts, found: Facts) -> None:
        """With what the database held at the very moment of the dump."""
        there = {table["quoted"]: oid for oid, table in found["tables"].items()}
        missing, fewer, unknown = [], [], []
        for table, rows in known.get("tables", {}).items():
            has = found["rows"].get(there.get(table))
            if table not in there:
                missing.append(f"{place}: table {drill.printable(table)} is not in what was restored")
            elif rows is None or has is None:
                unknown.append(drill.printable(table))
            elif rows != has:
                fewer.append(
                    f"{place}: {drill.printable(table)} has {has} rows in what was restored, and had {rows} "
                    "when it was dumped"
                )
        self.fail("rows", *drill.few([*missing, *fewer]))
        if unknown:
            self.notes.append(f"{place}: not compared: {drill.listed(unknown)}")
        for table, revision in known.get("schema", {}).items():
            has = found["schema"].get(table, "")
            if has != revision:
                self.fail(
                    "schema",
                    f"{place}: the schema is at {has or 'no revision'} in what was restored, and was at "
                    f"{revision or 'no revision'} when it was dumped ({table})",
                )

    def questions(self, database: Facts, place: str) -> None:
        """What the inventory wants to know of it, asked by its owner: nobody else has rights in it here."""
        for query in database.get("checks", ()):
            try:
                answer = self.side.ask_as(database["owner"], query, database["name"], drill.ASKING)
                # What else it answers may be somebody's data.
                said = "" if answer == "t" else "its answer is not true"
            except backup.BackupError as error:
                said = str(error)
            if said:
                self.fail("checks", f"{place}: {' '.join(query.split())}: {said}")


def why(said: str) -> str:
    """The sentence of pg_restore's that tells what went wrong: of the server's, where it quotes one."""
    found = re.search(r"(?m)^pg_restore: error: (?:could not execute query: )?(?:ERROR:\s+)?(.*)", said)
    return (found[1] if found else backup.reason(said)).rstrip(".") or "pg_restore ended without a word"


def report(made: Drill, began: float) -> Facts:
    return {**drill.outcome(made.failed, made.notes, began), "databases": made.databases}


def sentence(made: Facts) -> str:
    number = len(made["databases"])
    which = "dump of 1 database was" if number == 1 else f"dumps of {number} databases were"
    rows, tables = (sum(one[key] for one in made["databases"]) for key in ("rows", "tables"))
    return (
        f"the newest {which} restored and checked in {made['seconds']:.0f} s: {rows} rows in "
        f"{drill.tables_of(tables)}, nothing is missing"
    )


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    if argv:
        print("dumps_drill.py takes no argument", file=sys.stderr)
        return 2
    os.umask(0o077)
    try:
        settings = json.loads(dumps.SETTINGS.read_text())
    except FileNotFoundError:
        print(f"No drill: there are to be no dumps of other servers ({dumps.SETTINGS}).", file=sys.stderr)
        return 1
    # So that what was begun is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    state, began = Path(settings["state"]), time.time()
    rehearsal = Drill(settings)
    try:
        # Behind backups and the other drill; no dump is made or ended meanwhile.
        with backup.alone(state), backup.alone(state, name=f"{dumps.KIND}.lock"):
            began = time.time()
            cut = [{"check": "begin", "text": "it was cut off"}]
            begun = {**report(rehearsal, began), "ok": False, "problem": cut[0]["text"], "failed": cut}
            backup.keep(state / f"{KIND}.json", json.dumps(begun) + "\n")
            rehearsal.run()
    except drill.FailedError as error:
        rehearsal.fail(error.check, str(error))
    except (backup.BackupError, OSError, LookupError, TypeError, ValueError) as error:
        # Whatever it is, it is no restore that was seen to work.
        rehearsal.fail("begin", str(error) if isinstance(error, backup.BackupError) else f"{error!r}")
    made = report(rehearsal, began)
    drill.keep(state, made, KIND)
    for one in made["failed"]:
        print(f"The drill of dumps failed: {one['text']}.", file=sys.stderr)
    if made["failed"]:
        return 1
    print(f"The drill of dumps went well: {sentence(made)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
