"""What other people's code may touch: one list for units and for what the engine runs itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.berth.host import command, sandbox
from ansible.module_utils.berth.paths import Paths

from plugins.filter.app import FilterModule
from tests.support.entry import board

BOARD = Paths("board")


def test_a_unit_and_a_build_are_in_the_same_sandbox() -> None:
    unit = FilterModule().filters()["unit_sandbox"]("board").splitlines()
    for lines in (unit, sandbox.proof(), sandbox.build(BOARD, board())):
        assert set(sandbox.COMMON) <= set(lines)
    assert not {line for line in unit if line.startswith("MemoryDenyWriteExecute")}, "node and numba end"


def test_doors_to_what_the_host_shares_are_closed() -> None:
    shared = "TemporaryFileSystem=/dev/shm:mode=1777,nosuid,nodev"
    assert {shared, "PrivateIPC=yes", "LimitCORE=0"} <= set(sandbox.COMMON)
    for path in ("/run/dbus", "/run/docker.sock", "/etc/berth", "/var/lib/berth", "/var/log/berth"):
        assert f"InaccessiblePaths=-{path}" in sandbox.COMMON
    # Beside what serves, and the first to go: an app's own processes have no such lines.
    beside = {"CPUWeight=50", "IOWeight=50", "OOMScoreAdjust=800"}
    for lines in (sandbox.proof(), sandbox.build(BOARD, board()), sandbox.git(board(), "")):
        assert beside <= set(lines)
        assert [line for line in lines if line.startswith("MemoryMax=")]
    assert not beside & set(sandbox.unit())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_what_systemd_thinks_of_it(tmp_path: Path) -> None:
    # The 1.0 of a unit is what any app may need: the network, sockets, just-in-time compilers, /proc.
    wanted = {
        "unit": (["UMask=0077", *sandbox.unit()], 1.0),
        "proof": (sandbox.proof(), 1.5),
        "build": (sandbox.build(BOARD, board()), 1.5),
    }
    for name, (lines, most) in wanted.items():
        path = tmp_path / f"{name}.service"
        path.write_text("\n".join(["[Service]", "ExecStart=/bin/true", "User=daemon", *lines, ""]))
        words = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)]
        said = subprocess.run(words, capture_output=True, text=True, check=False)
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said.stdout)
        assert found, said.stderr
        assert float(found[1]) <= most, said.stdout


@pytest.mark.parametrize(
    ("said", "killed", "starved"),
    [
        ("gcc: fatal error: Killed signal terminated program cc1", False, True),
        ("error: could not compile `x` (signal: 9, SIGKILL: kill)", False, True),
        ("FATAL ERROR: Reached heap limit - JavaScript heap out of memory", False, True),
        ("sh: line 1: 7 Killed", False, False),
        ("Killed", False, True),
        ("", True, True),
        ("error: command 'gcc' failed", False, False),
    ],
)
def test_a_build_that_met_its_limit_is_told_so(said: str, killed: bool, starved: bool) -> None:
    result = command.Result(1, said, "", killed)
    told = sandbox.out_of_memory(result, board(limits={"build_memory": "1G"}))
    assert told == ("it used more memory than a build may (1G): raise limits.build_memory" if starved else "")


def test_a_build_sees_of_apps_nothing_but_its_own_code_and_environments(tmp_path: Path) -> None:
    place = Paths("board", tmp_path)
    for key in ("b", "a"):
        (place.envs / key).mkdir(parents=True)
    (place.envs / "a.complete").touch()
    lines = sandbox.build(place, board())
    assert "TemporaryFileSystem=/srv:ro" in lines
    assert [line for line in lines if line.startswith("Bind")] == [
        f"BindReadOnlyPaths=-{path}" for path in (place.releases, place.envs / "a", place.envs / "b")
    ]
    assert "MemoryMax=75%" in lines
    assert "MemoryMax=2G" in sandbox.build(BOARD, board(limits={"build_memory": "2G"}))
