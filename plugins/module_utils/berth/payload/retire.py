"""Waits until a replaced release has nothing left to do, then stops it. Standard library only.

The engine hands this text to a Python in the background: the deploy has long returned.

usage: python3 -c TEXT SOCKET LINK IDLE LIMIT UNIT...

One that was killed is started again with the same text and the same words.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def connections(path: str, table: str = "/proc/net/unix") -> int:
    """Open connections on a listening unix socket, its own listener not counted."""
    count = 0
    for line in Path(table).read_text(errors="replace").splitlines():
        fields = line.split(None, 7)
        # Flags 00010000 mark the listener.
        if len(fields) == 8 and fields[7] == path and fields[3] != "00010000":
            count += 1
    return count


def is_live(path: str, link: str) -> bool:
    try:
        return str(Path(link).readlink()) == path
    except OSError:
        return False


def main(path: str, link: str, idle: float, limit: float, units: list[str]) -> None:
    started = time.monotonic()
    while True:
        time.sleep(1)
        if is_live(path, link):
            return  # a rollback took it back
        waited = time.monotonic() - started
        # Before the proxy's idle time is over, it may still hold a connection from before the switch.
        if waited >= limit or (waited >= idle and connections(path) == 0):
            break
    # One connection more would start the web again, so the socket goes first.
    for sockets in (True, False):
        names = [unit for unit in units if unit.endswith(".socket") is sockets]
        if names:
            # The workers among them were asked to stop at the switch; this waits for those still at work.
            subprocess.run(["systemctl", "stop", *names], check=False)
    # One that had to be killed is no failure of the host.
    subprocess.run(["systemctl", "reset-failed", *units], stderr=subprocess.DEVNULL, check=False)
    Path(path).unlink(missing_ok=True)
    # What was pruned stays in what targets want until systemd reads its files again. No deploy waits for it.
    subprocess.run(["systemctl", "daemon-reload"], check=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
