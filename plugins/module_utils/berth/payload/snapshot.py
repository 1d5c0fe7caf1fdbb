"""What a database on somebody else's server holds at one moment, beside a dump that sees the same.

Runs as the user postgres, beside `backup`, as the role that owns the database.
"""

from __future__ import annotations

import json
import subprocess
from types import TracebackType
from typing import Any

from . import backup, drill

Facts = dict[str, Any]

# It waits for a migration as long as the dump would, and calls no function of the app's own.
OPTIONS = "-c search_path=pg_catalog -c lock_timeout=10min -c statement_timeout=0"
# Bytes of a table that is not counted: its server would read all of it once more, as for the dump.
COUNTED = 1 << 30
# Those whose rows a dump holds, and that its owner may read; an extension's own are made by the extension.
COUNTABLE = """
    select c.oid::bigint from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.relpersistence = 'p'
      and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and has_table_privilege(c.oid, 'SELECT') and pg_relation_size(c.oid) <= $1
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                      and d.deptype = 'e')
"""
END = "berth-end-of-answer"


class Snapshot:
    """A transaction that stays as it began, for as long as it is open.

    `name` is by what pg_dump joins it.
    """

    def __init__(self, **env: str) -> None:
        self.env = {**backup.ENVIRONMENT, **env, "PGOPTIONS": OPTIONS}
        self.name = ""

    def __enter__(self) -> Snapshot:
        self.psql = subprocess.Popen(
            ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1"], env=self.env, text=True, errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            self.name = self.ask(
                "begin isolation level repeatable read read only; select pg_export_snapshot()"
            )[0]
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        self.psql.kill()
        self.psql.communicate()

    def ask(self, query: str) -> list[str]:
        """The lines of the answer; BackupError in psql's words where there is none."""
        assert self.psql.stdin
        assert self.psql.stdout
        found: list[str] = []
        try:
            self.psql.stdin.write(f"{query};\n\\echo {END}\n")
            self.psql.stdin.flush()
            for line in self.psql.stdout:
                if line == f"{END}\n":
                    return found
                found.append(line.rstrip("\n"))
        except OSError:
            pass  # it has ended, and says why
        _, said = self.psql.communicate()
        raise backup.BackupError(backup.reason(said) or "psql ended without a word")

    def holds(self) -> Facts:
        """Its size, its tables with their rows (None: not counted), and its schema's revision."""
        (size,) = self.ask("select pg_database_size(current_database())")
        countable = {int(line) for line in self.ask(COUNTABLE.replace("$1", str(COUNTED)))}
        tables: dict[str, int | None] = {}
        schema: dict[str, str] = {}
        for line in self.ask(drill.TABLES):
            number, *more = json.loads(line)
            table = dict(zip(drill.FIELDS, more, strict=True))
            if number not in countable:
                if table["persistence"] == "p" and table["file"]:
                    tables.setdefault(table["quoted"], None)
                continue
            (rows,) = self.ask(f"select count(*) from only {table['quoted']}")  # noqa: S608 (by the server)
            tables[table["quoted"]] = int(rows)
            if table["alembic"]:
                schema[drill.printable(table["name"])] = "".join(self.ask(drill.REVISION + table["quoted"]))
        return {"bytes": int(size), "tables": tables, "schema": schema}
