"""Questions that may get no answer in time: each is asked apart from the others, and hides none of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ReleaseError

Facts = dict[str, Any]
T = TypeVar("T")

# Seconds for one question.
PATIENCE = 5.0


class Questions:
    """Asks each question apart from the others, and collects what had no answer."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def __call__(self, what: str, ask: Callable[[], T], default: Any, seconds: float = PATIENCE + 1) -> T:
        """The answer; `default` and a sentence where it does not come in time, or is an error."""
        return self.all({what: ask}, default, seconds)[what]

    def all(self, asked: dict[str, Callable[[], T]], default: Any, seconds: float) -> dict[str, T]:
        """Several at once. A thread that never comes back (a dead network disk) ends with the engine."""
        answers: dict[str, T] = {}
        problems: dict[str, str] = {}

        def run(what: str, ask: Callable[[], T]) -> None:
            try:
                answers[what] = ask()
            except Exception as problem:  # noqa: BLE001 - one question's trouble is no other's
                said = problem.sentence if isinstance(problem, ReleaseError) else _words(problem)
                problems[what] = said.rstrip(".")

        threads = {
            what: threading.Thread(target=run, args=(what, ask), daemon=True) for what, ask in asked.items()
        }
        for thread in threads.values():
            thread.start()
        end = time.monotonic() + seconds
        found: dict[str, T] = {}
        for what, thread in threads.items():
            thread.join(max(0.0, end - time.monotonic()))
            found[what] = answers.get(what, default)
            if what not in answers:
                late = f"no answer within {seconds:.0f} s"
                self.unknown.append(f"{what} is unknown: {problems.get(what, late)}.")
        return found


def _words(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}" if not isinstance(problem, OSError) else str(problem)
