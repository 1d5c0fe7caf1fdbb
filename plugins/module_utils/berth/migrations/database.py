"""What a database is asked and told as the owner of its tables: revision, limits, the lock of all deploys."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..services import postgresql
from . import lint, objects

_KEY = 0x6265727468  # "berth": the advisory lock every Berth deploy of one database asks for
# Seconds that the database has for a small question.
_PATIENCE = 30.0
# The last one makes Postgres notice within a second that nobody waits for a migration any more.
_TIMEOUTS = {
    "lock_timeout": "{lock}s",
    "statement_timeout": "{statement}s",
    "client_connection_check_interval": "1s",
}
# An index stands for its table.
_SIZES = """
select json_object_agg(name, pg_table_size(coalesce(
    (select indrelid from pg_index where indexrelid = to_regclass(name)), to_regclass(name))))
from json_array_elements_text('{names}') name where to_regclass(name) is not null;
"""
_MINE = 'alter role current_user in database :"DBNAME"'


def options(lock: int, statement: int) -> str:
    """Time-outs, in seconds, as PGOPTIONS has them."""
    given = ((name, text.format(lock=lock, statement=statement)) for name, text in _TIMEOUTS.items())
    return " ".join(f"-c {name}={value}" for name, value in given)


class Database:
    """A session of psql as the owner role, for the schema's revision and the advisory lock."""

    def __init__(
        self, app: dict[str, Any], root: Path = Path("/"), server: tuple[str, str] | None = None
    ) -> None:
        """`server`: host, or folder of the socket, and port of another one than the live one, such as a copy
        of it, where roles have the same passwords."""
        database = app["database"]
        self.argv = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        client = postgresql.SERVICE.client(app, root, role=postgresql.role(database, owner=True))
        host, port = server or (client["PGHOST"], client["PGPORT"])
        self.env = {
            **os.environ,
            **client,
            "PGHOST": host,
            "PGPORT": port,
            "PGCONNECT_TIMEOUT": "10",
            "PGAPPNAME": "berth",
            # What migrations are limited to is not for whoever looks after them.
            "PGOPTIONS": "-c lock_timeout=0 -c statement_timeout=0",
        }

    def _psql(self, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, **more,
        )  # fmt: skip

    def revision(self) -> str:
        """What alembic_version says; empty where there is no such table (or no psql to ask with)."""
        return self.ask() or ""

    def ask(self, patience: float = _PATIENCE) -> str | None:
        """The same, but None where the database cannot be asked."""
        query = "select string_agg(version_num, ',' order by version_num) from alembic_version;"
        # A statement that fails is no failure of psql's; a connection that does is.
        return self._answer(query, patience)

    def objects(self) -> frozenset[objects.Thing] | None:
        """What stands in it; None where it cannot be asked."""
        answer = self._answer(f"\\set ON_ERROR_STOP on\n{objects.QUERY}", _PATIENCE)
        return None if answer is None else objects.read(answer)

    def sizes(self, found: Iterable[lint.Finding]) -> dict[str, int]:
        """Bytes of the tables that findings are about, under the names that they give them, where known."""
        names = sorted({one.target for one in found if re.fullmatch(r'[\w$."]+', one.target)})
        query = _SIZES.format(names=json.dumps(names))
        known: dict[str, int] = json.loads((self._answer(query, _PATIENCE) if names else "") or "{}")
        return known

    def _answer(self, query: str, patience: float) -> str | None:
        """None without an answer: no psql, no connection, or a server that accepts and says nothing."""
        try:
            process = self._psql()
        except FileNotFoundError:
            return None
        try:
            out, _ = process.communicate(query, timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None
        return out.strip() if process.returncode == 0 else None

    def limits(self, role: str) -> tuple[int, int, int] | None:
        """How many connections there are for all apps, and for this role (-1: no limit of its own).

        Last, how many this role holds right now.
        """
        query = (
            "select current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
            " - coalesce(current_setting('reserved_connections', true), '0')::int, rolconnlimit,"
            " (select count(*) from pg_stat_activity where usename = rolname and pid <> pg_backend_pid())"
            " from pg_roles where rolname = :'role';"
        )
        found = (self._answer(f"\\set role {role}\n{query}", 10) or "").split("|")
        return (int(found[0]), int(found[1]), int(found[2])) if len(found) == 3 else None

    @contextmanager
    def timeouts(self, lock: int, statement: int) -> Iterator[None]:
        """As long as it lasts, sessions that the owner role opens have these limits, in seconds.

        They come with the role, since not every driver reads PGOPTIONS. Nothing of it is left behind: a
        release that is gone back to may run as this role.
        """
        wanted = {name: text.format(lock=lock, statement=statement) for name, text in _TIMEOUTS.items()}
        given = [f"{_MINE} set {name} = '{value}';" for name, value in wanted.items()]
        if not self._tell(given):
            raise ReleaseError("The database took no time-outs for its migrations, so none was run.")
        try:
            yield
        finally:
            self.free()

    def free(self) -> None:
        """Take such limits back, which a run that was killed could not."""
        self._tell([f"{_MINE} reset {name};" for name in _TIMEOUTS])

    def _tell(self, statements: Iterable[str]) -> bool:
        """Whether the database did all of it."""
        lines = ["\\set ON_ERROR_STOP on", "begin;", *statements, "commit;"]
        return self._answer("\n".join(lines), _PATIENCE) is not None

    @contextmanager
    def advisory_lock(self) -> Iterator[None]:
        try:
            process = self._psql()
        except FileNotFoundError:
            yield
            return
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # It asks for a lock without waiting for it, so whoever takes longer does not answer at all.
        silence = threading.Timer(_PATIENCE, process.kill)
        silence.start()
        try:
            process.stdin.write(f"select pg_try_advisory_lock({_KEY});\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
            silence.cancel()
            if answer == "f":
                raise ReleaseError(
                    "Another migration of this database is running: wait for it and deploy again."
                )
            if answer != "t":
                with contextlib.suppress(OSError):
                    process.stdin.close()
                lines = process.stderr.read().strip().splitlines()
                raise ReleaseError(f"The database cannot be reached: {lines[0] if lines else 'no answer'}.")
            yield
        finally:
            silence.cancel()
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    end.close()
