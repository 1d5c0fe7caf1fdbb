"""Keeps one engine process running on the server for as long as the ansible run lives.

Started by the action plugins as a program of its own on the controller. It owns the connection to the server,
hands requests from later tasks through to it, and drops it the moment the ansible process is gone, however it
went: the engine on the server then reads end of file, ends, and the kernel frees its lock. A forked task
worker cannot do this, since ansible ends it with its task.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 16
# Seconds between two signs of life, by which the engine knows that somebody still holds it.
BEAT = 10


def wait_for_end(pid: int, seconds: float | None = None) -> bool:
    """Whether the process is gone, at the latest after so many seconds.

    Returns at once where the kernel can tell, else a little later.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                pass
            time.sleep(0.25)
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


class Keeper:
    def __init__(self, setup: dict[str, Any], boot: bytes) -> None:
        # A file and not a pipe: an ssh master that stays in the background keeps its copy open.
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.engine = subprocess.Popen(
            setup["argv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )
        self.local = setup["argv"][0] == "/bin/sh"
        self.run = int(setup["pid"])
        self.writing = threading.Lock()
        self.boot = setup.get("preamble", "").encode() + boot
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A unix socket's path is short by law; its folder may be deep.
        self.folder = Path(setup["socket"]).parent
        self.name = Path(setup["socket"]).name
        os.chdir(self.folder)
        os.umask(0o077)
        self.listener.bind(self.name)
        self.listener.listen(4)

    def hello(self) -> dict[str, Any]:
        """Start the engine; its first JSON line, or what the connection said instead."""
        assert self.engine.stdin is not None
        assert self.engine.stdout is not None
        with contextlib.suppress(OSError):
            self.engine.stdin.write(self.boot)
            self.engine.stdin.flush()
        for line in self.engine.stdout:
            if line.startswith(b'{"hello"'):
                return {"ok": True}
        self.engine.wait()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip()
        return {"ok": False, "error": said[-2000:] or f"exit status {self.engine.returncode}"}

    def end(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / self.name).unlink()
        with contextlib.suppress(OSError):
            if self.engine.stdin:
                self.engine.stdin.close()
        # The engine ends by itself when its input does, after a switch not at once; an ssh that hangs is not
        # waited for. With a local connection this is the engine.
        if not self.local:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.engine.wait(0.5)
            self.engine.kill()
        # Ansible removes its own temporary folder when it ends; one that was killed could not. A run that
        # goes on has it yet: what could not be started here does not end it.
        if self.folder.name.startswith("ansible-local-") and wait_for_end(self.run, 5):
            shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(0)

    def beat(self) -> None:
        assert self.engine.stdin is not None
        with contextlib.suppress(OSError):  # a connection that is gone is told to the next request
            while True:
                time.sleep(BEAT)
                with self.writing:
                    self.engine.stdin.write(b"\n")
                    self.engine.stdin.flush()

    def serve(self) -> None:
        while True:
            client, _ = self.listener.accept()
            with client, client.makefile("rwb") as stream, contextlib.suppress(OSError):
                self.relay(stream)

    def relay(self, client: Any) -> None:
        assert self.engine.stdin is not None
        assert self.engine.stdout is not None
        header = client.readline()
        if not header:
            return
        # A connection that is gone is told by reading, below.
        with contextlib.suppress(OSError), self.writing:
            self.engine.stdin.write(header)
            left = int(json.loads(header).get("body", 0))
            while left:
                chunk = client.read(min(CHUNK, left))
                if not chunk:
                    self.end()  # half a request cannot be taken back
                self.engine.stdin.write(chunk)
                left -= len(chunk)
            self.engine.stdin.flush()
        for line in self.engine.stdout:
            client.write(line)
            client.flush()
            if line.startswith(b'{"done"'):
                return
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        lost = {
            "done": True,
            "failed": True,
            "msg": " ".join(
                [
                    "The release engine on the server is gone, or the connection to it.",
                    *said,
                    "What is live serves on; run it again: the next run finishes or undoes what was begun.",
                ]
            ),
        }
        client.write(json.dumps(lost).encode() + b"\n")
        client.flush()


def main() -> None:
    setup = json.loads(sys.stdin.buffer.readline())
    boot = sys.stdin.buffer.read()
    try:
        os.kill(int(setup["pid"]), 0)
    except ProcessLookupError:
        # The watcher would end it too, but perhaps after the first answer.
        sys.stdout.write(json.dumps({"ok": False, "error": "the run that asked for it is over"}) + "\n")
        return
    except PermissionError:
        pass
    keeper = Keeper(setup, boot)

    def watch() -> None:
        wait_for_end(keeper.run)
        keeper.end()

    threading.Thread(target=watch, daemon=True).start()
    answer = keeper.hello()
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    if not answer["ok"]:
        keeper.end()
    # Whoever reads this run's output must not wait for us.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    threading.Thread(target=keeper.beat, daemon=True).start()
    keeper.serve()


if __name__ == "__main__":
    main()
