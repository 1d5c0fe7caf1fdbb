"""The pooler of an app: one PgBouncer for all apps that want it, between them and the server's PostgreSQL.

It keeps few connections to the server busy for many of the app's, in transaction mode. Whatever needs a
session of its own (migrations, psql, dumps) goes around it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from ..host import command
from .service import ROOT, App, Service

HOST = "127.0.0.1"
PORT = 6432
# Named like no app may be.
USER = "berth-pgbouncer"
UNIT = "berth-pgbouncer"
# Its configuration, which its own user may read and root alone may write.
FOLDER = Path("/etc/berth/pgbouncer")
# Of the socket for its console, which its own user alone is let in to.
SOCKET_FOLDER = Path("/run/berth-pgbouncer")
CONSOLE = "pgbouncer"
# The first that keeps track of prepared statements in transaction mode.
OLDEST = (1, 21)
_PATIENCE = 5.0
# Seconds that a request may wait for a connection before something is wrong.
_LONG = 5


class PgBouncer(Service):
    key = "pooler"
    prefix = "pooler"
    ansible_role = "pgbouncer"
    what = "pooler"
    program = "PgBouncer"
    # The address of the database in env files, and what units start after.
    options: ClassVar = {("environment", "unit"): "enabled"}
    keeps_data = False

    def missing(self) -> str:
        return "refers to the pooler, which is told of by the database: write ${db.url}, or one of its parts"

    def address(self, app: App, root: Path = ROOT, *, owner: bool = False) -> tuple[str, str]:
        return HOST, str(PORT)

    def parts(self, app: App, root: Path = ROOT, *, owner: bool = False) -> dict[str, str]:
        return {}

    def predicted(self, app: App, *, owner: bool = False) -> dict[str, str]:
        return {}

    def after(self, app: App) -> list[str]:
        return [UNIT] if self.used(app) else []

    def state(self, root: Path = ROOT) -> str:
        """`accepts`, `queues` (requests wait long for a connection), `silent`; empty where there is none."""
        if not (root / FOLDER.relative_to("/") / "pgbouncer.ini").exists():
            return ""
        psql = ["psql", "-XA", "-h", str(SOCKET_FOLDER), "-p", str(PORT), "-U", CONSOLE, "-d", CONSOLE]
        said = command.run(
            ["runuser", "-u", USER, "--", *psql, "-c", "show pools"],
            timeout=_PATIENCE,
            env={"PGCONNECT_TIMEOUT": "3"},
        )
        if said.code != 0:
            return "silent"
        return "queues" if longest_wait(said.out) >= _LONG else "accepts"

    def trouble(self, state: str) -> tuple[str, str] | None:
        if state == "silent":
            return "PgBouncer is down", f"journalctl -u {UNIT} on the server"
        if state == "queues":
            return (
                f"requests wait longer than {_LONG} s for a database connection from PgBouncer",
                "end long transactions, or raise max_connections in server.postgresql.settings",
            )
        return None

    def explain(self, error: str, where: str) -> str:
        asked = re.search(r"unsupported startup parameter(?: in options)?: (\w+)", error)
        if not asked:
            return ""
        return (
            f"it sets {asked[1]} as it connects{where}, and connections of the pooler are shared: set it in "
            "each transaction (set local), or write pooler: {enabled: false}"
        )


def longest_wait(pools: str) -> int:
    """Seconds that the oldest waiting client has waited, of `show pools` as psql prints it undecorated."""
    head, *lines = [line.split("|") for line in pools.splitlines()] or [[]]
    found = [dict(zip(head, line, strict=False)) for line in lines]
    waits = [one.get("maxwait", "0") for one in found if one.get("database") != CONSOLE]
    return max([int(wait) for wait in waits if wait.isdecimal()], default=0)


def pool_size(app: str, root: Path = ROOT) -> int:
    """The most connections to the server that it opens for this app; 0 where it has no pool."""
    try:
        text = (root / FOLDER.relative_to("/") / "pgbouncer.ini").read_text()
    except OSError:
        return 0
    found = re.search(rf"(?m)^; app {re.escape(app)}\n\S+ = .*\bpool_size=(\d+)", text)
    return int(found[1]) if found else 0


SERVICE = PgBouncer()
