"""The JSON API."""

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Response, UploadFile
from sqlalchemy import select

from board import posts
from board.database import SessionDep
from board.metrics import POSTS
from board.models import DailyDigest, Post
from board.routes.deps import FolderDep, MayWrite, PostId, SignerDep
from board.schemas import AttachmentOut, DigestOut, PostCreated, PostIn, PostOut, PostPage, Problem
from board.security import Signer

MAX_ATTACHMENTS = 10

router = APIRouter(
    prefix="/api",
    tags=["api"],
    responses={422: {"model": Problem}, 429: {"model": Problem}, 503: {"model": Problem}},
)
EditToken = Annotated[str, Header(alias="X-Edit-Token", description="The edit_token of the new post.")]
Cursor = Annotated[int | None, Query(ge=0, le=posts.MAX_ID)]


@router.get("/posts")
async def list_posts(
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = posts.PAGE,
    before: Cursor = None,
    after: Cursor = None,
) -> PostPage:
    """Posts, newest first."""
    found, next_before = await posts.list_posts(session, limit, before, after)
    return PostPage(items=[PostOut.model_validate(post) for post in found], next_before=next_before)


@router.post("/posts", status_code=201, dependencies=[MayWrite])
async def create_post(
    post_in: PostIn, session: SessionDep, signer: SignerDep, response: Response
) -> PostCreated:
    """Write a post."""
    post = await posts.create_post(session, post_in)
    POSTS.labels("api").inc()
    response.headers["location"] = f"/api/posts/{post.id}"
    out = PostOut.model_validate(post)
    return PostCreated(**out.model_dump(), edit_token=signer.edit_token(post.id))


@router.get("/posts/{post_id}", responses={404: {"model": Problem}})
async def get_post(post_id: PostId, session: SessionDep) -> PostOut:
    """One post."""
    return PostOut.model_validate(await _existing(session, post_id))


@router.delete(
    "/posts/{post_id}", status_code=204, dependencies=[MayWrite], responses={403: {"model": Problem}}
)
async def delete_post(
    post_id: PostId, session: SessionDep, folder: FolderDep, signer: SignerDep, token: EditToken = ""
) -> None:
    """Delete a post and its files; needs the edit token."""
    _authorise(signer, post_id, token)
    post = await _existing(session, post_id)
    files = [attachment.id for attachment in post.attachments]
    await posts.delete_post(session, post)
    for file in files:
        folder.remove(file)


@router.post(
    "/posts/{post_id}/attachments",
    status_code=201,
    dependencies=[MayWrite],
    responses={403: {"model": Problem}, 413: {"model": Problem}, 415: {"model": Problem}},
)
async def add_attachment(
    post_id: PostId,
    file: UploadFile,
    session: SessionDep,
    folder: FolderDep,
    signer: SignerDep,
    token: EditToken = "",
) -> AttachmentOut:
    """Attach a file (multipart field `file`); needs the edit token."""
    _authorise(signer, post_id, token)
    post = await _existing(session, post_id)
    if len(post.attachments) >= MAX_ATTACHMENTS:
        raise HTTPException(409, f"A post can have at most {MAX_ATTACHMENTS} files.")
    # Give the connection back: an upload can take minutes.
    await session.rollback()
    stored = await folder.store(file, file.filename or "")
    try:
        attachment = await posts.add_attachment(session, post_id, stored)
    except BaseException:
        folder.remove(stored.id)
        raise
    return AttachmentOut.model_validate(attachment)


@router.get("/digests")
async def list_digests(session: SessionDep) -> list[DigestOut]:
    """The last 30 days in numbers, as the nightly job wrote them."""
    query = select(DailyDigest).order_by(DailyDigest.day.desc()).limit(30)
    return [DigestOut.model_validate(digest) for digest in await session.scalars(query)]


def _authorise(signer: Signer, post_id: int, token: str) -> None:
    if not signer.may_edit(post_id, token):
        raise HTTPException(403, "Only the author may change this post: send its edit_token as X-Edit-Token.")


async def _existing(session: SessionDep, post_id: int) -> Post:
    post = await posts.get_post(session, post_id)
    if post is None:
        raise HTTPException(404, "There is no such post.")
    return post
