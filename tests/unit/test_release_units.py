"""When the processes of a new release are through their start."""

from __future__ import annotations

import os
import time

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.runtime import units


@pytest.mark.parametrize(
    ("before", "now", "rests"),
    [
        ({7: 50}, {7: 50}, True),
        ({7: 50, 8: 10}, {7: 51, 8: 10}, True),
        ({7: 50}, {7: 70}, False),
        ({7: 50}, {7: -1}, False),
        ({7: -1}, {7: 50}, False),
        ({7: -1}, {7: 0}, False),
        ({7: -1}, {7: -1}, False),
        ({7: 50}, {7: 50, 8: 1}, False),
        ({}, {7: 50}, False),
    ],
)
def test_a_process_rests_when_it_sleeps_and_uses_no_time(
    before: dict[int, int], now: dict[int, int], rests: bool
) -> None:
    assert units.resting(before, now) is rests


def test_a_process_that_runs_is_told_from_one_that_sleeps() -> None:
    assert units.busy(os.getpid())[os.getpid()] == -1
    assert units.busy(1).keys() >= {1}
    assert units.busy(0) == {}


class Systemd:
    """Units with the properties that systemctl shows, and what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **found: dict[str, str]) -> None:
        self.found = {f"{name}.service": one for name, one in found.items()}
        self.asked: list[tuple[str, ...]] = []
        self.refuses = ""
        monkeypatch.setattr(units, "systemctl", self.systemctl)

    def systemctl(self, *words: str, **_: float) -> Result:
        self.asked.append(words)
        names = [word for word in words if word in self.found]
        if words[0] == "show":
            blocks = ["".join(f"{k}={v}\n" for k, v in {"Id": n, **self.found[n]}.items()) for n in names]
            return Result(0, "\n".join(blocks), "")
        if words[0] == "is-active":
            return Result(0, "".join(f"{self.found[name]['ActiveState']}\n" for name in names), "")
        return Result(1 if self.refuses else 0, "", self.refuses)


RUNS = {"ActiveState": "active", "SubState": "running", "NRestarts": "1", "MainPID": "0"}
TRIES = {"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "7"}
QUEUED = {**TRIES, "SubState": "auto-restart-queued"}
FAILED = {"ActiveState": "failed", "SubState": "failed", "NRestarts": "3"}
STOPPED = {"ActiveState": "inactive", "SubState": "dead", "NRestarts": "2"}


def test_the_past_of_what_runs_is_a_base_line_and_the_rest_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    systemd = Systemd(monkeypatch, a=RUNS, b=TRIES, c=FAILED, d=STOPPED)
    began = time.time()
    past = units.start([*systemd.found])
    assert past.restarts == {"a.service": 1}
    assert began <= past.since <= time.time()
    assert systemd.asked[1:] == [
        ("stop", "b.service"),
        ("reset-failed", "b.service", "c.service"),
        ("start", "a.service", "b.service", "c.service", "d.service"),
    ]


def test_a_start_that_systemd_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(monkeypatch, a=STOPPED)
    systemd.refuses = "Failed to start a.service: Unit a.service has a bad unit file setting."
    with pytest.raises(ReleaseError, match="bad unit file setting"):
        units.start(["a.service"], wait=False)


def test_nothing_is_asked_for_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(monkeypatch)
    units.start([])
    assert systemd.asked == []


@pytest.mark.parametrize(
    ("state", "fell"),
    [
        (RUNS, ""),
        ({**RUNS, "NRestarts": "2"}, "a.service"),
        (TRIES, "a.service"),
        (QUEUED, "a.service"),
        (FAILED, "a.service"),
    ],
)
def test_a_worker_that_was_restarted_once_long_ago_stays_up(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, str], fell: str
) -> None:
    Systemd(monkeypatch, a=state)
    assert units.fallen(["a.service"], 0, 0, units.Past(restarts={"a.service": 1})) == fell
