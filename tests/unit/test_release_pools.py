"""How many connections an app may open: read from its sources, never guessed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.migrations import connections
from ansible.module_utils.berth.reading import pools
from ansible.module_utils.berth.reports import detect

from tests.support.entry import board

SA = "from sqlalchemy import create_engine\n"


def app(**more: Any) -> dict[str, Any]:
    return board(**{"name": "shop", "database": {}, **more})


def found(folder: Path, **env: Any) -> list[tuple[str, int | None]]:
    return [(pool.where, pool.most) for pool in pools.find(folder, env)]


@pytest.mark.parametrize(
    ("text", "most"),
    [
        (SA + "engine = create_engine(url)", 15),
        (SA + "engine = create_engine(url, pool_size=3)", 13),
        (SA + "engine = create_engine(url, pool_size=3, max_overflow=0)", 3),
        (SA + "engine = create_engine(url, poolclass=NullPool)", 0),
        (SA + "engine = create_engine(url, poolclass=pool.StaticPool)", 1),
        ("import sqlalchemy as sa\nengine = sa.create_engine(url)", 15),
        ("from sqlmodel import create_engine as make\nengine = make(url)", 15),
        ("from sqlalchemy.ext.asyncio import create_async_engine\nx = create_async_engine(url)", 15),
        ("import sqlalchemy.ext.asyncio\nx = sqlalchemy.ext.asyncio.create_async_engine(url)", 15),
        ("import asyncpg\nasync def f(): return await asyncpg.create_pool(dsn)", 10),
        ("import asyncpg\nasync def f(): return await asyncpg.create_pool(dsn, min_size=2, max_size=30)", 30),
        ("from psycopg_pool import AsyncConnectionPool\npool = AsyncConnectionPool(dsn)", 4),
        ("from psycopg_pool import ConnectionPool\npool = ConnectionPool(dsn, min_size=8)", 8),
        ("from psycopg_pool import ConnectionPool\npool = ConnectionPool(dsn, min_size=8, max_size=20)", 20),
        ("from psycopg2.pool import ThreadedConnectionPool\npool = ThreadedConnectionPool(1, 25, dsn)", 25),
        ("import databases\nx = databases.Database(url)", 10),
    ],
)
def test_a_pool_and_its_size(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "db.py").write_text(text)
    assert [most for _, most in found(tmp_path)] == [most]


@pytest.mark.parametrize(
    "text",
    [
        "def create_engine(url): ...\nengine = create_engine(url)",
        "from shop.db import create_engine\nengine = create_engine(url)",
        "from .db import create_engine\nengine = create_engine(url)",
        SA + "engine = create_engine('sqlite:///x.db')",
        SA + "URL = 'sqlite:///x.db'\nengine = create_engine(URL)",
        SA + "engine = create_engine(f'sqlite:///{path}')",
        SA + "engine = create_engine(",
        SA + "SIZE = int(SIZE)\nengine = create_engine(url, pool_size=SIZE)",
        SA + "engine = create_engine(url)\nx = " + "+".join(["1"] * 900),
    ],
)
def test_what_is_no_pool_of_this_database(tmp_path: Path, text: str) -> None:
    (tmp_path / "db.py").write_text(text)
    assert found(tmp_path) == []


def test_the_larger_branch_counts(tmp_path: Path) -> None:
    (tmp_path / "db.py").write_text(
        SA + "if url.startswith('sqlite'):\n    engine = create_engine(url, pool_size=1, max_overflow=0)\n"
        "else:\n    engine = create_engine(url, pool_size=20)\n"
    )
    assert found(tmp_path) == [("db.py:5", 30)]


def test_a_size_from_settings_environment_and_inventory(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(
        "class Settings(BaseSettings):\n    db_pool_size: int = Field(default=7, ge=1)\n"
        "OVERFLOW = int(os.getenv('DB_OVERFLOW', '2'))\n"
    )
    (tmp_path / "db.py").write_text(
        SA + "def make(pool_size=None):\n"
        "    print(pool_size)\n"
        "    return create_engine(\n"
        "        url, pool_size=pool_size or settings.db_pool_size, max_overflow=OVERFLOW + 1)\n"
    )
    assert found(tmp_path) == [("db.py:4", 10)]
    assert found(tmp_path, SHOP_DB_POOL_SIZE="20", DB_OVERFLOW=0) == [("db.py:4", 21)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("pool_size=settings.size", "pool_size is settings.size, which has no value in the sources"),
        ("pool_size=os.environ['SIZE']", "pool_size is os.environ['SIZE'], which has no value"),
        ("**options", "its size is in a mapping"),
        ("max_overflow=-1", "max_overflow=-1 sets no limit"),
    ],
)
def test_what_cannot_be_read_is_unknown(tmp_path: Path, arguments: str, says: str) -> None:
    (tmp_path / "db.py").write_text(SA + f"engine = create_engine(url, {arguments})")
    (pool,) = pools.find(tmp_path, {})
    assert pool.most is None
    assert says in pool.says
    rows = detect.describe(app(), tmp_path, 90)
    assert [row[1] for row in rows if row[0] == "connections"] == ["unknown"]


def test_the_default_address_of_the_sources_is_not_the_servers(tmp_path: Path) -> None:
    (tmp_path / "db.py").write_text(SA + "engine = create_engine(os.getenv('DATABASE_URL', 'sqlite:///x'))")
    assert pools.demand(app(), tmp_path).most == 30


def test_pools_times_processes_against_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "db.py").write_text(SA + "engine = create_engine(url, pool_size=20, max_overflow=0)")
    processes = [{"name": "web", "workers": 4}, {"name": "worker", "instances": 2, "command": "w"}]
    wanted = pools.demand(app(processes=processes), tmp_path)
    assert wanted.most == 120
    assert pools.warning(wanted, 120, "the server") == ""
    assert pools.warning(wanted, 90, "the server") == (
        "Under load the app opens up to 120 database connections, "
        "20 (db.py:2: pool_size 20 + max_overflow 0) x (4 web workers + 2 worker), "
        "and the server leaves it 90: make the pool smaller, give web fewer workers, "
        "raise max_connections in server.postgresql.settings, or write pooler: {enabled: true}"
    )
    rows = detect.describe(app(processes=processes), tmp_path, 90)
    assert ("connections", "up to 120") in [row[:2] for row in rows]
    assert "too many" in [row[1] for row in rows]
    verdicts = [row[1] for row in detect.describe(app(processes=processes), tmp_path, 190)]
    assert "too many" not in verdicts
    assert "tight" in verdicts, "a deploy is two of them at a time"
    assert "tight" not in [row[1] for row in detect.describe(app(processes=processes), tmp_path, 240)]


def test_pools_of_one_size_are_told_together_and_command_lines_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        (tmp_path / f"{name}.py").write_text(SA + "engine = create_engine(url)")
    (tmp_path / "e.py").write_text(SA + "engine = create_engine(url, pool_size=1, max_overflow=0)")
    (tmp_path / "cli.py").write_text(SA + "engine = create_engine(url)")
    (tmp_path / "commandline").mkdir()
    (tmp_path / "commandline/serve.py").write_text(SA + "engine = create_engine(url)")
    assert pools.demand(app(processes=[{"name": "web", "workers": 1}]), tmp_path).sum == (
        "61 (a.py:2, b.py:2, c.py:2 and 1 more: pool_size 5 by default + max_overflow 10 by default each; "
        "e.py:2: pool_size 1 + max_overflow 0) x (1 web worker)"
    )


def test_a_pool_that_divides_itself_by_the_workers(tmp_path: Path) -> None:
    (tmp_path / "db.py").write_text(
        SA + "size = 40 // int(os.getenv('WEB_CONCURRENCY', 1))\n"
        "engine = create_engine(url, pool_size=40 // int(os.getenv('WEB_CONCURRENCY', 1)), max_overflow=0)"
    )
    assert pools.demand(app(processes=[{"name": "web", "workers": 4}]), tmp_path).most == 40


class _Database:
    def __init__(self, limits: Any) -> None:
        self.answer = limits

    def limits(self, role: str) -> Any:
        assert role == "shop"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("limits", "others", "said"),
    [
        ((97, 45, 9), [], "up to 60 database connections, 30 (db.py:2"),
        ((97, 45, 9), [], "its share of max_connections leaves it 45"),
        ((97, 200, 0), [60], "max_connections beside the 60 of other apps leaves it 27"),
        ((97, -1, 0), [], ""),
        ((97, -1, 27), [], ""),
        (
            (97, -1, 28),
            [],
            "may need 88 database connections, 60 for the new one, 30 (db.py:2: pool_size 30 +",
        ),
        (
            (97, -1, 28),
            [],
            "beside the 28 that it holds now, and max_connections leaves it 87: make the pool",
        ),
        (None, [], ""),
        (OSError("gone"), [], ""),
        (subprocess.TimeoutExpired("psql", 10), [], ""),
    ],
)
def test_the_running_server_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Any, others: list[int], said: str
) -> None:
    monkeypatch.setattr(connections, "Database", lambda _: _Database(limits))
    monkeypatch.setattr(connections, "_of_others", lambda _: others)
    (tmp_path / "db.py").write_text(SA + "engine = create_engine(url, pool_size=30, max_overflow=0)")
    text = connections.check(app(), "shop", pools.demand(app(), tmp_path))
    assert said in text
    assert bool(text) is bool(said)
