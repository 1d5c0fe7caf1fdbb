"""The module guard: what needs a proof and what does not, what check mode tells, and its sentences."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth.payload import guard as program

from plugins.modules import guard as module


class Host:
    def __init__(self, root: Path) -> None:
        self.path = root / "a.conf"
        self.answers: dict[str, tuple[int, str]] = {}
        self.commands: list[str] = []
        self.guard = program.Guard("ssh", root / "state")

    def run(self, command: list[str]) -> tuple[int, str]:
        self.commands.append(command[0])
        return self.answers.get(command[0], (0, ""))

    def apply(self, content: str | None, check: bool = False, **more: Any) -> dict[str, Any]:
        params = {
            "files": [{"path": str(self.path), "content": content, "mode": "0644"}],
            "checks": [], "reload": [["reload"]], "live": [], "seconds": 120, **more,
        }  # fmt: skip
        return module.apply(SimpleNamespace(params=params, check_mode=check), self.guard)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(program, "run", host.run)
    monkeypatch.setattr(program, "PAUSE", 0)
    monkeypatch.setattr(program, "PROGRAM", tmp_path / "lib" / "guard.py")
    monkeypatch.setattr(module, "UNIT", tmp_path / "units" / "berth-guard.service")
    return host


def test_the_way_back_is_there_before_anything_is_changed(host: Host) -> None:
    token = host.apply("a\n")["token"]
    assert token
    assert program.PROGRAM.read_text() == Path(program.__file__).read_text()
    assert module.UNIT.read_text() == module.UNIT_TEXT
    before = host.commands.index("systemd-run")
    assert host.commands[:before].count("systemctl") == 3  # asked whether it is enabled, read, enabled
    host.guard.keep(token)
    result = host.apply("a\n")
    assert not result["changed"]
    assert result["token"] == ""


def test_a_file_that_shall_not_be_there(host: Host) -> None:
    host.guard.keep(host.apply("a\n")["token"])
    result = host.apply(None)
    assert result["changed"]
    assert not host.path.exists()
    host.guard.keep(result["token"])
    assert not host.apply(None)["changed"]


def test_what_an_earlier_run_left_unproved_is_put_back_first_and_told(host: Host) -> None:
    host.apply("a\n")
    assert host.apply("a\n", check=True)["changed"]
    result = host.apply("a\n")
    assert result["diff"][0]["before"] == ""
    assert "ended before a new login had proved it" in result["notes"][0]
    host.guard.revert(result["token"], "no new login proved it in time")
    assert host.apply("a\n")["notes"] == [
        "The last change of ssh was put back: no new login proved it in time."
    ]


def test_check_mode_changes_nothing(host: Host, tmp_path: Path) -> None:
    result = host.apply("a\n", check=True)
    assert (result["changed"], result["token"]) == (True, "")
    assert result["diff"][0]["after"] == "a\n"
    assert list(tmp_path.iterdir()) == []


def test_what_the_server_does_not_go_by_any_more_is_read_again(host: Host) -> None:
    host.guard.keep(host.apply("a\n")["token"])
    host.answers["is-loaded"] = (1, "")
    result = host.apply("a\n", live=["is-loaded"])
    assert result["changed"]
    assert result["token"]


def test_a_refused_file_is_told_with_its_line(host: Host) -> None:
    host.answers["sshd"] = (255, "a.conf line 3: Bad configuration option: x\na.conf: terminating")
    checks = [{"command": ["sshd", "-t"], "lines": [], "hint": ""}]
    with pytest.raises(program.GuardError, match=r"`sshd -t` refuses it: a\.conf line 3: Bad"):
        host.apply("x\n", checks=checks)
    assert not host.path.exists()


def test_a_setting_that_another_file_wins_is_told(host: Host) -> None:
    host.answers["sshd"] = (0, "port 22\npasswordauthentication yes\n")
    checks = [{"command": ["sshd", "-T"], "lines": ["PasswordAuthentication no"], "hint": "Look for it."}]
    with pytest.raises(
        program.GuardError,
        match=r"would go by `passwordauthentication yes` and not by `PasswordAuthentication no`",
    ):
        host.apply("x\n", checks=checks)
    checks[0]["lines"] = ["Port 22"]
    assert host.apply("x\n", checks=checks)["token"]
