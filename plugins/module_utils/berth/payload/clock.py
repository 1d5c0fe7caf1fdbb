"""How often a schedule of systemd's comes, so that it can be told what is late."""

from __future__ import annotations

import itertools
import re
from datetime import datetime

# So many instants of a schedule, always from the same one: what is expected does not depend on a run's hour.
INSTANTS = 400
FROM = "--base-time=2024-01-01 00:00:00 UTC"


def late(expected: float) -> float:
    """The seconds after which there should have been another one, where one comes each so many seconds.

    The clock, half an hour at random, and the time that it takes.
    """
    return expected * 1.25 + 3600


def calendar(schedule: str, *, newer: bool = True) -> list[str]:
    """What asks systemd when a schedule comes; `newer` ones know a time to begin at."""
    return [
        *("systemd-analyze", "calendar", f"--iterations={INSTANTS}"),
        *((FROM,) if newer else ()),
        *("--", schedule),
    ]


def instants(answer: str) -> list[datetime]:
    """When a schedule comes, from what that prints."""
    found = re.findall(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", answer)
    return sorted({datetime.strptime(one, "%Y-%m-%d %H:%M:%S") for one in found})


def longest_gap(*schedules: list[datetime]) -> int:
    """The most seconds from one instant of any of them to the next, as far as all are known."""
    horizon = min((times[-1] for times in schedules if times), default=datetime.max)
    times = sorted({one for times in schedules for one in times if one <= horizon})
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(times)]
    return int(max(gaps, default=0))
