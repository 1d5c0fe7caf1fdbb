"""Where a unit's processes listen."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

from ansible.module_utils.berth.runtime import listening


def test_own_sockets_are_found(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    mine = proc / str(os.getpid())
    mine.mkdir(parents=True)
    (mine / "cgroup").write_text("0::/system.slice/x-web@1.service\n")
    (mine / "fd").symlink_to("/proc/self/fd")
    (proc / "net").symlink_to("/proc/self/net")
    with socket.socket() as port, socket.socket(socket.AF_UNIX) as local:
        port.bind(("127.0.0.1", 0))
        port.listen()
        local.bind(str(tmp_path / "a.sock"))
        local.listen()
        found = listening.places("x-web@1.service", proc)
        assert f"127.0.0.1:{port.getsockname()[1]}" in found
        assert str(tmp_path / "a.sock") in found
    assert listening.places("other.service", proc) == []


def test_children_that_wait_for_connections_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    code = (
        "import select, sys\n"
        "if sys.argv[1] == 'ready':\n    poll = select.epoll()\n    poll.register(int(sys.argv[2]))\n"
        "print('here', flush=True)\nsys.stdin.read()\n"
    )
    with socket.socket(socket.AF_UNIX) as local, select.epoll() as mine:
        local.bind(str(path))
        local.listen()
        mine.register(local)  # the server's own is no worker's

        def child(how: str) -> subprocess.Popen[str]:
            number = local.fileno()
            one = subprocess.Popen(
                [sys.executable, "-c", code, how, str(number)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[number],
            )  # fmt: skip
            assert one.stdout is not None
            one.stdout.readline()
            return one

        children = [child("ready"), child("ready"), child("imports")]
        assert listening.accepting(path, os.getpid()) == 2
        assert listening.accepting(tmp_path / "other.sock", os.getpid()) == 0
        children[0].communicate()
        assert listening.accepting(path, os.getpid()) == 1
        for one in children[1:]:
            one.communicate()
    assert listening.accepting(path, 0) == 0
