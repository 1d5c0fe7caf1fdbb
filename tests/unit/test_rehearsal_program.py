"""The copy that migrations are rehearsed on: what of its log is told, who gets in, and when it ends."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, rehearsal, restore, side

LOG = """\
berth 98.000000 shop_owner shop [berth] LOG:  duration: 9000.0 ms  statement: drop view a
berth 99.000000 postgres shop [] LOG:  duration: 9000.0 ms  statement: DROP TABLE not_of_the_owner
berth 100.000000 shop_owner shop [] LOG:  duration: 500.0 ms  statement: select pg_catalog.version()
berth 100.500000 shop_owner shop [] LOG:  duration: 10.0 ms  statement: ALTER TABLE things
\t  ADD price int -- don't
\t  DEFAULT 7;
berth 100.600000 shop_owner shop [] LOG:  duration: 0.1 ms  bind x: DROP TABLE bound
berth 101.000000 shop_owner shop [] LOG:  duration: 0.1 ms  statement: UPDATE alembic_version \
SET version_num='0002' WHERE alembic_version.version_num = '0001'
berth 102.000000 shop_owner shop [] LOG:  duration: 100.0 ms  execute __asyncpg_stmt_1__: \
INSERT INTO things (name, n) VALUES ($1, 'Ann''s', 4711)
berth 102.100000 shop_owner shop [] LOG:  duration: 200.0 ms  execute __asyncpg_stmt_1__: \
INSERT INTO things (name, n) VALUES ($1, 'Bob', 42)
berth 103.000000 shop_owner shop [] LOG:  duration: 1.0 ms  statement: \
ALTER TABLE a ADD b varchar(20); DROP TABLE "x;y"
berth 103.500000 shop_owner shop [] ERROR:  column "price" contains null values
berth 103.500000 shop_owner shop [a b] STATEMENT:  ALTER TABLE things ALTER price SET NOT NULL
"""


def account(log: str) -> dict[str, Any]:
    ran = rehearsal.statements(io.StringIO(log, newline="\n"), "shop_owner", "shop")
    found: dict[str, Any] = rehearsal.account(ran)
    return found


def test_what_the_owner_ran_is_told_under_the_revision_that_it_belongs_to() -> None:
    found = account(LOG)
    assert found["revisions"] == [{"revision": "0002", "seconds": 1.5}]
    assert [(one["revision"], one["sql"]) for one in found["schema"]] == [
        ("0002", "ALTER TABLE things ADD price int DEFAULT 7"),
        # What follows the last revision is of one that was not finished. One that failed ran, too.
        ("", "ALTER TABLE a ADD b varchar(20)"),
        ("", 'DROP TABLE "x;y"'),
        ("", "ALTER TABLE things ALTER price SET NOT NULL"),
    ]
    assert not found["left_out"]


def test_what_took_longest_comes_first_and_no_value_of_a_row_is_told() -> None:
    found = account(LOG)["statements"]
    assert [(one["sql"], one["times"], one["seconds"]) for one in found[:2]] == [
        ("select pg_catalog.version()", 1, 0.5),
        ("INSERT INTO things (name, n) VALUES (NULL, '…', 0)", 2, 0.3),
    ]
    assert [one["sql"] for one in found if one["failed"]] == ["ALTER TABLE things ALTER price SET NOT NULL"]
    for secret in ("Ann", "Bob", "4711", "42"):
        assert secret not in json.dumps(found)


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        (r"SELECT E'a\'b; c', U&'x', B'01'", ["SELECT '…', '…', '…'"]),
        ("DO $$ BEGIN; END $$", ["DO '…'"]),
        (
            "CREATE FUNCTION f() RETURNS int AS $x$ select $$a$$; $x$",
            ["CREATE FUNCTION f() RETURNS int AS '…'"],
        ),
        ('ALTER TABLE "it\'s;" RENAME TO b', ['ALTER TABLE "it\'s;" RENAME TO b']),
        ("/* it's */ ALTER TABLE a ADD b numeric(10,2);", ["ALTER TABLE a ADD b numeric(10,2)"]),
        ("UPDATE a SET b1 = 5, c = 1.5 WHERE d = $12", ["UPDATE a SET b1 = 0, c = 0 WHERE d = NULL"]),
        # What was cut off in the middle of a value shows nothing of it.
        ("INSERT INTO a VALUES ('half a val", ["INSERT INTO a VALUES ('…'"]),
        (" ; -- nothing\n", []),
    ],
)
def test_statements_are_told_apart_and_hold_no_value(text: str, statements: list[str]) -> None:
    assert rehearsal.plain(text) == statements


def test_a_statement_without_end_is_read_in_parts_and_not_linted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "LONGEST", 400)
    begin = "berth 1.0 shop_owner shop [] LOG:  duration: 1.0 ms  statement: "
    log = f"{begin}DROP TABLE a, {'b' * 2000}\n{begin}DROP TABLE c\n"
    parts = rehearsal.in_parts(io.StringIO(log, newline="\n"))
    found = rehearsal.account(rehearsal.statements(parts, "shop_owner", "shop"))
    assert [one["sql"] for one in found["schema"]] == ["DROP TABLE c"]
    assert found["left_out"]
    monkeypatch.setattr(rehearsal, "MOST", 5)
    assert account(f"{begin}DROP TABLE c\n")["left_out"]


def test_a_line_that_an_app_writes_passes_for_no_other_record() -> None:
    """What follows a statement's first line begins with a tab, whatever it is."""
    begin = "berth 1.0 shop_owner shop [] LOG:  duration: 1.0 ms  statement: "
    found = account(
        f"{begin}select 1,\n\tberth 2.0 shop_owner shop [] LOG:  duration: 9.0 ms  statement: DROP TABLE a\n"
    )
    assert found["schema"] == []


def test_revisions_of_merged_and_of_new_branches_are_known() -> None:
    begin = "berth {}.0 shop_owner shop [] LOG:  duration: 0.0 ms  statement: "
    notes = [
        "INSERT INTO alembic_version (version_num) VALUES ('a1') RETURNING alembic_version.version_num",
        "INSERT INTO public.alembic_version (version_num) VALUES ('b1')",
        "DELETE FROM alembic_version WHERE alembic_version.version_num = 'a1'",
        "UPDATE alembic_version SET version_num='c1' WHERE alembic_version.version_num = 'b1'",
    ]
    log = "".join(f"{begin.format(at + 1)}{note}\n" for at, note in enumerate(notes))
    assert [one["revision"] for one in account(log)["revisions"]] == ["a1", "b1", "c1"]


def test_locks_are_told_by_how_long_they_were_held_at_a_stretch() -> None:
    locks = rehearsal.Locks()
    for now, held in (
        (0.0, {"public.a": False, "public.b": True}),
        (1.0, {"public.a": True, "public.b": True}),
        (3.0, {"public.a": True}),
        (4.0, {}),
        (5.0, {"public.b": True}),
    ):
        locks.see(held, now)
    assert locks.told() == [
        {"table": "public.a", "reads": False, "seconds": 3.0},
        {"table": "public.a", "reads": True, "seconds": 2.0},
        {"table": "public.b", "reads": True, "seconds": 1.0},
    ]


def test_only_the_apps_roles_get_in_by_their_passwords_and_nobody_by_another_socket(tmp_path: Path) -> None:
    rules = rehearsal.rules("shop", "shop_owner", ["shop", "shop_owner"]).splitlines()
    assert rules == [
        "local all postgres peer",
        'local "shop" "shop_owner" scram-sha-256',
        'host "shop" "shop","shop_owner" 127.0.0.1/32 scram-sha-256',
        'host "shop" "shop","shop_owner" ::1/128 scram-sha-256',
    ]
    made = rehearsal.Rehearsal(settings(tmp_path), ASKED)
    text = side.configuration(made.folder, 5432, 17, {}, **made.options)
    for line in (
        "listen_addresses = '127.0.0.1,::1'",
        "archive_mode = 'off'",
        "shared_buffers = '128MB'",
        "log_parameter_max_length = '0'",
        "log_error_verbosity = 'terse'",
    ):
        assert line in text
    # Migrations write.
    assert "default_transaction_read_only" not in text
    assert "default_transaction_read_only" in restore.Restore.options


ASKED = {"database": "shop", "owner": "shop_owner", "roles": ["shop", "shop_owner"], "wait": 0}


def settings(tmp_path: Path) -> dict[str, Any]:
    for name in ("drill", "state"):
        (tmp_path / name).mkdir(exist_ok=True)
    return {
        "socket": "/run/postgresql",
        "port": 5432,
        "version": 17,
        "stanza": "main",
        **{name: str(tmp_path / name) for name in ("drill", "state")},
    }


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A server whose copy is made of nothing."""

    def run(made: rehearsal.Rehearsal) -> None:
        (made.folder / "data").mkdir()
        (made.folder / "log").write_text(LOG)
        made.watch = rehearsal.Watch(made.side, "shop", made.folder)
        made.facts["backup"] = "F"
        monkeypatch.setattr(rehearsal.Watch, "join", lambda *_: None)

    monkeypatch.setattr(rehearsal.Rehearsal, "run", run)
    return settings(tmp_path)


def test_it_stands_as_long_as_somebody_asks(copied: dict[str, Any]) -> None:
    said: list[dict[str, Any]] = []
    there: list[bool] = []

    def say(facts: dict[str, Any]) -> None:
        there.append((Path(copied["drill"]) / "data").exists())
        said.append(facts)

    rehearsal.serve(copied, io.StringIO(f"{json.dumps(ASKED)}\n{{}}\n"), say)
    assert there == [True, True]
    assert (said[0]["backup"], said[0]["problem"]) == ("F", "")
    assert said[1]["revisions"] == [{"revision": "0002", "seconds": 1.5}]
    # Nothing serves that folder.
    assert said[1]["ended"]
    assert list(Path(copied["drill"]).iterdir()) == []


def test_whatever_happens_to_it_nothing_is_left(
    copied: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(_: rehearsal.Rehearsal) -> dict[str, Any]:
        sys.exit(1)  # as a signal has it

    monkeypatch.setattr(rehearsal.Rehearsal, "told", told)
    with pytest.raises(SystemExit):
        rehearsal.serve(copied, io.StringIO(f"{json.dumps(ASKED)}\n{{}}\n"), lambda _: None)
    assert list(Path(copied["drill"]).iterdir()) == []


def test_it_waits_for_no_backup_longer_than_it_was_told(
    copied: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(copied["state"]) / "settings.json"
    file.write_text(json.dumps(copied))
    monkeypatch.setattr(backup, "SETTINGS", file)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(ASKED)))
    with backup.alone(Path(copied["state"])):
        assert rehearsal.main([]) == 1
    assert json.loads(capsys.readouterr().out) == {"problem": rehearsal.BUSY}


def test_room_for_the_largest_table_once_more_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {
        "status": {"code": 0},
        "backup": [{"label": "F", "timestamp": {"start": 1, "stop": 2}, "info": {"size": 1}}],
    }
    monkeypatch.setattr(backup, "info", lambda *_: known)
    monkeypatch.setattr(
        side.Server, "ask", lambda _, query, *__: str(9 << 30 if "max(" in query else 1 << 30)
    )
    monkeypatch.setattr(backup, "free", lambda _: 8 << 30)
    made = rehearsal.Rehearsal(settings(tmp_path), ASKED)
    with pytest.raises(backup.BackupError, match=r"has 8192 MB free, and the restore needs about 108\d\d MB"):
        made.run()


def test_the_server_ends_before_it_takes_the_room_of_the_live_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [side.RESERVE, side.RESERVE // 2 - 1]
    killed: list[Path] = []
    monkeypatch.setattr(backup, "free", lambda _: free.pop(0))
    monkeypatch.setattr(rehearsal, "kill", killed.append)
    monkeypatch.setattr(rehearsal, "LOOK", 0.01)
    # One that takes what it is asked and answers nothing.
    started = subprocess.Popen
    monkeypatch.setattr(
        rehearsal.subprocess, "Popen", lambda _, **more: started(["sleep", "60"], **{**more, "env": None})
    )
    watch = rehearsal.Watch(side.Server("/s", 1), "shop", tmp_path)
    watch.run()
    assert (watch.full, killed) == (True, [tmp_path])


def test_by_itself_it_takes_no_argument() -> None:
    program = Path(rehearsal.__file__)
    done = subprocess.run([sys.executable, "-I", str(program), "now"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "rehearsal.py takes no argument\n")
