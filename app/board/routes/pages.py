"""The page, which works without JavaScript, and the files."""

from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData, UploadFile
from starlette.responses import FileResponse, RedirectResponse, Response

from board import posts
from board.attachments import INLINE, Refused, Stored, readable_size
from board.database import SessionDep
from board.metrics import POSTS
from board.models import Attachment, DailyDigest
from board.routes.deps import FolderDep, may_write
from board.schemas import PostIn, PostOut
from board.security import Signer, new_visitor, same_origin, set_visitor, visitor_of
from board.views import TEMPLATES

router = APIRouter(include_in_schema=False)

FORM_FIELDS = ("author", "text", "token")


@router.get("/")
async def index(
    request: Request, session: SessionDep, before: Annotated[int | None, Query(ge=0, le=posts.MAX_ID)] = None
) -> Response:
    """The newest posts, or older ones."""
    return await _page(request, session, before=before)


@router.post("/")
async def submit(request: Request, session: SessionDep, folder: FolderDep) -> Response:
    """Take the form; on success redirect, so that a reload does not post again."""
    if not same_origin(request):
        raise HTTPException(403, "This form was sent from another site.")
    async with request.form(max_files=1, max_fields=8) as form:
        values = {name: _field(form, name) for name in FORM_FIELDS}
        signer: Signer = request.app.state.signer
        if not signer.form_is_ours(visitor_of(request), values["token"]):
            problem = {"form": "This form has expired. Nothing was lost: please send it again."}
            return await _page(request, session, values, problem, 403)
        try:
            post_in = PostIn(author=values["author"], text=values["text"])
        except ValidationError as error:
            return await _page(request, session, values, _problems(error), 422)
        try:
            await may_write(request)
        except HTTPException as error:
            headers = dict(error.headers or {})
            return await _page(request, session, values, {"form": error.detail}, error.status_code, headers)
        stored: Stored | None = None
        upload = form.get("file")
        if isinstance(upload, UploadFile) and upload.filename:
            try:
                stored = await folder.store(upload, upload.filename)
            except Refused as refused:
                return await _page(request, session, values, {"file": refused.detail}, refused.status)
    try:
        post = await posts.create_post(session, post_in, stored)
    except BaseException:
        if stored:
            folder.remove(stored.id)
        raise
    POSTS.labels("form").inc()
    return RedirectResponse(f"/#post-{post.id}", 303)


@router.api_route("/attachments/{id}", methods=["GET", "HEAD"])
async def download(id: UUID, session: SessionDep, folder: FolderDep) -> Response:
    """A file, as what it is: images may be shown, everything else is downloaded."""
    attachment = await session.get(Attachment, id)
    path = folder.path(id)
    # Give the connection back before a slow client reads megabytes.
    await session.close()
    if attachment is None or not path.is_file():
        raise HTTPException(404, "There is no such file.")
    disposition = "inline" if attachment.content_type in INLINE else "attachment"
    content_type = attachment.content_type
    return FileResponse(
        path,
        media_type=f"{content_type}; charset=utf-8" if content_type == "text/plain" else content_type,
        headers={
            "content-disposition": f"{disposition}; filename*=utf-8''{quote(attachment.name, safe='')}",
            "content-security-policy": "default-src 'none'; sandbox",
            "cache-control": "public, max-age=86400, immutable",
        },
    )


async def _page(
    request: Request,
    session: AsyncSession,
    values: dict[str, str] | None = None,
    problems: dict[str, str] | None = None,
    status: int = 200,
    headers: dict[str, str] | None = None,
    before: int | None = None,
) -> Response:
    found, next_before = await posts.list_posts(session, before=before)
    digest = (
        await session.scalars(select(DailyDigest).order_by(DailyDigest.day.desc()).limit(1))
    ).one_or_none()
    visitor = visitor_of(request)
    fresh = visitor or new_visitor()
    context = {
        "posts": [PostOut.model_validate(post) for post in found],
        "next_before": next_before,
        "before": before,
        "digest": digest,
        "token": request.app.state.signer.form_token(fresh),
        "values": values or {},
        "problems": problems or {},
        "max_size": readable_size(request.app.state.folder.limit),
    }
    response = TEMPLATES.TemplateResponse(request, "index.html", context, status, headers)
    response.headers["cache-control"] = "private, no-cache"
    if not visitor:
        set_visitor(response, fresh, secure=request.url.scheme == "https")
    return response


def _field(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _problems(error: ValidationError) -> dict[str, str]:
    return {str(item["loc"][0]): item["msg"].removeprefix("Value error, ") for item in error.errors()}
