"""A rescue of the cluster: whether it can be, and how it went. Reads only, needs no lock."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..errors import UP, ReleaseError
from ..host import command
from ..payload import backup
from ..runtime import naming, units
from ..services.postgresql import AS_SUPERUSER
from . import elsewhere

Facts = dict[str, Any]

PROGRAM = Path("/usr/local/lib/berth/rescue.py")
_PATIENCE = 150.0
# Seconds for all WAL to be replayed, and between two looks.
_REPLAY, _AGAIN = 24 * 3600.0, 1.0
_ASK = "select json_build_object('recovers', pg_is_in_recovery())"


def unit(root: Path = Path("/")) -> str:
    """Of the cluster's server, whose settings say what it is called."""
    if elsewhere.alone(root):
        raise ReleaseError(elsewhere.INSTEAD)
    path = root / backup.SETTINGS.relative_to("/")
    if not path.exists() or not PROGRAM.exists():
        raise ReleaseError(
            "There are no backups on this server that a rescue could restore, or an earlier Berth set it up; "
            f"{UP}."
        )
    done = command.run(["cat", str(path)], timeout=15)
    settings = json.loads(done.out)
    return naming.distributions(f"postgresql@{settings['version']}-{settings['stanza']}")


def plan(wal: str, place: str = "", root: Path = Path("/")) -> Facts:
    """What would be done, as a sentence; ReleaseError where it must not or cannot be."""
    name = unit(root)
    done = command.run(
        [*AS_SUPERUSER, "/usr/bin/python3", "-I", str(PROGRAM), "plan"],
        timeout=_PATIENCE,
        stdin=json.dumps({"wal": wal, "from": place}),
        cwd=Path("/"),
    )
    if done.code != 0:
        said = done.lines[-1] if done.lines else str(done.code)
        raise ReleaseError(f"Nothing is rescued: {said.rstrip('.')}. Nothing was changed.")
    found: Facts = json.loads(done.out)
    kept = f" What is there is kept beside it ({found['keeps']})." if found["keeps"] else ""
    said = f"Restores all databases in {found['data']}, from backup {_backup(found)} and {_wal(found)}.{kept}"
    return {"unit": name, "said": said}


def _backup(found: Facts) -> str:
    return f"{found['backup']} at {found['place']}" if found.get("place") else str(found["backup"])


def _wal(found: Facts) -> str:
    if not found["segments"] and found.get("place"):
        return "the WAL that got there: none is left here, so what came after that is lost"
    if not found["segments"]:
        return "the WAL of the archive alone: none is left, so what was not archived is lost"
    return f"all WAL, of which {found['segments']} segments are left in {found['wal']}"


def describe(made: Facts, root: Path = Path("/")) -> Facts:
    """How it went, when its server answers."""
    name, end = unit(root), time.monotonic() + _REPLAY
    psql = [*AS_SUPERUSER, "psql", "-XAtq", "-d", "postgres", "-c", _ASK]
    while True:
        done = command.run(psql, timeout=60, env={"PGCONNECT_TIMEOUT": "10"}, cwd=Path("/"))
        found: Facts = json.loads(done.out) if done.code == 0 and done.out.strip() else {}
        if found and not found["recovers"]:
            break
        if units.state(name, 20) in ("failed", "inactive") or time.monotonic() > end:
            raise ReleaseError(
                "The cluster is restored, and its server does not come up.",
                advice="look into /var/log/postgresql; what was there before is kept: "
                f"{made.get('kept') or 'nothing'}",
            )
        time.sleep(_AGAIN)
    kept = (
        f" What was there before is kept as {made['kept']}; remove it when nobody needs it."
        if made["kept"]
        else ""
    )
    said = (
        f"Postgres is back, from backup {_backup(made)} and {_wal(made)}. It was restored in "
        f"{made['seconds']:.0f} s. Last commit: {made['last_commit'] or 'unknown'}. A full backup "
        f"begins.{kept}"
    )
    return {"said": said}
