"""Whether a second release fits beside the live one: both serve for a while, and the kernel kills.

Nobody knows what a new release will take; what the live one takes is the best that can be said.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from . import listening

# Less room than this, as a share of what the live release takes, is worth a word.
_ROOM = 1.25
MB = 2**20


def used(unit: str, proc: Path = Path("/proc")) -> int:
    """Bytes that a unit's processes take, with shared pages counted once; 0 where it does not run."""
    total = 0
    for process in listening.processes(unit, proc):
        # One may be gone by the time it is looked at.
        with contextlib.suppress(OSError):
            total += _kilobytes(process / "smaps_rollup", "Pss")
    return total * 1024


def free(proc: Path = Path("/proc")) -> int:
    """Bytes that the server has left, swap included; 0 where it does not say."""
    try:
        return 1024 * sum(_kilobytes(proc / "meminfo", name) for name in ("MemAvailable", "SwapFree"))
    except OSError:
        return 0


def _kilobytes(path: Path, name: str) -> int:
    found = re.search(rf"(?m)^{name}:\s+(\d+) kB", path.read_text())
    return int(found[1]) if found else 0


def fits(need: int, room: int) -> bool:
    """Whether it may start at all. What is not known keeps nobody from anything."""
    return not need or not room or need <= room


def is_short(need: int, room: int) -> bool:
    return bool(need and room) and room < _ROOM * need
