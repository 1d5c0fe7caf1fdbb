"""Whether a second release has room beside the live one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import plan
from ansible.module_utils.berth.runtime import memory, units
from ansible.module_utils.berth.store import releases

MB = 2**20


def test_what_a_unit_takes_and_what_is_left(tmp_path: Path) -> None:
    for pid, unit, pss in (("7", "board-web@r1", 30720), ("8", "board-web@r1", 10240), ("9", "x-web@r1", 99)):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(f"0::/system.slice/{unit}.service\n")
        (tmp_path / pid / "smaps_rollup").write_text(f"00400000-7fff [rollup]\nRss: 1 kB\nPss:   {pss} kB\n")
    (tmp_path / "10").mkdir()  # a process that ends while it is looked at
    (tmp_path / "10" / "cgroup").write_text("0::/system.slice/board-web@r1.service\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  2048 kB\nSwapFree:  1024 kB\n")
    assert memory.used("board-web@r1.service", tmp_path) == 40 * MB
    assert memory.used("board-web@r2.service", tmp_path) == 0
    assert memory.free(tmp_path) == 3 * MB
    assert memory.free(tmp_path / "none") == 0


def test_of_a_real_process() -> None:
    words = Path("/proc/self/cgroup").read_text().split("/")
    assert words
    assert memory._kilobytes(Path("/proc/self/smaps_rollup"), "Pss") > 1000
    assert memory.free() > 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """A deploy of an app whose live release takes 100 MB; a second of waiting takes no time."""
    paths = Paths("board", tmp_path)
    paths.releases.mkdir(parents=True)
    found = Deploy(paths, {})
    found.previous = "r2"
    monkeypatch.setattr(memory, "used", lambda unit: 100 * MB if unit == "board-web@r2.service" else 0)
    clock = iter(range(10_000))
    monkeypatch.setattr(plan.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(plan.time, "sleep", lambda _: None)
    monkeypatch.setattr(releases, "records", lambda _: {"r1": {}})
    return found


def ask(run: Deploy, monkeypatch: pytest.MonkeyPatch, *free: int, retires: bool = False, **how: bool) -> str:
    """What is noted where so many megabytes are free, one after the other."""
    left = list(free)
    monkeypatch.setattr(memory, "free", lambda: MB * (left.pop(0) if len(left) > 1 else left[0]))
    state = "active" if retires else "inactive"
    monkeypatch.setattr(units, "states", lambda names: dict.fromkeys(names, state))
    plan._has_room(run, how.get("force", False), how.get("check", False))
    return " ".join(run.notes)


def test_room_enough_is_no_word_and_little_is_one(run: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(run, monkeypatch, 125) == ""
    assert ask(run, monkeypatch, 0) == "", "a server that does not say what it has"
    said = ask(run, monkeypatch, 124)
    assert said == (
        "Memory is short for two releases at a time: r2 takes 100 MB and 124 MB are free, swap included."
    )


def test_too_little_is_refused_before_anything_is_made(run: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReleaseError) as refused:
        ask(run, monkeypatch, 99)
    assert refused.value.sentence == (
        "A second release does not fit into memory beside the live one: r2 takes 100 MB and 99 MB are free, "
        "swap included. Nothing was changed."
    )
    assert "berth deploy board --force" in refused.value.advice
    assert ask(run, monkeypatch, 99, force=True).endswith("swap included.")
    run.notes.clear()
    assert ask(run, monkeypatch, 99, check=True).endswith("The deploy would stop here.")


def test_what_retires_is_given_the_time_to_end(run: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(run, monkeypatch, 99, 99, 200, retires=True) == ""
    said = ask(run, monkeypatch, *[99] * 9, 200, retires=True)
    assert re.fullmatch(r"It waited \d+ s for memory, until an older release had ended\.", said)
    run.notes.clear()
    with pytest.raises(
        ReleaseError, match=re.escape("1 older still retire (drain.releases, drain.websocket)")
    ):
        ask(run, monkeypatch, 99, retires=True)


def test_a_first_release_has_nothing_to_compare_with(run: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    run.previous = "r9"
    assert ask(run, monkeypatch, 1) == ""
