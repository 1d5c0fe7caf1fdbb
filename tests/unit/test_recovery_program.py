"""What comes back onto a bare host: what is found, which secrets, and whose hands write the files."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, parts, recovery, restic
from ansible.module_utils.berth.payload.parts import FilesError

from tests.support.offsite import SFTP, answering
from tests.support.tree import write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# A restic that has a folder for its only snapshot, and ends as it is told.
RESTIC = """#!/bin/sh
for last; do :; done
case " $* " in
*" --archive tar "*) tar -C {stored} -cf - "${{last#/}}" ;;
*) cat "{stored}$last" ;;
esac
[ -e {stored}/broken ] && echo 'Fatal: ciphertext verification failed' >&2 && exit 1
exit 0
"""


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What lies at the place; programs run as the tests' own user."""
    folder, programs = tmp_path / "stored", tmp_path / "bin"
    release = json.dumps({"version": COMMIT, "source": "https://git.example.net/board"})
    write(
        folder,
        {
            "etc/berth/backup/settings.json": '{"version": 17}',
            "etc/berth/backup/key": "born",
            "etc/berth/board/secrets.json": '{"SECRET_KEY": "s"}',
            "etc/berth/board/env": "SECRET_KEY=s",
            "etc/berth/board/provisioned.json": "{}",
            "etc/berth/redis/board/port": "6400",
            "etc/berth/redis/board/password": "p",
            "etc/berth/postgresql/board_owner": "o",
            "srv/board/releases/R1/release.json": "{}",
            "srv/board/releases/R2/release.json": release,
            "srv/board/data/attachments/a": "kept",
            "var/lib/berth/restic/redis/board.rdb": "REDIS0011",
            "var/lib/proxy/state/cert": "c",
        },
    )
    (folder / "srv/board/current").symlink_to("releases/R2")
    write(programs, {"restic": RESTIC.format(stored=folder)})
    (programs / "restic").chmod(0o755)
    monkeypatch.setattr(backup, "ENVIRONMENT", {"PATH": f"{programs}:{os.environ['PATH']}"})
    monkeypatch.setattr(recovery, "identity", lambda _: {"user": None, "group": None, "extra_groups": None})
    monkeypatch.setattr(recovery, "FOLDER", tmp_path / "state")
    monkeypatch.setattr(recovery, "SETTINGS", tmp_path / "state/settings.json")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    answering(
        monkeypatch,
        {
            "snapshots": restic.Answer(0, json.dumps(SNAPSHOTS), ""),
            "stats": restic.Answer(0, '{"total_size": 4}', ""),
        },
    )
    write(tmp_path, {"state/look.json": "{}"})
    return folder


SNAPSHOTS = [
    {"id": "old", "time": "2026-11-28T04:40:00Z", "tags": ["server"], "paths": []},
    {"id": "s", "time": "2026-11-29T04:40:00Z", "tags": ["server"],
     "paths": ["/etc/berth", "/srv/board/current", "/var/lib/proxy/state"]},
    {"id": "b", "time": "2026-11-29T04:41:00Z", "tags": ["app:board"],
     "paths": ["/srv/board/data", "/var/lib/berth/restic/redis/board.rdb"]},
]  # fmt: skip
SETTINGS: dict[str, Any] = {
    "key": "k", "places": [SFTP], "place": "", "apps": {"board": {"redis": True}, "shop": {"redis": False}},
    "folders": ["/var/lib/proxy/state"], "run": "2026-11-30T12:00:00Z",
}  # fmt: skip


def looked() -> dict[str, Any]:
    found: dict[str, Any] = recovery.look(SETTINGS)
    (recovery.FOLDER / "look.json").write_text(json.dumps(found))
    return found


@pytest.mark.usefixtures("stored")
def test_the_newest_of_each_is_found_and_what_was_live() -> None:
    found = looked()
    assert {tag: one["id"] for tag, one in found["snapshots"].items()} == {"server": "s", "app:board": "b"}
    assert found["live"] == {
        "board": {"release": "R2", "version": COMMIT, "source": "https://git.example.net/board"}
    }
    assert (found["cluster"], found["place"]) == ({"version": "17"}, "nas")


def test_a_place_that_holds_nothing_or_fails_is_named(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FilesError, match=r"there is no place other in server\.backup\.offsite"):
        recovery.look({**SETTINGS, "place": "other"})
    (stored / "broken").touch()
    with pytest.raises(FilesError, match="nas: the repository there is damaged"):
        recovery.look(SETTINGS)
    answering(monkeypatch, {"snapshots": restic.Answer(0, "[]", "")})
    with pytest.raises(FilesError, match="nas: nothing of a server is stored there"):
        recovery.look(SETTINGS)


@pytest.mark.usefixtures("stored")
def test_of_the_settings_secrets_alone_come_back(tmp_path: Path) -> None:
    looked()
    new = tmp_path / "new"
    assert recovery.born(SETTINGS, new) == {"secrets": 4}
    there = {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()}
    assert there == {
        "etc/berth/board/secrets.json",
        "etc/berth/redis/board/port",
        "etc/berth/redis/board/password",
        "etc/berth/postgresql/board_owner",
    }
    assert stat.S_IMODE((new / "etc/berth/board/secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((new / "etc/berth/postgresql").stat().st_mode) == 0o700
    # Once more, after it was cut off.
    assert recovery.born(SETTINGS, new) == {"secrets": 4}


@pytest.mark.parametrize(
    "name",
    [
        "etc/berth/../board/secrets.json",
        "etc/berth/backup/secrets.json",
        "etc/berth/redis/secrets.json",
        "etc/berth/postgresql/a/b",
        "etc/shadow",
    ],
)
def test_nothing_else_is_a_secret_that_was_born_there(name: str) -> None:
    assert not recovery.BORN.fullmatch(name)


@pytest.mark.usefixtures("stored")
def test_files_certificates_and_what_redis_held_come_back(tmp_path: Path) -> None:
    looked()
    new = tmp_path / "new"
    write(new, {"srv/board/data/.keep": "", "var/lib/redis/board/appendonlydir/x.aof": "empty"})
    write(new, {"var/lib/proxy/.keep": ""})
    for _ in range(2):
        made = recovery.files(SETTINGS, new)["files"]
        assert made == {
            "board": {"of": "2026-11-29T04:41:00Z", "bytes": 4},
            "shop": {"of": "", "bytes": 0},
        }
    assert (new / "srv/board/data/attachments/a").read_text() == "kept"
    assert (new / "var/lib/proxy/state/cert").read_text() == "c"
    held = new / "var/lib/redis/board"
    assert [path.name for path in held.iterdir()] == ["appendonly.aof"]
    assert (held / "appendonly.aof").read_text() == "REDIS0011"


def test_the_files_of_an_instance_that_did_not_run_are_its_own(stored: Path, tmp_path: Path) -> None:
    found = looked()
    found["snapshots"]["app:board"]["paths"] = ["/srv/board/data", "/var/lib/redis/board"]
    (recovery.FOLDER / "look.json").write_text(json.dumps(found))
    write(stored, {"var/lib/redis/board/appendonlydir/a.manifest": "m"})
    write(tmp_path, {"new/srv/board/data/.keep": "", "new/var/lib/redis/board/dump.rdb": "empty"})
    recovery.files({**SETTINGS, "folders": []}, tmp_path / "new")
    held = tmp_path / "new/var/lib/redis/board"
    assert [path.name for path in held.iterdir()] == ["appendonlydir"]


def test_what_is_cut_off_at_the_place_is_said_in_its_words(stored: Path, tmp_path: Path) -> None:
    looked()
    (stored / "broken").touch()
    write(tmp_path, {"new/srv/board/data/.keep": ""})
    with pytest.raises(FilesError, match="the repository there is damaged"):
        recovery.files(SETTINGS, tmp_path / "new")


@pytest.mark.usefixtures("stored")
def test_too_little_room_is_refused_before_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked()
    write(tmp_path, {"new/srv/board/data/.keep": ""})
    monkeypatch.setattr(backup, "free", lambda _: parts.RESERVE)
    with pytest.raises(FilesError, match=r"data has 1024 MB free, and the files take 0 MB; make room there"):
        recovery.files(SETTINGS, tmp_path / "new")
    assert not (tmp_path / "new/srv/board/data/attachments").exists()


def test_root_never_writes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path.lstat()
    monkeypatch.setattr(
        Path, "lstat", lambda _: os.stat_result((known.st_mode, *known[1:4], 0, 0, *known[6:]))
    )
    with pytest.raises(FilesError, match="is root's"):
        recovery.identity(tmp_path)
    monkeypatch.setattr(
        Path, "lstat", lambda _: os.stat_result((known.st_mode, *known[1:4], 999, 998, *known[6:]))
    )
    assert recovery.identity(tmp_path) == {"user": 999, "group": 998, "extra_groups": []}


def test_how_it_went_is_kept_and_a_cut_is_told(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recovery.SETTINGS.write_text(json.dumps(SETTINGS))
    assert recovery.main(["look"]) == 0
    made = json.loads((recovery.FOLDER / "look.json").read_text())
    assert (made["run"], made["problem"], made["place"]) == (SETTINGS["run"], "", "nas")
    (stored / "broken").touch()
    assert recovery.main(["born"]) == 1
    assert "Not brought back: the repository there is damaged" in capsys.readouterr().err

    def cut(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recovery, "files", cut)
    with pytest.raises(KeyboardInterrupt):
        recovery.main(["files"])
    assert json.loads((recovery.FOLDER / "files.json").read_text())["problem"] == "it was cut off"
    assert recovery.main(["all"]) == 2


@pytest.mark.usefixtures("stored")
def test_what_is_large_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "SMALL", 4)
    place = restic.places(SETTINGS)[0]
    names = [one.name for one, _ in recovery.small(place, "s", "/etc/berth/backup")]
    assert names == ["etc/berth/backup/key"]


@pytest.mark.usefixtures("stored")
def test_a_name_of_an_archive_leads_nowhere_else(tmp_path: Path) -> None:
    """Whoever wrote into the place may have written a name; tar goes up no folder."""
    write(tmp_path, {"new/here/.keep": ""})
    bad = io.BytesIO()
    with tarfile.open(fileobj=bad, mode="w") as archive:
        entry = tarfile.TarInfo("srv/board/data/../../../../out")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    write(tmp_path / "bin", {"restic": f"#!/bin/sh\ncat {tmp_path}/bad.tar\n"})
    (tmp_path / "bad.tar").write_bytes(bad.getvalue())
    place = restic.places(SETTINGS)[0]
    with pytest.raises(FilesError, match="new/here: "):
        recovery.unpack(place, "s", "/srv/board/data", tmp_path / "new/here")
    assert not (tmp_path / "out").exists()
