"""The web app: `uvicorn board.main:app` or `gunicorn -k uvicorn_worker.UvicornWorker board.main:app`."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from board import __version__
from board.attachments import Folder
from board.database import UNAVAILABLE, make_engine, make_sessions, read_capacity
from board.errors import add_error_handlers
from board.limits import BodyLimit, RateLimiter
from board.listen import listen
from board.live import Announcer, Hub
from board.logs import configure_logging
from board.middleware import RequestContext, StartupProblem
from board.posts import EVENTS
from board.ready import Readiness
from board.routes import api, feed, ops, pages
from board.security import Signer
from board.settings import Settings, get_settings
from board.views import STATIC, TEMPLATES, render_post

log = logging.getLogger(__name__)

# Room for the other fields of a form with a full-sized file in it.
FORM_OVERHEAD = 128 * 1024


async def _check(app: FastAPI) -> None:
    """Refuse to start in production (warn elsewhere) where the surroundings do not fit."""
    settings: Settings = app.state.settings
    problems = [app.state.folder.problem()]
    try:
        problems.append((await read_capacity(app.state.engine, settings)).problem)
    except (*UNAVAILABLE, DBAPIError) as error:
        # No reason to stay down: the database may just be a moment later than we are. /readyz says it.
        log.warning("database not reachable yet", extra={"reason": str(error).partition("\n")[0]})
    problems = [problem for problem in problems if problem]
    if problems and settings.production:
        raise StartupProblem("; ".join(problems))
    for problem in problems:
        log.warning("production would refuse to start: %s", problem)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool and the listener; close them, and the open pages, in the right order."""
    settings: Settings = app.state.settings
    engine = make_engine(settings)
    app.state.engine = engine
    app.state.sessions = make_sessions(engine)
    app.state.hub = Hub()
    app.state.readiness = Readiness(app.state.sessions)
    app.state.limiter = RateLimiter(
        engine, settings.write_rate, settings.secret_key.get_secret_value().encode()
    )
    listener: asyncio.Task[None] | None = None
    try:
        await _check(app)
        announcer = Announcer(app.state.hub, app.state.sessions, render_post)
        listener = asyncio.create_task(listen(settings.db_dsn, EVENTS, announcer.announce, announcer.resync))
        log.info("started", extra={"environment": settings.environment, "release": settings.berth_release})
        yield
    finally:
        app.state.hub.close()
        if listener:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
        await app.state.readiness.close()
        await engine.dispose()
        log.info("stopped")


def create_app(settings: Settings) -> FastAPI:
    """Put the app together. Nothing is opened yet; that is lifespan's."""
    configure_logging(settings)
    TEMPLATES.env.globals["title"] = settings.title
    app = FastAPI(
        title=settings.title,
        version=__version__,
        lifespan=lifespan,
        debug=False,  # our own error page answers, and it never shows internals
        docs_url=None if settings.production else "/docs",
        redoc_url=None,
        openapi_url=None if settings.production else "/openapi.json",
    )
    app.state.settings = settings
    app.state.folder = Folder(settings.attachments, settings.max_attachment)
    app.state.signer = Signer(settings.secret_key.get_secret_value())

    # The last one added is the outermost.
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["content-type", "x-edit-token", "x-request-id"],
            expose_headers=["x-request-id"],
        )
    app.add_middleware(BodyLimit, limit=settings.max_attachment + FORM_OVERHEAD)
    app.add_middleware(RequestContext, docs_path=app.docs_url)
    add_error_handlers(app)

    for router in (pages.router, api.router, feed.router, ops.router):
        app.include_router(router)
    # The proxy serves this folder in production; here it is for everywhere else.
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


app = create_app(get_settings())
