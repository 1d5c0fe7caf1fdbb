"""One deploy at a time: a kernel lock, held for as long as the engine's process lives."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..paths import Paths
from . import journal


def age(since: str, today: datetime | None = None) -> str:
    """`3 min 20 s` from a time stamp; `an unknown time` where there is none."""
    try:
        begin = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except (TypeError, ValueError):
        return "an unknown time"
    seconds = max(0, int(((today or datetime.now(timezone.utc)) - begin).total_seconds()))
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])


def refusal(app: str, holder: dict[str, Any], waited: float) -> str:
    who = f"{holder.get('user', 'somebody')}@{holder.get('host', 'an unknown host')}"
    return (
        f"{app} is locked: {who} (pid {holder.get('pid', '?')}) has been deploying it for "
        f"{age(holder.get('since', ''))}, "
        f"version {holder.get('version') or 'unknown'}"
        + (
            f"; waited {waited:.0f} s."
            if waited
            else "; --wait 300 (-e wait=300) waits up to 300 s for it to end."
        )
    )


def holder(paths: Paths) -> dict[str, Any]:
    """Who wrote themselves into the lock's file last; whether they hold it is another question."""
    try:
        descriptor = os.open(paths.state / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        return _said(descriptor)
    finally:
        os.close(descriptor)


def _said(descriptor: int) -> dict[str, Any]:
    try:
        said = json.loads(os.pread(descriptor, 65536, 0))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


class Lock:
    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.descriptor = -1

    def take(self, holder: dict[str, Any], wait: float) -> None:
        deadline = time.monotonic() + wait
        while True:
            self.paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.paths.state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A purge removes the file that others wait for: its lock would keep nobody out.
                if journal.is_still(self.paths.state / "lock", descriptor):
                    break
                os.close(descriptor)
                continue
            except BlockingIOError:
                current = _said(descriptor)
                os.close(descriptor)
            if time.monotonic() >= deadline:
                raise ReleaseError(refusal(self.paths.app, current, wait))
            time.sleep(0.1)
        self.descriptor = descriptor
        # Who holds it is for others to read. On a full disk they do without, and a rollback goes on.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)

    def release(self) -> None:
        if self.descriptor >= 0:
            os.ftruncate(self.descriptor, 0)
            os.close(self.descriptor)
            self.descriptor = -1


# Longer than a first installation of uv takes; what else is done under it takes moments.
_PATIENCE = 600


@contextmanager
def hostwide(root: Path = Path("/"), patience: float = _PATIENCE) -> Iterator[None]:
    """While something that all apps share is read, compared and written.

    A deploy holds its own app's lock only, and yet gives accounts, environments and units of all apps to the
    roles that write them.
    """
    path = root / "run/berth.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait(descriptor, patience)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ReleaseError(
                    f"Another run has been changing this server's apps for {patience:.0f} s: wait for its "
                    "end (fuser -v /run/berth.lock names it)."
                ) from None
            time.sleep(0.05)
