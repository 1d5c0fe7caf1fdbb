"""Whether the running server has the database connections that an app's pools may open."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

from ..errors import ReleaseError
from ..paths import Paths
from ..reading import pools
from ..services import external, pgbouncer
from ..store import presence, releases
from ..store.journal import read_record
from .database import Database


def check(app: dict[str, Any], role: str, wanted: pools.Demand) -> str:
    """One sentence where it has too few. It never fails: what cannot be asked is not said."""
    if not wanted.most or (pgbouncer.SERVICE.used(app) and role != app["database"]["owner"]):
        return ""  # of a pool the server sees its own few
    try:
        limits = Database(app).limits(role)
    except (ReleaseError, OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    if not limits:
        return ""
    everything, own, held = limits
    others = sum(_of_others(app))
    usable = everything - pools.RESERVE - others
    given, why = usable, "max_connections" + (f" beside the {others} of other apps" if others else "")
    if 0 <= own < usable:
        given, why = own, "its share of max_connections"
    more = pools.MORE
    if external.used(app["database"]):
        why, more = f"{why} at {external.where(app['database'])}", "or raise it there"
    return pools.warning(wanted, given, why, more) or pools.overlapping(wanted, held, given, why, more)


def _of_others(app: dict[str, Any]) -> Iterator[int]:
    """What the other apps' live releases may open at the same server, as far as they are here."""
    for other in presence.deployed():
        if other != app["name"]:
            paths = Paths(other)
            live = releases.live(paths)
            record = read_record(paths.release(live)) if live else {}
            there = (record.get("app") or {}).get("database") or {}
            if there.get("host", "") != app["database"].get("host", ""):
                continue
            pooled = record.get("app") and pgbouncer.SERVICE.used(record["app"])
            yield pgbouncer.pool_size(other) if pooled else int(record.get("connections") or 0)
