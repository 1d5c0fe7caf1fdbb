"""The live feed's WebSocket."""

import asyncio
import logging

from fastapi import APIRouter, WebSocket

from board.live import TRY_AGAIN_LATER, Client, Hub
from board.security import same_origin

log = logging.getLogger(__name__)
router = APIRouter()


@router.websocket("/live")
async def live(websocket: WebSocket) -> None:
    """Send every new, changed and deleted post. Clients have nothing to say here."""
    hub: Hub = websocket.app.state.hub
    if not same_origin(websocket):
        await websocket.close(1008)  # before accepting: the browser sees a 403
        return
    await websocket.accept()
    if hub.full:
        await websocket.close(TRY_AGAIN_LATER)
        return
    with hub.join() as client:
        log.info("live feed opened")
        tasks = [asyncio.create_task(_send(websocket, client)), asyncio.create_task(_wait_for_end(websocket))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            log.info("live feed closed")


async def _send(websocket: WebSocket, client: Client) -> None:
    while (message := await client.next()) is not None:
        await websocket.send_text(message)
    await websocket.close(client.close_code)


async def _wait_for_end(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass  # there is nothing to tell us
