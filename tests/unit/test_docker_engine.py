"""Settings of Docker Engine: whose file it is, what is read at once, what waits, and what is put back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.modules import docker_engine as module

SECURE = {"live-restore": True, "icc": False}


class RefusedError(Exception):
    pass


class Host:
    """A server whose engine runs, or does not; `broken` is what it does not start with."""

    def __init__(self) -> None:
        self.started = 1000
        self.containers = 0
        self.broken = ""
        self.invalid = ""
        self.commands: list[str] = []

    def run_command(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        if command[1] == "--validate":
            text = Path(command[3]).read_text()
            return (
                (1, "", f"unknown key in {command[3]}")
                if self.invalid and self.invalid in text
                else (0, "", "")
            )
        if command[0] == "docker":
            return 0, "id\n" * self.containers, ""
        if command[0] == "journalctl":
            return 0, "no such driver\nfailed\n", ""
        if command[1:3] == ["show", "-P"]:
            return 0, f"{self.started}\n", ""
        if command[1] == "show":
            state = "active" if self.started else "inactive"
            return 0, f"ActiveState={state}\nInactiveExitTimestampMonotonic=1\nNeedDaemonReload=no\n", ""
        self.commands.append(command[1])
        if command[1] == "restart":
            if self.broken and self.broken in module.CONFIG.read_text():
                return 1, "", "failed"
            self.started += 1
        if command[1] == "disable":
            self.started = 0
        return 0, "", ""

    def ask(self, state: str, config: dict[str, Any], check: bool = False) -> dict[str, Any]:
        def fail_json(msg: str) -> None:
            raise RefusedError(msg)

        self.commands = []
        given: Any = SimpleNamespace(
            run_command=self.run_command,
            check_mode=check,
            fail_json=fail_json,
            params={"config": config, "state": state},
            get_bin_path=lambda name, **_: f"/usr/sbin/{name}",
        )
        before, said = module.read(given)
        if state == "absent":
            return module.absent(given, said)
        module.refuse_others(given, said)
        return module.present(given, before, said)

    def present(self, config: dict[str, Any], check: bool = False) -> dict[str, Any]:
        return self.ask("present", config, check)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(module, "CONFIG", tmp_path / "daemon.json")
    monkeypatch.setattr(module, "WAITS", tmp_path / "waits")
    return Host()


def test_where_no_container_runs_all_holds_at_once(host: Host) -> None:
    assert host.present(SECURE, check=True)["changed"]
    assert not module.CONFIG.exists()
    found = host.present(SECURE)
    assert (found["changed"], found["waiting"]) == (True, False)
    assert host.commands == ["reload", "reset-failed", "restart"]
    assert json.loads(module.CONFIG.read_text()) == {**SECURE, "labels": [module.LABEL]}
    assert not host.present(SECURE)["changed"]
    assert host.commands == []


def test_containers_go_on_and_what_waits_is_said_until_it_holds(host: Host) -> None:
    host.present(SECURE)
    host.containers = 2
    # Read anew by the engine as it runs.
    assert not host.present({**SECURE, "debug": True})["waiting"]
    assert host.commands == ["reload"]
    assert host.present({**SECURE, "icc": True})["waiting"]
    assert host.commands == ["reload"]
    again = host.present({**SECURE, "icc": True})
    assert (again["changed"], again["waiting"], again["containers"], host.commands) == (False, True, 2, [])
    host.started += 1
    assert not host.present({**SECURE, "icc": True})["waiting"]


def test_what_was_left_waiting_holds_once_no_container_runs(host: Host) -> None:
    host.containers = 1
    host.present(SECURE)
    host.containers = 0
    found = host.present(SECURE)
    assert (found["changed"], found["waiting"]) == (True, False)
    assert "restart" in host.commands


def test_a_run_that_ended_before_the_file_was_read_is_made_good(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.containers = 1

    def cut(_: str) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(module, "put", cut)
        with pytest.raises(SystemExit):
            host.present(SECURE)
    assert host.present(SECURE)["waiting"]


def test_settings_it_does_not_start_with_are_put_back(host: Host) -> None:
    host.present(SECURE)
    before = module.CONFIG.read_text()
    host.broken = "other.sock"
    with pytest.raises(RefusedError, match=r"no such driver / failed. .* what it was before, and it runs"):
        host.present({**SECURE, "hosts": ["unix:///run/other.sock"]})
    assert module.CONFIG.read_text() == before
    host.invalid = "icy"
    with pytest.raises(
        RefusedError, match=r"would not start with these settings: unknown key in .*daemon.json"
    ):
        host.present({**SECURE, "icy": True})
    assert module.CONFIG.read_text() == before


def test_another_s_file_is_taken_over_only_where_nothing_is_lost(host: Host) -> None:
    module.CONFIG.write_text('{"dns": ["192.0.2.1"], "icc": true}')
    with pytest.raises(RefusedError, match=r"what it says of dns, icc would be lost"):
        host.present(SECURE)
    assert not host.present({**SECURE, "dns": ["192.0.2.1"], "icc": True}, check=True)["waiting"]
    module.CONFIG.write_text("{")
    with pytest.raises(RefusedError, match="is no JSON"):
        host.present(SECURE)


def test_switched_off_only_ours_goes_and_containers_stay(host: Host) -> None:
    module.CONFIG.write_text('{"debug": true}')
    assert not host.ask("absent", {})["changed"]
    assert module.CONFIG.exists()
    module.CONFIG.unlink()
    host.present(SECURE)
    host.containers = 1
    assert host.ask("absent", {}, check=True)["changed"]
    assert module.CONFIG.exists()
    assert host.ask("absent", {})["changed"]
    assert (module.CONFIG.exists(), host.commands) == (False, [])
    host.containers = 0
    host.present(SECURE)
    host.ask("absent", {})
    assert host.commands == ["disable"]
    assert not host.ask("absent", {})["changed"]
