"""What surrounds every request: its id, its metrics, its security headers, and the last resort."""

import logging
import re
import time
import uuid
from contextlib import suppress

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from board.errors import FAILED_DETAIL, answer_error
from board.logs import request_id, request_started
from board.metrics import IN_PROGRESS, LATENCY, REQUESTS
from board.security import CSP, HEADERS

log = logging.getLogger(__name__)

# Long enough to be unique, short enough for a log, and nothing in it that could forge a line.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class RequestContext:
    """Outermost of our own middleware."""

    def __init__(self, app: ASGIApp, docs_path: str | None = None) -> None:
        self.app = app
        self.docs_path = docs_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, _without_traceback(send))
        rid = _choose_id(scope)
        started = time.perf_counter()
        # Not reset afterwards: the server logs a line or two more in this task, which ends soon.
        request_id.set(rid)
        request_started.set(started)
        if scope["type"] == "websocket":
            return await self.app(scope, receive, send)

        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = rid
                for name, value in HEADERS.items():
                    # The interactive docs (never in production) load their script from elsewhere.
                    if name != CSP or scope["path"] != self.docs_path:
                        headers.setdefault(name, value)
            await send(message)

        IN_PROGRESS.inc()
        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            log.exception("request failed", extra={"method": scope["method"], "path": scope["path"]})
            if status:
                raise  # Too late for an answer: the server cuts the connection, as it should.
            await answer_error(scope, receive, send_with_headers, 500, FAILED_DETAIL)
        finally:
            IN_PROGRESS.dec()
            _measure(scope, status, time.perf_counter() - started)


class StartupProblem(Exception):
    """The app could start, but would not work: says why in a sentence."""


def _without_traceback(send: Send) -> Send:
    """Starlette reports a failed start as a traceback; where we know the reason, the sentence is enough."""

    async def send_sentence(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            _, known, sentence = message["message"].strip().rpartition(f"{StartupProblem.__name__}: ")
            if known:
                message = {**message, "message": f"board cannot start: {sentence}"}
        await send(message)

    return send_sentence


def _choose_id(scope: Scope) -> str:
    """The proxy's or client's id where it is a sane one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            with suppress(UnicodeDecodeError):
                given = value.decode("ascii")
                if _ID.fullmatch(given):
                    return str(given)
    return uuid.uuid4().hex


def _measure(scope: Scope, status: int, seconds: float) -> None:
    """Labels have few values: the route's pattern instead of the path, and known methods only."""
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    route = str(getattr(scope.get("route"), "path", "") or "unmatched")
    # 499: the client left before there was a status.
    REQUESTS.labels(method, route, str(status or 499)).inc()
    LATENCY.labels(method, route).observe(seconds)
