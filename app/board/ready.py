"""Can this process do its work? One question at a time, however many ask."""

import asyncio
import logging

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from board.database import UNAVAILABLE, Sessions

log = logging.getLogger(__name__)

ANSWER_SECONDS = 2
GIVE_UP_SECONDS = 10
NO_ANSWER = "the database does not answer"
NO_TABLES = "the database has no tables for this user: run the migrations"


class Readiness:
    """Asks the database for its tables.

    Even giving up on a query takes long when the server hangs instead of refusing. So the question runs
    by itself: who asks meanwhile waits two seconds for its answer, and it holds one connection in all.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._question: asyncio.Task[str] | None = None

    async def problem(self) -> str:
        """Why it cannot, or "" when it can."""
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait({self._question}, timeout=ANSWER_SECONDS)
        problem = self._question.result() if done else NO_ANSWER
        if problem:
            log.warning("not ready", extra={"reason": problem})
        return problem

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS), self._sessions() as session:
                await session.execute(text("SELECT 1 FROM posts LIMIT 1"))
        except UNAVAILABLE:
            return NO_ANSWER
        except DBAPIError:
            return NO_TABLES
        return ""

    async def close(self) -> None:
        if self._question:
            self._question.cancel()
            await asyncio.wait({self._question}, timeout=1)
