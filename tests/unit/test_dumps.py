"""Dumps of databases on servers of others: how they are made, which stay, and what is said of them."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.payload import backup, dumps, snapshot
from ansible.module_utils.berth.reports import backups, elsewhere, rescues, restores, telling
from ansible.module_utils.berth.runtime import units

NOW = telling.seconds("2026-11-30T12:00:00Z")
DATABASE = {
    "app": "board", "name": "board", "owner": "board_owner", "host": "db.example.net", "port": 25060,
    "sslmode": "verify-full", "sslrootcert": "/etc/ssl/certs/ca-certificates.crt",
}  # fmt: skip
OTHER = {**DATABASE, "app": "notes", "name": "notes", "owner": "notes_owner"}
ROW = {
    "app": "board", "name": "board", "host": "db.example.net", "at": "2026-11-30T04:10:00Z",
    "file": "/x.dump", "kept": 3, "stored_mb": 1.5,
}  # fmt: skip
STATE: dict[str, Any] = {
    "databases": [ROW], "last": {"began": "", "ended": "2026-11-30T04:10:00Z", "problem": ""},
    "expected": 86400, "since": "2026-11-01T00:00:00Z", "unknown": [], "unit": "inactive", "timer": "active",
    "drill": {}, "drill_expected": 0, "drills_since": "", "drill_unit": "inactive", "drill_timer": "unknown",
}  # fmt: skip
HELD = {
    "bytes": 4096,
    "tables": {"public.notes": 3, "public.old": None},
    "schema": {"public.alembic_version": "a1"},
}

KNOWN = {owner: f"secret-of-{owner}" for owner in ("board_owner", "notes_owner")}


class Server:
    """pg_dump and its like, as far as they are asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], dict[str, str]]] = []
        self.down: set[str] = set()
        self.damaged = False

    def run(self, argv: list[str], _timeout: float | None = None, **env: str) -> str:
        self.calls.append((argv, env))
        if "--version" in argv:
            return "pg_dump (PostgreSQL) 17.2 (Debian 17.2-1)\n"
        if argv[0] == "pg_dump":
            Path(argv[argv.index("-f") + 1]).write_text("rows")
        if argv[0] == "pg_restore" and self.damaged:
            raise backup.BackupError("could not uncompress data")
        return ""


class Snapshot:
    """What a database holds, as far as its server is up."""

    name = "00000003-1"

    def __init__(self, server: Server, **env: str) -> None:
        server.calls.append((["snapshot"], env))
        self.down = env["PGDATABASE"] in server.down

    def __enter__(self) -> Snapshot:
        if self.down:
            raise backup.BackupError("nothing answers")
        return self

    def __exit__(self, *_: object) -> None: ...

    def holds(self) -> dict[str, Any]:
        return HELD


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    found = Server()
    monkeypatch.setattr(backup, "run", found.run)
    monkeypatch.setattr(snapshot, "Snapshot", partial(Snapshot, found))
    folder = tmp_path / "passwords"
    folder.mkdir()
    for owner in KNOWN:
        (folder / owner).write_text(f"secret-of-{owner}\n")
    monkeypatch.setattr(dumps, "PASSWORDS", folder)
    return found


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    state = tmp_path / "backup"
    state.mkdir()
    return {
        "databases": [DATABASE, OTHER], "schedule": "04:00", "dumps_kept": 2, "retention_days": 30,
        "state": str(state), "dumps": str(state / "dumps"), "drill_schedule": "",
    }  # fmt: skip


def test_each_is_dumped_as_its_owner_over_tls_and_read_to_its_end(
    server: Server, settings: dict[str, Any]
) -> None:
    assert dumps.dump(settings, KNOWN).startswith("dumps of 2 databases on servers of others: ")
    made = [(argv, env) for argv, env in server.calls if argv[:1] == ["pg_dump"] and "-f" in argv]
    assert [env["PGDATABASE"] for _, env in made] == ["board", "notes"]
    argv, env = made[0]
    assert {key: env[key] for key in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGSSLMODE")} == {
        "PGHOST": "db.example.net", "PGPORT": "25060", "PGUSER": "board_owner",
        "PGPASSWORD": "secret-of-board_owner", "PGSSLMODE": "verify-full",
    }  # fmt: skip
    assert "secret" not in " ".join(argv)
    assert argv[argv.index("-Z") + 1] == "zstd:3"
    assert [argv[:3] for argv, _ in server.calls if argv[0] == "pg_restore"] == [
        ["pg_restore", "-f", "/dev/null"]
    ] * 2
    folder = Path(settings["dumps"]) / "at-db.example.net" / "db-board"
    assert argv[argv.index("-f") - 1] == "--snapshot=00000003-1"
    (dump,) = folder.glob("*.dump")
    assert json.loads((folder / "newest.json").read_text()) == {"file": dump.name, **HELD}
    assert sorted(folder.iterdir()) == [dump, folder / "newest.json"]


def test_one_that_fails_keeps_no_other_from_being_dumped(server: Server, settings: dict[str, Any]) -> None:
    server.down = {"board"}
    with pytest.raises(backup.BackupError, match=r"^board at db.example.net: nothing answers$"):
        dumps.dump(settings, KNOWN)
    folder = Path(settings["dumps"]) / "at-db.example.net"
    assert [path.name for path in folder.iterdir()] == ["db-notes"]


def test_one_that_cannot_be_read_does_not_count(server: Server, settings: dict[str, Any]) -> None:
    server.damaged = True
    with pytest.raises(backup.BackupError, match="could not uncompress data"):
        dumps.dump(settings, KNOWN)
    assert not list(Path(settings["dumps"]).rglob("*.dump*"))


def test_one_that_outgrows_what_was_guessed_leaves_the_disk_to_others(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(backup, "free", lambda _: 3 << 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writes = [sys.executable, "-c", "import sys; open(sys.argv[-1], 'wb').write(bytes(3 << 20))"]
    with pytest.raises(backup.BackupError, match=r"^it outgrew the 2 MB that are free in .* beside the 1 MB"):
        backup.dump_one(settings, tmp_path / "db-x", "x", 0, 1 << 20, writes)
    assert list((tmp_path / "db-x").iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    # What fails for another reason says that.
    fails = [sys.executable, "-c", "raise SystemExit('nothing answers')"]
    with pytest.raises(backup.BackupError, match=r"^nothing answers$"):
        backup.dump_one(settings, tmp_path / "db-x", "x", 0, 1 << 20, fails)


def test_without_its_password_nothing_is_asked(server: Server, settings: dict[str, Any]) -> None:
    with pytest.raises(backup.BackupError, match="there is no password of board_owner on this server"):
        dumps.dump(settings, {})
    assert [argv for argv, _ in server.calls] == [["pg_dump", "--version"]]


@pytest.mark.usefixtures("server")
def test_dumps_of_a_database_that_left_end_with_the_days_and_others_are_left(
    settings: dict[str, Any],
) -> None:
    top = Path(settings["dumps"])
    old = top / "at-old.example.net" / "db-gone" / "20260101T000000Z.dump"
    young = top / "at-old.example.net" / "db-late" / "20261129T000000Z.dump"
    own = top / "db-own" / "20260101T000000Z.dump"
    for path in (old, young, own):
        path.parent.mkdir(parents=True)
        path.write_text("")
    (old.parent / "newest.json").write_text("{}")
    for path in (old, own):
        os.utime(path, (time.time() - 31 * 86400,) * 2)
    dumps.dump(settings, KNOWN)
    assert not old.exists()
    dumps.dump(settings, KNOWN)
    assert not old.parent.exists()
    assert young.exists()
    assert own.exists()  # of the server's own, whose program looks after it
    # And that one leaves these.
    backup.forget_old(top, {"db-own"}, settings)
    assert young.exists()


def test_the_program_notes_how_it_went_and_tells_it(
    server: Server, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    became: list[str] = []
    file = tmp_path / "dumps.json"
    monkeypatch.setattr(dumps, "SETTINGS", file)
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def become(name: str) -> None:
        # Nothing was asked, made or written so far.
        assert not (Path(settings["state"]) / "dumps.lock").exists() or became
        became.append(name)

    monkeypatch.setattr(dumps, "become", become)
    assert dumps.main(["dump"]) == 1
    assert "there are to be none of other servers" in capsys.readouterr().err
    file.write_text(json.dumps(settings))
    assert dumps.main(["dump"]) == 0
    assert capsys.readouterr().out.startswith("Made: dumps of 2 databases")
    monkeypatch.setattr(dumps, "expected", lambda _: 86400)
    assert dumps.main(["state"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["kept"]) for one in told["databases"]] == [("board", 1), ("notes", 1)]
    assert told["last"]["problem"] == ""
    server.down = {"notes"}
    assert dumps.main(["dump"]) == 1
    assert capsys.readouterr().err == "No dump: notes at db.example.net: nothing answers.\n"
    assert dumps.state(settings)["last"]["problem"] == "notes at db.example.net: nothing answers"
    assert dumps.main(["restore"]) == 2
    assert became == ["postgres"] * 2


def state(row: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {**STATE, "databases": [{**ROW, **(row or {})}], **more}


@pytest.mark.parametrize(
    ("row", "more", "said"),
    [
        ({}, {}, ""),
        ({"at": ""}, {}, "there is no dump of board at db.example.net"),
        ({"at": ""}, {"unit": "activating"}, ""),
        ({"at": "2026-11-29T04:10:00Z"}, {}, "the newest dump of board at db.example.net is 32 h old"),
        ({}, {"last": {"ended": "2026-11-30T04:10:00Z", "problem": "board at db.example.net: no way"}},
         "the last dump of databases on servers of others failed at 2026-11-30 04:10 UTC: "
         "board at db.example.net: no way"),
        ({}, {"unit": "failed"}, "the last run that dumped them was cut off"),
        ({}, {"timer": "inactive"},
         "databases on servers of others are dumped by no clock: their timer is inactive"),
        ({}, {"unknown": ["how they are is unknown"]}, "how they are is unknown"),
    ],
)  # fmt: skip
def test_what_is_not_well_is_one_sentence(row: dict[str, Any], more: dict[str, Any], said: str) -> None:
    found = [one[2] for one in elsewhere.judge(state(row, **more), NOW) if one[1] != "note"]
    assert found == ([said] if said else [])


def test_that_no_restore_is_rehearsed_by_the_clock_is_said() -> None:
    assert [one[2] for one in elsewhere.judge(STATE, NOW)] == [elsewhere.UNREHEARSED]
    assert elsewhere.judge(None, NOW) == []


def test_a_server_without_a_cluster_has_backups_where_there_are_dumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backups.describe(tmp_path)["verdict"].startswith("There are no backups on this server")
    file = tmp_path / dumps.SETTINGS.relative_to("/")
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    told = {key: STATE[key] for key in ("databases", "last", "since")} | {"expected": 0}
    monkeypatch.setattr(command, "run", lambda *_args, **_more: command.Result(0, json.dumps(told), ""))
    monkeypatch.setattr(
        units, "states", lambda names: dict(zip(names, ["inactive", "active"] * 2, strict=True))
    )
    found = backups.describe(tmp_path)
    assert (found["answer"]["state"], found["verdict"]) == ("well", "")
    assert "dump of board  3 kept  2026-11-30 04:10 UTC" in found["table"]
    assert "no restore of them is rehearsed" in found["well"]
    assert found["drill"] == "No restore of a dump was rehearsed yet."
    assert found["drill_verdict"].startswith("There was no drill of dumps")
    instead = "what there is of them here are dumps: docs"
    with pytest.raises(ReleaseError, match=instead):
        restores.plan("", "", "", tmp_path)
    with pytest.raises(ReleaseError, match=instead):
        rescues.plan("", "", tmp_path)
    assert elsewhere.summary(elsewhere.facts(tmp_path), NOW) == "dumps: board at db.example.net 8 h ago."


def test_what_cannot_be_told_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / dumps.SETTINGS.relative_to("/")
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    monkeypatch.setattr(command, "run", lambda *_args, **_more: command.Result(1, "", "broken"))
    monkeypatch.setattr(units, "states", lambda names: dict(zip(names, ["inactive"] * 4, strict=True)))
    said = backups.describe(tmp_path)["verdict"]
    assert "is unknown: its answer cannot be read" in said
    assert "their timer is inactive" in said
