"""Folders that others write into, mounted so that no link in them leads anywhere. For `files`, as root."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable
from pathlib import Path

from .parts import FilesError

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_NOSYMFOLLOW, MS_BIND, MS_REC = 1, 2, 4, 32, 256, 4096, 16384
ST_NOSYMFOLLOW = 0x2000
PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, LAST_CAP = 24, 2, 63


def guard(folders: Iterable[Path]) -> None:
    """Mount each on itself, so that for this process and its children no link in it is followed.

    This process sees a file system of its own, by its unit. A link that somebody puts in place of a folder
    while it is read would else lead root to any file, and what is there into that user's restored files.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: bytes | None, target: bytes, flags: int) -> None:
        if libc.mount(source, target, None, ctypes.c_ulong(flags), None) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise FilesError(f"{os.fsdecode(target)} cannot be read safely: mount: {reason}")

    firm = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOSYMFOLLOW
    for folder in dict.fromkeys(folders):
        path = os.fsencode(folder)
        mount(path, path, MS_BIND | MS_REC)
        for point in mounts_below(Path("/proc/self/mountinfo").read_text(), folder):
            mount(None, os.fsencode(point), firm)
            if not os.statvfs(point).f_flag & ST_NOSYMFOLLOW:
                raise FilesError(f"{point} cannot be read safely: that takes Linux 5.10 or newer")
    for capability in range(LAST_CAP + 1):
        if capability != CAP_DAC_READ_SEARCH:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def mounts_below(mountinfo: str, folder: Path) -> list[str]:
    """What is mounted at a folder or below it, in the kernel's own list."""
    found = []
    for line in mountinfo.splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4])
        if point == str(folder) or point.startswith(f"{folder}/"):
            found.append(point)
    return list(dict.fromkeys(found))
