"""One database of the live server, replaced by what was restored of it beside the live one; and back.

Runs by itself, as the user postgres, for the release engine, which stops the app meanwhile:

    exchange.py compare | copy | swap | found | drop | table     a request and its answer, as JSON

The exchange itself is two renames in one transaction: whatever ends it, there is the one database or the
other. What a database is here for says its comment, which the same transaction writes: `copied`, all that was
restored is in it; `kept`, it was live until then. A kept one takes no connections, is dumped no more, and
stays until it is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, drill, restore, side
from .side import quoted

Facts = dict[str, Any]

# PostgreSQL keeps 63 characters of a name.
LONGEST = 63
COPY = "_restored"
KEPT = "_before_%Y%m%d_%H%M%S"
# Seconds for sessions to end that hold a database, and between two tries.
ENDING, AGAIN = 60, 0.2
# Lists of names, which are no single one in quotes.
LISTS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}

FOUND = """
    select json_build_object('name', d.datname, 'said', shobj_description(d.oid, 'pg_database'),
      'bytes', pg_database_size(d.oid))
    from pg_database d, pg_database live
    where live.datname = {database} and d.datdba = live.datdba and d.oid <> live.oid
    order by d.datname
"""
HOW = """
    select to_jsonb(d) || jsonb_build_object('encoding', pg_encoding_to_char(d.encoding))
    from pg_database d where d.datname = {database}
"""
THERE = "select count(*) from pg_database where datname = {database}"
RIGHTS = """
    select json_build_array(case a.grantee when 0 then '' else pg_get_userbyid(a.grantee) end,
      a.privilege_type, a.is_grantable)
    from pg_database d, aclexplode(d.datacl) a where d.datname = {database} and a.grantee <> d.datdba
"""
SETTINGS = """
    select json_build_array(coalesce(r.rolname, ''), s.setconfig)
    from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
      left join pg_roles r on r.oid = s.setrole
    where d.datname = {database}
"""
EXTENSIONS = """
    select json_build_array(e.extname, n.nspname)
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where e.extname <> 'plpgsql' order by e.oid
"""
COLUMNS = """
    select json_build_array(quote_ident(a.attname), format_type(a.atttypid, a.atttypmod))
    from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = {schema} and c.relname = {table} and c.relkind in ('r', 'p', 'm')
      and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""
END = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where datname = any(array[{names}]) and pid <> pg_backend_pid()
"""


# Names ------------------------------------------------------------------------------------------------------


def copy_of(database: str) -> str:
    return database[: LONGEST - len(COPY)] + COPY


def kept_of(database: str, now: float) -> str:
    """What a database is called that was live until now; it sorts by time."""
    suffix = time.strftime(KEPT, time.gmtime(now))
    return database[: LONGEST - len(suffix)] + suffix


def is_kept(name: str, database: str) -> bool:
    stem = database[: LONGEST - len(time.strftime(KEPT, time.gmtime(0)))]
    return bool(re.fullmatch(rf"{re.escape(stem)}_before_\d{{8}}_\d{{6}}", name))


def literal(text: str) -> str:
    text = text.replace("'", "''").replace("\\", "\\\\")
    return f" E'{text}'"


def described(said: str | None) -> Facts:
    """What a comment of ours says; nothing where it is somebody else's."""
    with contextlib.suppress(ValueError, TypeError):
        found = json.loads(said or "")
        if isinstance(found, dict) and isinstance(found.get("berth"), dict):
            return dict(found["berth"])
    return {}


# Asking -----------------------------------------------------------------------------------------------------


def lines(answer: str) -> list[Any]:
    return [json.loads(line) for line in answer.split("\n") if line]


def found(server: side.Server, database: str) -> Facts:
    """The copy that was made to go live with, and the databases that were live before, the newest last."""
    copied: Facts = {}
    kept = []
    # Its owner may comment on its database, and neither name one nor make one.
    for one in lines(server.ask(FOUND.format(database=literal(database)))):
        said = described(one["said"])
        if one["name"] == copy_of(database):
            copied = {**said, "name": one["name"], "bytes": one["bytes"]}
        elif is_kept(one["name"], database):
            kept.append({**said, "name": one["name"], "bytes": one["bytes"]})
    schema = drill.revisions(server, database, drill.tables(server, database))
    return {"copied": copied, "kept": kept, "schema": schema}


def compare(settings: Facts, request: Facts) -> Facts:
    """What the exchange would mean: tables whose rows differ, all of them, and the schemas' revisions."""
    database = str(request["database"])
    restored, live = beside(settings), side.live(settings)
    queries = backup.restored_folder(settings) / "queries"
    if database not in drill.databases(restored):
        raise backup.BackupError(f"there is no database {database} in what was restored")
    sides = [
        {database: drill.survey(server, database, queries, lambda *_: True, options)}
        for server, options in ((restored, drill.READING), (live, drill.GENTLY))
    ]
    differs, unknown = restore.differences(*sides)
    return {
        "differs": differs,
        "unknown": unknown,
        "restored_schema": sides[0][database]["schema"],
        "bytes": int(restored.ask(f"select pg_database_size({literal(database)})")),
        **found(live, database),
    }


def beside(settings: Facts) -> side.Server:
    return side.beside(settings, backup.restored_folder(settings))


def as_owner(request: Facts) -> list[str]:
    """The words of a client that logs in to the live server as the database's owner."""
    return ["-h", str(request["host"]), "-p", str(request["port"]), "-U", str(request["owner"])]


def password() -> dict[str, str]:
    """The owner's, for such a client alone."""
    return {"PGPASSWORD": os.environ.get("PGPASSWORD", "")}


# Copying ----------------------------------------------------------------------------------------------------


def created(name: str, how: Facts) -> str:
    """The statement that makes a database as another one is."""
    words = [f"CREATE DATABASE {quoted(name)} TEMPLATE template0", f"ENCODING {literal(how['encoding'])}"]
    words += [f"LC_COLLATE {literal(how['datcollate'])} LC_CTYPE {literal(how['datctype'])}"]
    locale = how.get("datlocale") or how.get("daticulocale") or ""
    if how.get("datlocprovider") == "c":
        words.append("LOCALE_PROVIDER libc")
    elif how.get("datlocprovider") == "i":
        words.append(f"LOCALE_PROVIDER icu ICU_LOCALE {literal(locale)}")
    elif how.get("datlocprovider") == "b":
        words.append(f"LOCALE_PROVIDER builtin BUILTIN_LOCALE {literal(locale)}")
    return " ".join([*words, f"CONNECTION LIMIT {how['datconnlimit']}"])


def assigned(name: str, role: str, entry: str) -> str:
    """The statement that sets for a database, or for a role in it, what another one has set."""
    setting, _, value = entry.partition("=")
    shown = value if setting in LISTS else literal(value)
    whose = f"ROLE {quoted(role)} IN DATABASE" if role else "DATABASE"
    return f"ALTER {whose} {quoted(name)} SET {setting} = {shown}"


def granted(name: str, role: str, right: str, grantable: bool) -> str:
    to = quoted(role) if role else "PUBLIC"
    return f"GRANT {right} ON DATABASE {quoted(name)} TO {to}{' WITH GRANT OPTION' if grantable else ''}"


def split(listed: str, roles: Iterable[str], extensions: Sequence[Sequence[str]]) -> tuple[str, str]:
    """The entries of a dump that the owner brings back, and those that only a superuser can.

    What belongs to nobody are extensions, which are made first, and what is said of them.
    """
    ours: list[str] = []
    others: list[str] = []
    places = {f"SCHEMA - {schema}" for _, schema in extensions}
    for line in listed.splitlines():
        entry = re.match(r"\d+; \d+ \d+ (.*) (\S*)$", line)
        if not entry or not entry[2] or entry[1] in places:
            continue
        (ours if entry[2] in roles else others).append(line)
    return "".join(f"{line}\n" for line in ours), "".join(f"{line}\n" for line in others)


class Copy:
    """What was restored of a database, in a new one on the live server."""

    def __init__(self, settings: Facts, request: Facts) -> None:
        self.settings, self.request = settings, request
        self.database, self.owner = str(request["database"]), str(request["owner"])
        self.name = copy_of(self.database)
        self.folder = backup.restored_folder(settings)
        self.restored, self.live = beside(settings), side.live(settings)

    def run(self) -> Facts:
        there = found(self.live, self.database)["copied"]
        if there.get("restored") == self.request["restored"]:
            return {"name": self.name, "seconds": 0.0}
        if there:
            # It was cut off, or is of another restore.
            self.remove()
        elif int(self.live.ask(THERE.format(database=literal(self.name)))):
            raise backup.BackupError(f"there is a database {self.name} already, of somebody else; rename it")
        began = time.monotonic()
        size = int(self.restored.ask(f"select pg_database_size({literal(self.database)})"))
        # Itself, and what is written of it as WAL and as a dump.
        side.have_room(self.folder, int(size * 2.2), backup.free(self.folder), "copy")
        try:
            self.make()
            self.fill()
        except BaseException:
            with contextlib.suppress(backup.BackupError):
                self.remove()
            raise
        finally:
            for path in self.parts():
                path.unlink(missing_ok=True)
        said = {"berth": {"is": "copied", "restored": self.request["restored"]}}
        self.live.ask(f"COMMENT ON DATABASE {quoted(self.name)} IS {literal(json.dumps(said))}")
        return {"name": self.name, "seconds": round(time.monotonic() - began, 1)}

    def parts(self) -> list[Path]:
        return [self.folder / name for name in ("copy.dump", "copy.list", "copy.others")]

    def remove(self) -> None:
        self.live.ask(f"DROP DATABASE IF EXISTS {quoted(self.name)} WITH (FORCE)", timeout=600)

    def make(self) -> None:
        """As the live one is: its settings, rights and owner are today's."""
        asked = {"database": literal(self.database)}
        (how,) = lines(self.live.ask(HOW.format(**asked)))
        self.live.ask(created(self.name, how), timeout=600)
        self.live.ask(f"ALTER DATABASE {quoted(self.name)} OWNER TO {quoted(self.owner)}")
        if how["datacl"] is not None:
            self.live.ask(f"REVOKE ALL ON DATABASE {quoted(self.name)} FROM PUBLIC")
        for role, right, grantable in lines(self.live.ask(RIGHTS.format(**asked))):
            self.live.ask(granted(self.name, role, right, grantable))
        for role, entries in lines(self.live.ask(SETTINGS.format(**asked))):
            for entry in entries:
                self.live.ask(assigned(self.name, role, entry))
        self.live.ask(f"ALTER SCHEMA public OWNER TO {quoted(self.owner)}", self.name)

    def fill(self) -> None:
        """As its owner, in a session of its own: what an app wrote into a check or an index is run here."""
        dump, ours, others = self.parts()
        words = [*self.restored.words(), "-Fc", "-Z", "1", "-f", str(dump)]
        outside = ["--no-publications", "--no-subscriptions", "--no-tablespaces"]
        backup.run([side.program(self.settings, "pg_dump"), *words, *outside], PGDATABASE=self.database)
        extensions = lines(self.restored.ask(EXTENSIONS, self.database))
        for extension, schema in extensions:
            self.live.ask(
                f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)} AUTHORIZATION {quoted(self.owner)}", self.name
            )
            statement = f"CREATE EXTENSION IF NOT EXISTS {quoted(extension)} SCHEMA {quoted(schema)} CASCADE"
            self.live.ask(statement, self.name, 600)
        program = side.program(self.settings, "pg_restore")
        roles = {self.owner, *map(str, self.request["roles"])}
        lists = split(backup.run([program, "--list", str(dump)]), roles, extensions)
        ours.write_text(lists[0])
        others.write_text(lists[1])
        common = [program, "--exit-on-error", "--no-tablespaces", "-d", f"dbname={self.name}"]
        if lists[0]:
            words = [*common, *as_owner(self.request), "--no-owner", "-L", str(ours), str(dump)]
            backup.run(words, None, **password())
        if lists[1]:
            backup.run([*common, *self.live.words(), "-L", str(others), str(dump)])
        analyze = ["psql", "-XAtq", *as_owner(self.request), "-d", f"dbname={self.name}", "-c", "analyze"]
        backup.run(analyze, None, **password())


# Exchanging -------------------------------------------------------------------------------------------------


def swap(settings: Facts, request: Facts) -> Facts:
    """The database is called as a kept one, and another one by its name. Sessions in both end."""
    server, database, other = side.live(settings), str(request["database"]), str(request["other"])
    began, now = time.monotonic(), time.time()
    kept = str(request.get("aside") or kept_of(database, now))
    said = {"berth": {"is": "kept", "at": backup.stamp(now), **request["said"]}}
    statements = [
        f"ALTER DATABASE {quoted(database)} RENAME TO {quoted(kept)}",
        f"ALTER DATABASE {quoted(other)} RENAME TO {quoted(database)}",
        f"ALTER DATABASE {quoted(kept)} ALLOW_CONNECTIONS false",
        f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS true",
        f"COMMENT ON DATABASE {quoted(kept)} IS {literal(json.dumps(said))}",
        f"COMMENT ON DATABASE {quoted(database)} IS NULL",
    ]
    script = ["psql", "-XAtq", "-1", "-v", "ON_ERROR_STOP=1", *server.words(), "-d", "postgres"]
    script += [word for statement in statements for word in ("-c", statement)]
    names = ",".join(map(literal, (database, other)))
    while True:
        server.ask(END.format(names=names))
        try:
            backup.run(script, 60, PGAPPNAME="berth-exchange", PGCONNECT_TIMEOUT="10")
            return {"kept": kept, "seconds": round(time.monotonic() - began, 3)}
        except backup.BackupError as error:
            # Somebody came in between, as by the clock.
            if "being accessed by other users" not in str(error) or time.monotonic() > began + ENDING:
                raise
        time.sleep(AGAIN)


def table(settings: Facts, request: Facts) -> Facts:
    """The rows of one restored table, in a schema of their own in the live database: all of them, or none.

    As the database's owner. Neither indexes nor constraints come along: it is to be compared and merged.
    """
    restored, database = beside(settings), str(request["database"])
    schema, _, name = str(request["table"]).rpartition(".")
    schema = schema or "public"
    columns = lines(restored.ask(COLUMNS.format(schema=literal(schema), table=literal(name)), database))
    if not columns:
        raise backup.BackupError(
            f"there is no table {drill.printable(f'{schema}.{name}')} in what was restored"
        )
    place = time.strftime("restored_%Y%m%d_%H%M%S", time.gmtime())
    there, here = f"{quoted(schema)}.{quoted(name)}", f"{place}.{quoted(name)}"
    names = ", ".join(column for column, _ in columns)
    typed = ", ".join(f"{column} {kind}" for column, kind in columns)
    out = ["psql", "-XAtq", *restored.words(), "-d", f"dbname={database}", "-v", "ON_ERROR_STOP=1"]
    out += ["-c", f"COPY (SELECT {names} FROM {there}) TO STDOUT"]  # noqa: S608 (by the server, quoted)
    into = ["psql", "-XAtq", *as_owner(request), "-d", f"dbname={database}", "-1", "-v", "ON_ERROR_STOP=1"]
    into += ["-c", f"CREATE SCHEMA {place}", "-c", f"CREATE TABLE {here} ({typed})"]
    into += ["-c", f"COPY {here} ({names}) FROM STDIN", "-c", f"SELECT count(*) FROM {here}"]  # noqa: S608
    try:
        rows = piped(out, into)
    except backup.BackupError:
        with contextlib.suppress(backup.BackupError):
            side.live(settings).ask(f"DROP SCHEMA IF EXISTS {place} CASCADE", database)
        raise
    return {"table": f"{place}.{name}", "rows": int(rows)}


def piped(source: list[str], target: list[str]) -> str:
    """What the second program says to what the first one printed; BackupError where either fails."""
    env = {**backup.ENVIRONMENT, "PGAPPNAME": "berth-exchange", "PGCONNECT_TIMEOUT": "10"}
    known = {**env, **password()}
    pipe = subprocess.PIPE
    first = subprocess.Popen(source, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, env=env)
    second = subprocess.run(
        target, stdin=first.stdout, capture_output=True, text=True, env=known, check=False
    )
    _, said = first.communicate()
    for code, text in ((first.returncode, said.decode(errors="replace")), (second.returncode, second.stderr)):
        if code != 0:
            raise backup.BackupError(backup.reason(text) or f"psql ended with {code}")
    return second.stdout.strip().splitlines()[-1]


def drop(settings: Facts, request: Facts) -> Facts:
    """Databases that were kept; one at a time, so that a run that is cut off goes on."""
    server = side.live(settings)
    there = found(server, str(request["database"]))
    dropped = [*there["kept"], *([there["copied"]] if there["copied"] else [])]
    for one in dropped:
        server.ask(f"DROP DATABASE IF EXISTS {quoted(one['name'])} WITH (FORCE)", timeout=600)
    return {"dropped": dropped}


def alone(settings: Facts) -> contextlib.AbstractContextManager[None]:
    """One that changes something at a time: it goes on when the run that asked for it is cut off."""
    busy = "an exchange that was cut off is still at work; wait for its end"
    return backup.alone(Path(settings["state"]), 0, "exchange.lock", busy)


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    verbs = {
        "compare": compare,
        "copy": lambda settings, request: Copy(settings, request).run(),
        "swap": swap,
        "found": lambda settings, request: found(side.live(settings), str(request["database"])),
        "drop": drop,
        "table": table,
    }
    if len(argv) != 1 or argv[0] not in verbs:
        print(f"exchange.py {' | '.join(verbs)}", file=sys.stderr)
        return 2
    os.umask(0o077)
    try:
        settings = json.loads(backup.SETTINGS.read_text())
        looks = argv[0] in ("compare", "found")
        with contextlib.nullcontext() if looks else alone(settings):
            print(json.dumps(verbs[argv[0]](settings, json.loads(sys.stdin.read()))))
    except (backup.BackupError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
