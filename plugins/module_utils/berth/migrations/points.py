"""Restore points: names in the WAL, which the whole cluster can be restored to."""

from __future__ import annotations

import json
import re

from ..errors import ReleaseError
from ..host import command
from ..services.postgresql import AS_SUPERUSER

# PostgreSQL keeps 63 characters.
NAME = re.compile(r"[A-Za-z0-9-]{1,63}")
_PATIENCE = 30.0
_MAKE = """
select json_build_object(
  'name', '{name}', 'lsn', pg_create_restore_point('{name}')::text,
  'at', to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
where current_setting('archive_mode') <> 'off'
"""
# What came before the point gets into the archive now, and not with the next full segment.
_SWITCH = "select pg_switch_wal() where current_setting('archive_mode') <> 'off'"


def make(name: str) -> dict[str, str]:
    """Name this moment, and have what came before it archived.

    Its name, LSN and time (UTC); empty where WAL is not archived.
    """
    if not NAME.fullmatch(name):
        raise ReleaseError(f"{name} cannot name a restore point.")
    psql = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]
    done = command.run(
        [*AS_SUPERUSER, *psql, "-c", _MAKE.format(name=name), "-c", _SWITCH],
        timeout=_PATIENCE,
        env={"PGAPPNAME": "berth", "PGCONNECT_TIMEOUT": "10"},
    )
    if done.code != 0:
        raise ReleaseError(f"Postgres made none: {done.lines[0] if done.lines else done.code}.")
    lines = done.out.splitlines()
    return dict(json.loads(lines[0])) if lines else {}
