"""A disk for a host that loses what was not written yet, as every disk does when the power goes."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

import testhost

# ext4 stops at once, and neither its journal nor any file is written any more: EXT4_IOC_SHUTDOWN.
_SHUTDOWN, _WITHOUT_THE_LOG = 0x8004587D, 2
FOLDERS = ("etc", "srv", "var")


class Disk:
    """An ext4 filesystem in a file, with a host's /etc, /srv and /var on it. Needs root and loop devices."""

    def __init__(self, folder: Path, suite: str = "") -> None:
        self.image, self.top = folder / "disk.img", folder / "disk"
        self.top.mkdir()
        self.image.touch()
        os.truncate(self.image, 8 << 30)
        testhost.run("mke2fs", "-q", "-t", "ext4", str(self.image))
        self.mount()
        testhost.ensure_engine()
        image = testhost.ensure_image(suite or testhost.default_suite())
        made = testhost.run("docker", "create", image).strip()
        pack = f"docker export {made} | tar -x --numeric-owner -C '{self.top}' {' '.join(FOLDERS)}"
        testhost.run("bash", "-euo", "pipefail", "-c", pack)
        testhost.run("docker", "rm", made)

    @property
    def volumes(self) -> dict[str, Path]:
        """Where its folders are on the host, for testhost.up()."""
        return {f"/{name}": self.top / name for name in FOLDERS}

    def mount(self) -> None:
        """What a host does with its disk when it boots: the journal of ext4 is replayed."""
        testhost.run("mount", "-o", "loop", str(self.image), str(self.top))

    def cut(self) -> None:
        """From now on nothing reaches it, and what is only in memory is lost."""
        descriptor = os.open(self.top, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_THE_LOG))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Let go of it; a container that was killed may hold it for a moment yet."""
        for _ in range(100):
            testhost.run("umount", str(self.top), check=False)
            if not self.top.is_mount():
                return
            time.sleep(0.2)
        raise AssertionError(f"{self.top} cannot be unmounted")
