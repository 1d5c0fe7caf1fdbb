"""Jobs by the clock: each instant of a schedule is one run, whichever release is live when it comes.

systemd notes when a timer ran last in a stamp of its own, so it knows nothing of what ran under another
release. And it keeps two runs of one unit apart, not those of two releases.
"""

from __future__ import annotations

import os
import shlex
from typing import Any

from ..paths import Paths
from . import naming, units


def change_over(paths: Paths, app: dict[str, Any], release: str, old: str, old_app: dict[str, Any]) -> None:
    """The timers of one release end and those of another begin, with no instant lost or met twice."""
    if old and old != release:
        ended = naming.timers(old_app, old)
        units.stop(ended)
        hand_over(paths, app, release, old_app)
    units.start(naming.timers(app, release))


def hand_over(paths: Paths, app: dict[str, Any], release: str, old_app: dict[str, Any]) -> None:
    """To be called before the timers of a release start: what ran last under another one ran last.

    A job that the release before did not have begins now: there is nothing to make up for.
    """
    for stem in naming.unit_stems(app)["jobs"]:
        last = max((path.stat().st_mtime_ns for path in naming.stamps(paths, stem)), default=0)
        own = naming.stamp(paths, naming.timer(stem, release))
        if stem in naming.unit_stems(old_app)["jobs"] and last:
            own.touch(0o644)
            os.utime(own, ns=(last, last))
        else:
            own.unlink(missing_ok=True)  # systemd makes it when the timer starts


def make_locks(paths: Paths, app: dict[str, Any], group: int) -> None:
    """One file a job, which its runs lock. It belongs to root, and outlives releases.

    Whoever can read it can lock it: the app's group, and no other app.
    """
    for job in app["jobs"]:
        lock = paths.job_lock(job["name"])
        lock.parent.mkdir(mode=0o755, exist_ok=True)
        lock.touch(0o640)
        os.chown(lock, -1, group)


def once(paths: Paths, job: str) -> list[str]:
    """The lines of a job's script that leave a run out while another one, of any release, is at work."""
    said = (
        f"This run is left out: the one before it, of this release or of another, is still at work ({job})."
    )
    return [
        f"exec 9<{shlex.quote(str(paths.job_lock(job)))} || exit 1",
        f"flock --nonblock 9 || {{ echo {shlex.quote(said)}; exit 0; }}",
    ]
