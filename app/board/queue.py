"""A job queue in Postgres: no other service to run, and a job exists exactly when its post does."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from board.database import UNAVAILABLE, Sessions
from board.logs import job_id, request_id
from board.models import Job, Post
from board.posts import EVENTS, notify
from board.text import count_words, find_keywords, looks_like_spam

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
Handler = Callable[[AsyncSession, dict[str, Any]], Awaitable[None]]


async def analyse_post(session: AsyncSession, payload: dict[str, Any]) -> None:
    """Count words, find keywords, flag what looks like spam, and show the result in the live feed."""
    post = await session.get(Post, payload["post_id"])
    if post is None:
        log.info("post is gone", extra={"post_id": payload["post_id"]})
        return
    post.word_count = count_words(post.text)
    post.keywords = find_keywords(post.text)
    post.flagged = looks_like_spam(post.text)
    await notify(session, EVENTS, {"type": "update", "id": post.id})


HANDLERS: dict[str, Handler] = {"analyse_post": analyse_post}


async def run_one(sessions: Sessions) -> bool:
    """Do the next due job; False when there is none.

    The row stays locked while the job runs and others skip it, so no job is done twice, and a worker
    that is killed gives its job back at once: the lock ends with its connection.
    """
    async with sessions() as session:
        query = (
            select(Job)
            # A kind we do not know is a newer release's: its worker will come.
            .where(Job.state == "queued", Job.run_at <= func.now(), Job.kind.in_(HANDLERS))
            .order_by(Job.run_at, Job.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        job = (await session.scalars(query)).one_or_none()
        if job is None:
            return False
        with _lines_of(job):
            done = await _run(session, job)
            await session.commit()
            if done:
                # Only now is it: a worker killed before the commit has done nothing.
                log.info("job done", extra={"kind": job.kind, "attempt": job.attempts})
    return True


@contextmanager
def _lines_of(job: Job) -> Iterator[None]:
    """Log lines carry the job's id, and the id of the request it comes from."""
    request, number = request_id.set(job.request_id), job_id.set(job.id)
    try:
        yield
    finally:
        request_id.reset(request)
        job_id.reset(number)


async def _run(session: AsyncSession, job: Job) -> bool:
    """True when the job was done, False when its failure has been noted."""
    job.attempts += 1
    try:
        # A savepoint: what a failed handler wrote is undone, what we note about the failure stays.
        async with session.begin_nested():
            await HANDLERS[job.kind](session, job.payload)
    except Exception as error:
        if isinstance(error, UNAVAILABLE) or (isinstance(error, DBAPIError) and error.connection_invalidated):
            raise
        _note_failure(job, error)
        return False
    job.state = "done"
    job.error = None
    job.finished = func.clock_timestamp()
    return True


def _note_failure(job: Job, error: Exception) -> None:
    job.error = f"{type(error).__name__}: {error}"[:2000]
    if job.attempts >= MAX_ATTEMPTS:
        job.state = "failed"
        job.finished = func.now()
        log.error("job given up", extra={"kind": job.kind, "attempt": job.attempts}, exc_info=error)
    else:
        pause = timedelta(seconds=2**job.attempts)
        job.run_at = func.now() + pause
        log.warning(
            "job failed, will be tried again",
            extra={"kind": job.kind, "attempt": job.attempts, "seconds": pause.seconds},
            exc_info=error,
        )
