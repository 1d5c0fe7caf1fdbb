"""Where the processes of a unit listen, read from /proc: what a server does, not what it should do."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path


def places(unit: str, proc: Path = Path("/proc")) -> list[str]:
    """Addresses and unix sockets that a unit's processes listen on, such as `127.0.0.1:8000`."""
    inodes = _sockets(unit, proc)
    found = [place for inode, place in _listeners(proc) if inode in inodes]
    return sorted(set(found))


def beyond(sockets: str) -> Iterator[tuple[str, int, str]]:
    """From `ss -Hltunp`: what listens on more than the loopback: protocol, port, program (or empty)."""
    for line in sockets.splitlines():
        words = line.split()
        address, _, port = words[4].rpartition(":")
        if not address.startswith(("127.", "[::1]", "[::ffff:127.")):
            program = re.search(r'users:\(\("([^"]*)"', line)
            yield words[0], int(port), program[1] if program else ""


def accepting(path: Path, server: int, proc: Path = Path("/proc")) -> int:
    """How many of a server's child processes wait for connections on a unix socket.

    What a process waits for is in its epoll set. An event loop puts the socket there once the app started.
    """
    inodes = {int(fields[6]) for fields in _table(proc / "net" / "unix") if _listens(fields, str(path))}
    children = f"{proc}/{server}/task/{server}/children"
    try:
        pids = Path(children).read_text().split()
    except OSError:
        return 0
    return sum(1 for pid in pids if inodes & _waited_for(proc / pid))


def waiting(path: Path, proc: Path = Path("/proc")) -> int:
    """How many connections to a unix socket no process has taken yet."""
    return sum(1 for fields in _table(proc / "net" / "unix") if fields[5:] == ["02", "0", str(path)])


def _waited_for(process: Path) -> set[int]:
    """The inodes of all files that a process has in epoll sets."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for entry in list((process / "fd").iterdir()):
            with contextlib.suppress(OSError):
                if str(entry.readlink()) == "anon_inode:[eventpoll]":
                    text = (process / "fdinfo" / entry.name).read_text()
                    found |= {int(inode, 16) for inode in re.findall(r"(?m)^tfd:.* ino:([0-9a-f]+)", text)}
    return found


def processes(unit: str, proc: Path = Path("/proc")) -> Iterator[Path]:
    """The folders in /proc of a unit's processes; each may be gone by the time it is looked at."""
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"/{unit}" in (process / "cgroup").read_text():
                yield process


def _sockets(unit: str, proc: Path) -> set[str]:
    inodes = set()
    for process in processes(unit, proc):
        with contextlib.suppress(OSError):
            for entry in list((process / "fd").iterdir()):
                with contextlib.suppress(OSError):
                    found = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
                    if found:
                        inodes.add(found[1])
    return inodes


def _listens(fields: list[str], path: str = "") -> bool:
    """Whether a line of /proc/net/unix is a listener's, at this path or at any."""
    return len(fields) > 7 and fields[3] == "00010000" and path in ("", fields[7])


def _listeners(proc: Path) -> list[tuple[str, str]]:
    found = []
    for name in ("tcp", "tcp6"):
        for fields in _table(proc / "net" / name):
            if len(fields) > 9 and fields[3] == "0A":
                found.append((fields[9], _address(fields[1])))
    for fields in _table(proc / "net" / "unix"):
        if _listens(fields):
            found.append((fields[6], fields[7]))
    return found


def _table(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text(errors="replace").splitlines()[1:]]
    except OSError:
        return []


def _address(text: str) -> str:
    """`0100007F:1F90` as 127.0.0.1:8080."""
    host, port = text.split(":")
    # Each group of four bytes is in the machine's order.
    raw = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
    if len(raw) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, raw)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, raw)}]:{int(port, 16)}"
