"""For the machines that run it: health, readiness, metrics, version."""

import asyncio
import hmac

from fastapi import APIRouter, HTTPException, Request
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from starlette.responses import JSONResponse, Response

from board import __version__
from board.database import UNAVAILABLE, SessionDep, Sessions
from board.metrics import render_metrics
from board.models import Job
from board.ready import Readiness
from board.routes.deps import SettingsDep
from board.schemas import VersionOut
from board.settings import Settings

router = APIRouter(tags=["operations"])

QUEUE_SECONDS = 2
NO_STORE = {"cache-control": "no-store"}


@router.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)
async def healthz() -> Response:
    """The process answers. Asks nothing of anything else."""
    return JSONResponse({"status": "ok"}, headers=NO_STORE)


@router.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
async def readyz(request: Request) -> Response:
    """The process can do its work: the database answers within two seconds and has the tables."""
    readiness: Readiness = request.app.state.readiness
    if problem := await readiness.problem():
        body = {"status": "unavailable", "reason": problem}
        return JSONResponse(body, 503, headers=NO_STORE | {"retry-after": "2"})
    return JSONResponse({"status": "ready"}, headers=NO_STORE)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request, settings: SettingsDep) -> Response:
    """Prometheus metrics, summed over all workers."""
    _may_scrape(request, settings)
    return Response(
        await asyncio.to_thread(render_metrics, await _queue(request.app.state.sessions)),
        media_type="text/plain; version=0.0.4; charset=utf-8",
        headers=NO_STORE,
    )


@router.get("/version")
async def version(session: SessionDep, settings: SettingsDep) -> VersionOut:
    """What is running, on which schema."""
    try:
        revision = await session.scalar(text("SELECT version_num FROM alembic_version"))
    except DBAPIError:
        revision = None
    return VersionOut(
        name="board", version=__version__, release=settings.berth_release or None, schema_revision=revision
    )


def _may_scrape(request: Request, settings: Settings) -> None:
    """With a token, its bearer. Without one, in production, nobody who came through the proxy."""
    token = settings.metrics_token.get_secret_value()
    if token:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token}".encode()):
            raise HTTPException(401, "A bearer token is needed.", {"www-authenticate": "Bearer"})
    elif settings.production and ("x-forwarded-for" in request.headers or "forwarded" in request.headers):
        raise HTTPException(404, "Not Found")


async def _queue(sessions: Sessions) -> dict[str, int] | None:
    """Jobs by state; None when the database is away, which must not cost the other metrics."""
    counts = {"queued": 0, "failed": 0}
    try:
        async with asyncio.timeout(QUEUE_SECONDS), sessions() as session:
            query = select(Job.state, func.count()).where(Job.state != "done").group_by(Job.state)
            counts.update((await session.execute(query)).tuples().all())
    except (*UNAVAILABLE, DBAPIError):
        return None
    return counts
