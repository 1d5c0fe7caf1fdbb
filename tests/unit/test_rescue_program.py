"""A cluster is restored in place: what is refused, what is kept, and which WAL is brought back."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, rescue, side

SEGMENT = "00000001000000000000000A"
LOST = "main.lost-20261130T120000Z"


REPLAY = rescue.Rescue.replay


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of which the WAL is left; the server is down, and a restore makes a file."""
    data = tmp_path / "main"
    (data / "pg_wal/archive_status").mkdir(parents=True)
    (data / "pg_wal" / SEGMENT).write_text("rows")
    (data / "pg_wal/archive_status" / f"{SEGMENT}.ready").touch()
    (data / "pg_wal/archive_status/00000001000000000000000B.done").touch()
    (data / "pg_wal/xlogtemp.1").touch()
    monkeypatch.setattr(rescue, "data_of", lambda _: data)
    monkeypatch.setattr(rescue.time, "strftime", lambda *_: "20261130T120000Z")
    monkeypatch.setattr(side, "outcome", lambda *_: (2, ""))
    monkeypatch.setattr(side, "readable", lambda _: {"backup": [{"label": "F"}]})
    monkeypatch.setattr(side, "have_room", lambda *_: None)
    monkeypatch.setattr(backup, "pgbackrest", lambda *_: restored(data))
    monkeypatch.setattr(rescue.Rescue, "replay", lambda _: "then")
    return data


def restored(data: Path) -> None:
    (data / "global").mkdir()
    (data / "pg_wal").mkdir()
    (data / "global/pg_control").write_text("restored")


def begin(**request: str) -> rescue.Rescue:
    return rescue.Rescue({"socket": "/run/postgresql", "port": 5432}, request)


def test_what_is_there_is_kept_and_its_wal_is_read_again(cluster: Path) -> None:
    assert begin().plan()["segments"] == 1
    made = begin().restore()
    assert (made["segments"], made["copied"], made["kept"]) == (1, 1, str(cluster.with_name(LOST)))
    assert made["last_commit"] == "then"
    assert (cluster / "global/pg_control").read_text() == "restored"
    assert (cluster / "pg_wal" / SEGMENT).read_text() == "rows"
    # It was not archived yet; what was need not be again, and a half-written file is no segment.
    assert [path.name for path in (cluster / "pg_wal/archive_status").iterdir()] == [f"{SEGMENT}.ready"]
    assert not (cluster / "pg_wal/xlogtemp.1").exists()
    assert (cluster.with_name(LOST) / "pg_wal" / SEGMENT).exists()
    assert not begin().mark.exists()


@pytest.mark.parametrize("code", [0, 1])
def test_a_server_that_answers_is_refused(code: int, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "outcome", lambda *_: (code, ""))
    with pytest.raises(
        backup.BackupError, match="Postgres is running: a rescue is for one whose data is lost"
    ):
        begin().restore()
    assert not cluster.with_name(LOST).exists()


def test_without_a_backup_and_with_an_empty_folder_nothing_begins(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(backup.BackupError, match="holds no WAL; name the folder that pg_wal was"):
        begin(wal=str(cluster)).restore()
    monkeypatch.setattr(side, "readable", lambda _: {"backup": []})
    with pytest.raises(backup.BackupError, match="there is no backup yet"):
        begin().restore()
    assert not cluster.with_name(LOST).exists()


def test_wal_may_be_somewhere_else_and_the_data_folder_gone(cluster: Path, tmp_path: Path) -> None:
    (cluster / "pg_wal").rename(tmp_path / "wal")
    cluster.rmdir()
    made = begin(wal=str(tmp_path / "wal")).restore()
    assert (made["copied"], made["kept"]) == (1, "")
    assert (cluster / "pg_wal" / SEGMENT).exists()


def test_a_try_that_was_cut_off_is_begun_anew_and_the_wal_is_not_lost(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        (cluster / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "pgbackrest", cut)
    with pytest.raises(KeyboardInterrupt):
        begin().restore()
    assert json.loads(begin().mark.read_text())["asides"] == [str(cluster.with_name(LOST))]
    # It says what it would do of what was left by then.
    assert begin().plan()["segments"] == 1
    monkeypatch.setattr(backup, "pgbackrest", lambda *_: restored(cluster))
    assert begin().restore()["copied"] == 1
    assert not (cluster / "half").exists()
    assert (cluster / "pg_wal" / SEGMENT).exists()


def test_a_folder_that_is_whole_is_never_deleted(cluster: Path) -> None:
    """A try was given up long ago, and somebody else brought the cluster back since."""
    aside = cluster.with_name("main.lost-before")
    (aside / "pg_wal").mkdir(parents=True)
    (aside / "pg_wal" / SEGMENT).write_text("older rows")
    begin().mark.write_text(json.dumps({"asides": [str(aside)], "wal": ""}))
    (cluster / "global").mkdir()
    (cluster / "global/pg_control").write_text("theirs")
    (cluster / "pg_wal/00000002000000000000000B").write_text("their rows")
    made = begin().restore()
    assert (cluster.with_name(LOST) / "global/pg_control").read_text() == "theirs"
    assert made["kept"] == f"{aside} and {cluster.with_name(LOST)}"
    # What a try copied is as it was where it came from; what was written since is there, too.
    assert (cluster / "pg_wal" / SEGMENT).read_text() == "older rows"
    assert (cluster / "pg_wal/00000002000000000000000B").read_text() == "their rows"


class Unmovable:
    """A folder that is a disk of its own, or of a container's image: some names cannot be changed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str, error: int = errno.EXDEV) -> None:
        self.names, self.error, self.moves, self.cut = names, error, 0, 0
        rename = Path.rename

        def refuse(path: Path, target: Any) -> Path:
            if path.name in self.names:
                raise OSError(self.error, os.strerror(self.error), str(path))
            self.moves += 1
            if self.moves == self.cut:
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", refuse)


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EBUSY])
@pytest.mark.parametrize("names", [("main",), ("main", "pg_wal", "PG_VERSION")])
def test_a_folder_that_cannot_be_renamed_is_emptied_into_another_one(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], error: int
) -> None:
    (cluster / "PG_VERSION").write_text("17")
    (cluster / "lost+found").mkdir()
    (cluster / "pg_tblspc").symlink_to("/nonexistent")
    Unmovable(monkeypatch, *names, error=error)
    inode = cluster.stat().st_ino
    made = begin().restore()
    aside = cluster.with_name(LOST)
    assert (made["copied"], made["kept"]) == (1, str(aside))
    assert sorted(path.name for path in aside.iterdir()) == ["PG_VERSION", "pg_tblspc", "pg_wal"]
    assert (aside / "pg_wal" / SEGMENT).read_text() == "rows"
    assert (cluster.stat().st_ino, (cluster / "pg_wal" / SEGMENT).read_text()) == (inode, "rows")


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_cut_off_while_it_is_emptied_nothing_is_lost(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    for number in range(3):
        (cluster / f"z{number}").write_text("theirs")
    refused = Unmovable(monkeypatch, "main", "pg_wal")
    refused.cut = cut
    with pytest.raises(KeyboardInterrupt):
        begin().restore()
    assert begin().plan()["segments"] == 1
    # A copy that is not whole is made again; one that is whole is not written over by what is left.
    aside = cluster.with_name(LOST)
    if (aside / "pg_wal").exists():
        (cluster / "pg_wal").mkdir(exist_ok=True)
        (cluster / "pg_wal" / SEGMENT).write_text("half")
    else:
        (aside / ".pg_wal.berth-partial").mkdir(exist_ok=True)
        (aside / ".pg_wal.berth-partial" / SEGMENT).write_text("half")
    refused.cut = 0
    begin().restore()
    assert (aside / "pg_wal" / SEGMENT).read_text() == "rows"
    assert (cluster / "pg_wal" / SEGMENT).read_text() == "rows"
    assert sorted(path.name for path in aside.iterdir()) == ["pg_wal", "z0", "z1", "z2"]
    assert not list(cluster.glob("z*"))


def test_cut_off_while_it_is_emptied_and_brought_back_by_somebody_else_that_is_kept_too(
    cluster: Path,
) -> None:
    aside = cluster.with_name("main.lost-before")
    (aside / "pg_wal").mkdir(parents=True)
    (aside / "pg_wal" / SEGMENT).write_text("before")
    begin().mark.write_text(json.dumps({"asides": [str(aside)], "moving": str(aside), "wal": ""}))
    (cluster / "PG_VERSION").write_text("theirs")
    (cluster / "pg_wal/00000002000000000000000B").write_text("their rows")
    begin().restore()
    assert (cluster.with_name(LOST) / "PG_VERSION").read_text() == "theirs"
    assert (aside / "pg_wal" / SEGMENT).read_text() == "before"
    assert (cluster / "pg_wal/00000002000000000000000B").read_text() == "their rows"


def test_where_there_is_no_room_for_a_copy_it_is_said_and_nothing_is_moved(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Unmovable(monkeypatch, "main", error=errno.EBUSY)
    monkeypatch.setattr(backup, "free", lambda _: 0)
    said = r"main cannot be renamed \(.*busy\), and .* has 0 MB free for .*: copy its pg_wal to another disk"
    with pytest.raises(backup.BackupError, match=said):
        begin().restore()
    assert (cluster / "pg_wal" / SEGMENT).exists()
    assert not cluster.with_name(LOST).exists()


@pytest.mark.usefixtures("cluster")
def test_the_command_line_answers_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"socket": "/run/postgresql", "port": 5432, "state": str(tmp_path)}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    monkeypatch.setattr(backup, "SETTINGS", path)
    monkeypatch.setattr("sys.stdin", io.StringIO("{}"))
    assert rescue.main(["plan"]) == 0
    assert json.loads(capsys.readouterr().out)["backup"] == "F"
    monkeypatch.setattr(side, "outcome", lambda *_: (0, ""))
    monkeypatch.setattr("sys.stdin", io.StringIO("{}"))
    assert rescue.main(["restore"]) == 1
    assert capsys.readouterr().err.startswith("Postgres is running")
    assert rescue.main([]) == 2


def test_all_wal_is_replayed_where_no_app_connects(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that connected while it is replayed would stay in what a database was called by then."""
    asked: list[list[str]] = []
    alive = [7, 7]

    def outcome(argv: list[str], *_: object) -> tuple[int, str]:
        asked.append(argv)
        # pg_ctl has it started as soon as it replays.
        return int(argv[0] == "pg_isready" and len(asked) < 4), ""

    def ask(server: side.Server, _query: str) -> str:
        # Once that server has ended, nobody knows it any more.
        assert (server.socket, len(asked)) == (f"{cluster}/berth-rescue", 4)
        return "then"

    made = begin()
    made.settings.update(version=17, stanza="main")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(side, "outcome", outcome)
    monkeypatch.setattr(side, "postmaster", lambda _: alive.pop() if alive else 0)
    monkeypatch.setattr(side.Server, "ask", ask)
    assert REPLAY(made) == "then"
    start, *waits, stop = asked
    assert "-c hot_standby='off' -c track_commit_timestamp='on'" in start[-1]
    assert f"-c unix_socket_directories='{cluster}/berth-rescue' -c listen_addresses=''" in start[-1]
    assert [one[0] for one in waits] == ["pg_isready"] * 3
    assert stop[-5:] == ["stop", "-m", "fast", "-t", "3600"]
    assert not (cluster / "berth-rescue").exists()
    # One that dies while it replays.
    asked.clear()
    with pytest.raises(backup.BackupError, match="what was restored does not start"):
        REPLAY(made)
    (cluster / "berth-rescue").rmdir()
    monkeypatch.setattr(side, "outcome", lambda *_: (0, ""))

    def refuse(*_: object) -> str:
        raise backup.BackupError("no")

    monkeypatch.setattr(side.Server, "ask", refuse)
    assert REPLAY(made) == ""
    monkeypatch.setattr(side, "outcome", lambda *_: (1, "pg_ctl: could not start server"))
    with pytest.raises(backup.BackupError, match="what was restored does not start: pg_ctl: could"):
        REPLAY(made)


ONTO: dict[str, Any] = {
    "version": "17", "stanza": "main", "socket": "/run/postgresql", "port": 5432,
    "offsite": [{"name": "nas", "config": "/etc/nas.conf", "problem": ""}],
}  # fmt: skip


def test_onto_a_new_host_nothing_of_the_cluster_there_is_taken_or_kept(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made a minute ago, and its segments have the names of other ones."""
    asked: list[str] = []

    def restore(settings: dict[str, Any], *_: str) -> None:
        asked.append(settings["config"])
        restored(cluster)
        (cluster / "pg_wal/archive_status").mkdir()
        for name in ("00000002.history", "00000003.history"):
            (cluster / "pg_wal" / name).touch()
        (cluster / "pg_wal/archive_status/00000002.history.done").touch()

    monkeypatch.setattr(backup, "pgbackrest", restore)
    made = rescue.Rescue(ONTO, {"onto": "nas"}).restore()
    # The timeline that begins there is told to whoever has the archive; nothing else would.
    assert (cluster / "pg_wal/archive_status/00000003.history.ready").exists()
    assert not (cluster / "pg_wal/archive_status/00000002.history.ready").exists()
    assert asked == ["/etc/nas.conf"]
    assert (made["segments"], made["copied"], made["kept"]) == (0, 0, "")
    assert not (cluster / "pg_wal" / SEGMENT).exists()
    assert not cluster.with_name(LOST).exists()


def test_where_the_repository_is_lost_too_a_place_has_the_backup_and_pg_wal_the_rest(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def readable(settings: dict[str, Any]) -> dict[str, Any]:
        if not settings.get("config"):
            raise backup.BackupError("the repository cannot be read: missing stanza path")
        return {"backup": [{"label": "F"}]}

    def cut(settings: dict[str, Any], *_: str) -> None:
        asked.append(settings["config"])
        raise KeyboardInterrupt

    monkeypatch.setattr(side, "readable", readable)
    with pytest.raises(backup.BackupError, match=r"missing stanza path; read it from nas with --from nas"):
        rescue.Rescue(ONTO, {}).plan()
    monkeypatch.setattr(backup, "pgbackrest", cut)
    with pytest.raises(KeyboardInterrupt):
        rescue.Rescue(ONTO, {"from": "nas"}).restore()
    # The same again without its name goes on with that.
    monkeypatch.setattr(backup, "pgbackrest", lambda *_: restored(cluster))
    made = rescue.Rescue(ONTO, {}).restore()
    assert (made["place"], made["copied"], made["kept"]) == ("nas", 1, str(cluster.with_name(LOST)))
    assert asked == ["/etc/nas.conf"]
    assert (cluster / "pg_wal" / SEGMENT).exists()


def test_onto_a_new_host_another_version_and_a_place_out_of_reach_are_refused(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"backup": [{"label": "F"}], "db": [{"version": "13"}, {"version": "15"}]}
    monkeypatch.setattr(side, "readable", lambda _: known)
    with pytest.raises(
        backup.BackupError, match=r"at nas is of PostgreSQL 15, and this server has 17; write"
    ):
        rescue.Rescue(ONTO, {"onto": "nas"}).restore()
    far = {**ONTO, "offsite": [{**ONTO["offsite"][0], "problem": "pgBackRest 2.45 knows no SFTP"}]}
    with pytest.raises(backup.BackupError, match="knows no SFTP"):
        rescue.Rescue(far, {"onto": "nas"}).restore()
    with pytest.raises(backup.BackupError, match="there is no off-site place other"):
        rescue.Rescue(ONTO, {"onto": "other"})
    assert (cluster / "pg_wal" / SEGMENT).exists()
