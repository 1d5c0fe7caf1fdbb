"""Migrations go up, down and up again, make what the models say, and need the owner's role."""

import os
import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest

from board.settings import PROJECT
from tests.conftest import Database


def tables(database: Database) -> set[str]:
    found = database.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {str(row[0]) for row in found}


def test_up_down_up(make_database: Callable[[], Database]) -> None:
    database = make_database()
    database.alembic("upgrade", "head")
    assert tables(database) >= {"posts", "attachments", "jobs", "rate_limits", "daily_digests"}
    # Fails when the models and the migrations do not agree.
    database.alembic("check")
    database.alembic("downgrade", "base")
    assert tables(database) == {"alembic_version"}
    assert database.query("SELECT count(*) FROM pg_class WHERE relname LIKE 'ix_%'") == [(0,)]
    database.alembic("upgrade", "head")
    database.alembic("check")
    assert len(database.alembic("heads").stdout.split("\n")) == 2  # one head and the last line's end


def test_sql_without_a_database(database: Database) -> None:
    done = database.alembic("upgrade", "head", "--sql")
    assert "CREATE TABLE posts" in done.stdout
    assert "CREATE UNLOGGED TABLE rate_limits" in done.stdout


def test_missing_url_is_said_plainly() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "current"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if not (PROJECT / ".env").exists():
        assert done.returncode == 3
        assert "DATABASE_URL is missing" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE intruder (id int)",
        "ALTER TABLE posts ADD COLUMN more int",
        "DROP TABLE posts",
        "TRUNCATE posts",
        "CREATE INDEX intruder ON posts (author)",
    ],
)
def test_runtime_role_has_no_say_over_tables(database: Database, statement: str) -> None:
    with psycopg.connect(database.url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_runtime_role_reads_and_writes_rows(database: Database, clean: None) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute("INSERT INTO posts (author, text) VALUES ('Ada', 'Hello')")
        connection.execute("UPDATE posts SET text = 'Hello again'")
        assert connection.execute("DELETE FROM posts RETURNING author").fetchall() == [("Ada",)]
