"""An app that stands still for a moment: its processes end, and begin again when they are let go.

New connections wait in the release's socket meanwhile. Who holds them holds a lock of the kernel's: whatever
becomes of that process, they begin again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..paths import Paths
from . import naming, units

# Seconds beyond those that a process has to end in.
_MARGIN = 20
_LOOK_AGAIN = 0.1
_WAIT = """# Berth holds this app for a moment.
[Service]
ExecStartPre=+/usr/bin/flock --shared {lock} true
"""
_PATIENT = "TimeoutStartSec=15min\n"


@dataclass
class Held:
    """What came of it: jobs that were at work and are not begun again, and from when to when nothing ran."""

    cut: list[str]
    began: float = 0.0
    let_go: float = 0.0  # by the clock, since units are judged by that
    seconds: float = 0.0


@contextlib.contextmanager
def still(paths: Paths, app: dict[str, Any], release: str) -> Iterator[Held]:
    """All processes of a release have ended while the body runs, those that come by the clock too."""
    web = naming.services(naming.serving(paths, release))
    jobs = [naming.service(stem, release) for stem in naming.unit_stems(app)["jobs"]]
    states = units.states([*web, *naming.workers(app, release), *jobs])
    running = [name for name in states if states[name] in ("active", "activating", "deactivating")]
    again = [name for name in states if name not in jobs and (name in running or name in web)]
    lock = paths.sockets.with_name(f"{paths.app}.hold")
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    cut = [name for name in jobs if name in running]
    held = Held([naming.stem(name) for name in cut], time.monotonic())
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for name in states:
            _wait_before(paths, name, lock, patient=name not in jobs)
        units.reload()
        limit = _MARGIN + max(float(app["drain"]["requests"]) + 10, units.to_end(app))
        units.stop(cut, patience=limit)
        units.ask_to_restart(again)
        # Each waits to begin, so what it was has ended.
        left = _wait_until(again, limit, lambda state: state in ("start-pre", "failed"))
        if left:
            raise ReleaseError(f"{', '.join(left)} did not end within {limit:.0f} s.")
        yield held
    finally:
        held.let_go, held.seconds = time.time(), time.monotonic() - held.began
        os.close(descriptor)
        # Not before they have noticed: what a unit is about to do must not vanish from its file.
        _wait_until(again, _MARGIN, lambda state: state != "start-pre")
        for name in states:
            shutil.rmtree(_drop_in(paths, name).parent, ignore_errors=True)
        units.reload()


def _drop_in(paths: Paths, unit: str) -> Path:
    """Gone with a reboot."""
    return paths.root / "run/systemd/system" / f"{unit}.d/90-berth-hold.conf"


def _wait_before(paths: Paths, unit: str, lock: Path, *, patient: bool) -> None:
    path = _drop_in(paths, unit)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.write_text(_WAIT.format(lock=shlex.quote(str(lock))) + (_PATIENT if patient else ""))


def _wait_until(names: list[str], limit: float, good: Callable[[str], bool]) -> list[str]:
    """Those of which that does not come true within so many seconds."""
    end = time.monotonic() + limit
    while True:
        left = [one["Id"] for one in units.shown(names, "SubState") if not good(one.get("SubState", ""))]
        if not left or time.monotonic() > end:
            return left
        time.sleep(_LOOK_AGAIN)
