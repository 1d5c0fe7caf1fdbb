"""Pins older than a Python: which packages of a lock have wheels for others, and none for this one.

Locks of uv, Poetry and PDM name the files that an index had; where a lock does not, the index is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import interpreters
from .dependencies import Installer
from .interpreters import PythonWish
from .toml import load_toml

# Minor versions that wheels are looked for: what servers and uv have.
MINORS = range(8, 16)
# Of the distributions that Berth runs on.
DISTRIBUTIONS = (10, 11, 12, 13)
_SHOWN = 3
_WHEEL = re.compile(r"[^-]+-[^-]+(?:-\d[^-]*)?-([^-]+)-([^-]+)-([^-]+)\.whl")
_UNBUILT = re.compile(r"Failed to (?:download and )?build `([A-Za-z0-9._-]+)==([^`\s]+)`")


@dataclass(frozen=True)
class Old:
    """A package that has wheels for these minor versions of Python 3."""

    name: str
    version: str
    minors: frozenset[int]

    def sentence(self, minor: int) -> str:
        """What is wrong with it under Python 3.`minor`, which it has no wheel for."""
        below = [one for one in self.minors if one < minor]
        where = f"up to Python 3.{max(below)}" if below else f"from Python 3.{min(self.minors)} on"
        return f"{self.name} {self.version} has wheels {where}"


def fits(file: str, minor: int) -> bool:
    """Whether a file is a wheel that CPython 3.`minor` on Linux (with glibc) can use as it is."""
    found = _WHEEL.fullmatch(file)
    if not found:
        return False
    pythons, abis, platforms = (tags.split(".") for tags in found.groups())
    if not any(one == "any" or one.startswith(("manylinux", "linux")) for one in platforms):
        return False
    for python in pythons:
        match = re.fullmatch(r"(py|cp)3(\d*)", python)
        if not match:
            continue
        since = int(match[2] or 0)
        if since == minor and {python, "none", "abi3"} & set(abis):
            return True
        if since < minor and ("abi3" in abis or (match[1] == "py" and "none" in abis)):
            return True
    return False


def minors(files: Iterable[str]) -> frozenset[int]:
    """The minor versions of Python 3 that some of these files are wheels for."""
    known = list(files)
    return frozenset(minor for minor in MINORS if any(fits(file, minor) for file in known))


def unbuilt(text: str) -> tuple[str, str] | None:
    """The package, and its version, whose source uv could not make a wheel of."""
    found = _UNBUILT.search(text)
    return (found[1], found[2]) if found else None


def locked(installer: Installer) -> list[Old]:
    """What a lock installs here in any case, with the wheels that there are; nothing for other files."""
    if installer.kind not in ("uv", "poetry", "pdm"):
        return []
    packages = load_toml(installer.path).get("package", [])
    if installer.kind == "uv":
        packages = _needed(packages, installer.package)
    else:
        packages = [one for one in packages if _is_main(one)]
    found = [Old(str(one.get("name")), str(one.get("version", "")), minors(_files(one))) for one in packages]
    return [one for one in found if one.minors]


def _files(package: Mapping[str, Any]) -> list[str]:
    named = [*package.get("wheels", []), *package.get("files", [])]
    texts = [str(one.get("file") or one.get("filename") or one.get("url") or "") for one in named]
    return [text.partition("#")[0].rsplit("/", 1)[-1] for text in texts]


def _is_main(package: Mapping[str, Any]) -> bool:
    """Of Poetry's and PDM's locks. What depends on a platform or a Python may not be for here at all."""
    groups = package.get("groups") or ["main"]
    here = not (package.get("markers") or package.get("marker") or package.get("optional"))
    return here and bool({"main", "default"}.intersection(groups))


def _needed(packages: list[dict[str, Any]], start: str) -> list[dict[str, Any]]:
    """What the project of a uv.lock needs, without what only some platforms or Pythons do."""
    known = {str(one.get("name")): one for one in packages}
    first = start or next((name for name, one in known.items() if "." in one.get("source", {}).values()), "")
    todo, seen = [first], {first}
    while todo:
        for need in known.get(todo.pop(), {}).get("dependencies", []):
            name = str(need.get("name"))
            if name not in seen and not need.get("marker"):
                seen.add(name)
                todo.append(name)
    return [one for name, one in known.items() if name in seen]


def lacking(known: Iterable[Old], minor: int) -> list[Old]:
    """Those without a wheel for Python 3.`minor`."""
    return [one for one in known if minor not in one.minors]


def better(known: Iterable[Old], minor: int, wish: PythonWish) -> str:
    """The Python nearest to 3.`minor` that all of them have wheels for, and the project takes; or nothing."""
    every = list(known)
    good = [
        one
        for one in MINORS
        if all(one in package.minors for package in every)
        and interpreters.fits(PythonWish("", wish.range, ""), (3, one))
    ]
    nearest = sorted(good, key=lambda one: (abs(one - minor), one))
    return f"3.{nearest[0]}" if nearest else ""


def key(version: str) -> str:
    """What to write."""
    return f'python: {{version: "{version}", install: true}}'


def told(old: list[Old], minor: int) -> str:
    """What several packages lack, in one clause."""
    said = [one.sentence(minor) for one in old[:_SHOWN]]
    more = f", {len(old) - _SHOWN} more" if len(old) > _SHOWN else ""
    return f"{', '.join(said)}{more} and none for 3.{minor}"


def hints(installer: Installer, wish: PythonWish) -> list[str]:
    """Where a lock has no wheels for a Python that a server of the project's may pick."""
    known = locked(installer)
    for minor in reversed(DISTRIBUTIONS):
        if not interpreters.fits(wish, (3, minor)):
            continue
        old = lacking(known, minor)
        version = better(old, minor, wish) if old else ""
        if version:
            return [
                f"{told(old, minor)}, which has to build from source: write {key(version)} where the server "
                f"has 3.{minor}"
            ]
    return []


def ask(name: str, version: str, minor: int, has: Callable[[str, str, int], bool]) -> Old:
    """The same of an index, from the given Python downwards; as few questions as will do."""
    for below in range(minor - 1, MINORS.start - 1, -1):
        if has(name, version, below):
            return Old(name, version, frozenset({below}))
    return Old(name, version, frozenset())
