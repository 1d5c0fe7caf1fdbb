"""The drill: the newest backup and all WAL after it, restored beside the live server, checked, and removed.

Runs by itself, as the user postgres, from the unit of role backup and for whoever asks:

    drill.py      one sentence on what came back; or one for each thing that did not, and exit status 1

How it went is kept in `drill.json`, and the last ones, a line each, in `drills.jsonl`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, offsite, side

Facts = dict[str, Any]

# Seconds for the server to archive what it was asked to; and after which it has counted what was deleted.
ARCHIVED = 120
COUNTED = 12
HISTORY = 30
# Names in one sentence.
NAMED = 5
READING = "-c max_parallel_workers_per_gather=0 -c default_transaction_read_only=on"
# On the live server: it waits for no migration, and keeps none waiting for longer; one core at most. What
# counts is a process of the server's own, to which the drill's priority means nothing.
SECONDS = 30
GENTLY = f"{READING} -c lock_timeout=2s -c statement_timeout={SECONDS}s"

# A table's number survives a restore, and its file's changes when all of it is written anew (TRUNCATE, too).
TABLES = """
    select json_build_array(
      c.oid::bigint, n.nspname || '.' || c.relname, c.relpersistence, pg_relation_filenode(c.oid)::bigint,
      pg_stat_get_tuples_deleted(c.oid), pg_stat_get_tuples_inserted(c.oid),
      quote_ident(n.nspname) || '.' || quote_ident(c.relname),
      c.relname = 'alembic_version' and exists (
        select from pg_attribute a where a.attrelid = c.oid and a.attname = 'version_num'
          and not a.attisdropped and a.attgenerated = ''
          and a.atttypid in ('text'::regtype, 'varchar'::regtype)))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm') and c.relpersistence <> 't'
      and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
    order by c.oid
"""
REVISION = "select string_agg(version_num::text, ',' order by version_num) from "
# When a transaction of this number was committed, where the server keeps that; and whether one was, and when
# the last was. Of a number that was not given yet it must not be asked.
COMMITTED_AT = """
    select case when current_setting('track_commit_timestamp')::bool
      then extract(epoch from pg_xact_commit_timestamp($1::xid8::xid)) end
"""
REPLAYED = """
    select json_build_object(
      'marked', case when $1::xid8 < pg_snapshot_xmax(pg_current_snapshot())
                  then pg_xact_status($1::xid8) end,
      'last', (select extract(epoch from timestamp) from pg_last_committed_xact()))
"""
# What a name that search_path does not lead to is called, as the first error of an entry; and that a
# function asked for it.
NOT_FOUND = re.compile(
    r"\A.*\n\s+ERROR:\s+((?:function|type|operator|relation|collation|text search \w+) .*does not exist.*)"
)
IN_FUNCTION = re.compile(r"(?m)^\s+CONTEXT:\s.*\bfunction\b")
# Seconds for an app's own question.
ASKING = "60s"
FIELDS = ("name", "persistence", "file", "deleted", "inserted", "quoted", "alembic")


class FailedError(Exception):
    """What keeps the drill from going on, and at which step."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(text)
        self.check = check


# Looking ----------------------------------------------------------------------------------------------------


def databases(server: side.Server) -> list[str]:
    return list(filter(None, server.ask(backup.DATABASES).split("\n")))


def tables(server: side.Server, database: str) -> dict[int, Facts]:
    """Every table of a database by its number."""
    # Of the characters that end a line for Python, a name may have all but this one as they are.
    answer = server.ask(TABLES, database, 600).split("\n")
    rows = [json.loads(line) for line in answer if line]
    return {number: dict(zip(FIELDS, [printable(name), *more], strict=True)) for number, name, *more in rows}


def printable(name: str) -> str:
    """A name as a terminal may show it."""
    return "".join(one if one.isprintable() else "?" for one in name)


def count(
    server: side.Server, database: str, known: dict[int, Facts], file: Path, options: str
) -> dict[int, int]:
    """The rows of each table, by its number; one that is locked, large, or gone by now, is left out."""
    queries = [
        f"select json_build_array({oid}, count(*)) from only {table['quoted']};\n"  # noqa: S608 (by the server)
        for oid, table in known.items()
    ]
    file.write_text("".join(queries))
    found: list[tuple[int, int]] = [json.loads(line) for line in server.script(file, database, options)]
    return dict(found)


def revisions(server: side.Server, database: str, known: dict[int, Facts]) -> dict[str, str]:
    """What each table alembic_version says; empty where it says nothing."""
    found = {}
    for table in known.values():
        if table["alembic"]:
            with contextlib.suppress(backup.BackupError):
                found[table["name"]] = server.ask(REVISION + table["quoted"], database)
    return found


def look(server: side.Server, file: Path, counted: Callable[[str, int, Facts], bool], options: str) -> Facts:
    """Of each database its tables, their rows, and its schema's revision."""
    return {database: survey(server, database, file, counted, options) for database in databases(server)}


def survey(
    server: side.Server,
    database: str,
    file: Path,
    counted: Callable[[str, int, Facts], bool],
    options: str,
) -> Facts:
    """The same of one database."""
    known = tables(server, database)
    wanted = {
        oid: table
        for oid, table in known.items()
        if table["persistence"] == "p" and counted(database, oid, table)
    }
    return {
        "tables": known,
        "rows": count(server, database, wanted, file, options) if wanted else {},
        "schema": revisions(server, database, known),
    }


def mark(server: side.Server) -> Facts:
    """Commit something that changes nothing, and have it archived: all that was committed before is, then.

    Rows that were counted before it have to be in what is restored, whatever the archive's lag is.
    """
    number = server.ask("select pg_current_xact_id()")
    at = server.ask(COMMITTED_AT.replace("$1", f"'{number}'"))
    # One byte back: where nothing was left to switch, it is where the next segment begins, which Postgres 17
    # names, and which is not archived before it is written.
    segment = server.ask("select pg_walfile_name(pg_switch_wal() - 1)")
    return {"number": number, "at": float(at) if at else time.time(), "segment": segment}


def archived(server: side.Server, segment: str) -> bool:
    """Whether this segment gets into the archive within the time that it has for it."""
    end = time.monotonic() + ARCHIVED
    while server.ask("select last_archived_wal from pg_stat_archiver") < segment:
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def replayed(server: side.Server, marked: Facts) -> Facts:
    """Whether what was committed on the live server came back, and when the last commit was that did.

    To be asked before the restored server has commits of its own.
    """
    answer: Facts = json.loads(server.ask(REPLAYED.replace("$1", f"'{marked['number']}'")))
    return {"whole": answer["marked"] == "committed", "last": answer["last"]}


# Judging ----------------------------------------------------------------------------------------------------


def compare_rows(before: Facts, restored: Facts, after: Facts) -> tuple[list[str], list[str], list[str]]:
    """What is missing, what is worth telling, and which tables could not be compared.

    `before` was counted on the live server before the mark, so it has to be in what was restored: more rows
    may be there, and fewer by as many as the live server says (`after`) were deleted since, rolled back ones
    too. It says so late of a session that stays in a transaction: rows that are gone in the live table as
    well, where that was counted again, are not lost. A table whose file is another one than before was
    written anew since, by TRUNCATE for example: of its rows nothing can be said.
    """
    problems: list[str] = []
    notes: list[str] = []
    unlogged: list[str] = []
    unknown: list[str] = []
    for database, known in before.items():
        now = after.get(database)
        if database not in restored:
            if now is not None:
                problems.append(f"database {database} is not in what was restored")
            continue
        there = restored[database]
        for oid, table in known["tables"].items():
            name = f"{database}: {table['name']}"
            if table["persistence"] != "p":
                unlogged.append(name)
                continue
            today = now["tables"].get(oid) if now else None
            found = there["tables"].get(oid)
            if found is None:
                if today:
                    problems.append(f"table {name} is not in what was restored")
                continue
            had, has = known["rows"].get(oid), there["rows"].get(oid)
            if had is None or has is None:
                unknown.append(name)
                continue
            left = now["rows"].get(oid) if now else None
            lost = had - has
            if lost > 0 and today and found["file"] == table["file"]:
                gone = today["deleted"] - table["deleted"]
                if gone < 0:
                    unknown.append(name)  # the statistics began anew
                elif lost > gone and left is not None and left - came(table, today) <= has:
                    notes.append(
                        f"{lost} of {had} rows of {name} went while the drill ran, from the live table too"
                    )
                elif lost > gone:
                    problems.append(
                        f"{lost} of {had} rows of {name} are missing in what was restored"
                        + (f", and only {gone} were deleted meanwhile" if gone else "")
                    )
            if left is not None and left < has:
                notes.append(f"{name} has {left} rows in the live database now, and {has} were restored")
    if unlogged:
        notes.append(f"unlogged tables are in no backup: {listed(unlogged)}")
    return problems, notes, unknown


def came(table: Facts, today: Facts) -> int:
    """The rows that were inserted into the live table since it was counted first."""
    return max(0, int(today["inserted"]) - int(table["inserted"]))


def compare_schema(before: Facts, restored: Facts, after: Facts) -> list[str]:
    """Where the restored revision is neither the live one nor that of when the drill began."""
    problems = []
    for database, known in before.items():
        for table, revision in known["schema"].items():
            now = after.get(database, {}).get("schema", {}).get(table, "")
            found = restored.get(database, {}).get("schema", {}).get(table, "")
            # Where a migration runs meanwhile, one between the two is as good.
            if found not in (revision, now) and revision == now:
                problems.append(
                    f"the schema of {database} is at {found or 'no revision'} in what was restored, and at "
                    f"{revision or 'no revision'} in the live database ({table})"
                )
    return problems


def damage(said: str) -> tuple[list[str], list[str]]:
    """What pg_amcheck tells of each table and index: which it could not check, and what is wrong.

    It asks with an empty search_path. A function in an index that finds another by it then fails: the index
    is as good as ever, though a dump, which is restored like that, cannot make it anew.
    """
    notes: list[str] = []
    wrong: list[str] = []
    for entry in re.split(r"\n(?=\S)", said.strip("\n")):
        index, missed = re.match(r'btree index "(.*)":\n', entry), NOT_FOUND.search(entry)
        if index and missed and IN_FUNCTION.search(entry):
            notes.append(
                f"index {printable(index[1])} cannot be checked, nor made from a dump: its function needs a "
                f"search_path ({printable(missed[1])})"
            )
        elif lines := [line.strip() for line in entry.split("\n") if line.strip()]:
            wrong.append(" ".join(lines[:2]).rstrip("."))
    return notes, wrong


def judge_commits(marked: Facts, found: Facts, made: float, missing: list[Facts], end: str) -> list[str]:
    """A sentence where commits of the live server are not in what was restored.

    Only this sees a hole in the WAL: replay ends at it as if that were all there is.
    """
    if found["whole"]:
        return []
    age = max(0.0, marked["at"] - (found["last"] or made))
    hole = f"; the archive lacks what follows {missing[-1]['after']}" if missing else ""
    return [
        f"the last {span(age)} before the drill are lost: no commit after {clock(marked['at'] - age)} came "
        f"back, replay ended at {end or 'an unknown place'}{hole}"
    ]


def span(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    return f"{backup.stamp(seconds).replace('T', ' ').rstrip('Z')} UTC"


def precise(seconds: float) -> str:
    """The same to the microsecond, as a target is written."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def tables_of(number: int) -> str:
    return "1 table" if number == 1 else f"{number} tables"


def few(sentences: list[str], what: str = "tables") -> list[str]:
    more = len(sentences) - NAMED
    return [*sentences[:NAMED], *([f"of {more} more {what} the same is to be said"] if more > 0 else [])]


def distance(begin: str, end: str, size: int = backup.SEGMENT) -> int:
    """Bytes of WAL between a segment and a location; 0 where one is not known."""
    if not begin or not end:
        return 0
    high, low = (int(part, 16) for part in end.split("/"))
    return max(0, (high << 32) + low - (int(begin[8:16], 16) << 32) - int(begin[16:24], 16) * size)


# Doing ------------------------------------------------------------------------------------------------------


class Drill:
    """One drill: its steps, and what is said of them."""

    def __init__(self, settings: Facts, place: str = "") -> None:
        self.settings = settings
        # What is restored is read from the server itself, or from a place off it.
        self.source = offsite.at(settings, place) if place else settings
        self.place = place
        self.folder = Path(settings["drill"])
        self.queries = self.folder / "queries"
        self.live = side.live(settings)
        self.side = side.beside(settings, self.folder)
        self.steps: list[Facts] = []
        self.failed: list[Facts] = []
        self.notes: list[str] = []
        self.facts: Facts = {}

    @contextlib.contextmanager
    def step(self, name: str, doing: str) -> Iterator[Facts]:
        """Take its time; what goes wrong in it ends the drill."""
        began, entry = time.monotonic(), {"step": name, "seconds": 0.0, "bytes": 0}
        self.steps.append(entry)
        try:
            yield entry
        except (backup.BackupError, OSError) as error:
            raise FailedError(name, f"{doing}: {error}") from None
        finally:
            entry["seconds"] = round(time.monotonic() - began, 1)

    def fail(self, check: str, *texts: str) -> None:
        self.failed += [{"check": check, "text": text} for text in texts]

    def begin(self) -> Facts:
        """The backup that is to be restored, or why there can be no drill."""
        with self.step("begin", "no drill can begin"):
            known = backup.current(side.readable(self.source))
            if not known:
                raise backup.BackupError("there is no backup yet; berth backup makes one")
            newest: Facts = known[-1]
            # Before the room is looked at: what a drill left that was killed is no reason against this one.
            side.remove(self.folder)
            need = side.needed(int(self.live.ask(backup.SIZE)), newest)
            side.have_room(self.folder, need, backup.free(self.folder), "drill")
        return newest

    def run(self) -> None:
        """All of it; what is left of an earlier one goes first, and what this one made at its end."""
        newest = self.begin()
        self.facts["backup"] = newest["label"]
        try:
            self.rehearse(newest)
        finally:
            side.remove(self.folder)

    def rehearse(self, newest: Facts) -> None:
        with self.step("count", "the live server cannot be asked"):
            before = look(self.live, self.queries, lambda *_: True, GENTLY)
            segment = backup.segment_size(self.settings)
            known = side.limits(self.live)
        with self.step("archive", "the live server cannot be asked"):
            marked = mark(self.live)
            if not archived(self.live, marked["segment"]):
                text = f"the live server did not archive {marked['segment']} within {ARCHIVED} s"
                self.fail("archive", text)
            elif not offsite.received(self.source, marked["segment"]):
                self.fail("archive", f"{marked['segment']} did not get to {self.place} in time")
        with self.step("restore", f"backup {newest['label']} cannot be restored") as entry:
            side.restore(self.source, self.folder)
            side.configure(self.settings, self.folder, known)
            entry["bytes"] = backup.taken(self.folder)
        with self.step("replay", f"backup {newest['label']} is restored, and does not start") as entry:
            side.start(self.settings, self.folder)
            found = replayed(self.side, marked)
            end = side.ended_at(self.folder)
            entry["bytes"] = distance(newest["archive"]["start"], end, segment)
        self.commits(newest, marked, found, end)
        with self.checked("amcheck") as entry:
            self.amcheck(entry)
        with self.checked("rows"):
            self.compare(before)
        if self.settings.get("checks"):
            with self.checked("checks"):
                self.questions()
        with self.checked("checksums") as entry:
            self.checksums(entry)

    @contextlib.contextmanager
    def checked(self, name: str) -> Iterator[Facts]:
        """A step after which the others go on."""
        try:
            with self.step(name, f"{name} could not be checked") as entry:
                yield entry
        except FailedError as error:
            self.fail(error.check, str(error))

    def commits(self, newest: Facts, marked: Facts, found: Facts, end: str) -> None:
        made = float(newest["timestamp"]["stop"])
        missing: list[Facts] = []
        if not found["whole"] and not self.place:
            with contextlib.suppress(backup.BackupError, OSError, KeyError, IndexError):
                missing = backup.window(self.settings, backup.info(self.settings, side.PATIENCE))["missing"]
        last = found["last"] or made
        self.facts["last_commit"] = {
            "live": backup.stamp(marked["at"]),
            "restored": backup.stamp(last),
            "lost_seconds": 0.0 if found["whole"] else round(max(0.0, marked["at"] - last), 1),
        }
        self.fail("commits", *judge_commits(marked, found, made, missing, end))

    def amcheck(self, entry: Facts) -> None:
        """Every table and every index of every database, and whether each row is in its indexes."""
        program = side.program(self.settings, "pg_amcheck")
        entry["bytes"] = int(self.side.ask("select sum(pg_database_size(oid)) from pg_database"))
        if not Path(program).exists():
            self.notes.append(f"PostgreSQL {self.settings['version']} has no pg_amcheck")
            return
        words = [program, *self.side.words(), "--all", "--install-missing", "--heapallindexed"]
        # Notices are no damage: that amcheck is there already, or what an app's function has to tell.
        code, said = side.outcome(words, "-c client_min_messages=error")
        notes, wrong = damage(said) if code != 0 else ([], [])
        self.notes += few(notes, "indexes")
        if code != 0 and (wrong or not notes):
            said = wrong[0] if wrong else f"pg_amcheck ended with {code}"
            self.fail("amcheck", f"a table or index is damaged: {said}")

    def compare(self, before: Facts) -> None:
        restored = look(self.side, self.queries, lambda *_: True, READING)

        def changed(database: str, oid: int, table: Facts) -> bool:
            if oid not in before.get(database, {}).get("rows", {}):
                return False  # it is new, or took too long before
            known = before[database]["tables"][oid]
            return bool((known["deleted"], known["file"]) != (table["deleted"], table["file"]))

        def fewer(database: str, oid: int, _: Facts) -> bool:
            had, has = (one.get(database, {}).get("rows", {}).get(oid) for one in (before, restored))
            return had is not None and has is not None and bool(has < had)

        after = look(self.live, self.queries, changed, GENTLY)
        problems, notes, unknown = compare_rows(before, restored, after)
        if problems:
            # What was deleted a moment ago is not counted yet; or, in a transaction that goes on, not for
            # long. What the live table has now decides.
            time.sleep(COUNTED)
            after = look(self.live, self.queries, lambda *table: changed(*table) or fewer(*table), GENTLY)
            problems, notes, unknown = compare_rows(before, restored, after)
        self.fail("rows", *few(problems))
        self.fail("schema", *compare_schema(before, restored, after))
        self.notes += few(notes)
        if unknown:
            which = "the live one" if len(unknown) == 1 else "the live ones"
            text = f"{tables_of(len(unknown))} could not be compared with {which}"
            self.notes.append(f"{text}: {listed(unknown)}")
        compared = sum(
            oid in restored.get(database, {}).get("rows", {})
            for database, known in before.items()
            for oid in known["rows"]
        )
        if unknown and not compared:
            self.fail(
                "rows",
                "no table could be compared with the live one: each was locked, or not counted within "
                f"{SECONDS} s",
            )
        everything = [one["rows"] for one in restored.values()]
        self.facts["rows"] = {
            "databases": len(restored),
            "tables": sum(map(len, everything)),
            "rows": sum(sum(rows.values()) for rows in everything),
            "unknown": len(unknown),
        }
        self.facts["schema"] = {
            database: known["schema"] for database, known in restored.items() if known["schema"]
        }

    def questions(self) -> None:
        """What the inventory wants to know of what was restored, asked as a role that reads alone."""
        for check in self.settings["checks"]:
            role, query, database = (str(check[key]) for key in ("role", "query", "database"))
            try:
                # What else it answers may be somebody's data.
                said = (
                    "" if self.side.ask_as(role, query, database, ASKING) == "t" else "its answer is not true"
                )
            except backup.BackupError as error:
                said = str(error)
            if said:
                self.fail("checks", f"{check['app']}: {' '.join(query.split())}: {said}")

    def checksums(self, entry: Facts) -> None:
        """Those of all pages, with the server stopped."""
        data = self.folder / "data"
        side.stop(self.settings, self.folder)
        _, said = side.outcome([side.program(self.settings, "pg_controldata"), "-D", str(data)])
        if found := re.search(r"Data page checksum version:\s+(\d+)", said):
            self.facts["checksums"] = found[1] != "0"
        if not self.facts.get("checksums"):
            self.notes.append("the cluster has no data checksums, so that of its pages nothing more is known")
            return
        entry["bytes"] = backup.taken(self.folder)
        code, said = side.outcome([side.program(self.settings, "pg_checksums"), "--check", "-D", str(data)])
        if code != 0:
            first = (said.splitlines() or [f"pg_checksums ended with {code}"])[0]
            first = re.sub(r"^pg_checksums: (error: )?", "", first)
            self.fail("checksums", f"a page is damaged: {first}")


# Telling ----------------------------------------------------------------------------------------------------


def report(drill: Drill, began: float) -> Facts:
    facts: Facts = {"backup": "", "last_commit": None, "rows": None, "schema": {}, "checksums": None}
    return {
        **outcome(drill.failed, drill.notes, began),
        "from": drill.place,
        "steps": drill.steps,
        **facts,
        **drill.facts,
    }


def outcome(failed: list[Facts], notes: list[str], began: float) -> Facts:
    """What is kept of any drill: when, how long, and what did not come back."""
    return {
        "began": backup.stamp(began),
        "ended": backup.stamp(time.time()),
        "seconds": round(time.time() - began, 1),
        "ok": not failed,
        "problem": "; ".join(one["text"] for one in failed),
        "failed": failed,
        "notes": notes,
    }


def keep(folder: Path, made: Facts, kind: str = "drill") -> None:
    """The newest one, and the last ones, each file whole or not at all."""
    history = folder / f"{kind}s.jsonl"
    lines = history.read_text().splitlines() if history.exists() else []
    backup.keep(folder / f"{kind}.json", json.dumps(made) + "\n")
    backup.keep(history, "\n".join([*lines[-HISTORY + 1 :], json.dumps(made)]) + "\n")


def cut_off(drill: Drill, began: float) -> Facts:
    """What is said of a drill that is killed, or ends with the power: written when it begins."""
    failed = [{"check": "begin", "text": "it was cut off"}]
    return {**report(drill, began), "ok": False, "problem": failed[0]["text"], "failed": failed}


def sentence(made: Facts) -> str:
    took = {one["step"]: one for one in made["steps"]}
    size = took.get("restore", {}).get("bytes", 0)
    rows = made["rows"]
    left = f"{tables_of(rows['unknown'])} not compared, " if rows["unknown"] else ""
    others = " in the others" if rows["unknown"] else ""
    return (
        f"backup {made['backup']} and what came after it were restored ({size // backup.MB} MB) and checked "
        f"in {made['seconds']:.0f} s: {rows['rows']} rows in {rows['tables']} tables, "
        f"{left}nothing is missing{others}"
    )


def turn(settings: Facts, last: Facts) -> str:
    """Whose turn it is: the place off the server after that of the last drill; empty for the server itself.

    One that cannot be reached or has no backup yet is passed over: that is told elsewhere, and no reason
    against a drill.
    """

    def ready(name: str) -> bool:
        relay, known = (offsite.read(settings, name, what) for what in ("relay", "backups"))
        return bool(relay and not relay["problem"] and known.get("backups"))

    ring: list[str] = ["", *(place["name"] for place in offsite.places(settings))]
    begin = ring.index(last["from"]) + 1 if last.get("from", "") in ring and last else 0
    return next((name for name in ring[begin:] if not name or ready(name)), "")


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    if argv:
        print("drill.py takes no argument", file=sys.stderr)
        return 2
    os.umask(0o077)
    settings = json.loads(backup.SETTINGS.read_text())
    # So that what was begun is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    state, began = Path(settings["state"]), time.time()
    drill = Drill(settings)
    try:
        with backup.alone(state):
            began = time.time()
            drill = Drill(settings, turn(settings, backup.last_run(settings, "drill")))
            backup.keep(state / "drill.json", json.dumps(cut_off(drill, began)) + "\n")
            drill.run()
    except FailedError as error:
        drill.fail(error.check, str(error))
    except (backup.BackupError, OSError, LookupError, TypeError, ValueError) as error:
        # Whatever it is, it is no restore that was seen to work.
        drill.fail("begin", str(error) if isinstance(error, backup.BackupError) else f"{error!r}")
    made = report(drill, began)
    keep(state, made)
    for one in drill.failed:
        print(f"The drill failed: {one['text']}.", file=sys.stderr)
    if drill.failed:
        return 1
    print(f"The drill went well: {sentence(made)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
