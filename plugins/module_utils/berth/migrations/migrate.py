"""Schema migrations: once, in the new release's code, as the owner role, one at a time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..diagnosis import cause, masking
from ..errors import ReleaseError, cut
from ..packaging import once
from ..packaging.once import Code
from ..runtime import naming
from ..services import external, postgresql
from ..services.postgresql import AS_SUPERUSER
from ..services.superuser import CATALOG_ALONE

# Who sees all sessions of the live server.
AS_PSQL = (*AS_SUPERUSER, "psql")
# Seconds until it is tried again: whoever queued up behind the migration has its turn meanwhile.
_PAUSE = 1.0

# Whom a session of the owner role waits for, as the superuser sees it: first who waits for nobody, then the
# oldest. A prepared transaction has no session.
_BLOCKER = """
select json_build_object(
  'what', coalesce(regexp_replace(w.relation::regclass::text, '^public[.]', ''), ''), 'kind', w.locktype,
  'pid', p.pid, 'role', b.usename, 'name', b.application_name, 'state', b.state,
  'autovacuum', b.backend_type = 'autovacuum worker',
  'seconds', extract(epoch from now() - b.xact_start)::int, 'query', b.query)
from pg_stat_activity a join pg_locks w on w.pid = a.pid and not w.granted
  cross join lateral unnest(pg_blocking_pids(a.pid)) as p(pid)
  left join pg_stat_activity b on b.pid = p.pid
where a.datname = current_database() and a.usename = '{owner}'
order by cardinality(pg_blocking_pids(p.pid)), b.xact_start limit 1;
"""
# What is waited for that is no table or index.
_KINDS = {
    "virtualxid": "the end of older transactions",
    "transactionid": "the end of another transaction",
    "tuple": "a row",
    "advisory": "an advisory lock",
}
# Values in a query are people's data.
_VALUES = re.compile(r"'(?:[^']|'')*(?:'|$)|\$(\w*)\$.*?(?:\$\1\$|$)", re.DOTALL)
_SHOWN = 160


@dataclass(frozen=True)
class Beside:
    """Another server than the live one, that migrations run against: who asks it as its superuser, and what
    leads a command there and nowhere else."""

    psql: Sequence[str]
    properties: Sequence[str]


class Blockers(threading.Thread):
    """Remembers, while a migration runs, which other session it last waited for."""

    def __init__(
        self,
        app: Mapping[str, Any],
        lock: float,
        mask: Callable[[str], str],
        psql: Sequence[str] = AS_PSQL,
    ) -> None:
        """`lock`: seconds that a wait lasts at most; `mask`: for what others ran."""
        super().__init__(daemon=True)
        database = app["database"]
        self.env = {**os.environ, "PGOPTIONS": CATALOG_ALONE}
        self.place = external.where(database) if external.used(database) else ""
        if self.place:
            # Nobody is a superuser there; the owner is told who holds a lock, and not what that one runs.
            owner = postgresql.role(database, owner=True)
            self.env |= postgresql.SERVICE.client(app, role=owner)
            psql = ("psql",)
        self.argv = [*psql, "--no-psqlrc", "-qtA", "-d", database["name"]]
        self.query = _BLOCKER.format(owner=postgresql.role(database, owner=True).replace("'", ""))
        self.user = postgresql.role(database)
        self.rarest = min(2, lock / 2)
        self.mask = mask
        self.over = threading.Event()
        self.last: dict[str, Any] = {}

    def run(self) -> None:
        # No wait is over between two looks.
        pause = min(0.4, self.rarest)
        while not self.over.wait(pause):
            pause = min(pause * 1.3, self.rarest)
            try:
                self.look()
            except (OSError, subprocess.TimeoutExpired):
                return

    def look(self) -> None:
        done = subprocess.run(
            self.argv, input=self.query, capture_output=True, text=True, timeout=20, check=False, cwd="/",
            env=self.env,
        )  # fmt: skip
        with contextlib.suppress(ValueError):
            self.last = json.loads(done.stdout or "{}") or self.last

    def sentence(self) -> str:
        """For what, and who holds it."""
        seen = self.last
        if not seen:
            return "a lock that another session holds"
        what = f"a lock on {seen['what']}" if seen["what"] else _KINDS.get(seen["kind"], f"a {seen['kind']}")
        return f"{what}: {self._who()}"

    def _who(self) -> str:
        seen = self.last
        if not seen["pid"]:
            return "a prepared transaction holds it (select * from pg_prepared_xacts)"
        if seen["autovacuum"]:
            return f"pid {seen['pid']} of Postgres holds it (autovacuum, since {seen['seconds'] or 0} s)"
        mine = ", the app itself" if seen["role"] == self.user else ""
        name = f", application {seen['name']}" if seen["name"] else ""
        active = seen["state"] == "active"
        holds = (
            "is in one"
            if not seen["what"] and seen["kind"] in ("virtualxid", "transactionid")
            else "holds it"
        )
        text = " ".join(_VALUES.sub("'…'", seen["query"] or "").split())
        query = cut(self.mask(text), _SHOWN).rstrip(";")
        doing = f"{'runs' if active else 'ran last'}: {query}" if query else "shows no query"
        who = f"pid {seen['pid']} of Postgres {holds} (role {seen['role']}{mine}{name})"
        # Of a session that is hidden from whoever asks there is no time.
        hidden = self.place and seen["seconds"] is None
        return who if hidden else f"{who}, in a transaction for {seen['seconds'] or 0} s, {doing}"

    def advice(self) -> str:
        """What to do about it; empty where nobody was seen."""
        if not self.last.get("pid") or self.last["autovacuum"]:
            return ""
        if self.last["kind"] == "virtualxid":
            # CREATE INDEX CONCURRENTLY, and its like.
            return (
                "let it wait, since nobody waits for it: SET lock_timeout = 0 before it, RESET lock_timeout "
                "after it; then deploy again."
            )
        if self.place:
            end = f"select pg_terminate_backend({self.last['pid']})"
            return f"deploy again when it is done, or have it ended at {self.place}, as its role: {end}"
        return (
            "deploy again when it is done, or end it: runuser -u postgres -- psql -c "
            f"'select pg_terminate_backend({self.last['pid']})'"
        )


def run(
    app: dict[str, Any],
    code: Code,
    command: str,
    project: Path,
    unchanged: Callable[[], bool] = lambda: False,
    more: Mapping[str, str] | None = None,
    beside: Beside | None = None,
) -> int:
    """Run the command as the app's user: how often it was tried, or the sentence that says why it failed.

    What waited too long for a lock is tried again where that changed nothing. `more` are variables beside
    those of the release. `beside` is the server where it is not the live one: then nothing of the app's is
    written either.
    """
    wishes = app["migrations"]
    paths = code.paths
    folder = paths.release(code.release)
    lock, limit = int(wishes["lock_timeout"]), int(wishes["timeout"])
    began = time.monotonic()
    tries = 1
    mask = masking.Mask(masking.of_app(paths))
    watch = Blockers(app, lock, mask, beside.psql if beside else AS_PSQL)
    watch.start()
    try:
        while True:
            result = once.run(
                once.of_app(
                    code,
                    naming.transient("migrate", paths.app),
                    ["/bin/sh", "-c", command],
                    cwd=project,
                    settings=paths.migrate_env(code.release),
                    timeout=max(1, math.ceil(limit - (time.monotonic() - began))),
                    writable=[] if beside else [paths.data, paths.home],
                    more=more,
                    properties=beside.properties if beside else (),
                )
            )
            if result.code == 0:
                return tries
            time_left = time.monotonic() - began + _PAUSE + lock < limit
            locked = _waited_for_lock(cause.last_error(result.lines, str(folder))[0])
            if not (locked and time_left and tries <= wishes["lock_retries"] and unchanged()):
                break
            time.sleep(_PAUSE)
            tries += 1
    finally:
        watch.over.set()
    late = time.monotonic() - began >= limit
    reason = _reason(result.lines, result.code, str(folder), lock, limit if late else 0, watch, tries)
    raise ReleaseError(f"{reason}.", log=result.lines[-20:], advice=_advice(result.lines, watch, late))


def _waited_for_lock(error: str) -> bool:
    return "LockNotAvailable" in error or "lock timeout" in error


def _reason(
    lines: list[str],
    code: int,
    inside: str,
    lock: int,
    limit: int,
    watch: Blockers,
    tries: int = 1,
) -> str:
    text = "\n".join(lines)
    error, place = cause.last_error(lines, inside)
    at = cause.brief(place, inside)
    unknown = re.search(r"Can't locate revision identified by '([^']+)'", text)
    if _waited_for_lock(error):
        often = "once" if tries == 1 else f"{tries} times"
        return f"The migration waited longer than {lock} s, tried {often}, for {watch.sentence()}"
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
    text = "\n".join(lines)
    if _waited_for_lock(cause.last_error(lines)[0]):
        held = watch.advice()
        return held or "deploy again when the lock is free, or raise migrations.lock_timeout or lock_retries."
    if "Can't locate revision identified by" in text:
        return "deploy a version that has it; the database is unchanged."
    if "Multiple head revisions" in text:
        return "commit the file that it writes, and deploy again."
    if re.search(r"No space left on device|could not extend file", text):
        return cause.ROOM
    if late:
        return "raise migrations.timeout if it may take so long, and deploy again."
    return "correct the migration and deploy again."
