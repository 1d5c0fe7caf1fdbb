"""Proving a guess: the app is imported as its own user, with its settings, before anything relies on it."""

from __future__ import annotations

from ..diagnosis import cause
from ..errors import ReleaseError
from ..host import sandbox
from ..reading.project import Target
from ..runtime import naming
from ..runtime.transient import Work, transient
from .build import Builder

_SCRIPT = """
import importlib, sys
module, _, attribute = sys.argv[1].partition(":")
try:
    loaded = importlib.import_module(module)
except ModuleNotFoundError as error:
    if error.name and (module == error.name or module.startswith(error.name + ".")):
        sys.exit(77)
    raise
made = attribute.endswith("()")
for name in attribute.removesuffix("()").split("."):
    loaded = getattr(loaded, name, None)
if loaded is None or not callable(loaded):
    sys.exit(77)
if made and not callable(loaded()):
    sys.exit(77)
"""
_NOT_THERE = 77
_TRIES = 5


def choose(builder: Builder, candidates: list[Target], trusted: str) -> Target:
    """The first candidate that is there; one that breaks while it is imported is an error."""
    if candidates[0].target == trusted:  # the live release runs it; starting the new one proves it again
        return candidates[0]
    for candidate in candidates[:_TRIES]:
        work = builder.project / candidate.directory if candidate.directory else builder.work
        result = transient(
            Work(
                naming.transient("prove", builder.paths.app),
                [str(builder.folder / ".venv/bin/python"), "-c", _SCRIPT, candidate.target],
                user=builder.paths.app,
                sandbox=sandbox.proof(),
                writable=[builder.paths.data, builder.paths.home, *builder.scratch()],
                timeout=120,
                cwd=work,
                env={
                    "PATH": f"{builder.folder}/.venv/bin:/usr/local/bin:/usr/bin:/bin",
                    "PYTHONPATH": ":".join(str(folder) for folder in builder.python_path(work)),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "BERTH_RELEASE": builder.release,
                    "BERTH_APP": builder.paths.app,
                },
                env_file=builder.paths.env(builder.release),
            )
        )
        if result.code == 0:
            return candidate
        if result.code != _NOT_THERE:
            state = {"ExecMainStatus": str(result.code)}
            reason = cause.explain(result.lines, state, builder.about())
            raise ReleaseError(
                f"{candidate.target} ({candidate.where}) cannot be imported: {reason}.",
                log=result.lines[-20:],
                advice="correct it, or set processes.web.app if this is not the app.",
            )
    if len(candidates) == 1:
        only = candidates[0]
        raise ReleaseError(
            f"There is no {only.target} in the project, which {only.where} names: correct it, or set "
            "processes.web.app."
        )
    tried = ", ".join(candidate.target for candidate in candidates[:_TRIES])
    raise ReleaseError(
        f"No application could be imported of those that were found ({tried}): set processes.web.app to its "
        "module:attribute, such as main:app."
    )
