"""Has the requests for a release wait in a socket of its own until a lock is free. Standard library only.

The engine hands this text to a Python in the background: whatever becomes of the engine, the kernel frees its
lock, and what is here puts back all that it has changed.

usage: python3 -c TEXT LOCK SOCKET MARK PAUSE UID [MADE]

The proxy sends requests through connections that it has kept, and a server that ends closes them, maybe at
that very moment. So MARK goes first, which the proxy looks for at each request: without it each has a new
connection. Requests for which it was still there have PAUSE seconds to be on theirs. Then another socket
takes the place of SOCKET, and nobody connects to the server any more. What waits there is passed on to
SOCKET in the end, as the user UID and in the group of the socket.

A server that makes a socket itself, MADE, is waited for: what stands between would refuse who comes before.

One that was killed is started again with the same text and the same words.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import IO

RELAY = "/usr/lib/systemd/systemd-socket-proxyd"
# As many as systemd's socket of a release has.
BACKLOG = 4096
# Sockets and pipes that the relay needs for a connection.
_FILES = 6
_LISTENER = 3
_LOOK_AGAIN = 0.05
# Seconds that a server has to start in.
_START = 300.0


def aside(path: Path) -> Path:
    """Where what has this name lies meanwhile."""
    return path.with_name(f"{path.name}.held")


def is_aside(path: Path) -> bool:
    """Whether something else has its name now."""
    kept = aside(path)
    return kept.exists() and not (path.exists() and kept.samefile(path))


def put_back(path: Path) -> None:
    """Under its name again, if it was laid aside."""
    with contextlib.suppress(FileNotFoundError):
        aside(path).replace(path)
        # rename(2) does nothing where both names are links to one file.
        aside(path).unlink()


def main(lock: Path, path: Path, mark: Path, pause: float, user: str, made: str = "") -> None:
    # Asked to end, it puts back first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    queue = None
    with lock.open() as held:
        try:
            if mark.exists():
                mark.replace(aside(mark))
                if freed(held, pause):
                    return
            if freed(held, 0):
                return
            queue = take_place(path)
            fcntl.flock(held, fcntl.LOCK_SH)
            end = time.monotonic() + _START
            while made and not listens(made) and time.monotonic() < end:
                time.sleep(_LOOK_AGAIN)
        finally:
            put_back(path)
            # What the proxy kept was closed meanwhile, so it may keep connections again.
            put_back(mark)
    # Who had found the socket by its name just before connects in this time.
    if select.select([queue], [], [], 1)[0]:
        relay(queue, path, int(user))


def freed(held: IO[str], patience: float) -> bool:
    """Whether the lock became free within so many seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_LOOK_AGAIN)
        else:
            return True


def listens(made: str, table: Path = Path("/proc/net/unix")) -> bool:
    """Whether a process does on a socket of this name. The name alone may be that of one that ended."""
    lines = (line.split() for line in table.read_text(errors="replace").splitlines())
    return any(fields[3:4] == ["00010000"] and fields[7:] == [made] for fields in lines)


def take_place(path: Path) -> socket.socket:
    """A socket in the place of this one, which is laid aside: the server goes on listening there."""
    kept, new = aside(path), path.with_name(f"{path.name}.queue")
    if not kept.exists():
        os.link(path, kept)
    was = kept.stat()
    new.unlink(missing_ok=True)
    queue = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.umask(0o177)
    queue.bind(str(new))
    os.chown(new, was.st_uid, was.st_gid)
    new.chmod(stat.S_IMODE(was.st_mode))
    queue.listen(BACKLOG)
    new.replace(path)
    return queue


def relay(queue: socket.socket, path: Path, user: int) -> None:
    """Become what passes on those that wait, and ends when the last of them does."""
    os.dup2(queue.fileno(), _LISTENER)
    os.set_inheritable(_LISTENER, True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, (BACKLOG + 1) * _FILES + 64), most))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(path.stat().st_gid)
        os.setuid(user)
    os.execve(  # noqa: S606 - with nothing in between, so that the unit is the relay's
        RELAY,
        [RELAY, "--exit-idle-time=1s", f"--connections-max={BACKLOG + 1}", str(path)],
        {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), *sys.argv[5:])
