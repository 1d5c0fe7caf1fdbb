"""The engine over a real connection to this machine: it starts, answers, and ends with its run."""

from __future__ import annotations

import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.berth.transport import agent, session

BERTH = Path(session.__file__).parents[1]


@pytest.fixture
def run() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for the ansible process."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def engine(mark: str) -> list[str]:
    """The engine on this machine. The mark makes it findable among the processes."""
    command = f"{shlex.quote(sys.executable)} -I -c {shlex.quote(session.BOOTSTRAP)} {mark}; exit $?"
    return ["/bin/sh", "-c", command]


def processes(mark: str) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += mark.encode() in path.read_bytes()
        except OSError:
            continue
    return found


def wait_until_gone(mark: str, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes(mark) == 0


@pytest.fixture
def opened(tmp_path: Path, run: subprocess.Popen[bytes]) -> session.Session:
    # Deeper than a socket address is long.
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    opened = session.Session(str(folder), "host")
    assert not opened.open
    opened.start(engine(tmp_path.name), session.pack_engine(BERTH), "a password nobody asked for\n", run.pid)
    assert opened.open
    return opened


def test_it_answers_request_after_request(opened: session.Session) -> None:
    for _ in range(3):
        answer = opened.call("status", {"apps": ["no-such-app"]})
        assert answer["answer"]["apps"][0]["health"] == "not deployed"
        assert answer["table"].splitlines()[0].startswith("APP")


def test_a_refusal_is_an_answer(opened: session.Session) -> None:
    answer = opened.call("build", {"name": "board"})
    assert answer["failed"]
    assert "needs the lock of board" in answer["msg"]


def test_a_body_arrives_whole(opened: session.Session, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x" * 3_000_000)
    with body.open("rb") as handle:
        answer = opened.call("fetch", {"name": "board"}, handle, 3_000_000)
    assert answer["failed"]
    # And the next request is understood, so nothing of the body was left on the way.
    assert not opened.call("status", {"apps": []}).get("failed")


def test_it_ends_when_the_run_is_killed(
    opened: session.Session, run: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert processes(tmp_path.name)
    run.kill()
    run.wait()
    assert wait_until_gone(tmp_path.name)
    assert not opened.open


def test_signs_of_life_are_no_requests_and_end_a_silence() -> None:
    heard, requests = agent.Heard(), queue.Queue[agent.Request | None]()
    read, write = os.pipe()
    beats = 20

    def beat() -> None:
        with os.fdopen(write, "wb", buffering=0) as out:
            for _ in range(beats):
                out.write(b"\n")
                time.sleep(0.05)
            out.write(b'{"step": "lock"}\n')

    began = time.monotonic()
    threading.Thread(target=beat).start()
    with os.fdopen(read, "rb") as source:
        reader = threading.Thread(target=agent._read, args=(source, requests, heard))
        reader.start()
        heard.wait_for_silence(0.5, 0.1)
        assert time.monotonic() - began > beats * 0.05
        reader.join()
    assert requests.get_nowait() == ("lock", {}, None)
    assert requests.empty()


@pytest.mark.parametrize(("start", "whole"), [([], True), (["/usr/bin/env"], False)])
def test_an_engine_that_has_something_left_to_do(
    tmp_path: Path, run: subprocess.Popen[bytes], start: list[str], whole: bool
) -> None:
    """A local engine does it; another command stands for an ssh that hangs, which has to end."""
    done = tmp_path / "done"
    command = f"echo '{{\"hello\": 1}}'; cat > /dev/null; sleep 1; touch {done}; : {tmp_path.name}"
    opened = session.Session(str(tmp_path), "host")
    opened.start([*start, "/bin/sh", "-c", command], b"", "", run.pid)
    run.kill()
    run.wait()
    assert wait_until_gone(tmp_path.name)
    assert done.exists() is whole


def test_a_run_that_is_gone_already_gets_no_engine(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    late = session.Session(str(tmp_path), "host")
    with pytest.raises(ConnectionError):
        late.start(engine(tmp_path.name), session.pack_engine(BERTH), "", process.pid)
    assert wait_until_gone(tmp_path.name)


def test_a_connection_that_fails_says_why(tmp_path: Path, run: subprocess.Popen[bytes]) -> None:
    broken = session.Session(str(tmp_path), "host")
    argv = ["/bin/sh", "-c", "echo 'root@x: Permission denied (publickey).' >&2; exit 255"]
    with pytest.raises(ConnectionError, match=r"Permission denied \(publickey\)"):
        broken.start(argv, session.pack_engine(BERTH), "", run.pid)
