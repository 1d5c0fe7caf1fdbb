"""What runs of an app: its live release's processes and jobs, and releases that retire."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime, timezone
from pathlib import Path

from ..errors import ReleaseError
from ..paths import Paths
from ..payload import retire
from ..runtime import naming, noted
from ..runtime import units as runtime
from . import telling
from .asking import PATIENCE, Facts

# An old restart is no news: what systemd counted and killed is asked for so many seconds back.
HOUR = 3600
_AT_WORK = ("active", "activating", "deactivating", "reloading")


def processes(
    paths: Paths, description: Facts, live: str, states: dict[str, Facts], past: list[Facts]
) -> list[Facts]:
    """The live release's web, relay and workers."""
    if not live:
        return []
    names = naming.services(naming.serving(paths, live))
    names += naming.workers(description, live) if description else []
    rows = []
    for name in names:
        state = states.get(name, {})
        up = ago(noted.moment(state.get("ExecMainStartTimestamp", "")))
        mine = [one for one in past if one["unit"] == name]
        memory = [one["ago"] for one in mine if one["memory"]]
        restarts = [one["ago"] for one in mine if not one["memory"]]
        rows.append(
            {
                "name": naming.stem(name).removeprefix(f"{paths.app}-"),
                "unit": name,
                "state": state.get("ActiveState", "unknown"),
                "waits_to_restart": runtime.waits_to_restart(state),
                "result": state.get("Result", ""),
                "exit_status": _number(state.get("ExecMainStatus", "")),
                "up_seconds": None if up is None else max(0, round(up)),
                "restarts": _number(state.get("NRestarts", "")),
                "restarts_last_hour": len(restarts),
                "out_of_memory_last_hour": len(memory),
                "out_of_memory_seconds_ago": min(memory, default=None),
                "memory_mb": _number(state.get("MemoryCurrent", "")) >> 20,
            }
        )
    return rows


def jobs(
    paths: Paths, description: Facts, live: str, names: dict[str, list[str]], states: dict[str, Facts]
) -> list[Facts]:
    """Each job of the live release: when it runs next, and how its last run ended, of whichever release."""
    rows = []
    services = naming.services(unit for units in names.values() for unit in units)
    for stem in naming.unit_stems(description)["jobs"] if description and live else []:
        timer = states.get(naming.timer(stem, live), {})
        runs = [unit for unit in services if naming.stem(unit) == stem]
        job = stem.removeprefix(f"{paths.app}-")
        due = noted.moment(timer.get("NextElapseUSecRealtime", ""))
        row: Facts = {"name": job, "timer": timer.get("ActiveState", "unknown"), "next": due}
        stamp = 0.0
        with contextlib.suppress(OSError):
            stamp = naming.stamp(paths, naming.timer(stem, live)).stat().st_mtime
        known = last_run([states[unit] for unit in runs if unit in states], stamp)
        if not known:
            known = _last_noted(runs) if runs and 0 < stamp < _started() else _run()
        rows.append({**row, **known})
    return rows


def last_run(runs: list[Facts], stamp: float) -> Facts | None:
    """How the last run of a job ended, of its units' properties and of when its timer ran last (seconds).

    None where systemd does not know: a unit forgets with a reboot.
    """
    done = [one for one in runs if noted.moment(one.get("ExecMainStartTimestamp", ""))]
    if not done:
        return None
    last = max(done, key=lambda one: noted.moment(one["ExecMainStartTimestamp"]))
    began = noted.moment(last["ExecMainStartTimestamp"])
    running = last.get("ActiveState") in _AT_WORK
    failed = last.get("ActiveState") == "failed"
    # Older than the timer's last run: that one ended well, or its unit would still say otherwise.
    if failed and stamp - datetime.fromisoformat(f"{began[:-1]}+00:00").timestamp() > 2:
        return _run(datetime.fromtimestamp(stamp, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))
    result = last.get("Result", "") if failed else ""
    status = _number(last.get("ExecMainStatus", "")) if failed else 0
    return _run(began, result=result, status=status, running=running)


def _run(last: str = "", *, result: str = "", status: int = 0, running: bool = False) -> Facts:
    return {"last": last, "failed": result, "exit_status": status, "running": running}


def _last_noted(runs: list[str]) -> Facts:
    """As the journal tells it, of the time before a reboot; nothing where it does not tell in time."""
    found: list[Facts] = []
    with contextlib.suppress(ReleaseError):
        found = noted.ends(runs, 40 * 24 * HOUR, PATIENCE)
    if not found:
        return _run()
    when = datetime.fromtimestamp(time.time() - found[0]["ago"], timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _run(when, result=found[0]["failed"])


def _started() -> float:
    """When systemd started, which is when it knew nothing of any run."""
    ticks = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def retiring(paths: Paths, live: str, names: dict[str, list[str]], states: dict[str, Facts]) -> list[Facts]:
    """Releases of which a process still runs and that are not live."""
    rows = []
    for release, units in names.items():
        if release == live:
            continue
        mine = [states.get(unit, {}) for unit in naming.services(units)]
        working = [one for one in mine if one.get("ActiveState") in _AT_WORK]
        if not working:
            continue
        waits = naming.retiring(paths.app, release)
        state = runtime.state(waits, PATIENCE)
        rows.append(
            {
                "release": release,
                "memory_mb": sum(_number(one.get("MemoryCurrent", "")) for one in working) >> 20,
                "connections": retire.connections(str(naming.socket(paths, release))),
                "processes": sorted(naming.stem(one["Id"]) for one in working),
                "awaited": state in ("active", "activating"),
            }
        )
    return rows


def ago(when: str) -> float | None:
    """Seconds since a time stamp."""
    try:
        return time.time() - telling.seconds(when)
    except ValueError:
        return None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
