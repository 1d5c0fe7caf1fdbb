"""The program that makes backups: what it asks for, what it keeps, what it says and what it finds missing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup

BACKUP: dict[str, Any] = {
    "label": "20261129-020000F", "type": "full", "error": False,
    "timestamp": {"start": 1795916400, "stop": 1795916430},
    "archive": {"start": "000000010000000000000002", "stop": "000000010000000000000002"},
    "info": {"size": 22 << 20, "repository": {"delta": 3 << 20}},
}  # fmt: skip
INCREMENTAL = {
    **BACKUP,
    "label": "20261129-020000F_20261130-020000I",
    "type": "incr",
    "archive": {"start": "000000010000000000000006", "stop": "000000010000000000000006"},
    "info": {"size": 22 << 20, "repository": {"delta": 1 << 20}},
}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    for name in ("repository", "state"):
        (tmp_path / name).mkdir()
    return {
        "stanza": "main", "version": 17, "port": 5432, "socket": "/run/postgresql",
        "repository": str(tmp_path / "repository"), "state": str(tmp_path / "state"),
        "dumps": str(tmp_path / "state/dumps"), "dumps_kept": 3, "retention_days": 30,
        "archive_command": "push", "expected": {},
    }  # fmt: skip


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every program that was run; pg_dump writes what it would."""
    calls: list[list[str]] = []

    def run(argv: list[str], _timeout: float | None = None, **more: str) -> str:
        calls.append(argv)
        if "-f" in argv:
            if more.get("PGDATABASE") == "broken":
                raise backup.BackupError("relation is locked")
            Path(argv[argv.index("-f") + 1]).write_text(f"of {more['PGDATABASE']}")
        if argv[0] == "psql" and "max_wal_size" in argv[-1]:
            return "1|/\n"
        if argv[0] == "psql":
            return "board|9000000\nbroken|1\n"
        return ""

    monkeypatch.setattr(backup, "run", run)
    return calls


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: [055]: unable to load info file '/x/backup.info':\n       FileMissingError: unable to open\n"
         "       HINT: has a stanza-create been performed?\n",
         "unable to load info file '/x/backup.info': FileMissingError: unable to open"),
        ("P00  ERROR: [039]: HTTP request failed with 404 (NOT FOUND):\n       *** Path/Query ***:\n"
         "       <Error><Code>NoSuchBucket</Code><Message>The specified",
         "HTTP request failed with 404 (NOT FOUND) (NoSuchBucket)"),
        ("WARN: odd\n2026-11-30 02:00:00.123 P00  ERROR: [082]: WAL segment 0001 was not archived before the "
         "60000ms timeout\n       HINT: check the archive_command.\n",
         "WAL segment 0001 was not archived before the 60000ms timeout"),
        ("psql: error: connection to server on socket \"x\" failed: No such file\n\tIs the server running?\n",
         'connection to server on socket "x" failed: No such file'),
        ("pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout\n",
         "query failed: ERROR:  canceling statement due to lock timeout"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_programs_say_becomes_one_sentence(output: str, sentence: str) -> None:
    assert backup.reason(output) == sentence


def test_of_a_repository_that_cannot_be_read_the_reason_is_told() -> None:
    text = "[FileOpenError] unable to load info file '/x':\nFileOpenError: no open: [13] Permission denied"
    stanza = {"status": {"code": 99, "message": "other"}, "repo": [{"status": {"code": 99, "message": text}}]}
    said = "unable to load info file '/x': FileOpenError: no open: [13] Permission denied"
    assert backup.status(stanza)["message"] == said
    assert backup.status({"status": {"code": 2, "message": "no valid backups"}})["code"] == 2


def test_the_room_that_a_backup_needs_is_that_of_the_last_of_its_kind() -> None:
    size = 100 << 20
    assert backup.needed("full", [], size) == 50 << 20
    # Without a full one, pgBackRest makes one.
    assert backup.needed("incremental", [], size) == 50 << 20
    assert backup.needed("incremental", [BACKUP], size) == 10 << 20
    assert backup.needed("full", [BACKUP, INCREMENTAL], size) == int((3 << 20) * 1.2)
    assert backup.needed("incremental", [BACKUP, INCREMENTAL], size) == int((1 << 20) * 1.2)
    # After a bulk load as much as that, and never more than all.
    assert backup.needed("incremental", [BACKUP, INCREMENTAL], size, 2 << 20) == int((2 << 20) * 1.2)
    assert backup.needed("incremental", [BACKUP, INCREMENTAL], size, 1 << 40) == int((3 << 20) * 1.2)


def test_what_was_written_since_a_backup_is_what_the_archive_has_of_it(settings: dict[str, Any]) -> None:
    known = segments(settings, *of(5, 6, 7, 8))
    for path in Path(settings["repository"]).rglob("*.zst"):
        path.write_text("x" * 10)
    assert backup.written(settings, known) == 20
    assert backup.written(settings, {"backup": [], "archive": []}) == 0


def test_beside_the_server_a_backup_leaves_what_that_may_write(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(settings["repository"])
    disk = {"f_frsize": 4096, "f_blocks": (100 << 30) // 4096}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**disk))

    def server(wal: int, data: str) -> None:
        monkeypatch.setattr(backup, "sql", lambda *_: f"{wal}|{data}")

    server(2 << 30, str(path))
    assert backup.reserve(settings, path) == 5 << 30
    disk["f_blocks"] = (20 << 30) // 4096
    assert backup.reserve(settings, path) == 2 << 30
    server(1 << 20, str(path))
    assert backup.reserve(settings, path) == 1 << 30
    disk["f_blocks"] = (4 << 40) // 4096
    assert backup.reserve(settings, path) == 10 << 30
    server(2 << 30, "/proc")
    monkeypatch.setattr(Path, "stat", lambda self: SimpleNamespace(st_dev=int(str(self).startswith("/proc"))))
    assert backup.reserve(settings, path) == 256 << 20


def test_a_full_disk_is_a_sentence_before_anything_is_written(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"status": {"code": 0}, "backup": [BACKUP], "archive": []}
    asked: list[str] = []
    room = [200 << 20]
    monkeypatch.setattr(backup, "info", lambda *_: known)
    monkeypatch.setattr(backup, "sql", lambda *_: str(10 << 30))
    monkeypatch.setattr(backup, "reserve", lambda *_: 1 << 30)
    monkeypatch.setattr(backup, "pgbackrest", lambda _, *words, **__: asked.extend(words))
    monkeypatch.setattr(backup, "free", lambda _: room[0])
    with pytest.raises(backup.BackupError, match="has 200 MB free, and the full backup needs") as raised:
        backup.back_up(settings, "full")
    assert "about 3 MB beside the 1024 MB that stay free; make room there" in str(raised.value)
    assert "server.backup.enabled to false, since WAL goes on filling the disk" in str(raised.value)
    # A backup ends what nobody needs any more; without one, nothing would.
    assert asked == ["expire"]
    asked.clear()
    room[0] = 2 << 30
    assert "full backup 20261129-020000F: 3.0 MB stored" in backup.back_up(settings, "full")
    assert asked == ["--type=full", "backup"]


def test_what_nobody_needs_any_more_makes_room_for_a_backup(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"status": {"code": 0}, "backup": [BACKUP], "archive": []}
    asked: list[str] = []
    monkeypatch.setattr(backup, "info", lambda *_: known)
    monkeypatch.setattr(backup, "sql", lambda *_: str(10 << 30))
    monkeypatch.setattr(backup, "reserve", lambda *_: 1 << 30)
    monkeypatch.setattr(backup, "pgbackrest", lambda _, *words, **__: asked.extend(words))
    monkeypatch.setattr(backup, "free", lambda _: (2 << 30) if "expire" in asked else 0)
    assert backup.back_up(settings, "incremental").startswith("full backup 20261129")
    assert asked == ["expire", "--type=incr", "backup"]
    # Of nothing that was backed up, nothing can end.
    asked.clear()
    known["backup"] = []
    with pytest.raises(backup.BackupError, match="has 0 MB free"):
        backup.back_up(settings, "full")
    assert asked == []


def test_in_the_middle_of_work_an_answer_may_take_its_time(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float | None] = []

    def run(argv: list[str], timeout: float | None = None, **_: str) -> str:
        waited.append(timeout)
        if argv[0] == "pgbackrest":
            return json.dumps([{"name": "main", "status": {"code": 0}, "backup": [BACKUP], "archive": []}])
        return "1|/" if "max_wal_size" in argv[-1] else "1" if "pg_database_size" in argv[-1] else ""

    monkeypatch.setattr(backup, "run", run)
    monkeypatch.setattr(backup, "free", lambda _: 1 << 50)
    backup.back_up(settings, "full")
    # The backup itself as long as it takes.
    assert waited == [600, 600, 600, None, 600]
    waited.clear()
    backup.state(settings)
    assert set(waited) == {10}


def test_damaged_pages_are_no_good_backup(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"status": {"code": 0}, "backup": [{**BACKUP, "error": True}], "archive": []}
    monkeypatch.setattr(backup, "info", lambda *_: known)
    monkeypatch.setattr(backup, "sql", lambda *_: "1")
    monkeypatch.setattr(backup, "reserve", lambda *_: 0)
    monkeypatch.setattr(backup, "pgbackrest", lambda *_, **__: "")
    monkeypatch.setattr(backup, "free", lambda _: 1 << 40)
    with pytest.raises(backup.BackupError, match="pages of the database are damaged"):
        backup.back_up(settings, "incremental")


def test_each_database_is_dumped_and_one_that_fails_keeps_no_other_from_it(
    settings: dict[str, Any], said: list[list[str]]
) -> None:
    with pytest.raises(backup.BackupError, match=r"^broken: relation is locked$"):
        backup.dump(settings)
    top = Path(settings["dumps"])
    assert {path.name for path in top.iterdir() if list(path.iterdir())} == {"db-board", "roles"}
    (made,) = (top / "db-board").iterdir()
    assert made.read_text() == "of board"
    assert ["zstd:3" in argv for argv in said if argv[0] == "pg_dump"] == [True, True]
    said.clear()
    settings["version"] = 15
    with pytest.raises(backup.BackupError):
        backup.dump(settings)
    assert ["6" in argv for argv in said if argv[0] == "pg_dump"] == [True, True]


@pytest.mark.usefixtures("said")
def test_the_newest_dumps_stay_and_what_was_cut_off_goes(settings: dict[str, Any]) -> None:
    folder = Path(settings["dumps"]) / "db-board"
    folder.mkdir(parents=True)
    for day in range(1, 6):
        (folder / f"2026110{day}T040000Z.dump").write_text("x")
    (folder / ".20261106T040000Z.dump.partial").write_text("half")
    gone = Path(settings["dumps"]) / "db-gone"
    gone.mkdir()
    for name, days in (("20261001T040000Z.dump", 60), ("20261101T040000Z.dump", 5)):
        (gone / name).write_text("x")
        os.utime(gone / name, (0, time.time() - days * 86400))
    with pytest.raises(backup.BackupError):
        backup.dump(settings)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 3
    assert names[:2] == ["20261104T040000Z.dump", "20261105T040000Z.dump"]
    assert [path.name for path in gone.iterdir()] == ["20261101T040000Z.dump"]


def test_a_name_leads_nowhere_else(settings: dict[str, Any], said: list[list[str]]) -> None:
    assert backup.folder_of("../x=y") == "db-..%2Fx%3Dy"
    with pytest.raises(backup.BackupError):
        backup.dump(settings)
    assert not any("board" in argv for argv in said if argv[0] == "pg_dump")
    assert [row["of"] for row in backup.dumps(settings)] == ["board", "roles"]


def test_another_key_is_named_though_what_it_opens_is_no_text(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "[FormatError] unable to load info file '/r/backup.info' or '/r/x':\\nFormatError: \1\x1f"
    stanza = (
        f'{{"name": "main", "status": {{"code": 99, "message": "other"}}, "repo": [{{"status": {{"code": 99, '
        f'"message": "{said}"}}}}]}}'
    )
    monkeypatch.setattr(backup, "pgbackrest", lambda *_, **__: f"[{stanza}]")
    found = backup.info(settings)["status"]
    assert found == {
        "code": 99,
        "message": "another key than today's wrote /r/backup.info, or that is damaged",
    }


def test_two_never_work_at_once(settings: dict[str, Any]) -> None:
    folder = Path(settings["state"])
    with backup.alone(folder), pytest.raises(backup.BackupError, match="has been at work"):  # noqa: SIM117
        with backup.alone(folder, 0):
            pass
    with backup.alone(folder, 0):
        pass


def segments(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """A repository with these segments in its archive, and both backups."""
    for name in names:
        folder = Path(settings["repository"]) / "archive/main/17-1" / name[:16]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}-{'a' * 40}.zst").write_text("")
        (folder / f"{name}.00000028.backup").write_text("")
    return {"backup": [BACKUP, INCREMENTAL], "archive": [{"id": "17-1"}]}


def of(*numbers: int, timeline: int = 1) -> list[str]:
    return [f"{timeline:08X}{number >> 8:08X}{number & 255:08X}" for number in numbers]


def test_a_segment_that_is_being_written_does_not_count(settings: dict[str, Any]) -> None:
    known = segments(settings, *of(2, 3))
    folder = Path(settings["repository"]) / "archive/main/17-1" / of(5)[0][:16]
    (folder / f"{of(5)[0]}-{'a' * 40}.zst.pgbackrest.tmp").write_text("")
    assert backup.window(settings, known)["missing"] == []


def test_the_window_reaches_from_the_first_backup_to_the_newest_segment(settings: dict[str, Any]) -> None:
    found = backup.window(settings, segments(settings, *of(1, 2, 3, 4, 5, 6, 7)))
    assert (found["from"], found["missing"]) == (backup.stamp(1795916430), [])
    assert (
        abs(time.time() - time.mktime(time.strptime(found["to"], "%Y-%m-%dT%H:%M:%SZ")) + time.timezone) < 99
    )


def test_a_missing_segment_is_named_and_the_window_begins_after_it(settings: dict[str, Any]) -> None:
    known = segments(settings, *of(2, 3, 5, 6, 7))
    found = backup.window(settings, known)
    assert found["missing"] == [{"after": of(3)[0], "before": of(5)[0], "segments": 1}]
    assert found["from"] == backup.stamp(INCREMENTAL["timestamp"]["stop"])
    assert found["broken"] is False
    # Up to the gap, as long as there is no backup after it.
    newest = Path(settings["repository"], "archive/main/17-1", of(3)[0][:16], f"{of(3)[0]}-{'a' * 40}.zst")
    os.utime(newest, (0, 1795920000))
    lost = backup.window(settings, {**known, "backup": [BACKUP]})
    assert (lost["from"], lost["to"]) == (backup.stamp(1795916430), backup.stamp(1795920000))
    assert lost["broken"] is True


def test_a_log_has_256_segments_and_a_new_timeline_is_no_gap() -> None:
    assert backup.gaps(of(254, 255, 256, 257)) == []
    assert backup.gaps([*of(5, 6, 7), *of(7, 8, timeline=2)]) == []
    assert backup.gaps(of(255, 257))[0]["segments"] == 1


def test_a_cluster_has_segments_of_the_size_that_it_was_made_with(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 64 MB, 64 make a log; of 1 MB, 4096.
    assert backup.gaps(of(62, 63, 256, 257), 64 << 20) == []
    assert backup.gaps(of(63, 257), 64 << 20)[0]["segments"] == 1
    assert backup.gaps([f"{1:08X}{0:08X}{4095:08X}", f"{1:08X}{1:08X}{1:08X}"], 1 << 20)[0]["segments"] == 1
    monkeypatch.setattr(backup, "sql", lambda *_: str(64 << 20))
    assert backup.window(settings, segments(settings, *of(2, 3, 63, 256)))["missing"][0]["after"] == of(3)[0]
    assert len(backup.window(settings, segments(settings, *of(2, 3, 63, 256)))["missing"]) == 1


def test_archiving_fails_as_long_as_something_waits(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"mode": "on", "command": "push", "last": 100, "failed": 200, "waiting": 2, "oldest_seconds": 9}
    monkeypatch.setattr(backup, "sql", lambda *_: json.dumps(answer))
    found = backup.archiving(settings)
    assert (found["failing"], found["ours"], found["last"]) == (True, True, "1970-01-01T00:01:40Z")
    answer |= {"waiting": 0}
    assert backup.archiving(settings)["failing"] is False
    answer |= {"waiting": 2, "last": None, "command": "cp"}
    assert (backup.archiving(settings)["failing"], backup.archiving(settings)["ours"]) == (True, False)


def test_what_has_no_answer_hides_nothing_else(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> str:
        raise backup.BackupError("connection failed")

    known = {"status": {"code": 0, "message": "ok"}, "backup": [BACKUP], "archive": []}
    monkeypatch.setattr(backup, "info", lambda _: known)
    monkeypatch.setattr(backup, "sql", down)
    found = backup.state(settings)
    assert found["unknown"] == ["Whether WAL is archived is unknown: connection failed."]
    assert found["archiving"] is None
    assert found["backups"][0]["kind"] == "full"
    assert found["repository"]["free_mb"] > 0


def test_how_a_run_ended_is_kept_and_said(
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    monkeypatch.setattr(backup, "SETTINGS", path)

    def fail(*_: object) -> str:
        raise backup.BackupError("the disk is full")

    monkeypatch.setattr(backup, "back_up", fail)
    assert backup.main(["full"]) == 1
    assert capsys.readouterr().err == "No full backup: the disk is full.\n"
    assert backup.last_run(settings, "full")["problem"] == "the disk is full"
    monkeypatch.setattr(backup, "back_up", lambda *_: "full backup x")
    assert backup.main(["full"]) == 0
    assert capsys.readouterr().out == "Made: full backup x.\n"
    assert backup.last_run(settings, "full")["problem"] == ""
    assert backup.main(["everything"]) == 2
    path.unlink()
    assert backup.main(["dump"]) == 1
    assert "there are to be no backups" in capsys.readouterr().err


def test_whatever_a_run_ends_with_is_noted(
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, folder = tmp_path / "settings.json", Path(settings["state"])
    path.write_text(json.dumps(settings))
    monkeypatch.setattr(backup, "SETTINGS", path)
    monkeypatch.setattr(backup, "back_up", lambda *_: [][0])
    assert backup.main(["full"]) == 1
    assert "an answer of pgBackRest or of the server cannot be read (IndexError" in capsys.readouterr().err
    assert "cannot be read" in backup.last_run(settings, "full")["problem"]

    # What is new cannot be written on a full disk; over what is there it can.
    def full_disk(file: Path, text: bytes, flags: int) -> None:
        if file.name.startswith("."):
            raise OSError(28, "No space left on device", str(file))
        lay(file, text, flags)

    lay = backup.lay
    backup.note(folder, "full", 0, "")
    monkeypatch.setattr(backup, "lay", full_disk)
    assert backup.main(["full"]) == 1
    assert "cannot be read" in backup.last_run(settings, "full")["problem"]
    (folder / "full.json").unlink()
    (folder / "full.json").mkdir()
    monkeypatch.setattr(backup, "back_up", lambda *_: "full backup x")
    assert backup.main(["full"]) == 1
    assert "full backup x, which cannot be noted: " in capsys.readouterr().err
