"""Running other programs with a time limit."""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import threading
import time
import zipimport
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from ..errors import UP, ReleaseError


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str
    # Whether the kernel or somebody ended its main process by force, or systemd says that memory ended.
    killed: bool = False

    @property
    def lines(self) -> list[str]:
        return [line for line in (self.err + "\n" + self.out).splitlines() if line.strip()]


def run(
    argv: list[str],
    *,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> Result:
    """Run to the end; a missing program or a time-out is a sentence, an exit status is a value.

    Of each of its outputs 4 MiB at the beginning and 4 MiB at the end are kept.
    """
    end = time.monotonic() + timeout
    process = started(
        argv,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **env} if env else None,
        cwd=cwd,
    )
    kept = Kept(), Kept()
    threads = [threading.Thread(target=one.read, args=(pipe,), daemon=True)
               for one, pipe in zip(kept, (process.stdout, process.stderr), strict=True)]  # fmt: skip
    if stdin is not None:
        threads.append(threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True))
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            raise subprocess.TimeoutExpired(argv, timeout)
        process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(f"{argv[0]} took longer than {timeout:.0f} s and was stopped.") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return Result(process.returncode, kept[0].text(), kept[1].text())


def started(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(argv, **options)
    except FileNotFoundError as error:
        raise ReleaseError(
            f"{argv[0]} is not installed on the server.", advice=f"{UP} installs what is needed, and deploys."
        ) from error


def _feed(pipe: IO[bytes], text: str) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(text.encode())


class Kept:
    """What a program prints, which may be anything: its beginning and its end, and how much came between."""

    def __init__(self, head: int = 4 << 20, tail: int = 4 << 20) -> None:
        self.limits = head, tail
        self.head, self.tail = bytearray(), bytearray()
        self.left_out = 0

    def read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while part := os.read(pipe.fileno(), 1 << 16):
                self.add(part)

    def add(self, part: bytes) -> None:
        head, tail = self.limits
        room = head - len(self.head)
        self.head += part[:room]
        self.tail += part[room:]
        # Not at each part: what goes from the front of so many bytes moves all the others.
        if len(self.tail) > 2 * tail:
            self._cut()

    def _cut(self) -> None:
        much = len(self.tail) - self.limits[1]
        if much > 0:
            del self.tail[:much]
            self.left_out += much

    def text(self) -> str:
        self._cut()
        between = f"\n[… {self.left_out} bytes are left out …]\n".encode() if self.left_out else b""
        text = (bytes(self.head) + between + bytes(self.tail)).decode(errors="replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")


def module_source(module: ModuleType) -> str:
    """A module's text, from a file or from inside the engine's zip."""
    loader = module.__loader__
    if isinstance(loader, zipimport.zipimporter):
        return loader.get_source(module.__name__) or ""
    return inspect.getsource(module)


def over_ssh(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """The words of SSH_CONNECTION (client, its port, server, its port) of the nearest ancestor that has it.

    sudo takes the variable away. Empty for what did not come over ssh.
    """
    while pid > 1:
        try:
            variables = (proc / str(pid) / "environ").read_bytes().split(b"\0")
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
        for one in variables:
            if one.startswith(b"SSH_CONNECTION="):
                return one.partition(b"=")[2].decode(errors="replace").split()
    return []
