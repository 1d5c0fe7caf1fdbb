"""Whether the running server has the database connections that an app's pools may open."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

from ..errors import ReleaseError
from ..paths import Paths
from ..reading import pools
from ..services import pgbouncer
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
    others = sum(_of_others(app["name"]))
    usable = everything - pools.RESERVE - others
    given, why = usable, "max_connections" + (f" beside the {others} of other apps" if others else "")
    if 0 <= own < usable:
        given, why = own, "its share of max_connections"
    return pools.warning(wanted, given, why) or pools.overlapping(wanted, held, given, why)


def _of_others(name: str) -> Iterator[int]:
    """What the other apps' live releases may open at the server."""
    for other in presence.deployed():
        if other != name:
            paths = Paths(other)
            live = releases.live(paths)
            record = read_record(paths.release(live)) if live else {}
            pooled = record.get("app") and pgbouncer.SERVICE.used(record["app"])
            yield pgbouncer.pool_size(other) if pooled else int(record.get("connections") or 0)
