"""Sweeping what a killed engine left in folders for a moment."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..host import untrusted

# The engine's bootstrap among a process's arguments, whatever version it is of.
ENGINE = re.compile(rb"\bberth\.\w+\.agent\b")
TEMPORARY = ("run/berth-git-*", "run/berth-index-*", "tmp/berth-index-*", "var/tmp/berth-diff-*")


def sweep(root: Path = Path("/"), proc: Path = Path("/proc")) -> list[str]:
    """Folders that a killed engine had for git, perhaps with a key inside; not while another engine runs."""
    left = [path for pattern in TEMPORARY for path in root.glob(pattern)]
    if not left or _other_engines(proc):
        return []
    for path in left:
        untrusted.remove(path)
    return [path.name for path in left]


def _other_engines(proc: Path) -> bool:
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        # The shell and the sudo around an engine have its text among their arguments too, but not first.
        python = b"python" in words[0].rsplit(b"/", 1)[-1] and path.parent.name != str(os.getpid())
        if python and any(ENGINE.search(word) for word in words[1:]):
            return True
    return False
