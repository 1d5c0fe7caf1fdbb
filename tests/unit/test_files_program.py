"""The program that stores files off the server: what it keeps, says, and brings back."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, files, mounts, parts, restic
from ansible.module_utils.berth.payload.parts import FilesError

from tests.support.offsite import S3, SFTP, answering, place
from tests.support.tree import write

SETTINGS: dict[str, Any] = {"key": "correct horse", "places": [SFTP], "folders": [], "retention_days": 30}
NOW = time.mktime((2026, 11, 30, 12, 0, 0, 0, 0, 0))


def test_what_was_deleted_while_it_was_read_is_no_problem_and_what_cannot_be_read_is() -> None:
    gone = {
        "message_type": "error",
        "error": {"message": "lstat /a: no such file or directory"},
        "item": "/a",
    }
    old = {"message_type": "error", "error": {"Op": "open", "Path": "/b", "Err": 2}, "item": "/b"}
    bad = {"message_type": "error", "error": {"message": "read /c: input/output error"}, "item": "/c"}
    lines = "\n".join([*map(json.dumps, (gone, old, bad)), '{"message_type":"status"}', "not json"])
    assert files.unreadable(lines) == ["/c"]


def test_what_no_day_needs_is_forgotten_and_the_newest_of_what_is_there_stays() -> None:
    def one(number: str, days: float, tag: str) -> dict[str, Any]:
        at = backup.stamp(NOW - days * files.DAY).replace("Z", ".123456789Z")
        return {"id": number, "time": at, "tags": [tag]}

    found = [one("a", 50, "server"), one("b", 29, "server"), one("c", 40, "app:board"),
             one("d", 35, "app:board"),
             one("e", 31, "app:gone"), one("f", 1, "app:gone")]  # fmt: skip
    assert files.unneeded(found, 30, NOW, ["server", "app:board"]) == ["a", "c", "e"]


def test_a_place_that_fails_keeps_no_other_from_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "STATE", tmp_path)
    monkeypatch.setattr(restic, "STATE", tmp_path)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(parts, "copies_of_redis", lambda: ({}, []))
    monkeypatch.setattr(mounts, "guard", list)
    monkeypatch.setattr(parts, "wanted", lambda *_: [parts.Part("server", (Path("/etc/berth"),))])
    summary = {"message_type": "summary", "snapshot_id": "0123456789", "total_files_processed": 3,
               "total_bytes_processed": 200 << 30, "data_added": 5}  # fmt: skip

    made: list[str] = []

    def run(place: restic.Place, *words: str, **_: float) -> restic.Answer:
        made.extend(words if words[0] == "backup" else [])
        if place.name == "nas":
            return restic.Answer(1, "", "connect to host nas port 22: Connection refused")
        answers = {"cat": '{"id": "r1"}', "backup": json.dumps(summary), "snapshots": "[]"}
        return restic.Answer(0, answers.get(words[0], ""), "")

    monkeypatch.setattr(restic, "run", run)
    said, problems, notes = files.store({**SETTINGS, "places": [SFTP, S3]})
    assert said.startswith("files at cloud: ")
    assert problems == ["nas: nas cannot be reached (Connection refused)"]
    assert notes == ["server has 200 GB of files"]
    nas, cloud = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("nas", "cloud"))
    assert (nas["problem"], "stored" in nas) == ("nas cannot be reached (Connection refused)", False)
    assert cloud["parts"]["server"]["snapshot"] == "01234567"
    assert cloud["stored"]
    assert cloud["checked"]["at"]
    assert f"{restic.MAKER}{restic.identity()}" in made


def test_a_damaged_repository_is_told_and_checked_again_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = answering(
        monkeypatch,
        {
            "snapshots": restic.Answer(0, "[]", ""),
            "check": restic.Answer(1, "", "Fatal: hash does not match"),
        },
    )
    known: dict[str, Any] = {}
    files.tidy(place(tmp_path, SFTP), SETTINGS, known, [], NOW)
    assert known["checked"]["problem"] == "the repository there is damaged"
    files.tidy(place(tmp_path, SFTP), SETTINGS, known, [], NOW)
    assert [call[0] for call in calls].count("check") == 2
    known["checked"] = {"at": backup.stamp(NOW - files.DAY), "problem": ""}
    files.tidy(place(tmp_path, SFTP), SETTINGS, known, [], NOW)
    assert [call[0] for call in calls].count("check") == 2


# Restoring --------------------------------------------------------------------------------------------------


def test_the_newest_of_a_time_is_chosen() -> None:
    found = [{"id": "a", "time": "2026-11-28T04:00:00Z"}, {"id": "b", "time": "2026-11-29T04:00:00Z"}]
    assert files.choose(found, restic.moment("2026-11-29T03:59:59Z"))["id"] == "a"
    assert files.choose(found, NOW)["id"] == "b"
    with pytest.raises(FilesError, match=r"the oldest that is stored there is of 2026-11-28T04:00:00Z"):
        files.choose(found, 0.0)
    with pytest.raises(FilesError, match="nothing of it was stored"):
        files.choose([], NOW)


def test_what_was_the_apps_is_todays_apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"restored/a/b": "", "restored/c": ""})
    (tmp_path / "restored/out").symlink_to("/etc")
    (tmp_path / "data").mkdir()
    given: list[str] = []
    monkeypatch.setattr(
        os, "chown", lambda path, *_, **how: given.append(f"{path.name} {how['follow_symlinks']}")
    )
    assert files.give_back(tmp_path / "restored", tmp_path / "data") == 3
    assert given == []
    known, stats = Path.lstat, os.stat_result

    def another(path: Path) -> os.stat_result:
        found = known(path)
        return found if path.name == "data" else stats((*found[:4], 4711, *found[5:]))

    monkeypatch.setattr(Path, "lstat", another)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    files.give_back(tmp_path / "restored", tmp_path / "data")
    assert sorted(given) == ["a False", "b False", "c False", "out False", "restored False"]


def test_nothing_that_is_there_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "board/data.restored-20261128T040000Z").mkdir(parents=True)
    answering(monkeypatch, {"stats": restic.Answer(0, '{"total_size": 5}', "")})
    chosen = {"id": "a", "time": "2026-11-28T04:00:00Z"}
    with pytest.raises(FilesError, match="is there already; remove it first"):
        files.restored(place(tmp_path, SFTP), chosen, tmp_path / "board")
    answering(monkeypatch, {"stats": restic.Answer(0, '{"total_size": 9000000000000000}', "")})
    with pytest.raises(FilesError, match="MB free, and the files take 8583068847 MB; make room there"):
        files.restored(place(tmp_path, SFTP), chosen, tmp_path / "board")


def test_an_app_that_is_not_here_is_refused() -> None:
    for app in ("../etc", "..", "nobody-knows", ""):
        with pytest.raises(FilesError, match="there is no app"):
            files.restore(SETTINGS, {"app": app, "at": 0, "place": ""})
