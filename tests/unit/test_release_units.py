"""When the processes of a new release are through their start."""

from __future__ import annotations

import os

import pytest
from ansible.module_utils.berth.release import units


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
