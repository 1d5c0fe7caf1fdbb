"""The background worker: `python -m board.worker`. Run as many as needed."""

import asyncio
import logging
import signal

from sqlalchemy.exc import DBAPIError

from board.database import UNAVAILABLE, make_engine, make_sessions
from board.listen import listen
from board.logs import configure_logging
from board.posts import JOBS
from board.queue import run_one
from board.settings import Settings, get_settings

log = logging.getLogger("board.worker")

# A notification wakes the worker at once; this is for jobs that become due later.
POLL_SECONDS = 5
PAUSE_SECONDS = 3


async def work(settings: Settings, stop: asyncio.Event) -> None:
    """Do jobs until ``stop`` is set; the one under way is finished first."""
    engine = make_engine(settings, pool_size=1)
    sessions = make_sessions(engine)
    wake = asyncio.Event()

    async def on_message(_: str = "") -> None:
        wake.set()

    listener = asyncio.create_task(listen(settings.db_dsn, JOBS, on_message, on_message))
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            wake.clear()
            try:
                while not stop.is_set() and await run_one(sessions):
                    pass
                pause = POLL_SECONDS
            except (*UNAVAILABLE, DBAPIError) as error:
                log.warning("database not usable", extra={"reason": str(error).partition("\n")[0]})
                wake.clear()
                pause = PAUSE_SECONDS
            waking = asyncio.create_task(wake.wait())
            await asyncio.wait({waking, stopping}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
    finally:
        listener.cancel()
        stopping.cancel()
        await asyncio.gather(listener, stopping, return_exceptions=True)
        await engine.dispose()


async def main(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("worker started")
    await work(settings, stop)
    log.info("worker stopped")


if __name__ == "__main__":
    loaded = get_settings()
    configure_logging(loaded)
    asyncio.run(main(loaded))
