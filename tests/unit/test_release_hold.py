"""Requests for a release wait in a socket that stands for its own, and are passed on when a lock is free."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.payload import hold
from ansible.module_utils.berth.runtime import listening

needs_relay = pytest.mark.skipif(not Path(hold.RELAY).exists(), reason="no systemd-socket-proxyd here")


def soon(what: Callable[[], object], limit: float = 10) -> None:
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


class Place:
    """A release's socket, its server, its mark and the lock, which the test holds."""

    def __init__(self, folder: Path) -> None:
        self.lock, self.path, self.mark = folder / "board.hold", folder / "r1.sock", folder / "keepalive"
        self.mark.touch()
        self.lock.touch()
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(self.path))
        self.server.listen(16)
        self.path.chmod(0o660)
        self.held = self.lock.open()
        fcntl.flock(self.held, fcntl.LOCK_EX)
        self.runs: list[subprocess.Popen[bytes]] = []

    def begin(self, pause: float = 0.0, *made: str) -> subprocess.Popen[bytes]:
        words = [str(self.lock), str(self.path), str(self.mark), str(pause), str(os.geteuid()), *made]
        text = command.module_source(hold)
        self.runs.append(subprocess.Popen([sys.executable, "-I", "-c", text, *words]))
        return self.runs[-1]

    def wait(self, *made: str) -> subprocess.Popen[bytes]:
        inode = self.path.stat().st_ino
        run = self.begin(0.0, *made)
        soon(lambda: self.path.stat().st_ino != inode)
        assert hold.is_aside(self.path)
        return run

    def let_go(self) -> None:
        self.held.close()

    def ask(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(10)
        client.connect(str(self.path))
        client.sendall(b"POST")
        return client

    def answer(self) -> None:
        self.server.settimeout(10)
        taken, _ = self.server.accept()
        with taken:
            assert taken.recv(4) == b"POST"
            taken.sendall(b"201")

    def as_before(self) -> bool:
        with self.ask():
            self.server.settimeout(1)
            self.server.accept()[0].close()
        names = {path.name for path in self.path.parent.iterdir()}
        return names == {"board.hold", "r1.sock", "keepalive"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.held.close()
    made.server.close()
    for run in made.runs:
        run.kill()
        run.wait()


@needs_relay
def test_requests_wait_for_the_lock_and_none_is_lost(place: Place) -> None:
    run = place.wait()
    assert not place.mark.exists()
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o660
    clients = [place.ask() for _ in range(3)]
    place.server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        place.server.accept()
    place.let_go()
    for _ in clients:
        place.answer()
    assert [client.recv(9) for client in clients] == [b"201"] * 3
    # Those who come now reach the server itself.
    assert place.as_before()
    for client in clients:
        client.close()
    assert run.wait(10) == 0


def test_one_that_nobody_waits_for_ends_at_once(place: Place) -> None:
    run = place.wait()
    place.let_go()
    assert run.wait(10) == 0
    assert place.as_before()


def test_requests_on_kept_connections_are_passed_on_before_any_wait(place: Place) -> None:
    inode = place.path.stat().st_ino
    place.begin(pause=0.5)
    soon(lambda: not place.mark.exists())
    with place.ask():
        place.answer()
    assert place.path.stat().st_ino == inode
    soon(lambda: place.path.stat().st_ino != inode)


@pytest.mark.parametrize("pause", [0.0, 30.0])
def test_an_engine_that_is_gone_by_then_holds_nobody(place: Place, pause: float) -> None:
    if pause:
        run = place.begin(pause)
        soon(lambda: not place.mark.exists())
        place.let_go()
    else:
        place.let_go()
        run = place.begin()
    assert run.wait(10) == 0
    assert place.as_before()


def test_a_server_that_makes_its_socket_is_waited_for(place: Place, tmp_path: Path) -> None:
    made = tmp_path.parent / f"{tmp_path.name}.made"
    made.touch()  # as of one that ended
    run = place.wait(str(made))
    place.let_go()
    time.sleep(0.5)
    assert hold.is_aside(place.path)
    made.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(made))
        server.listen()
        assert run.wait(10) == 0
    assert place.as_before()


def test_one_that_is_asked_to_end_puts_back(place: Place) -> None:
    run = place.wait()
    run.send_signal(signal.SIGTERM)
    assert run.wait(10) == 1
    assert place.as_before()


@pytest.mark.parametrize("held", [True, False])
def test_one_that_was_killed_goes_on_where_it_was(place: Place, held: bool) -> None:
    place.wait().kill()
    place.runs[-1].wait()
    if held:
        run = place.wait()
        place.let_go()
    else:
        place.let_go()
        run = place.begin()
    assert run.wait(10) == 0
    assert place.as_before()


def test_two_names_of_one_socket_become_one(tmp_path: Path) -> None:
    """Killed between the two: rename(2) would leave both."""
    path = tmp_path / "r1.sock"
    path.touch()
    hold.aside(path).hardlink_to(path)
    assert not hold.is_aside(path)
    hold.put_back(path)
    assert [one.name for one in tmp_path.iterdir()] == ["r1.sock"]


def test_what_no_process_has_taken_is_counted(place: Place) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(place.ask())
        assert listening.waiting(place.path) == 3
        taken, _ = place.server.accept()
        assert listening.waiting(place.path) == 2
        taken.close()
