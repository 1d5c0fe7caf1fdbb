"""Services that are confined: what is restarted for it, what is not, and what is put back."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.modules import unit_drop_ins as module

UNIT = "a@1-main.service"


class RefusedError(Exception):
    pass


class Host:
    """A server with one unit, which runs since an hour."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: float | None = time.monotonic() - 3600
        self.loaded = ""
        self.broken = ""
        self.commands: list[str] = []

    def run_command(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        verb = command[1]
        self.commands.append(verb)
        said = ""
        if verb == "show":
            state, since = ("inactive", 0.0) if self.started is None else ("active", self.started)
            stale = "no" if self.text() == self.loaded else "yes"
            said = (
                f"ActiveState={state}\nInactiveExitTimestampMonotonic={int(since * 1e6)}\n"
                f"NeedDaemonReload={stale}\n"
            )
        elif verb == "daemon-reload":
            self.loaded = self.text()
        elif verb == "restart":
            if self.broken and self.loaded == self.broken:
                return 1, "", "failed"
            self.started = time.monotonic()
        elif command[0] == "journalctl":
            said = "no such user\nfailed\n"
        return 0, said, ""

    def text(self) -> str:
        path = module.drop_in(UNIT)
        return path.read_text() if path.exists() else ""

    def confine(self, text: str | None, check: bool = False) -> dict[str, Any]:
        def fail_json(msg: str) -> None:
            raise RefusedError(msg)

        self.commands = []
        given: Any = SimpleNamespace(run_command=self.run_command, check_mode=check, fail_json=fail_json)
        return module.confine(given, {UNIT: text} if text is not None else {})

    def serve(self) -> None:
        (self.root / "srv" / "board").mkdir(parents=True)
        (self.root / "srv" / "board" / "web.sock").symlink_to("/nowhere")

    def aged(self, seconds: float) -> None:
        os.utime(module.drop_in(UNIT), (time.time() - seconds,) * 2)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(module, "UNITS", tmp_path / "units")
    monkeypatch.setattr(module, "SERVED", tmp_path / "srv")
    return Host(tmp_path)


def test_where_nobody_is_served_it_holds_at_once(host: Host) -> None:
    result = host.confine("x\n")
    assert (result["changed"], result["restarted"], result["waiting"]) == (True, [UNIT], [])
    assert host.commands == ["show", "daemon-reload", "restart"]
    host.aged(10)
    host.started = time.monotonic() - 5
    assert not host.confine("x\n")["changed"]
    assert host.commands == ["show"]


def test_what_serves_apps_is_left_running_and_named_until_it_was_restarted(host: Host) -> None:
    host.serve()
    assert host.confine("x\n")["waiting"] == [UNIT]
    host.aged(10)
    again = host.confine("x\n")
    assert (again["changed"], again["waiting"]) == (False, [UNIT])
    assert "restart" not in host.commands
    host.started = time.monotonic() - 5
    assert host.confine("x\n")["waiting"] == []
    gone = host.confine(None)
    assert (gone["changed"], gone["waiting"]) == (True, [UNIT])
    assert list((host.root / "units").iterdir()) == []


def test_what_never_held_needs_no_restart_to_end(host: Host) -> None:
    host.serve()
    host.confine("x\n")
    assert host.confine(None)["waiting"] == []


def test_what_does_not_run_needs_no_restart(host: Host) -> None:
    host.started = None
    result = host.confine("x\n")
    assert (result["restarted"], result["waiting"]) == ([], [])


def test_what_a_killed_run_left_half_done_is_finished(host: Host) -> None:
    module.put(UNIT, "x\n")
    assert host.confine("x\n")["restarted"] == [UNIT]
    assert host.commands == ["show", "daemon-reload", "restart"]


def test_one_that_does_not_come_up_runs_as_it_did_before(host: Host) -> None:
    host.broken = "x\n"
    with pytest.raises(RefusedError) as refused:
        host.confine("x\n")
    assert str(refused.value) == (
        f"{UNIT} did not come up with its new 60-berth-hardening.conf: no such user / failed. What was "
        "before is back, and it runs. To go on without: server.hardening.units: false."
    )
    assert host.text() == ""
    assert host.commands[-2:] == ["daemon-reload", "restart"]


def test_check_mode_tells_and_does_nothing(host: Host) -> None:
    result = host.confine("x\n", check=True)
    assert result["changed"]
    assert result["diff"][0]["after"] == "x\n"
    assert host.commands == []
    assert host.text() == ""


def test_another_drop_in_of_the_unit_stays(host: Host) -> None:
    host.confine("x\n")
    other = module.drop_in(UNIT).with_name("70-mine.conf")
    other.write_text("[Service]\n")
    host.confine(None)
    assert other.exists()
