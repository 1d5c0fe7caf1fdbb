"""How the contract speaks: problems with a path, what is wrong and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# Values below these keys never appear in a message: they are secret, or people put secrets there.
_SECRET = re.compile(r"^vault(\W|$)|\.(env|secrets|headers)(\W|$)")
_LONGEST = 60


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    path: str
    text: str
    place: str = ""

    def __str__(self) -> str:
        place = f" [{self.place}]" if self.place else ""
        return f"{self.path}: {self.text}{place}"


@dataclass
class Report:
    """Collects problems, all of them at once, with the file and line of what the user wrote."""

    problems: list[Problem] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, text: str) -> None:
        """Note a problem, once."""
        problem = Problem(path, text, self.place(path))
        if problem not in self.problems:
            self.problems.append(problem)

    def place(self, path: str) -> str:
        """Where `path`, or what contains it, was written. Empty when that is not known."""
        while path:
            if path in self.places:
                return self.places[path]
            path = parent(path)
        return ""

    def touches(self, path: str) -> bool:
        """Whether something is wrong at `path`, inside of it, or with what contains it."""
        return any(
            problem.path == path or _inside(problem.path, path) or _inside(path, problem.path)
            for problem in self.problems
        )


def _inside(path: str, container: str) -> bool:
    return path.startswith((f"{container}.", f"{container}["))


def parent(path: str) -> str:
    """`apps[0].env.KEY` → `apps[0].env`."""
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def is_secret(path: str) -> bool:
    """Whether a value at this path must not be shown."""
    return bool(_SECRET.search(path))


def show(path: str, value: object) -> str:
    """A value as a message may show it: quoted, short, and only where it cannot be a secret."""
    if is_secret(path):
        return "the value"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    text = "".join(c if c.isprintable() else "?" for c in text)
    return f'"{text}"'


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean "health"?`, or what is known where nothing is close."""
    names = sorted({name for name in known if name})
    spellings = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wrong.lower(), spellings, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{spellings[close[0]]}"?'
    if not names:
        return ""
    return f"; known: {', '.join(names)}" if len(names) <= 30 else ""
