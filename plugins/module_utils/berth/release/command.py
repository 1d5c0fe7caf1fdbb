"""Running other programs with a time limit, and systemd in particular."""

from __future__ import annotations

import inspect
import os
import subprocess
import time
import zipimport
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .errors import UP, ReleaseError

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
    """Run to the end; a missing program or a time-out is a sentence, an exit status is a value."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise ReleaseError(
            f"{argv[0]} is not installed on the server.", advice=f"{UP} installs what is needed, and deploys."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(f"{argv[0]} took longer than {timeout:.0f} s and was stopped.") from error
    return Result(done.returncode, done.stdout, done.stderr)


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
    command = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec"]
    command += [f"--unit={unit}", f"--uid={user}", f"--gid={user}"]
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
    TRANSIENT.add(unit)
    began, since = time.monotonic(), time.time()
    try:
        result = run([*command, "--", *argv], timeout=timeout + 30)
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


def _killed(unit: str, since: float) -> bool:
    """systemd-run's own exit status does not tell a command that was killed from one that failed."""
    query = ["journalctl", "-n", "20", "-o", "cat", "--no-pager", "-q", f"--since=@{since:.0f}"]
    try:
        said = run([*query, "_PID=1", f"UNIT={unit}.service"], timeout=20).out
    except ReleaseError:  # what the command said must not be lost for it
        return False
    return "status=9/KILL" in said or "result 'oom-kill'" in said


def systemctl(*args: str, timeout: float = 120) -> Result:
    return run(["systemctl", *args], timeout=timeout)


def show(unit: str, *properties: str) -> dict[str, str]:
    """systemd's view of a unit; empty where it takes too long to tell, which must not decide anything."""
    try:
        result = systemctl("show", unit, "--property=" + ",".join(properties), timeout=20)
    except ReleaseError:
        return {}
    return dict(line.split("=", 1) for line in result.out.splitlines() if "=" in line)


def journal(unit: str, lines: int = 200, since: float = 0.0) -> list[str]:
    """What the unit's processes wrote last, oldest line first; nothing from before `since`.

    It only tells why: a journal that is too slow to answer must not decide anything.
    """
    query = ["journalctl", "-n", str(lines), "-o", "cat", "--no-pager", "-q", f"_SYSTEMD_UNIT={unit}"]
    if since:
        query.append(f"--since=@{since:.6f}")
    try:
        return [line for line in run(query, timeout=20).out.splitlines() if line.strip()]
    except ReleaseError:
        return []


def module_source(module: ModuleType) -> str:
    """A module's text, from a file or from inside the engine's zip."""
    loader = module.__loader__
    if isinstance(loader, zipimport.zipimporter):
        return loader.get_source(module.__name__) or ""
    return inspect.getsource(module)
