"""Running other programs with a time limit, and systemd in particular."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import selectors
import subprocess
import tempfile
import threading
import time
import zipimport
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from ..errors import UP, ReleaseError

# Transient units that must not outlive the engine when its connection breaks.
TRANSIENT: set[str] = set()


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
    process = _started(
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


def _started(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
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


def transient(
    unit: str,
    argv: list[str],
    *,
    user: str,
    sandbox: list[str],
    writable: list[Path],
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    properties: list[str] | None = None,
) -> Result:
    """Run a command as an unprivileged user in a sandbox of its own, bounded in time.

    systemd reads the environment file itself, so no secret passes through an argument list.
    """
    command = in_unit(
        unit, argv, user=user, sandbox=sandbox, writable=writable, timeout=timeout, cwd=cwd, env=env,
        env_file=env_file, properties=properties,
    )  # fmt: skip
    TRANSIENT.add(unit)
    began, since = time.monotonic(), time.time()
    try:
        result = run(command, timeout=timeout + 30)
        if result.code != 0 and time.monotonic() - began >= timeout:
            # systemd stops it without a word to whoever reads its output.
            late = f"took longer than {timeout:.0f} s and was stopped"
            return Result(result.code, f"{result.out}\n{late}", result.err)
        if result.code != 0 and _killed(unit, since):
            return Result(result.code, result.out, result.err, killed=True)
        return result
    except ReleaseError:
        run(["systemctl", "stop", f"{unit}.service"], timeout=30)
        raise
    finally:
        TRANSIENT.discard(unit)


def in_unit(
    unit: str,
    argv: list[str],
    *,
    user: str,
    sandbox: list[str],
    writable: list[Path],
    timeout: float,
    group: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    properties: list[str] | None = None,
    wait: bool = True,
) -> list[str]:
    """The command line that runs a command so, its input and its output being the caller's; or beside it."""
    command = ["systemd-run", "--quiet", "--collect", "--service-type=exec"]
    command += ["--pipe", "--wait"] if wait else ["--no-block"]
    # Or it is described by all that is run, and some of that is a program's text.
    command += [f"--unit={unit}", f"--description={unit}", f"--uid={user}", f"--gid={group or user}"]
    for line in [*sandbox, *(properties or []), f"RuntimeMaxSec={timeout:.0f}"]:
        # systemd would take the first of two mounts on one folder.
        opened = any(line == f"BindReadOnlyPaths=-{path}" for path in writable)
        command.append(f"--property={line.replace('ReadOnly', '') if opened else line}")
    for path in writable:
        command.append(f"--property=ReadWritePaths={path}")
    if cwd:
        command.append(f"--property=WorkingDirectory={cwd}")
    if env_file:
        command.append(f"--property=EnvironmentFile={env_file}")
    for key, value in (env or {}).items():
        command.append(f"--setenv={key}={value}")
    return [*command, "--", *argv]


class Session:
    """A unit that is asked one thing after another, a line of JSON each way, and ends with its input.

    One unit instead of one for each question, since each costs a tenth of a second. Nobody else sees what is
    asked, which may be secret.
    """

    _LONGEST = 32 << 20

    def __init__(self, unit: str, command: list[str]) -> None:
        """`command` is made by `in_unit` for that unit."""
        self.unit = unit
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        TRANSIENT.add(unit)
        pipe = subprocess.PIPE
        self.process = _started(command, stdin=pipe, stdout=pipe, stderr=self.said)

    def ask(self, question: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Its answer; a sentence where there is none."""
        into, out = self.process.stdin, self.process.stdout
        assert into is not None
        assert out is not None
        with contextlib.suppress(BrokenPipeError):  # that it has ended is seen below
            into.write(json.dumps(question).encode() + b"\n")
            into.flush()
        end, line = time.monotonic() + timeout, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise ReleaseError(f"{self.unit} took longer than {timeout:.0f} s and was stopped.")
                part = os.read(out.fileno(), 1 << 16)
                line += part
                if not part or len(line) > self._LONGEST:
                    raise ReleaseError(f"{self.unit} ended without an answer: {self._last_word()}.")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ReleaseError(f"{self.unit} gave an answer that is none.")
        return answer

    def _last_word(self) -> str:
        self.said.seek(0, os.SEEK_END)
        self.said.seek(max(0, self.said.tell() - (1 << 16)))
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip().rstrip(".") if lines else "it was killed, perhaps since memory ended"

    def end(self) -> None:
        """Afterwards none of its processes is left."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            run(["systemctl", "kill", "--signal=KILL", f"{self.unit}.service"], timeout=30)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()
            self.said.close()
            TRANSIENT.discard(self.unit)


def _killed(unit: str, since: float) -> bool:
    """systemd-run's own exit status does not tell a command that was killed from one that failed."""
    query = ["journalctl", "-n", "20", "-o", "cat", "--no-pager", "-q", f"--since=@{since:.0f}"]
    try:
        said = run([*query, "_PID=1", f"UNIT={unit}.service"], timeout=20).out
    except ReleaseError:  # what the command said must not be lost for it
        return False
    return "status=9/KILL" in said or "result 'oom-kill'" in said


def module_source(module: ModuleType) -> str:
    """A module's text, from a file or from inside the engine's zip."""
    loader = module.__loader__
    if isinstance(loader, zipimport.zipimporter):
        return loader.get_source(module.__name__) or ""
    return inspect.getsource(module)
