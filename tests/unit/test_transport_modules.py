"""Modules that one Python on the server runs: as Ansible would have run them, each for itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth import ansible_private
from ansible.module_utils.berth.transport import modules, session


class Become:
    def __init__(self, user: str | None = None) -> None:
        self.user = user

    def get_option(self, name: str) -> str | None:
        return self.user if name == "become_user" else None

    def build_become_command(self, command: str, _shell: Any) -> str:
        # As Ansible's, of which a part is another one for each task.
        return f"echo BECOME-SUCCESS-{uuid.uuid4()}; {command}"


def connection(transport: str = "ssh", become: Become | None = None) -> Any:
    return SimpleNamespace(transport=transport, become=become)


def here(_connection: Any, command: str, *_: Any) -> list[str]:
    return ["/bin/sh", "-c", f"exec {command}"]


@pytest.fixture
def run() -> Iterator[subprocess.Popen[bytes]]:
    """What stands for ansible's process."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: subprocess.Popen[bytes]
) -> Iterator[modules.Server]:
    """One on this machine, in whose folder Ansible keeps what is temporary."""
    monkeypatch.setattr(session, "_argv", here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "ansible-local-1x"
    folder.mkdir()
    found = modules.Server(str(folder), connection(), sys.executable)
    assert found.ready(run.pid), "it does not start"
    yield found
    run.kill()
    gone(folder)


def gone(folder: Path) -> bool:
    deadline = time.monotonic() + 20
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not folder.exists()


def ask(server: modules.Server, module: str, **args: Any) -> dict[str, Any]:
    found = modules.find(module)
    assert found
    told = {**args, "_ansible_tracebacks_for": [], "_ansible_target_log_info": None}
    answer = server.run(found.name, ansible_private.module_request(told))
    return {**answer, "said": json.loads(answer["stdout"]) if answer["stdout"].strip() else {}}


def test_modules_are_run_as_ansible_would(server: modules.Server, tmp_path: Path) -> None:
    assert (tmp_path / "home/.ansible/tmp").is_dir()
    place = tmp_path / "made"
    for changed in (True, False):
        answer = ask(server, "ansible.builtin.file", path=str(place), state="directory", mode="0750")
        assert (answer["rc"], answer["said"]["changed"]) == (0, changed)
    assert place.stat().st_mode & 0o777 == 0o750
    # One of Berth's, with a module_utils of Berth's.
    wanted = [{"path": str(place / "x"), "content": "text\n"}]
    assert ask(server, "config_files", files=wanted, _ansible_check_mode=True)["said"]["changed"]
    assert not (place / "x").exists()
    assert ask(server, "config_files", files=wanted)["said"]["changed"]
    assert (place / "x").read_text() == "text\n"
    assert not ask(server, "config_files", files=wanted)["said"]["changed"]


def test_one_that_fails_leaves_the_server_as_it_was(server: modules.Server) -> None:
    answer = ask(server, "ansible.builtin.file", path="/nowhere/at/all", state="touch")
    assert answer["rc"] == 1
    assert answer["said"]["failed"]
    # Arguments that none has: told by the module itself.
    answer = ask(server, "config_files", nonsense=1)
    assert "missing required arguments: files" in answer["said"]["msg"]
    # A module that is not there is the child's trouble.
    answer = server.run("ansible.modules.no_such", ansible_private.module_request({}))
    assert answer["rc"] == 1
    assert "no_such" in answer["stdout"] + answer["stderr"]
    assert ask(server, "ansible.builtin.file", path="/tmp", state="directory")["rc"] == 0


def test_it_ends_with_the_run_that_it_was_for(
    server: modules.Server, run: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert ask(server, "ansible.builtin.file", path="/tmp", state="directory")["rc"] == 0
    (process,) = [path for path in Path("/proc").glob("[0-9]*/cwd") if works_in(path, tmp_path)]
    run.kill()
    assert gone(tmp_path / "ansible-local-1x")
    assert not process.exists()


def works_in(link: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return link.readlink().is_relative_to(folder)
    return False


def test_where_there_can_be_none_it_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = tmp_path / "tried"
    argv = ["/bin/sh", "-c", f"echo x >> {tried}; echo no python here >&2; exit 127"]
    monkeypatch.setattr(session, "_argv", lambda *_: argv)
    folder = tmp_path / "ansible-local-3x"
    folder.mkdir()
    for _ in range(2):
        assert not modules.Server(str(folder), connection(), "/usr/bin/python3").ready(os.getpid())
    # The run goes on, and what it keeps there is its own.
    time.sleep(1)
    assert folder.exists()
    assert tried.read_text() == "x\n"


def test_all_tasks_of_a_run_ask_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(host: str, become: Become | None) -> Path:
        monkeypatch.setattr(session, "_argv", lambda _connection, command, *_: ["ssh", host, command])
        server = modules.Server(str(tmp_path), connection(become=become), "/usr/bin/python3")
        return Path(server.session.path)

    assert place("a", Become()) == place("a", Become())
    assert len({place("a", Become()), place("b", Become()), place("a", None)}) == 3


@pytest.mark.parametrize(
    ("one", "suits"),
    [
        (connection(), True),
        (connection("community.docker.docker"), True),
        (connection("docker", Become("root")), True),
        (connection("ssh", Become("postgres")), False),
        (connection("local"), False),
        (connection("winrm"), False),
    ],
)
def test_a_connection_that_stays_open_as_root(one: Any, suits: bool) -> None:
    assert modules.suits(one) is suits


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("config_files", True),
        ("ansible.builtin.file", True),
        ("ansible.builtin.systemd_service", True),
        ("ansible.builtin.setup", False),
        ("ansible.builtin.config_files", False),
        ("file", False),
        ("community.general.config_files", False),
        ("../config_files", False),
    ],
)
def test_what_it_runs(name: str, found: bool) -> None:
    assert bool(modules.find(name)) is found


def test_this_version_of_ansible_runs_modules_so() -> None:
    assert ansible_private.runs_modules()
