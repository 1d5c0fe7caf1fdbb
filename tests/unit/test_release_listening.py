"""Where a unit's processes listen."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ansible.module_utils.berth.release import listening


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
