"""What a migration's failure means."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.migrations import migrate
from ansible.module_utils.berth.packaging import once
from ansible.module_utils.berth.packaging.once import Code
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reading import tables

from tests.support.entry import board


@pytest.mark.parametrize(
    ("lines", "limit", "sentence"),
    [
        (
            ["FAILED: Can't locate revision identified by 'abc'"],
            0,
            "The database is at revision abc, which this code does not have",
        ),
        (["x"], 9, "The migration ran longer than migrations.timeout (9 s) and was stopped"),
        (["FAILED: no such thing"], 0, "The migration failed: FAILED: no such thing"),
        ([], 0, "The migration failed: exit status 1"),
    ],
)
def test_reasons(lines: list[str], limit: int, sentence: str) -> None:
    assert migrate._reason(lines, 1, "/srv/x", 5, limit, watch()) == sentence


def watch(**seen: Any) -> migrate.Blockers:
    """With what it saw, if anything."""
    found = migrate.Blockers({"database": {"name": "shop"}}, 2, lambda text: text.replace("hush", "(hidden)"))
    if seen:
        session = {"pid": 77, "role": "postgres", "name": "report", "state": "idle in transaction"}
        found.last = {"what": "things", "kind": "relation", "autovacuum": False, "seconds": 12, "query": ""}
        found.last |= {**session, **seen}
    return found


HOLDS = "pid 77 of Postgres holds it (role postgres, application report), in a transaction for 12 s, "


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        ({}, "a lock that another session holds"),
        ({"seconds": 12}, f"a lock on things: {HOLDS}shows no query"),
        # What is in a query is people's data, or a secret.
        (
            {"query": "SELECT *\n FROM things WHERE name = 'Ann''s' and x = hush", "state": "active"},
            f"a lock on things: {HOLDS}runs: SELECT * FROM things WHERE name = '…' and x = (hidden)",
        ),
        ({"query": "select $a$Ann$a$, 'cut of"}, f"a lock on things: {HOLDS}ran last: select '…', '…'"),
        (
            {"query": "select " + 40 * "column, "},
            f"a lock on things: {HOLDS}ran last: select {18 * 'column, '}column,…",
        ),
        (
            {"role": "shop", "name": "", "what": "", "kind": "virtualxid"},
            "the end of older transactions: pid 77 of Postgres is in one (role shop, the app itself), "
            "in a transaction for 12 s, shows no query",
        ),
        ({"autovacuum": True}, "a lock on things: pid 77 of Postgres holds it (autovacuum, since 12 s)"),
        ({"pid": 0}, "a lock on things: a prepared transaction holds it (select * from pg_prepared_xacts)"),
    ],
)
def test_who_holds_the_lock(seen: dict[str, Any], sentence: str) -> None:
    assert watch(**seen).sentence() == sentence
    ends = seen and seen.get("pid", 77) and not seen.get("autovacuum") and "kind" not in seen
    assert ("SET lock_timeout = 0" in watch(**seen).advice()) is ("kind" in seen)
    assert ("pg_terminate_backend(77)" in watch(**seen).advice()) is bool(ends)


def test_what_cannot_be_seen_leaves_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ['{"pid": 7}\n', "", "nonsense"]

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert argv[-2:] == ["-d", "shop"]
        return subprocess.CompletedProcess(argv, 0, answers.pop(0), "")

    monkeypatch.setattr(migrate.subprocess, "run", run)
    blockers = watch()
    for _ in range(3):
        blockers.look()
        assert blockers.last == {"pid": 7}


LOCKED = Result(
    1, "", "Traceback (most recent call last):\nLockNotAvailable: canceling statement due to lock timeout"
)
BROKEN = Result(1, "", "Traceback (most recent call last):\nValueError: no")
WELL = Result(0, "", "")


@pytest.mark.parametrize(
    ("results", "retries", "limit", "unchanged", "ends", "pauses"),
    [
        ([WELL], 2, 900, True, 1, []),
        ([LOCKED, WELL], 2, 900, True, 2, [1]),
        ([LOCKED, LOCKED, WELL], 2, 900, True, 3, [1, 1]),
        ([LOCKED, LOCKED, LOCKED], 2, 900, True, "tried 3 times", [1, 1]),
        ([LOCKED, LOCKED], 1, 900, True, "tried 2 times", [1]),
        ([LOCKED], 0, 900, True, "tried once", []),
        # It left something behind, so that a second try would meet it.
        ([LOCKED], 2, 900, False, "tried once", []),
        # There would be no time to wait for the lock once more.
        ([LOCKED], 2, 5, True, "tried once", []),
        ([BROKEN], 2, 900, True, "ValueError: no", []),
        ([LOCKED, BROKEN], 2, 900, True, "ValueError: no", [1]),
    ],
)
def test_what_waited_for_a_lock_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
    results: list[Result],
    retries: int,
    limit: int,
    unchanged: bool,
    ends: int | str,
    pauses: list[float],
) -> None:
    left = list(results)
    slept: list[float] = []
    monkeypatch.setattr(once, "transient", lambda _: left.pop(0))
    monkeypatch.setattr(migrate.time, "sleep", slept.append)
    monkeypatch.setattr(migrate.Blockers, "start", lambda _: None)
    wishes = {"lock_timeout": 4, "timeout": limit, "lock_retries": retries}
    app = board(migrations=wishes, database={"name": "shop"})
    code = Code(Paths("shop"), "r", Path("env"), [])
    words = (app, code, "alembic upgrade head", Path(), lambda: unchanged)
    if isinstance(ends, int):
        assert migrate.run(*words) == ends
    else:
        with pytest.raises(ReleaseError, match=ends):
            migrate.run(*words)
    assert (left, slept) == ([], pauses)


@pytest.mark.parametrize(
    ("env", "body", "whole"),
    [
        ("context.configure(connection=connection)\nconnection.commit()", 'op.execute("x")', True),
        ("", "with op.get_context().autocommit_block(): pass", False),
        ("", 'op.execute("COMMIT")', False),
        ('create_engine(url, isolation_level="AUTOCOMMIT")', "", False),
        ("context.configure(transactional_ddl=False)", "", False),
    ],
)
def test_what_a_failed_try_leaves_behind(tmp_path: Path, env: str, body: str, whole: bool) -> None:
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n")
    versions = tmp_path / "migrations/versions"
    versions.mkdir(parents=True)
    (versions.parent / "env.py").write_text(env)
    (versions / "2_x.py").write_text(body)
    (versions / "1_long_ago.py").write_text("with autocommit_block(): pass")
    assert tables.is_transactional(tmp_path, tmp_path, ["2_x.py"]) is whole


def test_an_app_that_creates_its_tables_itself_needs_no_migrations(tmp_path: Path) -> None:
    assert tables.makes_itself(tmp_path, "") == ""
    (tmp_path / "main.py").write_text("Base.metadata.create_all(engine)\n")
    assert "(main.py:1), write migrations: {enabled: false}" in tables.makes_itself(tmp_path, "")
    assert tables.makes_itself(tmp_path, "0001") == ""


@pytest.mark.parametrize(
    ("lines", "late", "advice"),
    [
        (["FAILED: Can't locate revision identified by 'abc'"], False, "deploy a version that has it"),
        (["FAILED: Multiple head revisions are present"], False, "commit the file"),
        (["psycopg.errors.DiskFull: could not extend file"], False, "df -h on the server"),
        (["it took too long"], True, "raise migrations.timeout"),
        (
            ["Traceback (most recent call last):", "psycopg.errors.LockNotAvailable: lock timeout"],
            True,
            "deploy again when the lock is free",
        ),
        (["sqlalchemy.exc.ProgrammingError: no such table"], False, "correct the migration"),
    ],
)
def test_what_to_do_about_a_failed_migration(lines: list[str], late: bool, advice: str) -> None:
    assert migrate._advice(lines, watch(), late).startswith(advice)
