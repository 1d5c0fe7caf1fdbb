"""The engine's main loop on the server: requests on standard input, one answer each on standard output.

A request is a line of JSON {step, args, body} and `body` bytes. When the input ends, the deploying side is
gone: whatever runs is stopped, and the kernel frees the lock with the process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from typing import IO, Any

from . import command, steps
from .errors import ReleaseError

Request = tuple[str, dict[str, Any], "IO[bytes] | None"]


def _abort() -> None:
    """The connection broke: leave no build or migration running for a deploy that nobody holds any more."""
    for unit in list(command.TRANSIENT):
        subprocess.run(["systemctl", "stop", f"{unit}.service"], check=False, timeout=60)
    os.killpg(0, signal.SIGKILL)


def _read(source: IO[bytes], requests: queue.Queue[Request]) -> None:
    for line in source:
        header = json.loads(line)
        left = int(header.get("body", 0))
        body: IO[bytes] | None = None
        if left:
            # Not in /tmp, which may live in memory.
            body = tempfile.TemporaryFile(dir="/var/tmp")  # noqa: SIM115 - closed by the step that reads it
            problem = None
            while left:
                chunk = source.read(min(left, 1 << 16))
                if not chunk:
                    _abort()
                left -= len(chunk)
                try:
                    if not problem:
                        body.write(chunk)
                except OSError as error:  # the disk is full; what still comes is read and dropped
                    problem = error
            try:
                body.seek(0)
            except OSError as error:
                problem = problem or error
            if problem:
                header["args"]["upload_failed"] = f"{problem.strerror} (/var/tmp)"
        requests.put((header["step"], header.get("args", {}), body))
    _abort()


def main() -> None:
    # A library that prints must not talk into the protocol.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.setpgid(0, 0)
    os.umask(0o022)
    # Whatever the login shell had in mind, the programs called here speak one language.
    os.environ.update(LC_ALL="C.UTF-8", PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    requests: queue.Queue[Request] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), daemon=True).start()

    def send(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()

    send({"hello": os.getpid()})
    engine = steps.Engine()
    while True:
        step, args, body = requests.get()
        try:
            answer = engine.run(step, args, body)
        except ReleaseError as error:
            answer = {"failed": True, "msg": error.text()}
        except Exception as error:  # noqa: BLE001 - the one place where nothing may escape
            where = traceback.format_exc().strip().splitlines()
            answer = {
                "failed": True,
                "msg": f"Step {step} met something unforeseen: {type(error).__name__}: {error}",
                "exception": "\n".join(where),
            }
        send({"done": True, **answer})
