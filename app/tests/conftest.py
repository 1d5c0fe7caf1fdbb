"""Fixtures: one cluster, one migrated database and one two-worker server for the whole run."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from board.settings import PROJECT
from tests.cluster import Cluster, cluster
from tests.server import Server, environment, serve


@dataclass(frozen=True)
class Database:
    """A database with the two roles of a deployment: one owns the tables, one reads and writes rows."""

    name: str
    owner_url: str
    url: str

    def query(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Ask or change something as the owner."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def alembic(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "DATABASE_URL": self.owner_url}
        command = [sys.executable, "-m", "alembic", *args]
        done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="session")
def make_database(postgres: Cluster) -> Iterator[Callable[[], Database]]:
    """Make databases the way a deployment does, and drop them at the end."""
    made: list[str] = []

    def make() -> Database:
        name = f"board_test_{secrets.token_hex(4)}"
        owner, database = sql.Identifier(f"{name}_owner"), sql.Identifier(name)
        made.append(name)
        for statement in (
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'for-tests'").format(owner),
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'for-tests'").format(database),
            sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner),
        ):
            postgres.admin(statement)
        defaults = "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT "
        for text in (
            "REVOKE ALL ON SCHEMA public FROM public",
            "ALTER SCHEMA public OWNER TO {owner}",
            "GRANT USAGE ON SCHEMA public TO {user}",
            defaults + "SELECT, INSERT, UPDATE, DELETE ON TABLES TO {user}",
            defaults + "USAGE, SELECT ON SEQUENCES TO {user}",
        ):
            postgres.admin(sql.SQL(text).format(owner=owner, user=database), name)
        base = make_url(postgres.admin_url).set(database=name, password="for-tests")
        urls = [base.set(username=user).render_as_string(False) for user in (f"{name}_owner", name)]
        return Database(name, *urls)

    yield make
    for name in made:
        database = sql.Identifier(name)
        postgres.admin(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
        postgres.admin(sql.SQL("DROP ROLE {}, {}").format(database, sql.Identifier(f"{name}_owner")))


@pytest.fixture(scope="session")
def database(make_database: Callable[[], Database]) -> Database:
    made = make_database()
    made.alembic("upgrade", "head")
    return made


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of the shared server: its log, its attachments, its metrics."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server(database: Database, folder: Path) -> Iterator[Server]:
    """Two workers, production settings, no rate limit."""
    more = {
        "WEB_CONCURRENCY": "2",
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        "BERTH_RELEASE": "r1",
    }
    with serve(environment(database.url, folder, **more), folder / "log") as running:
        yield running


@pytest.fixture
def clean(database: Database, folder: Path) -> None:
    """No rows and no files."""
    database.query("TRUNCATE posts, attachments, jobs, rate_limits, daily_digests RESTART IDENTITY")
    shutil.rmtree(folder / "attachments", ignore_errors=True)
    (folder / "attachments").mkdir()


@pytest.fixture
def client(server: Server, clean: None) -> Iterator[httpx.Client]:
    """A browser without JavaScript, on an empty board."""
    with httpx.Client(base_url=server.url, timeout=15) as opened:
        yield opened
