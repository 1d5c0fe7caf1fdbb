"""What is stored off a server, and how root reads where others write."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
from ansible.module_utils.berth.payload import backup, mounts, parts

from tests.support.tree import write


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A server's folders, with two apps."""
    write(
        tmp_path,
        {
            "etc/berth/board/secrets.json": "{}",
            "etc/berth/restic.json": "{}",
            "etc/berth/redis/board/port": "6380\n",
            "etc/berth/redis/board/admin": "root's\n",
            "etc/redis/redis-board.conf": "dir /var\nappendonly yes\n",
            "etc/berth/redis/notes/port": "6381\n",
            "etc/redis/redis-notes.conf": "dir /var\nappendonly no\n",
            "var/lib/berth/postgresql.json": "{}",
            "var/lib/berth/board/journal.jsonl": "",
            "var/lib/berth/restic/cache/x": "",
            "var/lib/berth/backup/full.json": "{}",
            "var/lib/berth/backup/dumps/db-board/x.dump": "",
            "var/log/berth/audit.jsonl": "",
            "var/lib/proxy/certificates/x": "",
            "var/lib/redis/board/appendonlydir/x": "",
            "srv/board/data/attachments/x": "",
            "srv/board/releases/20261130T000000Z-1/release.json": "{}",
            "srv/board/releases/20261130T000000Z-1/code.py": "",
            "srv/notes/data/x": "",
            "srv/somebodys/data/x": "",
            "var/lib/berth/notes/journal.jsonl": "",
        },
    )
    (tmp_path / "srv/board/current").symlink_to("/srv/board/releases/20261130T000000Z-1")
    (tmp_path / "srv/linked").mkdir()
    (tmp_path / "srv/linked/data").symlink_to("/etc")
    return tmp_path


def test_all_that_a_server_is_built_anew_from_is_stored(server: Path) -> None:
    memory = server / "var/lib/berth/restic/redis/board.rdb"
    memory.parent.mkdir()
    memory.write_text("REDIS")
    settings = {"folders": ["/var/lib/proxy/certificates", "/not/there"]}
    first, board, notes = parts.wanted(settings, {"board": memory}, server)
    assert [str(path.relative_to(server)) for path in first.paths] == [
        "etc/berth", "var/lib/berth/board", "var/lib/berth/notes", "var/lib/berth/postgresql.json",
        "var/log/berth",
        "var/lib/berth/backup/dumps", "var/lib/proxy/certificates",
        "srv/board/releases/20261130T000000Z-1/release.json", "srv/board/current",
    ]  # fmt: skip
    assert (board.name, board.tag) == ("app board", "app:board")
    assert board.paths == (server / "srv/board/data", memory)
    assert notes.paths == (server / "srv/notes/data",)


def test_what_opens_the_places_is_not_stored_there() -> None:
    opens = [f"/etc/berth/backup/offsite-nas.{kind}" for kind in ("conf", "hosts", "key")]
    # One that is being written, too.
    opens += [
        "/etc/berth/restic.json",
        "/etc/berth/.restic.json.x1.new",
        "/etc/berth/backup/.offsite-nas.key.x1.new",
    ]
    patterns = parts.left_out()
    assert [one for one in opens if not any(PurePath(one).match(pattern) for pattern in patterns)] == []
    kept = ["/etc/berth/backup/key", "/etc/berth/board/secrets.json", "/etc/berth/contract.json"]
    assert [one for one in kept if any(PurePath(one).match(pattern) for pattern in patterns)] == []


def test_no_link_is_followed_where_others_write(server: Path) -> None:
    """A link in place of a folder would lead root to any file, and that into restored files of the app's."""
    first, board, _ = parts.wanted({"folders": []}, {"board": server / "var/lib/redis/board"}, server)
    assert first.written == (server / "var/lib/berth/backup",)
    assert board.written == (server / "srv/board/data", server / "var/lib/redis")


def test_what_is_mounted_below_is_found_in_the_kernels_list() -> None:
    line = "36 35 98:0 / {} rw - ext4 /dev/x rw"
    points = ("/srv/board/data", "/srv/board/data/my\\040disk", "/srv/board/database", "/")
    text = "\n".join(line.format(point) for point in points)
    assert mounts.mounts_below(text, Path("/srv/board/data")) == [
        "/srv/board/data",
        "/srv/board/data/my disk",
    ]


def test_redis_is_copied_where_it_persists_and_runs(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], dict[str, str]]] = []

    def run(argv: list[str], _timeout: float, **more: str) -> str:
        calls.append((argv, more))
        Path(argv[-1]).write_text("REDIS0011")
        return ""

    monkeypatch.setattr(backup, "run", run)
    monkeypatch.setattr(backup, "free", lambda _: 10 << 30)
    monkeypatch.setattr(parts, "_listens", lambda _: True)
    found, problems = parts.copies_of_redis(server)
    assert (found, problems) == ({"board": server / "var/lib/berth/restic/redis/board.rdb"}, [])
    assert found["board"].read_text() == "REDIS0011"
    [(argv, more)] = calls
    assert "root's" not in " ".join(argv)
    assert more == {"REDISCLI_AUTH": "root's"}
    # One that does not run has all of it in its files.
    monkeypatch.setattr(parts, "_listens", lambda _: False)
    assert parts.copies_of_redis(server)[0] == {"board": server / "var/lib/redis/board"}


def test_a_redis_that_gives_no_copy_is_told_and_the_last_one_stays(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = server / "var/lib/berth/restic/redis/board.rdb"
    write(
        server,
        {"var/lib/berth/restic/redis/board.rdb": "REDIS last", "var/lib/berth/restic/redis/gone.rdb": ""},
    )

    def run(argv: list[str], _timeout: float, **_: str) -> str:
        Path(argv[-1]).write_text("-ERR")
        return ""

    monkeypatch.setattr(backup, "run", run)
    monkeypatch.setattr(backup, "free", lambda _: 10 << 30)
    monkeypatch.setattr(parts, "_listens", lambda _: True)
    found, problems = parts.copies_of_redis(server)
    assert found == {"board": last}
    assert last.read_text() == "REDIS last"
    assert problems == ["Redis of board is not stored: what redis-cli got of it is no copy"]
    assert [path.name for path in last.parent.iterdir()] == ["board.rdb"]
