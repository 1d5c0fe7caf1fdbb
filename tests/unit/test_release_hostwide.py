"""What two runs for different apps may both write: one at a time, and never into each other's half."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.runtime import units
from ansible.module_utils.berth.store import journal, lock, prune


def test_one_run_at_a_time_reads_and_writes(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")

    def add() -> None:
        for _ in range(20):
            with lock.hostwide(tmp_path):
                count.write_text(str(int(count.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "80"


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    with (
        lock.hostwide(tmp_path),
        pytest.raises(ReleaseError, match=r"Another run .*fuser -v"),
        lock.hostwide(tmp_path, patience=0.1),
    ):
        pass


def test_two_writers_of_one_file_and_one_link_do_not_meet(tmp_path: Path) -> None:
    path, link = tmp_path / "unit", tmp_path / "live"
    failed: list[Exception] = []

    def write(text: str) -> None:
        try:
            for _ in range(30):
                journal.replace_text(path, text * 5000, 0o644, *_me(tmp_path))
                units.replace_link(link, Path(text))
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert path.read_text() in ("a" * 5000, "b" * 5000)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["live", "unit"]


def test_what_another_app_is_writing_stays(tmp_path: Path) -> None:
    mine = Paths("a", tmp_path)
    for name in ("a", "a-b"):
        (tmp_path / "var/lib/berth" / name).mkdir(parents=True)
    wants = mine.units / "multi-user.target.wants"
    wants.mkdir(parents=True)
    left = [mine.units / ".a-web@r1.service.x1.new", wants / ".a-web@r1.service.x2.new"]
    theirs = [mine.units / ".a-b-web@r1.service.x3.new", wants / ".a-b-web@r1.service.x4.new"]
    for path in left + theirs:
        path.touch()
    prune.sweep(mine)
    assert [path for path in left + theirs if path.exists()] == theirs


def _me(folder: Path) -> tuple[int, int]:
    known = folder.stat()
    return known.st_uid, known.st_gid
