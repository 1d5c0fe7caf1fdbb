"""The nightly job: `python -m board.nightly`. Safe to run at any time and as often as wanted."""

import asyncio
import logging
import sys
import time
import uuid
from collections import Counter
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from board.attachments import Folder
from board.database import Sessions, make_engine, make_sessions
from board.logs import configure_logging, request_id
from board.models import Attachment, DailyDigest, Job, Post, RateLimit
from board.settings import Settings, get_settings
from board.text import count_words

log = logging.getLogger("board.nightly")

LOCK = 0x626F617264  # "board"
BATCH = 500
DIGEST_DAYS = 7
KEEP_JOBS = timedelta(days=7)
# Younger files may belong to an upload whose row is not committed yet.
ORPHAN_AGE = 3600


async def run(settings: Settings) -> dict[str, int] | None:
    """Do everything and say how much; None when another run is at it."""
    engine = make_engine(settings, pool_size=2)
    sessions = make_sessions(engine)
    try:
        async with engine.connect() as guard:
            if not await guard.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK}):
                return None
            # End the transaction, keep the lock: it belongs to the connection.
            await guard.commit()
            folder = Folder(settings.attachments, settings.max_attachment)
            result = {
                # First the digest, so that what retention deletes has been counted.
                "digests": await write_digests(sessions),
                "posts": await delete_old_posts(sessions, settings.retention_days),
                "files": await delete_orphans(sessions, folder),
                "jobs": await delete_rows(sessions),
            }
            await guard.scalar(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})
            return result
    finally:
        await engine.dispose()


async def write_digests(sessions: Sessions, today: date | None = None) -> int:
    """Write yesterday's digest, and those of the days before that were missed."""
    today = today or datetime.now(UTC).date()
    days = [today - timedelta(days=back) for back in range(1, DIGEST_DAYS + 1)]
    async with sessions() as session, session.begin():
        known = set(await session.scalars(select(DailyDigest.day).where(DailyDigest.day.in_(days))))
        missing = [day for day in days if day not in known]
        for day in missing:
            values = {"day": day, **await _digest(session, day)}
            await session.execute(insert(DailyDigest).values(values).on_conflict_do_nothing())
    return len(missing)


async def _digest(session: AsyncSession, day: date) -> dict[str, object]:
    begin = datetime.combine(day, datetime.min.time(), UTC)
    within = (Post.created >= begin) & (Post.created < begin + timedelta(days=1))
    posts = authors = words = 0
    keywords: Counter[str] = Counter()
    authors = await session.scalar(select(func.count(func.distinct(Post.author))).where(within)) or 0
    files = await session.scalar(select(func.count(Attachment.id)).join(Attachment.post).where(within)) or 0
    query = select(Post.text, Post.word_count, Post.keywords).where(within)
    async for row in await session.stream(query.execution_options(yield_per=BATCH)):
        posts += 1
        words += row.word_count if row.word_count is not None else count_words(row.text)
        keywords.update(row.keywords)
    top = [word for word, _ in sorted(keywords.items(), key=lambda item: (-item[1], item[0]))[:5]]
    return {"posts": posts, "authors": authors, "words": words, "attachments": files, "keywords": top}


async def delete_old_posts(sessions: Sessions, days: int) -> int:
    """Delete posts older than the retention, in batches that block nobody. 0 days keeps everything."""
    if not days:
        return 0
    limit = func.now() - timedelta(days=days)
    total = 0
    while True:
        async with sessions() as session, session.begin():
            batch = select(Post.id).where(Post.created < limit).order_by(Post.id).limit(BATCH)
            gone = (await session.scalars(delete(Post).where(Post.id.in_(batch)).returning(Post.id))).all()
        total += len(gone)
        if len(gone) < BATCH:
            return total


async def delete_orphans(sessions: Sessions, folder: Folder, age: int = ORPHAN_AGE) -> int:
    """Delete files that belong to no post, and say which posts miss their file."""
    oldest = time.time() - age
    found = list(folder.files())
    files = {file_id: path for file_id, path in found if file_id}
    partial = [path for file_id, path in found if file_id is None]
    async with sessions() as session:
        known = set(await session.scalars(select(Attachment.id)))
    for lost in sorted(known - files.keys()):
        # A row may be younger than the list of files.
        if not folder.path(lost).exists():
            log.error("attachment has no file", extra={"attachment": str(lost)})
    orphans = [path for file_id, path in files.items() if file_id not in known] + partial
    removed = 0
    for path in orphans:
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed


async def delete_rows(sessions: Sessions) -> int:
    """Delete finished jobs after a week, and rate limits that have run out."""
    async with sessions() as session, session.begin():
        await session.execute(delete(RateLimit).where(RateLimit.used_until < func.now()))
        finished = delete(Job).where(Job.state != "queued", Job.finished < func.now() - KEEP_JOBS)
        return len((await session.scalars(finished.returning(Job.id))).all())


def main() -> int:
    settings = get_settings()
    configure_logging(settings)
    request_id.set(f"nightly-{uuid.uuid4().hex}")
    started = time.monotonic()
    try:
        result = asyncio.run(run(settings))
    except (SQLAlchemyError, OSError) as error:
        log.error("nightly failed", extra={"reason": str(error).partition("\n")[0]})
        return 1
    if result is None:
        log.warning("another nightly job is running, nothing done")
        return 0
    log.info("nightly done", extra={**result, "seconds": round(time.monotonic() - started, 2)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
