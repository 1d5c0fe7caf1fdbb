"""Which shell lines end in the program itself, so that a unit's SIGTERM reaches it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.berth.runtime import shell

# Says its process, what it was given, and ends well when it is asked to.
PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), os._exit(0)))
print(os.getpid(), os.environ.get("LOG", ""), *sys.argv[1:], file=sys.stderr, flush=True)
while True: time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("PY w.py", ""),
        ("cd sub && PY ../w.py a", " a"),
        ("PY w.py > /dev/null", ""),
        ("PY w.py 'a b' 2>&2", " a b"),
        ("PY w.py 'f(); g()' \"a & b | $HOME_OF_NOBODY\"", " f(); g() a & b | "),
        ("LOG=1 PY w.py", "1"),
        ("LOG='a  b' X=\"c d\" PY w.py", "a  b"),
        ("cd sub; export LOG=2; true && PY ../w.py;", "2"),
        ("exec PY w.py", ""),
        ("PY w.py a\\;b", " a;b"),
    ],
)
def test_the_program_takes_the_place_of_its_shell(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "w.py").write_text(PROGRAM)
    text = shell.as_main(line.replace("PY", sys.executable))
    assert text
    assert not shell.keeps_shell(line)
    process = subprocess.Popen(
        ["sh", "-c", f"{text}\n"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr
        pid, _, rest = process.stderr.readline().rstrip("\n").partition(" ")
        assert int(pid) == process.pid
        assert rest.strip() == said.strip()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        # A shell that stayed leaves its program behind, and the test would wait for that.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    "line",
    [
        "a | b", "a || b", "a & b", "(a)", "{ a; }", "a $(b)", "a `b`", 'a "$(b)"', "while true; do a; done",
        "if a; then b; fi", "trap c EXIT; a", "a; wait", "cd a", "A=1", "a <<E", "a 'b", "! a", "",
        "a && && b(",
    ],
)  # fmt: skip
def test_other_lines_keep_their_shell(line: str) -> None:
    assert shell.keeps_shell(line)
