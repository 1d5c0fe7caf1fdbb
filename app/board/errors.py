"""Every error in one form: JSON for programs, a page for people, the request id on both."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from board.attachments import Refused
from board.database import UNAVAILABLE
from board.logs import request_id
from board.views import TEMPLATES

log = logging.getLogger(__name__)

UNAVAILABLE_DETAIL = "The board cannot reach its database right now. Please try again in a moment."
FAILED_DETAIL = "Something went wrong on our side."


def wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def error_response(
    request: Request,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, object]] | None = None,
) -> Response:
    """The answer for an error, in the form the client asked for."""
    if wants_page(request):
        context = {"status": status, "detail": detail, "request_id": request_id.get()}
        return TEMPLATES.TemplateResponse(request, "error.html", context, status, headers)
    content: dict[str, object] = {"detail": detail, "request_id": request_id.get()}
    if errors:
        content["errors"] = errors
    return JSONResponse(content, status, headers)


async def answer_error(scope: Scope, receive: Receive, send: Send, status: int, detail: str) -> None:
    """The same for middleware, which has no request at hand."""
    response = error_response(
        Request(scope), status, detail, {"connection": "close"} if status == 413 else None
    )
    await response(scope, receive, send)


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers below."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Refused, _refused)
    for error in UNAVAILABLE:
        app.add_exception_handler(error, _unavailable)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(request, error.status_code, error.detail, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # The input itself is left out: it may be huge, and not even be valid Unicode.
    errors: list[dict[str, object]] = [
        {"field": ".".join(map(str, item["loc"])), "message": item["msg"].removeprefix("Value error, ")}
        for item in error.errors()
    ]
    return error_response(request, 422, "Some of what was sent is not valid.", errors=errors)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error_response(request, error.status, error.detail)


async def _unavailable(request: Request, error: Exception) -> Response:
    log.error(
        "database unavailable", extra={"error": type(error).__name__, "reason": str(error).partition("\n")[0]}
    )
    return error_response(request, 503, UNAVAILABLE_DETAIL, {"retry-after": "5"})
