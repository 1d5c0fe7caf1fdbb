"""What a power cut does to files: one that was written moments before may be there afterwards, and be empty.

A release goes live when it is on the disk. What is written on the way and outlives it, by programs that do
not wait for the disk, is trusted after that moment only: git's mirror, uv's cache, new environments.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..host import untrusted
from ..paths import Paths
from . import journal, prune

UNWRITTEN = "unwritten"
BOOT = Path("/proc/sys/kernel/random/boot_id")
# A disk that takes longer must not hold a deploy up for ever.
_PATIENCE = 30


def begin(paths: Paths, boot: Path = BOOT) -> None:
    """From now on files are written that may not be on the disk: notes which boot of the server this is."""
    journal.replace_text(paths.state / UNWRITTEN, boot.read_text(), 0o600)


def flush(paths: Paths, release: str) -> subprocess.Popen[bytes]:
    """Write everything to the disk, in the background."""
    folders = (paths.release(release), paths.state, paths.build_home)
    once = {path.stat().st_dev: str(path) for path in folders if path.exists()}
    return subprocess.Popen(["sync", "--file-system", *once.values()])


def end(paths: Paths, flushing: subprocess.Popen[bytes]) -> None:
    """Wait until it is written."""
    try:
        if flushing.wait(_PATIENCE) == 0:
            (paths.state / UNWRITTEN).unlink(missing_ok=True)
    except subprocess.TimeoutExpired:
        pass


def distrust(paths: Paths, boot: Path = BOOT) -> None:
    """Where the server was booted before all was written, remove what can be made again."""
    try:
        if (paths.state / UNWRITTEN).read_text() == boot.read_text():
            return
    except OSError:
        return
    for folder in (paths.mirror, paths.uv_cache):
        untrusted.remove(folder)
    prune.remove_unused_envs(paths)
    (paths.state / UNWRITTEN).unlink(missing_ok=True)
