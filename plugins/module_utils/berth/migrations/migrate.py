"""Schema migrations: once, in the new release's code, as the owner role, one at a time."""

from __future__ import annotations

import math
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..diagnosis import cause
from ..errors import ReleaseError
from ..packaging import once
from ..packaging.once import Code
from ..runtime import naming
from ..services.postgresql import AS_SUPERUSER

_LONGEST_PAUSE = 15.0

# Who keeps a session of the owner role waiting, as the superuser sees it. No query text: it may hold data.
_BLOCKER = """
select concat_ws('|', a.pid, coalesce(extract(epoch from clock_timestamp() - w.waitstart)::int, 0),
  coalesce(w.relation::regclass::text, w.locktype), b.pid, b.usename, b.application_name,
  coalesce(extract(epoch from now() - b.xact_start)::int, 0))
from pg_stat_activity a join pg_locks w on w.pid = a.pid and not w.granted
  cross join lateral unnest(pg_blocking_pids(a.pid)) as p(pid) join pg_stat_activity b on b.pid = p.pid
where a.datname = current_database() and a.usename = '{owner}' limit 1;
"""
_CANCEL = "select pg_cancel_backend(pid) from pg_locks where pid = {pid} and not granted limit 1;"
# Postgres itself is asked first: this much longer may a session wait before it is ended from outside.
_GRACE = 2


class Blockers(threading.Thread):
    """Remembers, while a migration runs, which other session it last waited for.

    A driver that does not read PGOPTIONS (asyncpg) has no lock_timeout: with `limit` its wait ends here.
    """

    def __init__(self, database: str, owner: str, limit: int = 0) -> None:
        super().__init__(daemon=True)
        self.argv = [*AS_SUPERUSER, "psql", "--no-psqlrc", "-qtA", "-d", database]
        self.query = _BLOCKER.format(owner=owner.replace("'", ""))
        self.limit = limit
        self.over = threading.Event()
        self.last = ""
        self.ended = False

    def run(self) -> None:
        pause = 0.5
        while not self.over.wait(pause):
            pause = min(pause * 1.3, 2)
            try:
                self.look(self._ask(self.query))
            except (OSError, subprocess.TimeoutExpired):
                return

    def look(self, answer: str) -> None:
        pid, _, rest = answer.partition("|")
        waited, _, said = rest.partition("|")
        if not said:
            return
        self.last = said
        if self.limit and int(waited) >= self.limit + _GRACE:
            self.ended = self._ask(_CANCEL.format(pid=int(pid))) == "t" or self.ended

    def _ask(self, query: str) -> str:
        done = subprocess.run(
            self.argv, input=query, capture_output=True, text=True, timeout=20, check=False, cwd="/"
        )
        return done.stdout.strip()

    def sentence(self) -> str:
        """On what, and who holds it; empty where nobody was seen."""
        if self.last.count("|") < 4:
            return ""
        what, pid, user, rest = self.last.split("|", 3)
        name, _, seconds = rest.rpartition("|")
        who = f"{name}, user {user}" if name else f"user {user}"
        return f" on {what}: pid {pid} of Postgres holds it ({who}, in a transaction for {seconds} s)"


def run(
    app: dict[str, Any],
    code: Code,
    command: str,
    project: Path,
    unchanged: Callable[[], bool] = lambda: False,
    *,
    shared: bool = False,
) -> int:
    """Run the command as the app's user: how often it was tried, or the sentence that says why it failed.

    What waited too long for a lock is tried again where that changed nothing. Where the app runs as the owner
    too, only Postgres ends such a wait: the app's own sessions look the same from here.
    """
    wishes = app["migrations"]
    paths = code.paths
    folder = paths.release(code.release)
    lock, limit = int(wishes["lock_timeout"]), int(wishes["timeout"])
    began = time.monotonic()
    tries, pause, seen = 1, min(lock / 2, _LONGEST_PAUSE), ""
    while True:
        watch = _watch(app["database"], seen, 0 if shared else lock)
        try:
            result = once.as_app(
                code,
                naming.transient("migrate", paths.app),
                ["/bin/sh", "-c", command],
                cwd=project,
                settings=paths.migrate_env(code.release),
                timeout=max(1, math.ceil(limit - (time.monotonic() - began))),
                writable=[paths.data, paths.home],
                more={
                    # The last one makes Postgres notice within a second that nobody waits any more for a
                    # migration that was killed.
                    "PGOPTIONS": f"-c lock_timeout={lock}s -c statement_timeout={limit}s "
                    "-c client_connection_check_interval=1s",
                },
            )
        finally:
            watch.over.set()
        if result.code == 0:
            return tries
        time_left = time.monotonic() - began + pause + lock < limit
        locked = watch.ended or _waited_for_lock(cause.last_error(result.lines, str(folder))[0])
        if not (locked and time_left and tries <= wishes["lock_retries"] and unchanged()):
            break
        # Whoever queued up behind the migration has its turn meanwhile.
        time.sleep(pause)
        tries, pause, seen = tries + 1, min(pause * 2, _LONGEST_PAUSE), watch.last
    late = time.monotonic() - began >= limit
    reason = _reason(result.lines, result.code, str(folder), lock, limit if late else 0, watch, tries)
    raise ReleaseError(f"{reason}.", log=result.lines[-20:], advice=_advice(result.lines, watch, late))


def _watch(database: Mapping[str, Any], seen: str, limit: int) -> Blockers:
    watch = Blockers(database["name"], database["owner"], limit)
    watch.last = seen
    watch.start()
    return watch


def _waited_for_lock(error: str) -> bool:
    return "LockNotAvailable" in error or "lock timeout" in error


def _reason(
    lines: list[str],
    code: int,
    inside: str,
    lock: int,
    limit: int,
    watch: Blockers | None = None,
    tries: int = 1,
) -> str:
    text = "\n".join(lines)
    error, place = cause.last_error(lines, inside)
    at = cause.brief(place, inside)
    unknown = re.search(r"Can't locate revision identified by '([^']+)'", text)
    if _waited_for_lock(error) or (watch and watch.ended):
        held = (watch.sentence() if watch else "") or " that another session holds"
        often = "once" if tries == 1 else f"{tries} times"
        return f"The migration waited longer than {lock} s for a lock{held}; it was tried {often}"
    if limit:
        return f"The migration ran longer than migrations.timeout ({limit} s) and was stopped"
    if unknown:
        return f"The database is at revision {unknown[1]}, which this code does not have"
    if "Multiple head revisions" in text:
        return "The migrations have several heads: join them with `alembic merge heads`"
    if re.search(r"No space left on device|could not extend file", text):
        return "The migration failed since the server's disk is full"
    reason = error or (lines[-1] if lines else f"exit status {code}")
    return f"The migration failed: {reason}" + (f" ({at})" if at else "")


def _advice(lines: list[str], watch: Blockers, late: bool) -> str:
    found = re.match(r"[^|]*\|(\d+)\|", watch.last)
    if found and (watch.ended or "lock timeout" in "\n".join(lines)):
        return (
            "deploy again when it is done, or end it: runuser -u postgres -- psql -c "
            f"'select pg_terminate_backend({found[1]})'"
        )
    text = "\n".join(lines)
    if "Can't locate revision identified by" in text:
        return "deploy a version that has it; the database is unchanged."
    if "Multiple head revisions" in text:
        return "commit the file that it writes, and deploy again."
    if re.search(r"No space left on device|could not extend file", text):
        return cause.ROOM
    if watch.ended or _waited_for_lock(cause.last_error(lines)[0]):
        return "deploy again when the lock is free, or raise migrations.lock_timeout or lock_retries."
    if late:
        return "raise migrations.timeout if it may take so long, and deploy again."
    return "correct the migration and deploy again."
