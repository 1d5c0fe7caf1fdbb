"""Programs and libraries that an update has replaced and that processes still run on, as they were.

The kernel keeps a file that was removed for as long as somebody has it mapped. What installs updates restarts
the distribution's services for that and no app, since a release is replaced by a deploy alone.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from . import listening

# The last field of a line of /proc/<pid>/maps. A file that dpkg moves aside first has a name of that.
_GONE = re.compile(r" (/(?:usr|lib\w*|opt)/\S+?)(?:\.dpkg-\w+)? \(deleted\)$", re.MULTILINE)


def files(units: list[str], proc: Path = Path("/proc")) -> list[str]:
    """Names of such files that processes of these units have mapped, without their folders, in order."""
    found: set[str] = set()
    for unit in units:
        for process in listening.processes(unit, proc):
            # One may be gone by the time it is looked at.
            with contextlib.suppress(OSError):
                found |= {Path(path).name for path in _GONE.findall((process / "maps").read_text())}
    return sorted(found)
