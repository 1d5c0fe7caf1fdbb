"""Jobs over a change of release: what ran last, who may run now, and what prune has to leave alone."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.runtime import jobs, naming, units
from ansible.module_utils.berth.store import prune

from tests.support.entry import board

APP = board(jobs=[{"name": "nightly", "command": "n"}])
NONE: dict[str, Any] = {**APP, "jobs": []}
YESTERDAY, TODAY = 1_700_000_000, 1_700_086_400


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    (tmp_path / "var/lib/systemd/timers").mkdir(parents=True)
    return Paths("board", tmp_path)


def ran(place: Paths, release: str, at: int = 0) -> int:
    """When systemd thinks that the release's timer ran last; set where `at` is given, 0 for never."""
    path = naming.stamp(place, f"board-nightly@{release}.timer")
    if at:
        path.touch()
        os.utime(path, (at, at))
    return int(path.stat().st_mtime) if path.exists() else 0


def test_what_ran_under_another_release_is_not_run_again(place: Paths) -> None:
    ran(place, "r1", YESTERDAY)
    ran(place, "r2", TODAY)
    jobs.hand_over(place, APP, "r1", APP)
    assert ran(place, "r1") == TODAY


def test_an_instant_in_the_gap_is_still_due(place: Paths) -> None:
    ran(place, "r1", YESTERDAY)
    jobs.hand_over(place, APP, "r2", APP)
    assert ran(place, "r2") == YESTERDAY


def test_a_job_that_was_not_there_has_nothing_to_make_up_for(place: Paths) -> None:
    ran(place, "r1", YESTERDAY)
    jobs.hand_over(place, APP, "r1", NONE)
    assert ran(place, "r1") == 0
    jobs.hand_over(place, APP, "r1", APP)
    assert ran(place, "r1") == 0


def test_old_timers_end_before_their_stamps_are_read(place: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(place, "r1", YESTERDAY)
    order = []

    def stop(names: list[str]) -> None:
        order.append(("stop", *names))
        ran(place, "r1", TODAY)  # it came due while it was asked to stop

    monkeypatch.setattr(units, "stop", stop)
    monkeypatch.setattr(units, "start", lambda names: order.append(("start", *names)))
    jobs.change_over(place, APP, "r2", "r1", APP)
    assert order == [("stop", "board-nightly@r1.timer"), ("start", "board-nightly@r2.timer")]
    assert ran(place, "r2") == TODAY


def test_a_restart_keeps_its_own_stamp(place: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(place, "r1", YESTERDAY)
    monkeypatch.setattr(units, "start", lambda _: None)
    jobs.change_over(place, APP, "r1", "r1", APP)
    assert ran(place, "r1") == YESTERDAY


def test_two_runs_of_a_job_never_overlap(place: Paths) -> None:
    place.base.mkdir(parents=True)
    jobs.make_locks(place, APP, os.getgid())
    assert place.job_lock("nightly").stat().st_mode & 0o777 == 0o640
    script = "\n".join([*jobs.once(place, "nightly"), "echo worked"])

    def run() -> str:
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout

    assert run() == "worked\n"
    with place.job_lock("nightly").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "left out" in run()
        assert "worked" not in run()
    assert run() == "worked\n"


def test_a_release_whose_job_runs_is_at_work(place: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    place.units.mkdir(parents=True)
    names = [f"board-{one}@{release}.service" for one in ("web", "nightly") for release in ("r1", "r2")]
    for name in [*names, "board-nightly@r2.timer"]:
        (place.units / name).write_text("# Berth app: board\n")
    states = {"board-nightly@r1.service": "activating"}
    monkeypatch.setattr(units, "states", lambda asked: {name: states.get(name, "inactive") for name in asked})
    assert prune.at_work(place) == ["r1"]
