"""Work in units that are gone with it: a command in a sandbox, or what waits in the background."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host import command
from ..host.command import Result

# Those that must not outlive the engine when its connection breaks.
TRANSIENT: set[str] = set()


@dataclass(frozen=True)
class Work:
    """A command as an unprivileged user in a sandbox of its own, bounded in time.

    systemd reads the environment file itself, so no secret passes through an argument list.
    """

    unit: str
    argv: Sequence[str]
    user: str
    sandbox: Sequence[str]
    writable: Sequence[Path]
    timeout: float
    group: str = ""  # or the one of the user's name
    cwd: Path | None = None
    env: Mapping[str, str] | None = None
    env_file: Path | None = None
    properties: Sequence[str] = ()
    stdin: str | None = None


def transient(work: Work) -> Result:
    """Run it to its end."""
    unit = work.unit
    TRANSIENT.add(unit)
    began, since = time.monotonic(), time.time()
    try:
        result = command.run(in_unit(work), timeout=work.timeout + 30, stdin=work.stdin)
        if result.code != 0 and time.monotonic() - began >= work.timeout:
            # systemd stops it without a word to whoever reads its output.
            late = f"took longer than {work.timeout:.0f} s and was stopped"
            return Result(result.code, f"{result.out}\n{late}", result.err)
        if result.code != 0 and _killed(unit, since):
            return Result(result.code, result.out, result.err, killed=True)
        return result
    except ReleaseError:
        command.run(["systemctl", "stop", f"{unit}.service"], timeout=30)
        raise
    finally:
        TRANSIENT.discard(unit)


def in_unit(work: Work, *, wait: bool = True, terminal: bool = False) -> list[str]:
    """The command line that runs it, its input and its output being the caller's; or beside the caller.

    `terminal`: what the caller has is one, and the command gets one of its own.
    """
    words = ["systemd-run", "--quiet", "--collect", "--service-type=exec"]
    words += ["--pty" if terminal else "--pipe", "--wait"] if wait else ["--no-block"]
    # Or it is described by all that is run, and some of that is a program's text.
    words += [f"--unit={work.unit}", f"--description={work.unit}"]
    words += [f"--uid={work.user}", f"--gid={work.group or work.user}"]
    for line in [*work.sandbox, *work.properties, f"RuntimeMaxSec={work.timeout:.0f}"]:
        # systemd would take the first of two mounts on one folder.
        opened = any(line == f"BindReadOnlyPaths=-{path}" for path in work.writable)
        words.append(f"--property={line.replace('ReadOnly', '') if opened else line}")
    words += [f"--property=ReadWritePaths={path}" for path in work.writable]
    if work.cwd:
        words.append(f"--property=WorkingDirectory={work.cwd}")
    if work.env_file:
        words.append(f"--property=EnvironmentFile={work.env_file}")
    words += [f"--setenv={key}={value}" for key, value in (work.env or {}).items()]
    return [*words, "--", *work.argv]


def stop_all() -> None:
    """Leave no build or migration running for a deploy that nobody holds any more."""
    for unit in list(TRANSIENT):
        subprocess.run(["systemctl", "stop", f"{unit}.service"], check=False, timeout=60)


def in_background(unit: str, what: str, argv: Sequence[str]) -> Result:
    """Begin what goes on without the engine, and is begun again where it was killed."""
    return command.run(
        ["systemd-run", "--quiet", "--collect", f"--unit={unit.removesuffix('.service')}",
         f"--description={what}",
         "--property=Restart=on-failure", "--property=RestartSec=5",
         *argv]
    )  # fmt: skip


class Session:
    """A unit that is asked one thing after another, a line of JSON each way, and ends with its input.

    One unit instead of one for each question, since each costs a tenth of a second. Nobody else sees what is
    asked, which may be secret.
    """

    _LONGEST = 32 << 20

    def __init__(self, unit: str, words: list[str]) -> None:
        """`words` are made by `in_unit` for that unit."""
        self.unit = unit
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        TRANSIENT.add(unit)
        pipe = subprocess.PIPE
        self.process = command.started(words, stdin=pipe, stdout=pipe, stderr=self.said)

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

    def end(self, patience: float = 15) -> None:
        """Afterwards none of its processes is left: what has not ended in so many seconds is killed."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            command.run(["systemctl", "kill", "--signal=KILL", f"{self.unit}.service"], timeout=30)
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
        said = command.run([*query, "_PID=1", f"UNIT={unit}.service"], timeout=20).out
    except ReleaseError:  # what the command said must not be lost for it
        return False
    return "status=9/KILL" in said or "result 'oom-kill'" in said
