"""The live feed: Postgres tells each worker process, and each tells its own WebSocket clients."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from board.database import UNAVAILABLE, Sessions
from board.metrics import LIVE_CLIENTS
from board.posts import get_post
from board.schemas import PostOut

log = logging.getLogger(__name__)

MAX_CLIENTS = 1000
BACKLOG = 100

# WebSocket close codes.
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013


class Client:
    """One open page. A client that does not read is let go rather than buffered for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(BACKLOG)
        self.close_code = SERVICE_RESTART

    def push(self, message: str) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.end(TRY_AGAIN_LATER)

    def end(self, code: int) -> None:
        self.close_code = code
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def next(self) -> str | None:
        """The next message; None when the connection is to be closed with close_code."""
        return await self._queue.get()


class Hub:
    """The clients of this process."""

    def __init__(self) -> None:
        self._clients: set[Client] = set()
        self._closed = False

    @property
    def full(self) -> bool:
        return self._closed or len(self._clients) >= MAX_CLIENTS

    @contextmanager
    def join(self) -> Iterator[Client]:
        client = Client()
        self._clients.add(client)
        LIVE_CLIENTS.inc()
        try:
            yield client
        finally:
            self._clients.discard(client)
            LIVE_CLIENTS.dec()

    def broadcast(self, message: dict[str, Any]) -> None:
        encoded = json.dumps(message, ensure_ascii=False)
        for client in self._clients:
            client.push(encoded)

    def close(self) -> None:
        """Send everyone away with "the service restarts": browsers come back at once."""
        self._closed = True
        for client in self._clients:
            client.end(SERVICE_RESTART)


class Announcer:
    """Turns a notification (an id) into a message (the post), once per process."""

    def __init__(self, hub: Hub, sessions: Sessions, render: Callable[[PostOut], str]) -> None:
        self._hub = hub
        self._sessions = sessions
        self._render = render

    async def resync(self) -> None:
        """Something may have been missed: let the pages look for themselves."""
        self._hub.broadcast({"type": "resync"})

    async def announce(self, payload: str) -> None:
        try:
            event = json.loads(payload)
            kind, post_id = event["type"], int(event["id"])
            message: dict[str, Any] = {"type": kind, "id": post_id}
            if kind != "delete":
                async with self._sessions() as session:
                    post = await get_post(session, post_id)
                if post is None:
                    return
                out = PostOut.model_validate(post)
                message |= {"post": out.model_dump(mode="json"), "html": self._render(out)}
        except (ValueError, KeyError, TypeError) as error:
            # Anyone with the runtime role can notify: a strange message must not end the feed.
            log.warning("strange notification", extra={"error": str(error)})
        except UNAVAILABLE as error:
            log.warning("post not announced", extra={"error": type(error).__name__})
            await self.resync()
        except Exception:
            # One post that cannot be shown must not end the feed for all others.
            log.exception("post not announced")
        else:
            self._hub.broadcast(message)
