"""A real gunicorn with real workers, as it runs in production."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from board.settings import PROJECT
from tests.cluster import free_port

SECRET = "k3Jd92mXq8LzTz0WnB5vRy7PfHs1GcAe4UoIxN6tMwZbKdQv"


def environment(database_url: str, folder: Path, **more: str) -> dict[str, str]:
    """The variables of a production process; nothing of ours leaks in but PATH."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ENVIRONMENT": "production",
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET,
        "ATTACHMENTS_DIR": str(folder / "attachments"),
        "RATE_LIMIT_WRITES": "off",
        **more,
    }


class Server:
    """A running server: where it is, what it logs."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws") + "/live"

    def lines(self) -> list[dict[str, Any]]:
        """The structured lines of its log (gunicorn's master writes plain ones)."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def wait_for(self, seconds: float = 15, **fields: object) -> list[dict[str, Any]]:
        """Wait for at least one line with these fields."""
        end = time.monotonic() + seconds
        while True:
            if found := [line for line in self.lines() if fields.items() <= line.items()]:
                return found
            assert time.monotonic() < end, f"no line with {fields} in\n{self.log.read_text()}"
            time.sleep(0.05)

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        """On a connection of its own, so that any worker may get it."""
        return httpx.get(self.url + path, **kwargs)


def command(port: int, workers: int) -> list[str]:
    worker = "uvicorn_worker.UvicornWorker"
    options = ["-k", worker, "-w", str(workers), "-b", f"127.0.0.1:{port}", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", *options, "board.main:app"]


@contextmanager
def serve(env: dict[str, str], log: Path, workers: int = 2) -> Iterator[Server]:
    """Start a server, wait until every worker is up, and stop it afterwards."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(command(port, workers), cwd=PROJECT, env=env, stdout=output, stderr=output)
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        end = time.monotonic() + 60
        while len([line for line in server.lines() if line["message"] == "started"]) < workers:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(15)
