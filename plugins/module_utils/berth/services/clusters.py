"""Clusters of PostgreSQL as Debian and Ubuntu keep them: each called `main`, one for each major version."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ReleaseError
from ..host import command, untrusted
from ..host.command import Result
from .postgresql import AS_SUPERUSER
from .service import ROOT
from .superuser import CATALOG_ALONE

NAME = "main"
PORT = 5432
SOCKETS = "/var/run/postgresql"
_ETC = Path("etc/postgresql")


def etc(version: int, root: Path = ROOT) -> Path:
    """The folder of a cluster's settings, which is its owner's."""
    return root / _ETC / str(version) / NAME


def data(version: int) -> Path:
    return Path(f"/var/lib/postgresql/{version}/{NAME}")


def program(version: int, name: str) -> str:
    """One of PostgreSQL's own programs."""
    return f"/usr/lib/postgresql/{version}/bin/{name}"


def versions(root: Path = ROOT) -> list[int]:
    """The major versions of which there is a cluster, the oldest first."""
    found = (root / _ETC).glob(f"[1-9]*/{NAME}/postgresql.conf")
    return sorted(int(path.parts[-3]) for path in found if path.parts[-3].isdigit())


def starts(version: int, root: Path = ROOT) -> bool:
    """Whether it is started at boot. One that was moved to another version is kept beside, and is not."""
    try:
        text = untrusted.read_text(etc(version, root) / "start.conf", errors="replace")
    except OSError:
        return True
    words = re.findall(r"(?m)^\s*([a-z]+)", text)
    return words[:1] in ([], ["auto"])


def in_use(root: Path = ROOT) -> list[int]:
    """Those that hold what the apps work with: all that start at boot, or, where none does, all there are."""
    known = versions(root)
    return [one for one in known if starts(one, root)] or known


def port(version: int, root: Path = ROOT) -> int:
    """The one that its settings name."""
    try:
        text = untrusted.read_text(etc(version, root) / "postgresql.conf", errors="replace")
    except OSError:
        text = ""
    found = re.findall(r"(?m)^\s*port\s*=?\s*'?(\d+)", text)
    return int(found[-1]) if found else PORT


def spare_port(root: Path = ROOT) -> int:
    """One that no cluster is to have, for the one that is kept."""
    taken = {PORT, *(port(version, root) for version in versions(root))}
    return next(number for number in range(PORT + 1, PORT + 1000) if number not in taken)


# Changing: as the owner of those folders. ------------------------------------------------------------------


def as_owner(*words: str, stdin: str | None = None, timeout: float = 60) -> Result:
    """A program of PostgreSQL's by its superuser, which asks nobody's database for a function of theirs."""
    env = {"PGOPTIONS": CATALOG_ALONE, "PGAPPNAME": "berth", "PGCONNECT_TIMEOUT": "10"}
    return command.run([*AS_SUPERUSER, *words], env=env, stdin=stdin, timeout=timeout, cwd=Path("/"))


def must(what: str, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
    """What it prints; ReleaseError in its own words where it fails."""
    done = as_owner(*words, stdin=stdin, timeout=timeout)
    if done.code != 0:
        raise ReleaseError(f"{what}: {reason(done)}.")
    return done.out


def reason(done: Result) -> str:
    """The line of what a program wrote that says why it failed."""
    telling = [line for line in done.lines if re.search(r"error|fatal|could not|fail", line, re.IGNORECASE)]
    line = (telling or done.lines or [f"exit status {done.code}"])[0].strip().rstrip(".")
    return re.sub(r"^[\w-]+: (error: )?", "", line)


def ask(query: str, database: str = "postgres", number: int = PORT, timeout: float = 60) -> str:
    """The answer to one query, as psql prints it without decoration."""
    words = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", SOCKETS, "-p", str(number), "-d", database, "-c", query]
    return must("PostgreSQL answers no question", "psql", *words, timeout=timeout).strip()


def set_start(version: int, word: str, root: Path = ROOT) -> None:
    """`auto`: at boot; `manual`: not by itself."""
    must("start.conf cannot be written", "tee", str(etc(version, root) / "start.conf"), stdin=f"{word}\n")


def set_port(version: int, number: int) -> None:
    must("The port cannot be set", "pg_conftool", str(version), NAME, "set", "port", str(number))


def drop(version: int) -> None:
    """Remove a cluster, running or not, with the settings that Berth added to it."""
    done = command.run(["pg_dropcluster", "--stop", str(version), NAME], timeout=3700, cwd=ROOT)
    if done.code != 0:
        raise ReleaseError(f"The cluster of PostgreSQL {version} stays: {reason(done)}.")
    must("What is left of its settings stays", "rm", "-rf", str(etc(version)))


def sweep(version: int) -> None:
    """Remove what is left of one whose making was cut off, before there were settings of it."""
    must("What was begun of it stays", "rm", "-rf", str(etc(version)), str(data(version)))


def write(version: int, file: str, text: str) -> None:
    """One of its settings' files, whoever wrote it before."""
    must(f"{file} cannot be replaced", "rm", "-f", str(etc(version) / file))
    must(f"{file} cannot be written", "tee", str(etc(version) / file), stdin=text)
