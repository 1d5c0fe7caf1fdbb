"""One step of a run: noted and timed, and where it fails, all is put back."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..diagnosis import cause
from ..errors import ReleaseError
from . import recover
from .deploy import Answer, Deploy


def perform(deploy: Deploy, step: str, run: Callable[[Deploy, Answer], Answer], args: Answer) -> Answer:
    begin = time.monotonic()
    try:
        deploy.note(step, "begin")
        answer = run(deploy, args)
    except Exception as problem:
        error = problem if isinstance(problem, ReleaseError) else _unforeseen(problem)
        if deploy.proved:
            deploy.leave(f"{step} ({error.sentence.rstrip('.')})")
            answer = {"changed": False, "msg": error.sentence}
        else:
            recover.undo(deploy, step, error)
            if error is problem:
                raise
            raise error from problem
    deploy.times[step] = round(time.monotonic() - begin, 3)
    # What is left is found by the next run, as after one that was cut off.
    state = "left" if deploy.left and step == "finish" else "end"
    deploy.note(step, state, seconds=deploy.times[step], **({"left": deploy.left} if deploy.left else {}))
    if step == "finish":
        deploy.switched = False
    return answer


def _unforeseen(problem: Exception) -> ReleaseError:
    if isinstance(problem, OSError) and problem.errno in (28, 122):
        return ReleaseError(f"The server's disk is full ({problem.filename or problem}).", advice=cause.ROOM)
    return ReleaseError(f"{type(problem).__name__}: {problem}")
