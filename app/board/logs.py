"""Structured logs: one JSON object a line, with the request's id on every line it caused.

The id lives in a context variable, so it reaches the lines of libraries too: uvicorn's access log,
SQLAlchemy, and the worker that finishes what a request began.
"""

import json
import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from board.settings import Settings

request_id: ContextVar[str] = ContextVar("request_id", default="")
request_started: ContextVar[float] = ContextVar("request_started", default=0.0)
job_id: ContextVar[int | None] = ContextVar("job_id", default=None)

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_HEAD = ("time", "level", "logger", "message", "pid")
_SERVERS = ("gunicorn.error", "gunicorn.access", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
_QUIET_PATHS = ("/healthz", "/readyz", "/metrics")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        "pid": record.process,
    }
    if rid := request_id.get():
        fields["request_id"] = rid
    if (job := job_id.get()) is not None:
        fields["job_id"] = job
    if record.name == "uvicorn.access" and isinstance(record.args, tuple) and len(record.args) == 5:
        client, method, path, _, status = record.args
        fields |= {"message": "request", "client": client, "method": method, "path": path, "status": status}
        if started := request_started.get():
            # uvicorn writes this line when the response begins.
            fields["ms_to_first_byte"] = round((time.perf_counter() - started) * 1000, 1)
    fields |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line, also for text with line breaks and for exceptions."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False).encode("utf-8", "replace").decode()


class TextFormatter(logging.Formatter):
    """The same, for eyes: LOG_FORMAT=text."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        at, level, logger, message, _ = (fields.pop(key) for key in _HEAD)
        line = f"{at[11:23]} {level:7} {logger}: {message}"
        line = " ".join([line, *(f"{key}={value}" for key, value in fields.items())])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Drop what only fills disks: successful probes, and uvicorn's bare 'connection open/closed'."""
    if record.name == "uvicorn.access" and isinstance(record.args, tuple) and len(record.args) == 5:
        path, status = str(record.args[2]).partition("?")[0], record.args[4]
        return not (path in _QUIET_PATHS and isinstance(status, int) and status < 400)
    return record.msg not in {"connection open", "connection closed"}


def configure_logging(settings: Settings) -> None:
    """Send every logger of this process through one format. Safe to call more than once."""
    formatter: logging.Formatter = JsonFormatter() if settings.log_format == "json" else TextFormatter()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)

    for name in _SERVERS:
        logger = logging.getLogger(name)
        logger.filters = [_worth_a_line]
        for existing in logger.handlers:
            # The server chose where its lines go (a file, syslog): keep that, change only the form.
            existing.setFormatter(formatter)
        if not logger.handlers:
            logger.propagate = True
    logging.getLogger("sqlalchemy.engine").setLevel("INFO" if settings.log_sql else "WARNING")
