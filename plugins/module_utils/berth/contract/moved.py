"""What an inventory said before: keys that were renamed or removed, and the version that it is of.

A key that leaves the schema comes here, with the version of the configuration that did it: whoever writes it
is told what to write instead. docs/inventory.md lists the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .problem import Report, parent

# Raised whenever a key is renamed or removed, or comes to mean something else.
CONFIG = 1


@dataclass(frozen=True)
class Moved:
    """What became of a key: its new path, or a sentence that says what to write instead."""

    since: int
    to: str = ""
    say: str = ""

    def text(self, path: str = "") -> str:
        """What to do about the key at a path, such as `apps[0].processes[1].name`."""
        if not self.to:
            return f"{self.say} (since configuration {self.since})"
        # Under the parent that it has already, the last name says all; elsewhere the same app is meant.
        target = _placed(self.to, path)
        if parent(target) == parent(path):
            target = target[len(parent(target)) :].lstrip(".")
        return f'is called "{target}" since configuration {self.since}; write it under that name'


# The path as docs/inventory.md writes it (`apps[].health.path`) → what became of it. No key was renamed or
# removed so far.
MOVED: Mapping[str, Moved] = {}


def what_became_of(path: str) -> str:
    """The sentence about a key that is not in the schema any more; empty where it never was."""
    moved = MOVED.get(re.sub(r"\[\d+\]", "[]", path))
    return moved.text(path) if moved else ""


def check_config(report: Report, written: int, path: str) -> None:
    """Refuse an inventory of another version of the configuration, and say what to do."""
    if written == CONFIG or report.touches(path):
        return
    if written > CONFIG:
        report.add(
            path,
            f"{written} is of a newer Berth; this one reads configuration {CONFIG}. Use the Berth that this "
            "inventory was written for (git pull in its folder)",
        )
        return
    if written < 1:
        report.add(path, f'{written} is no version; write "config: {CONFIG}"')
        return
    changes = [f"{name} {moved.text(name)}" for name, moved in MOVED.items() if moved.since > written]
    listed = "; ".join(changes) or "what changed is in docs/inventory.md"
    report.add(
        path,
        f"{written} is of an older Berth; this one reads configuration {CONFIG}. Go through what changed, "
        f'then write "config: {CONFIG}": {listed}',
    )


def _placed(path: str, other: str) -> str:
    """The path with the numbers of another one, as far as both begin alike: `apps[].x` → `apps[0].x`."""
    placed = path
    for match in re.finditer(r"\[\d+\]", other):
        begin = other[: match.start()]
        if not placed.startswith(f"{begin}[]"):
            break
        placed = f"{begin}{match.group()}{placed[len(begin) + 2 :]}"
    return placed
