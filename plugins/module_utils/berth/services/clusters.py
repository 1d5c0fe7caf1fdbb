"""Clusters of PostgreSQL as Debian and Ubuntu keep them: each called `main`, one for each major version."""

from __future__ import annotations

import re
from pathlib import Path

from ..host import untrusted
from .service import ROOT

NAME = "main"
PORT = 5432
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
