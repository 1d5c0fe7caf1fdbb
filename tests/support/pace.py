"""How long to wait for what is well on this machine, be it slow by nature or busy."""

from __future__ import annotations

import os
import time

# Seconds that _work takes on an idle machine on which every wait is long enough as it is written.
REFERENCE = 0.13


def _work() -> float:
    """How long a fixed piece of work takes here and now."""
    began = time.monotonic()
    sum(number * number for number in range(2_000_000))
    return time.monotonic() - began


# Once, as the tests are collected; what begins later is seen in the load.
SLOWNESS = max(1.0, _work() / REFERENCE)


def patience(seconds: float) -> float:
    """A time for an idle machine, as this one takes for it now: where many want to run, each gets less."""
    return seconds * max(SLOWNESS, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))
