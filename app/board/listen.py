"""Listening to Postgres notifications on a connection of its own, for ever."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import sql

from board.database import NOTICE_DEATH

log = logging.getLogger(__name__)

MAX_PAUSE = 10.0


async def listen(
    dsn: str,
    channel: str,
    on_message: Callable[[str], Awaitable[None]],
    on_connect: Callable[[], Awaitable[None]],
) -> None:
    """Call on_message with each payload until cancelled.

    After every connect, the first one included, on_connect is called: what was sent while nobody
    listened is lost, so this is the moment to look for it.
    """
    pause = 0.5
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(
                dsn,
                autocommit=True,
                connect_timeout=5,
                application_name=f"board listen {channel}",
                **NOTICE_DEATH,
            )
            async with connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                pause = 0.5
                await on_connect()
                async for notification in connection.notifies():
                    await on_message(notification.payload)
        except (psycopg.Error, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            log.warning(
                "listening interrupted", extra={"channel": channel, "reason": reason, "retry_in": pause}
            )
        await asyncio.sleep(pause)
        pause = min(pause * 2, MAX_PAUSE)
