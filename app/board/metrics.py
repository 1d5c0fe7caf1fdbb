"""Prometheus metrics that add up over several worker processes.

With PROMETHEUS_MULTIPROC_DIR set, every process writes files there and whichever is scraped adds them
up. No hook in the server's configuration is needed: the folder is made and cleaned here, before
prometheus_client looks at it, and the gauges of dead workers are dropped when somebody scrapes.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from board.settings import refuse

_FOLDER = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
_PID = re.compile(r"_([0-9]+)\.db$")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """The kernel's start time of a process: tells it from a later one with the same number."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _server() -> str:
    """Names the server this process belongs to: its parent (gunicorn's or uvicorn's master), or itself."""
    parent = os.getppid()
    # Under init the parent says nothing: this process is the whole server.
    pid = parent if parent > 1 else os.getpid()
    return f"{pid} {_started(pid)}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare_folder(folder: Path) -> None:
    """Make the folder; the first process of a server empties it of what earlier servers left.

    Files of workers that died under the same server stay (their counts belong to the sum), and so do
    files of processes that are alive (another release with the same folder).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        owner, server = folder / ".server", _server()
        if owner.exists() and owner.read_text() == server:
            return
        for path in folder.glob("*.db"):
            if (match := _PID.search(path.name)) and not _alive(int(match[1])):
                path.unlink(missing_ok=True)
        owner.write_text(server)


if _FOLDER:
    try:
        prepare_folder(Path(_FOLDER))
    except OSError as error:
        refuse(f"board cannot start: PROMETHEUS_MULTIPROC_DIR {_FOLDER} cannot be used: {error.strerror}")

# Only now: on import, prometheus_client decides by the variable how it stores values.
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client import REGISTRY as PROCESS_REGISTRY
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

REQUESTS = Counter("board_http_requests", "Requests by route and status", ["method", "route", "status"])
LATENCY = Histogram(
    "board_http_request_seconds",
    "Time until a response was complete",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
IN_PROGRESS = Gauge("board_http_requests_in_progress", "Requests being answered", multiprocess_mode="livesum")
LIVE_CLIENTS = Gauge("board_live_clients", "Open WebSockets of the live feed", multiprocess_mode="livesum")
POSTS = Counter("board_posts", "Posts written", ["via"])
RATE_LIMITED = Counter("board_rate_limited", "Writes refused by the rate limit")


def render_metrics(queue: dict[str, int] | None = None) -> bytes:
    """All metrics in Prometheus' text form; ``queue`` adds the number of jobs by state."""
    registry = CollectorRegistry()
    if _FOLDER:
        _drop_dead(Path(_FOLDER))
        MultiProcessCollector(registry, path=_FOLDER)
    output = generate_latest(registry if _FOLDER else PROCESS_REGISTRY)
    if queue is not None:
        # Written by hand: the numbers come from the database, the same for every process.
        lines = ["# HELP board_jobs Jobs in the queue by state", "# TYPE board_jobs gauge"]
        lines += [f'board_jobs{{state="{state}"}} {count}' for state, count in sorted(queue.items())]
        output += ("\n".join(lines) + "\n").encode()
    return output


def _drop_dead(folder: Path) -> None:
    """A worker that was killed cannot take its part out of a live gauge: do it for it."""
    for path in folder.glob("gauge_live*.db"):
        if (match := _PID.search(path.name)) and not _alive(int(match[1])):
            with suppress(FileNotFoundError):
                mark_process_dead(int(match[1]), str(folder))
