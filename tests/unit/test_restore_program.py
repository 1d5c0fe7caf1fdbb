"""A restore to look at: which moment is meant, which backup leads there, how it differs, what stays."""

from __future__ import annotations

import copy
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, drill, offsite, reasons, restore, side

# 2026-11-29T02:00:30Z, a day later, and 12:00 of that day.
FIRST, SECOND, NOW = 1795917630, 1796004000, 1796040000.0
BACKUPS: list[dict[str, Any]] = [
    {"label": "F", "timestamp": {"start": FIRST - 30, "stop": FIRST}, "info": {"size": 22 << 20}},
    {"label": "I", "timestamp": {"start": SECOND - 5, "stop": SECOND}, "info": {"size": 22 << 20}},
]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("2026-11-30 11:59:00+00", "2026-11-30 11:59:00.000000+00"),
        ("2026-11-30 11:59", None),
        ("2026-11-30 11:59:00.25 UTC", "2026-11-30 11:59:00.250000+00"),
        ("2026-11-30T11:59Z", "2026-11-30 11:59:00.000000+00"),
        ("2026-11-30 13:29:00+01:30", "2026-11-30 11:59:00.000000+00"),
        ("2026-11-30 06:59:00-0500", "2026-11-30 11:59:00.000000+00"),
        ("2026-11-31 11:59:00+00", None),
        ("2026-11-30 11:59:00+99", None),
        ("0001-01-01 00:00:00+01", None),
        ("yesterday", None),
        ("2026-11-30 11:59:00+00' --evil", None),
    ],
)
def test_a_moment_has_a_zone(text: str, target: str | None) -> None:
    if target:
        assert restore.to_time(text, NOW)["target"] == target
        return
    with pytest.raises(backup.BackupError, match="is no time with its zone; write it as '2026-11-30 11:59"):
        restore.to_time(text, NOW)


def test_what_is_yet_to_come_is_refused_and_a_terminal_is_safe() -> None:
    with pytest.raises(backup.BackupError, match="is in the future: on the server it is 2026-11-30 "):
        restore.to_time("2027-01-01 00:00:00+00", NOW)
    with pytest.raises(backup.BackupError) as caught:
        restore.to_time("\x1b[2J", NOW)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("at", "label"),
    [(FIRST + 1, "F"), (SECOND, "F"), (SECOND + 0.9, "F"), (SECOND + 1, "I"), (NOW, "I")],
)
def test_the_newest_backup_that_was_complete_before_it_leads_there(at: float, label: str) -> None:
    for request in (restore.to_point("board-x", at), {"kind": "time", "at": at, "said": "", "target": "t"}):
        assert restore.choose(request, BACKUPS)["label"] == label
    assert restore.choose(restore.LATEST, BACKUPS)["label"] == "I"


def test_before_the_first_one_and_without_one_there_is_nothing() -> None:
    request = restore.to_time("2026-11-29 02:00:30+00", NOW)
    begins = drill.clock(FIRST + 1)
    early = {**request, "at": FIRST + 0.5}
    with pytest.raises(backup.BackupError, match=f"is before what can be restored, which begins at {begins}"):
        restore.choose(early, BACKUPS)
    with pytest.raises(backup.BackupError, match="there is no backup yet; berth backup makes one"):
        restore.choose(restore.LATEST, [])


def test_the_backup_is_named_for_a_restore_point_too() -> None:
    """pgBackRest does not know when a restore point was, and would begin with a backup after it."""
    assert restore.words(restore.LATEST, BACKUPS[0]) == ["--set=F"]
    assert restore.words(restore.to_point("board-x", NOW), BACKUPS[0]) == [
        *("--set=F", "--type=name", "--target=board-x", "--target-action=promote")
    ]


def table(name: str, persistence: str = "p") -> dict[str, Any]:
    return {"name": f"public.{name}", "persistence": persistence, "quoted": f"public.{name}"}


LIVE: dict[str, Any] = {
    "board": {
        "tables": {1: table("posts"), 2: table("same"), 3: table("new"), 4: table("seen", "u")},
        "rows": {1: 10, 2: 5, 3: 1},
        "schema": {"public.alembic_version": "0003"},
    }
}
THERE: dict[str, Any] = {
    "board": {
        "tables": {1: table("posts"), 2: table("same"), 5: table("gone"), 4: table("seen", "u")},
        "rows": {1: 30, 2: 5, 5: 7},
        "schema": {"public.alembic_version": "0002"},
    },
    "old": {"tables": {1: table("kept")}, "rows": {1: 4}, "schema": {}},
}


def test_only_tables_that_differ_are_told_and_what_was_lost_first() -> None:
    found, unknown = restore.differences(THERE, LIVE)
    assert unknown == 0
    assert [(one["database"], one["table"], one["restored"], one["live"]) for one in found] == [
        ("board", "public.posts", 30, 10),
        ("board", "public.gone", 7, None),
        ("old", "public.kept", 4, None),
        ("board", "public.new", None, 1),
    ]
    assert restore.schemas(THERE, LIVE) == [
        {"database": "board", "table": "public.alembic_version", "restored": "0002", "live": "0003"}
    ]
    uncounted = copy.deepcopy(LIVE)
    del uncounted["board"]["rows"][1]
    assert restore.differences(THERE, uncounted)[1] == 1


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    known = {"status": {"code": 0}, "backup": BACKUPS, "archive": []}
    monkeypatch.setattr(backup, "info", lambda *_: known)
    monkeypatch.setattr(side.Server, "ask", lambda *_, **__: str(30 << 20))
    monkeypatch.setattr(backup, "free", lambda _: 4 << 30)
    found = {"restored": str(tmp_path / "restored"), "state": str(tmp_path / "state"), "stanza": "main"}
    for path in (found["restored"], found["state"]):
        Path(path).mkdir()
    return {**found, "socket": "/run/postgresql", "port": 5432, "version": "17"}


def test_the_plan_names_backup_and_room_and_refuses_a_full_disk(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = restore.plan(settings, restore.LATEST)
    assert (planned["backup"], planned["need"]) == ("I", int((30 << 20) * 1.1) + side.WAL)
    monkeypatch.setattr(backup, "free", lambda _: side.RESERVE)
    with pytest.raises(backup.BackupError, match=r"has 1024 MB free, and the restore needs about 545 MB"):
        restore.plan(settings, restore.LATEST)
    Path(settings["restored"]).rmdir()
    with pytest.raises(backup.BackupError, match="is not there; berth up"):
        restore.plan(settings, restore.LATEST)


def test_a_live_server_that_does_not_answer_is_no_reason_against_it(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any, **__: Any) -> str:
        raise backup.BackupError("no server there")

    monkeypatch.setattr(side.Server, "ask", ask)
    assert restore.plan(settings, restore.LATEST)["need"] == int((22 << 20) * 1.1) + side.WAL
    made = restore.Restore(settings, restore.LATEST)
    assert made.mark() is None
    assert made.notes == ["the live server does not answer (no server there): what it did not archive lacks"]


def test_a_restore_that_fails_is_removed_and_told(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(settings["restored"])

    def fail(*_: Any) -> None:
        (folder / "data").mkdir()
        raise backup.BackupError("a file of it is damaged")

    monkeypatch.setattr(restore.Restore, "restore", fail)
    assert restore.serve(settings, dict(restore.LATEST)) == 1
    assert list(folder.iterdir()) == []
    assert "Nothing was restored: a file of it is damaged." in capsys.readouterr().err
    kept = json.loads((Path(settings["state"]) / "restored.json").read_text())
    assert (kept["problem"], kept["request"]) == ("a file of it is damaged", restore.LATEST)


def test_systemd_hears_of_it_once_it_stands_and_it_stays_as_long_as_its_server(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.settimeout(5)
    heard.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(restore.Restore, "run", lambda self: self.facts.update(backup="I"))
    alive = iter([7, 7, 0])
    monkeypatch.setattr(side, "postmaster", lambda _: next(alive))
    monkeypatch.setattr(restore.time, "sleep", lambda _: None)
    assert restore.serve(settings, dict(restore.LATEST)) == 1
    assert heard.recv(100) == b"READY=1"
    heard.close()
    assert list(alive) == []
    assert json.loads((Path(settings["state"]) / "restored.json").read_text())["problem"] == ""


def test_replay_that_ends_too_early_names_the_hole(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = restore.Restore(settings, restore.to_time("2026-11-30 11:59:00+00", NOW + 86400))
    monkeypatch.setattr(restore.Restore, "missing", lambda _: [{"after": "000000010000000000000003"}])
    said = made.unreached("recovery ended before configured recovery target was reached")
    assert said == (
        "the WAL that is archived does not lead to 2026-11-30 11:59:00 UTC: the archive lacks what follows "
        "000000010000000000000003"
    )
    assert made.unreached("out of memory") == "what was restored does not start: out of memory"


def test_drop_removes_what_is_there_and_what_was_said_of_it(settings: dict[str, Any]) -> None:
    data = Path(settings["restored"]) / "data"
    data.mkdir()
    (data / "x").write_bytes(b"x" * (2 << 20))
    kept = Path(settings["state"]) / "restored.json"
    kept.write_text("{}")
    assert restore.drop(settings) == "The restored server is gone, and 2 MB are free again."
    assert (list(Path(settings["restored"]).iterdir()), kept.exists()) == ([], False)
    assert restore.drop(settings) == "No restored server is there."


def test_without_backups_only_drop_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backup, "SETTINGS", tmp_path / "settings.json")
    monkeypatch.setattr(backup, "RESTORED", str(tmp_path / "restored"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    assert restore.main(["plan"]) == 1
    assert "there are to be no backups on this server" in capsys.readouterr().err
    assert restore.main(["drop"]) == 0


def test_the_program_runs_by_itself_where_it_is_installed(tmp_path: Path) -> None:
    folder = tmp_path / "berth"
    folder.mkdir()
    for module in (backup, drill, offsite, reasons, restore, side):
        (folder / Path(str(module.__file__)).name).write_text(Path(str(module.__file__)).read_text())
    command = [sys.executable, "-I", str(folder / "restore.py"), "look"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (2, "restore.py serve | plan | drop\n")
