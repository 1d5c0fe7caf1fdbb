"""An app that stands still for a moment: its processes end, and begin again when they are let go.

Requests wait meanwhile in a socket that stands for the release's, so none is on its way to a server that ends
(payload/hold.py). Who holds the app holds a lock of the kernel's: whatever becomes of that process, the app's
begin again, and what waits is passed on to them.
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
from ..host import command
from ..paths import Paths, ids
from ..payload import hold
from . import listening, naming, transient, units

# Seconds beyond those that a process has to end in.
_MARGIN = 20
_LOOK_AGAIN = 0.1
# Seconds after which a request is on a connection that the proxy had kept for it; the app serves meanwhile.
_PASSED_ON = 2.0
# Seconds that a server has to take the connections that were made before, and to read what is on them.
_TAKEN, _READ = 5.0, 1.0
_WAIT = """# Berth holds this app for a moment.
[Service]
ExecStartPre=+/usr/bin/flock --shared {lock} true
"""
_PATIENT = "TimeoutStartSec=15min\n"


@dataclass
class Held:
    """What came of it: jobs that were at work and are not begun again, and how long requests waited."""

    cut: list[str]
    let_go: float = 0.0  # by the clock, since units are judged by that
    seconds: float = 0.0


@contextlib.contextmanager
def still(paths: Paths, app: dict[str, Any], release: str, mark: Path) -> Iterator[Held]:
    """All processes of a release have ended while the body runs, those that come by the clock too.

    `mark` lets the proxy keep connections to this release, where it is there.
    """
    web = naming.services(naming.serving(paths, release))
    jobs = [naming.service(stem, release) for stem in naming.unit_stems(app)["jobs"]]
    states = units.states([*web, *naming.workers(app, release), *jobs])
    running = [name for name in states if states[name] in ("active", "activating", "deactivating")]
    again = [name for name in states if name not in jobs and (name in running or name in web)]
    lock = paths.sockets.with_name(f"{paths.app}.hold")
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    cut = [name for name in jobs if name in running]
    held, began = Held([naming.stem(name) for name in cut]), time.monotonic()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for name in states:
            _wait_before(paths, name, lock, patient=name not in jobs)
        units.reload()
        limit = _MARGIN + max(float(app["drain"]["requests"]) + 10, units.to_end(app))
        units.stop(cut, patience=limit)
        _have_requests_wait(paths, app, release, lock, mark)
        began = time.monotonic()
        _wait_until_read(paths, release)
        units.ask_to_restart(again)
        # What each was has ended: it waits to begin, or for a relay that does.
        left = _wait_until(again, limit, lambda state: state in ("start-pre", "failed", "dead"))
        if left:
            raise ReleaseError(f"{', '.join(left)} did not end within {limit:.0f} s.")
        yield held
    finally:
        held.let_go, held.seconds = time.time(), time.monotonic() - began
        os.close(descriptor)
        # Not before they have noticed: what a unit is about to do must not vanish from its file.
        _wait_until(again, _MARGIN, lambda state: state != "start-pre")
        # One that follows on this must not find its socket or its mark laid aside.
        _wait_for(lambda: not any(hold.aside(one).exists() for one in (naming.socket(paths, release), mark)))
        for name in states:
            shutil.rmtree(_drop_in(paths, name).parent, ignore_errors=True)
        units.reload()


def _have_requests_wait(paths: Paths, app: dict[str, Any], release: str, lock: Path, mark: Path) -> None:
    path = naming.socket(paths, release)
    if path != paths.root_socket(release) or not path.exists():
        return  # made by the app itself, as with an earlier Berth, or nobody could connect before this
    words = [str(lock), str(path), str(mark), str(_PASSED_ON), str(ids(paths.app)[0])]
    words += [str(paths.own_socket(release))] if naming.relayed(app) else []
    text = command.module_source(hold)
    unit = naming.holding(paths.app)
    done = transient.in_background(
        unit, f"Have requests for {paths.app} wait", ["/usr/bin/python3", "-I", "-c", text, *words]
    )
    if done.code != 0 or not _wait_for(lambda: hold.is_aside(path), _PASSED_ON + _MARGIN):
        said = [*done.lines, *units.journal(unit, 1), "no word of it"]
        raise ReleaseError(f"Requests for {paths.app} could not be made to wait: {said[0].rstrip('.')}.")


def _wait_until_read(paths: Paths, release: str) -> None:
    """Nobody can connect to the server any more; what it has not taken by now waits for the next one."""
    path = naming.socket(paths, release)
    if hold.is_aside(path):
        _wait_for(lambda: not listening.waiting(path), _TAKEN)
        time.sleep(_READ)


def _drop_in(paths: Paths, unit: str) -> Path:
    """Gone with a reboot."""
    return paths.root / "run/systemd/system" / f"{unit}.d/90-berth-hold.conf"


def _wait_before(paths: Paths, unit: str, lock: Path, *, patient: bool) -> None:
    path = _drop_in(paths, unit)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.write_text(_WAIT.format(lock=shlex.quote(str(lock))) + (_PATIENT if patient else ""))


def _wait_until(names: list[str], limit: float, good: Callable[[str], bool]) -> list[str]:
    """Those of which that does not come true within so many seconds."""
    left: list[str] = []

    def ended() -> bool:
        left[:] = [one["Id"] for one in units.shown(names, "SubState") if not good(one.get("SubState", ""))]
        return not left

    _wait_for(ended, limit)
    return left


def _wait_for(what: Callable[[], bool], limit: float = _MARGIN) -> bool:
    """Whether it comes true within so many seconds."""
    end = time.monotonic() + limit
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_AGAIN)
    return True
