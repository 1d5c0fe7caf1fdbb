"""What processes run on that an update has replaced."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.berth.runtime import replaced

MAPS = """\
55d0-55d1 r-xp 00000000 fd:00 11 /usr/bin/python3.13 (deleted)
7f00-7f01 r-xp 00000000 fd:00 12 /usr/lib/x86_64-linux-gnu/libssl.so.3.dpkg-tmp (deleted)
7f01-7f02 r--p 00000000 fd:00 12 /usr/lib/x86_64-linux-gnu/libssl.so.3.dpkg-tmp (deleted)
7f02-7f03 r-xp 00000000 fd:00 13 /usr/lib/x86_64-linux-gnu/libz.so.1.3.1
7f03-7f04 rw-s 00000000 00:01 14 /dev/shm/worker (deleted)
7f04-7f05 rw-s 00000000 00:01 15 /memfd:usr/lib/x (deleted)
7f05-7f06 rw-p 00000000 00:00 0 [heap]
"""


def process(proc: Path, number: int, unit: str, maps: str) -> None:
    folder = proc / str(number)
    folder.mkdir()
    (folder / "cgroup").write_text(f"0::/system.slice/{unit}\n")
    (folder / "maps").write_text(maps)


def test_files_of_packages_that_are_no_more(tmp_path: Path) -> None:
    process(tmp_path, 7, "board-web@r1.service", MAPS)
    process(tmp_path, 8, "board-worker@r1.service", MAPS.replace("libssl", "libpq"))
    process(tmp_path, 9, "other-web@r1.service", MAPS.replace("libssl", "libxml2"))
    units = ["board-web@r1.service", "board-worker@r1.service"]
    assert replaced.files(units, tmp_path) == ["libpq.so.3", "libssl.so.3", "python3.13"]
    assert replaced.files([], tmp_path) == []
