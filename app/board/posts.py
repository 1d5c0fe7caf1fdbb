"""Reading and writing posts. A new post, its job and its announcement are one transaction."""

import json
from collections.abc import Sequence

from sqlalchemy import Select, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from board.attachments import Stored
from board.logs import request_id
from board.models import Attachment, Job, Post
from board.schemas import PostIn

EVENTS = "board_events"
JOBS = "board_jobs"
PAGE = 20
MAX_ID = 2**63 - 1


async def notify(session: AsyncSession, channel: str, payload: dict[str, object]) -> None:
    """Tell every listening process; Postgres delivers when the transaction commits, and not otherwise."""
    await session.execute(
        text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": json.dumps(payload)}
    )


async def create_post(session: AsyncSession, post_in: PostIn, stored: Stored | None = None) -> Post:
    """Add a post, queue its analysis, announce it, and commit."""
    post = Post(author=post_in.author, text=post_in.text)
    post.attachments = [_attachment(stored)] if stored else []
    session.add(post)
    await session.flush()
    session.add(Job(kind="analyse_post", payload={"post_id": post.id}, request_id=request_id.get()))
    await notify(session, EVENTS, {"type": "post", "id": post.id})
    await notify(session, JOBS, {})
    await session.commit()
    return await get_post(session, post.id) or post


async def add_attachment(session: AsyncSession, post_id: int, stored: Stored) -> Attachment:
    """Attach a stored file to a post, announce it, and commit."""
    attachment = _attachment(stored)
    attachment.post_id = post_id
    session.add(attachment)
    await notify(session, EVENTS, {"type": "update", "id": post_id})
    await session.commit()
    return attachment


async def delete_post(session: AsyncSession, post: Post) -> None:
    """Delete a post with its attachments' rows, announce it, and commit."""
    await notify(session, EVENTS, {"type": "delete", "id": post.id})
    await session.delete(post)
    await session.commit()


async def get_post(session: AsyncSession, post_id: int) -> Post | None:
    query = _posts().where(Post.id == post_id).execution_options(populate_existing=True)
    return (await session.scalars(query)).one_or_none()


async def list_posts(
    session: AsyncSession, limit: int = PAGE, before: int | None = None, after: int | None = None
) -> tuple[Sequence[Post], int | None]:
    """Newest first, and where the next page begins (None at the end)."""
    query = _posts().order_by(Post.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(Post.id < before)
    if after is not None:
        query = query.where(Post.id > after)
    posts = (await session.scalars(query)).all()
    return posts[:limit], posts[limit - 1].id if len(posts) > limit else None


def _posts() -> Select[Post]:
    return select(Post).options(selectinload(Post.attachments))


def _attachment(stored: Stored) -> Attachment:
    return Attachment(
        id=stored.id,
        name=stored.name,
        content_type=stored.content_type,
        size=stored.size,
        sha256=stored.sha256,
    )
