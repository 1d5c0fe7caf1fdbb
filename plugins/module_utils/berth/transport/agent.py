"""The engine's main loop on the server: requests on standard input, one answer each on standard output.

A request is a line of JSON {step, args, body} and `body` bytes; an empty line is a sign of life. When the
input ends, or nothing is heard any more, the deploying side is gone: what it began before a switch is
stopped, what comes after one is done without it, and the kernel frees the lock with the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..diagnosis import masking
from ..errors import ReleaseError
from ..paths import Paths
from ..release.engine import Engine
from ..runtime import transient
from .bytecode import Bytecode

Request = tuple[str, dict[str, Any], "IO[bytes] | None"]

# Seconds without a sign of life (the keeper gives one every ten), and between two looks. A machine that lost
# its power or its network closes no connection, and TCP's own patience is two hours.
_SILENCE = 90
_LOOK = 5


class Heard:
    """When the deploying side was heard last, in looks and not by a clock: who was frozen could not hear."""

    def __init__(self) -> None:
        self.looks = 0

    def now(self) -> None:
        self.looks = 0

    def wait_for_silence(self, silence: float = _SILENCE, look: float = _LOOK) -> None:
        """Returns when nothing was heard for so many seconds."""
        while self.looks * look < silence:
            time.sleep(look)
            self.looks += 1


class Secrets:
    """What no answer may hold. It grows with the run, which may remove or renew what is on the server."""

    # By these the playbooks decide; the engine makes them itself, of names and of its own words.
    KEPT = frozenset({"action", "release", "live", "secrets", "absent"})

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.values: set[str] = set()

    def learn(self, args: dict[str, Any]) -> None:
        self.values |= masking.of_request(args) | masking.of_server(self.root)
        for name in masking.names(args):
            with contextlib.suppress(ReleaseError):
                self.values |= masking.of_app(Paths(name, self.root))

    def hide(self, answer: dict[str, Any]) -> dict[str, Any]:
        hidden: dict[str, Any] = masking.Mask(self.values).every(answer, self.KEPT)
        return hidden


def _read(source: IO[bytes], requests: queue.Queue[Request | None], heard: Heard) -> None:
    """Take requests until the input ends."""
    for line in source:
        heard.now()
        if not line.strip():
            continue
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
                    return
                heard.now()
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


def settle() -> None:
    """Whatever the login shell had in mind, the programs called here speak one language."""
    os.umask(0o022)
    os.environ.update(LC_ALL="C.UTF-8", PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def main(bytecode: Bytecode) -> None:
    # A library that prints must not talk into the protocol.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.setpgid(0, 0)
    settle()
    requests: queue.Queue[Request | None] = queue.Queue()
    engine = Engine()
    secrets = Secrets()
    heard = Heard()

    def until_gone(wait: Callable[[], None]) -> None:
        wait()
        if engine.abandon():
            transient.stop_all()
            # Where a step is at work nothing may come between: it would go on, and the lock would stay.
            if not engine.deploys:
                bytecode.keep()
            os.killpg(0, signal.SIGKILL)
        requests.put(None)

    def send(answer: dict[str, Any]) -> None:
        """The one way out of here: nothing leaves with a secret in it."""
        answer = secrets.hide(answer)
        # Who is gone is noticed by the threads.
        with contextlib.suppress(OSError):
            out.write(json.dumps(answer).encode() + b"\n")
            out.flush()

    send({"hello": os.getpid()})
    for wait in (lambda: _read(sys.stdin.buffer, requests, heard), heard.wait_for_silence):
        threading.Thread(target=until_gone, args=(wait,), daemon=True).start()
    while (request := requests.get()) is not None:
        step, args, body = request
        secrets.learn(args)
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
        secrets.learn(args)
        send({"done": True, **answer})
    engine.finish_alone()
    bytecode.keep()
