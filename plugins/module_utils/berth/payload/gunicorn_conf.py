"""Gunicorn's settings for one release, and the hook that makes its retirement lossless.

The engine copies this file into every release as `.berth/gunicorn.conf.py`, beside `serve.json`, which holds
the figures. Gunicorn reads the module's names as settings. Nothing of it is imported by the app.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Looking at a symlink costs a microsecond or two; a retired release may take this long to notice.
_LOOK_EVERY = 0.05


class Retiring:
    """Wraps the loaded ASGI app: a release that is not the target of `web.sock` closes its connections.

    Every answer of a retired release carries `Connection: close`, so the proxy's pooled connections end
    after a complete answer, and no request can be sent into a closing one. WebSockets and lifespan pass
    untouched.
    """

    def __init__(
        self, app: Application, link: str, own: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app = app
        self.link = link
        self.own = own
        self.clock = clock
        self.name = own.rsplit("/", 1)[-1].removesuffix(".sock").encode()
        self.looked = float("-inf")
        self.retired = False

    def is_retired(self) -> bool:
        now = self.clock()
        if now - self.looked >= _LOOK_EVERY:
            self.looked = now
            try:
                self.retired = os.readlink(self.link) != self.own  # noqa: PTH115 - in the way of every answer
            except OSError:
                self.retired = False  # nothing is live yet, so nothing replaced this release
        return self.retired

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not scope.get("client"):
            # A unix socket has no peer address, and some apps answer 500 where there is none.
            scope["client"] = (_forwarded_for(scope), 0)
        if scope["type"] == "http" and scope.get("http_version", "1.1").startswith("1"):
            send = self._closing(send, (b"x-berth-verify", self.name) in scope.get("headers", ()))
        await self.app(scope, receive, send)

    def _closing(self, send: Send, asked: bool = False) -> Send:
        async def closing(message: Message) -> None:
            # Asked when the answer starts, not when the request came: a slow one may have been overtaken.
            if message["type"] == "http.response.start" and self.is_retired():
                headers = [
                    pair for pair in message.get("headers", ()) if bytes(pair[0]).lower() != b"connection"
                ]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            if asked and message["type"] == "http.response.start":
                # Who knows this release's name may know that it is this one which answers.
                message = {
                    **message,
                    "headers": [*message.get("headers", ()), (b"x-berth-release", self.name)],
                }
            await send(message)

        return closing


def _forwarded_for(scope: Scope) -> str:
    for name, value in scope.get("headers", ()):
        if name == b"x-forwarded-for":
            return bytes(value).decode("latin-1").split(",")[0].strip() or "127.0.0.1"
    return "127.0.0.1"


def stray(target: str, data: Path) -> str:
    """Where the app's code came from, if from a folder that outlives releases; no deploy would change it."""
    module = sys.modules.get(target.partition(":")[0])
    file = Path(getattr(module, "__file__", None) or "/").resolve()
    return str(file) if data.resolve() in file.parents else ""


def worth_telling(record: logging.LogRecord) -> bool:
    """Whether a line of gunicorn's says something: uvloop closes the listener before gunicorn wants to."""
    return not (
        str(record.msg).startswith("Error while closing socket") and "[Errno 9]" in record.getMessage()
    )


def post_worker_init(worker: Any) -> None:
    data = Path(__file__).resolve().parents[3] / "data"
    if found := stray(_settings["target"], data):
        raise RuntimeError(
            f"the code of {_settings['target']} was imported from {found} and not from the release: take its "
            "folder out of persistent"
        )
    worker.log.error_log.addFilter(worth_telling)
    worker.wsgi = Retiring(worker.wsgi, _settings["link"], _settings["socket"])


def _load() -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((Path(__file__).resolve().parent / "serve.json").read_text())
    except OSError:
        return {}  # imported for its hook only
    return settings


_settings = _load()
if _settings:
    workers = 1 if _settings.get("first") else _settings["workers"]
    worker_class = "uvicorn_worker.UvicornWorker"
    # systemd hands the socket over. Where it did not, this one cannot be made, and nothing listens elsewhere.
    bind = f"unix:{_settings['socket']}"
    chdir = _settings["project"]
    umask = 0o007
    # Longer than the proxy keeps idle connections, or requests race against closing ones.
    keepalive = 75
    # Only the proxy can reach the socket, so whoever speaks there may say who the client is.
    forwarded_allow_ips = "*"
    graceful_timeout = _settings["graceful"]
    # The worker proves to be alive from its event loop; a start that imports for long must not be cut.
    timeout = 120
    worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    control_socket_disable = True
    errorlog = "-"
    accesslog = None
    preload_app = False
    # A start that hangs can be asked where: every thread's stack goes to the log. Workers inherit it.
    faulthandler.register(signal.SIGRTMIN + 5)
