"""The guard: at every instant what was before, or what is proved, or something that brings it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import guard as program

OLD, NEW = "Port 22\n", "AllowUsers nobody\n"


class Host:
    """Two files below a folder: one that is there, one that is not yet; and a server that reads both."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.there, self.new = root / "etc" / "there.conf", root / "etc" / "new.conf"
        self.there.parent.mkdir()
        self.there.write_text(OLD)
        self.there.chmod(0o640)
        self.commands: list[list[str]] = []
        self.broken: set[str] = set()
        self.read: tuple[str, ...] = self.on_disk()
        self.guard = program.Guard("ssh", self.state)

    def on_disk(self) -> tuple[str, ...]:
        return tuple(path.read_text() if path.exists() else "" for path in (self.there, self.new))

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        self.commands.append(list(command))
        if command[0] in self.broken:
            return 1, "first words\nno, said the last line"
        if command[0] == "reload":
            self.read = self.on_disk()
        return 0, ""

    def wanted(self) -> list[dict[str, Any]]:
        content = program.base64.b64encode(NEW.encode()).decode()
        owners = {"uid": os.geteuid(), "gid": os.getegid()}
        return [
            {"path": str(path), "content": content, "mode": 0o644, **owners}
            for path in (self.there, self.new)
        ]

    def apply(self, **more: Any) -> str:
        token: str = self.guard.apply(self.wanted(), [["reload", "it"]], **more)
        return token


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(program, "run", host.run)
    monkeypatch.setattr(program, "PAUSE", 0)
    return host


def test_what_is_proved_stays(host: Host) -> None:
    token = host.apply()
    assert host.read == (NEW, NEW)
    assert host.guard.unproved()
    host.guard.keep(token)
    assert not host.guard.unproved()
    assert host.guard.told()["state"] == "kept"
    assert ["systemctl", "stop", f"berth-guard-ssh-{token}.timer"] in host.commands
    assert not host.guard.revert(token, "its timer came late")
    assert program.boot(host.state) == []
    assert host.on_disk() == (NEW, NEW)


def test_what_nobody_proves_is_put_back_with_modes_and_absence(host: Host) -> None:
    token = host.apply()
    assert host.guard.revert(token, "no new login proved it in time")
    assert host.read == (OLD, "")
    assert host.there.stat().st_mode & 0o777 == 0o640
    assert not host.new.exists()
    assert host.guard.told()["why"] == "no new login proved it in time"
    assert not host.guard.revert(token, "again")


def test_the_timer_is_there_before_anything_is_changed(host: Host) -> None:
    host.broken = {"systemd-run"}
    with pytest.raises(program.GuardError, match=r"no timer can be set .*: no, said the last line"):
        host.apply()
    assert host.on_disk() == (OLD, "")
    assert not host.guard.unproved()
    assert [command[0] for command in host.commands] == ["systemd-run"]


def test_a_reload_that_fails_is_put_back_at_once(host: Host) -> None:
    host.broken = {"reload"}
    with pytest.raises(program.GuardError, match="`reload it` failed: no, said the last line"):
        host.apply()
    assert host.on_disk() == (OLD, "")
    # It tried to have the old files read as well, and says that it could not.
    assert host.guard.told()["why"].count("`reload it` failed") == 2
    assert host.commands.count(["reload", "it"]) == 1 + program.TRIES


def test_what_a_check_refuses_is_read_by_nobody(host: Host) -> None:
    seen = []

    def check() -> str:
        seen.append(host.on_disk())
        return "line 3 is wrong"

    with pytest.raises(program.GuardError, match="line 3 is wrong"):
        host.apply(check=check)
    assert seen == [(NEW, NEW)]
    assert host.read == host.on_disk() == (OLD, "")


def test_a_process_that_was_stopped_for_long_does_not_reload(host: Host) -> None:
    with pytest.raises(program.GuardError, match="too slow"):
        host.apply(seconds=program.COMMAND)
    assert host.read == host.on_disk() == (OLD, "")


def test_a_change_that_was_put_back_cannot_be_kept(host: Host) -> None:
    token = host.apply()
    program.boot(host.state)
    with pytest.raises(program.GuardError, match="put back before its proof arrived"):
        host.guard.keep(token)


def test_a_proof_counts_for_its_own_change_alone(host: Host) -> None:
    first = host.apply()
    second = host.apply()
    assert not host.guard.revert(first, "the first one's timer")
    with pytest.raises(program.GuardError, match="run again"):
        host.guard.keep(first)
    assert host.on_disk() == (NEW, NEW)
    assert host.guard.revert(second, "the second one's timer")
    # The second began with what was before the first, which nobody had proved.
    assert host.on_disk() == (OLD, "")


def test_a_boot_puts_back_files_and_starts_nothing(host: Host) -> None:
    host.apply()
    host.commands.clear()
    assert program.boot(host.state) == ["ssh"]
    assert host.on_disk() == (OLD, "")
    assert host.commands == []


def test_it_touches_only_what_is_roots_alone(host: Host, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    link = host.there.with_name("link.conf")
    link.symlink_to(host.there)
    for path, why in ((loose / "x", "root alone writes"), (link, "no plain file of root's")):
        with pytest.raises(program.GuardError, match=why):
            host.guard.apply([{"path": str(path), "content": None}], [])
    assert not host.guard.unproved()


def test_the_real_program_reverts_by_name_and_token(host: Host, tmp_path: Path) -> None:
    """As its timer and the boot call it: by itself, isolated, with the standard library alone."""
    token = host.apply()
    text = Path(program.__file__).read_text().replace('"/var/lib/berth/guard"', json.dumps(str(host.state)))
    script = tmp_path / "guard.py"
    script.write_text(text)

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-I", str(script), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    assert call("revert", "ssh", "another") == ""
    assert host.on_disk() == (NEW, NEW)
    # Its reload is a command that this machine does not have: the files come back all the same.
    assert "what was before is back" in call("revert", "ssh", token)
    assert host.on_disk() == (OLD, "")
    token = host.apply()
    assert call("boot").startswith("ssh: what was before is back")
    assert host.on_disk() == (OLD, "")
    assert (
        subprocess.run([sys.executable, "-I", str(script)], check=False, capture_output=True).returncode == 2
    )


# Killed anywhere --------------------------------------------------------------------------------------------

# All that reaches the disk or another program goes through these.
CALLS = ("fsync", "replace", "unlink", "open", "fchmod")


def killed(host: Host, work: Callable[[], object], number: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do some work in a child that dies before its call of that number; whether it came so far."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os._exit(9)
            return function(*words, **more)

        return call

    try:
        for name in CALLS:
            monkeypatch.setattr(program.os, name, counted(getattr(os, name)))
        monkeypatch.setattr(program, "run", counted(host.run))
        work()
    finally:
        os._exit(0)


def test_killed_before_any_call_the_next_boot_or_timer_has_the_old_state(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 1
    while killed(host, host.apply, number, monkeypatch):
        change = host.guard.unproved()
        if change is None:
            assert host.on_disk() == (OLD, ""), number
        elif number % 2:
            assert program.boot(host.state) == ["ssh"]
        else:
            assert host.guard.revert(change["token"], "its timer")
        assert host.on_disk() == (OLD, ""), number
        assert sorted(path.name for path in host.there.parent.iterdir()) == ["there.conf"], number
        number += 1
    assert number > 20
    program.boot(host.state)


def test_killed_while_it_puts_back_it_is_put_back_the_next_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, more = 1, True
    while more:
        token = host.apply()
        more = killed(host, lambda token=token: host.guard.revert(token, "timer"), number, monkeypatch)  # type: ignore[misc]
        program.boot(host.state)
        assert host.on_disk() == (OLD, ""), number
        assert not host.guard.unproved()
        number += 1
    assert number > 10


def test_killed_while_it_keeps_it_is_kept_or_put_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    number, more, seen = 1, True, set()
    while more:
        token = host.apply()
        more = killed(host, lambda token=token: host.guard.keep(token), number, monkeypatch)  # type: ignore[misc]
        program.boot(host.state)
        seen.add(host.on_disk())
        assert not host.guard.unproved()
        for path in (host.there, host.new):
            path.unlink(missing_ok=True)
        host.there.write_text(OLD)
        number += 1
    assert seen == {(OLD, ""), (NEW, NEW)}
