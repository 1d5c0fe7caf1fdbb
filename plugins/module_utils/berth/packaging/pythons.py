"""Pythons that uv brought to this server, for apps that ask for one the distribution does not have.

They belong to root, lie outside of every home, and stay: environments of kept releases point into them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import venv
from ..diagnosis import needs
from ..errors import ReleaseError, cut
from ..host.command import Result
from ..reading import interpreters
from ..reading.interpreters import PythonWish

FOLDER = Path("/usr/local/lib/berth/pythons")
COMPLETE = ".complete"


# What nearly every app or its server imports, and what a Python links to libraries of the host for.
_MODULES = (
    "ssl",
    "sqlite3",
    "ctypes",
    "zlib",
    "lzma",
    "bz2",
    "hashlib",
    "socket",
    "decimal",
    "xml.parsers.expat",
)
PROBE = f"""
import importlib
for name in {_MODULES!r}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error, sep="|")
"""


def check(version: str, probed: Result) -> None:
    """Refuse a Python that was brought and lacks a library of this server, as its own probe tells."""
    lost = [line.partition("|")[::2] for line in probed.out.splitlines() if "|" in line]
    if probed.code == 0 and not lost:
        return
    module, said = lost[0] if lost else ("", "\n".join(probed.lines))
    what = f"cannot import {module}" if module else "does not start"
    why = needs.to_load(said) or (
        f"it was built without it ({said}): use another build of it"
        if module
        else cut((probed.lines or ["it says nothing"])[-1], 300)
    )
    raise ReleaseError(
        f"Python {version}, which uv brought, {what}: {why}.",
        advice="correct it, then deploy again; it is brought anew then.",
    )


def managed(folder: Path = FOLDER) -> dict[tuple[int, ...], str]:
    """The interpreters that were brought, by minor version; half-installed ones have no mark."""
    found: dict[tuple[int, ...], str] = {}
    for path in sorted(folder.glob("3.*/cpython-3.*/bin/python3.*")):
        match = re.fullmatch(r"python3\.(\d+)", path.name)
        place = path.parent.parent
        if match and not place.is_symlink() and (place.parent / COMPLETE).exists():
            found[3, int(match.group(1))] = str(path)
    return found


def is_managed(interpreter: str) -> bool:
    return Path(interpreter).is_relative_to(FOLDER)


def choose(wish: PythonWish, listing: str) -> tuple[tuple[int, ...], str]:
    """Of what uv can download (its JSON listing) the newest that fits: its minor version, and all of it."""
    known: dict[tuple[int, ...], str] = {}
    try:
        entries = json.loads(listing)
    except ValueError as error:
        raise ReleaseError(f"uv gave no list of Pythons that it can download: {error}.") from error
    for entry in entries:
        plain = entry.get("implementation") == "cpython" and entry.get("variant", "default") == "default"
        if plain and re.fullmatch(r"3\.\d+\.\d+", entry.get("version", "")):
            version = interpreters.parse_version(entry["version"])
            kept = interpreters.parse_version(known.get(version[:2], "0"))
            if version > kept:
                known[version[:2]] = entry["version"]
    if not known:
        raise ReleaseError("There is no Python for this server among those that uv can download.")
    for minor in sorted(known, reverse=True):
        exact = interpreters.parse_version(known[minor])
        if interpreters.fits(wish, minor) and (not wish.range or interpreters.satisfies(exact, wish.range)):
            return minor, known[minor]
    have = ", ".join(".".join(map(str, minor)) for minor in sorted(known))
    raise ReleaseError(
        f"The project asks for Python {wish.version or wish.range} ({wish.why}), which neither this server "
        f"has nor uv can download; it knows {have}."
    )


def gone(env: Path) -> str:
    """The Python that an environment was made with, where this server has it no more; empty where it has.

    An upgrade of the distribution takes the old one away, or gives its place to another minor version.
    """
    python = Path(venv.python(env))
    made_for = next((path.name for path in env.glob("lib/python3.*")), "")
    if env.is_dir() and not python.exists():
        return made_for or "its Python"
    found = re.fullmatch(r"python3\.\d+", python.resolve().name)
    return made_for if found and made_for and found[0] != made_for else ""


@contextmanager
def locked(folder: Path = FOLDER) -> Iterator[None]:
    """One at a time: two apps may want the same Python at once."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def newest(place: Path, minor: tuple[int, ...]) -> Path:
    """The interpreter inside a folder that uv has just filled."""
    name = f"python{'.'.join(map(str, minor))}"
    found = [path for path in place.glob(f"cpython-*/bin/{name}") if not path.parent.parent.is_symlink()]
    if not found or not os.access(found[0], os.X_OK):
        raise ReleaseError(f"What uv downloaded holds no {name}.")
    return found[0]
