"""The connection pool, and the check that all pools together fit the server."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from board.settings import Settings

Sessions = async_sessionmaker[AsyncSession]

# What it looks like when the database is down, restarting or out of connections.
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout, ConnectionError, TimeoutError)

# A server that vanished without a word (in seconds; the last one in milliseconds).
NOTICE_DEATH: dict[str, Any] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,
}

# One connection of each web worker listens for the live feed, outside the pool.
LISTENERS = 1
# The background worker (a job and a listener) and the nightly job (its lock and its work).
BACKGROUND = 4


def make_engine(settings: Settings, pool_size: int | None = None) -> AsyncEngine:
    """A pool with a hard upper bound: a burst waits for a connection instead of opening more."""
    return create_async_engine(
        settings.db_url,
        pool_size=pool_size or settings.db_pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        pool_recycle=1800,
        # Rows may hold what people wrote: keep it out of logs and error messages.
        hide_parameters=settings.production,
        connect_args={"connect_timeout": 5, "application_name": "board", **NOTICE_DEATH},
    )


def make_sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, expire_on_commit=False)


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """A session for one request; the route commits."""
    sessions: Sessions = request.app.state.sessions
    async with sessions() as opened:
        yield opened


SessionDep = Annotated[AsyncSession, Depends(session)]


@dataclass(frozen=True)
class Capacity:
    """Connections this app can ask for at most, and what the server lets it have."""

    per_worker: int
    workers: int
    available: int

    @property
    def needed(self) -> int:
        # During a deploy the old and the new release run side by side.
        return 2 * (self.workers * self.per_worker + BACKGROUND)

    @property
    def problem(self) -> str:
        """One sentence when it does not fit, else ""."""
        if self.needed <= self.available:
            return ""
        fits = (self.available // 2 - BACKGROUND) // self.workers - LISTENERS
        advice = f"set DB_POOL_SIZE to {fits} or less" if fits >= 1 else "run fewer workers"
        return (
            f"{self.workers} web workers with {self.per_worker} database connections each, twice during a "
            f"deploy, need {self.needed} connections, but the server gives this app {self.available}: "
            f"{advice}, or raise max_connections"
        )


async def read_capacity(engine: AsyncEngine, settings: Settings) -> Capacity:
    """Ask the server for its limits: of the cluster, the role and the database."""
    query = text(
        """
        SELECT current_setting('max_connections')::int
               - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true)::int, 0),
               (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
               (SELECT datconnlimit FROM pg_database WHERE datname = current_database())
        """
    )
    async with engine.connect() as connection:
        cluster, role, database = (await connection.execute(query)).one()
    limits = [cluster, *(limit for limit in (role, database) if limit is not None and limit >= 0)]
    return Capacity(settings.db_pool_size + LISTENERS, settings.web_concurrency, min(limits))
