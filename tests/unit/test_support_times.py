"""What a run of pytest says of where its time went."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support import times
from tests.support.kit import execute

# A host that only says that it was booted, in whichever process.
SAMPLE = """
from tests.support import times

def test_a():
    times.spent("site", "boot", 4)
    times.spent("site", "provision", 90)
    times.spent("site", "provision", 9)
"""


def test_files_and_tests_and_hosts_are_named_longest_first() -> None:
    tests = {"a.py::x": 1.0, "b.py::y": 3.0, "a.py::z": 2.5, **{f"c.py::{n}": 0.01 for n in range(30)}}
    hosts = {"one": {"boot": 3.0}, "two": {"boot": 2.0, "provision": 80.0}, "three": {"boot": 1.0}}
    said = list(times.summary(tests, hosts))
    assert [line.split()[-1] for line in said[1:4]] == ["a.py", "b.py", "c.py"]
    assert said[1].split()[0] == "3.5"
    assert [line.split()[-1] for line in said[5:8]] == ["b.py::y", "a.py::z", "a.py::x"]
    assert len(said[5:-3]) == 25
    assert [line.split(maxsplit=2)[2] for line in said[-2:]] == [
        "two (boot 2 s, provision 80 s)",
        "one (boot 3 s)",
    ]


def test_what_workers_know_is_said_too(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    words = [
        "-q",
        "-p",
        "tests.support.times",
        "-n",
        "1",
        "--times",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = execute(sys.executable, "-m", "pytest", *words, timeout=300)
    assert done.status == 0, done.output
    assert "94.0 s  site (boot 4 s, provision 90 s)" in done.output
