"""A WebSocket that stays open while a test does something else."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websockets.asyncio.client

from tests.support.kit import Kit
from tests.support.pace import patience


@contextmanager
def held_open(kit: Kit, folder: Path) -> Iterator[Callable[[str], int]]:
    """A WebSocket of loadapp; what is yielded sends a text, and returns how many it has echoed.

    By asyncio in a thread of its own: the library's other client reads and writes one TLS connection in two
    threads, which Python before 3.13 does not allow. Of 400 one got no answer, and then Python crashed.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    seconds = patience(20)

    def wait(what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, loop).result(3 * seconds)

    async def connect() -> websockets.asyncio.client.ClientConnection:
        return await websockets.asyncio.client.connect(
            "wss://loadapp.localhost/ws",
            host="127.0.0.1",
            port=kit.host.published["443"],
            ssl=ssl.create_default_context(cafile=str(kit.authority(folder))),
            proxy=None,
            open_timeout=seconds,
        )

    try:
        connection = wait(connect())

        def say(text: str) -> int:
            wait(connection.send(text))
            answer = json.loads(wait(asyncio.wait_for(connection.recv(), seconds)))
            assert answer["text"] == text
            return int(answer["n"])

        yield say
        wait(connection.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(seconds)
        loop.close()
