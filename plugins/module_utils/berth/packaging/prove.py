"""Proving a guess: the app is imported as its own user, with its settings, before anything relies on it."""

from __future__ import annotations

from pathlib import Path

from ..diagnosis import cause
from ..errors import ReleaseError
from ..host.command import Result
from ..reading.targets import Target
from ..runtime import naming
from . import once
from .tree import Tree

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


def run(tree: Tree, script: str, *words: str, work: Path | None = None) -> Result:
    """A few lines of Python that import the app, from where it will run, and may write what it may."""
    work = work or tree.work
    code = tree.code(work)
    return once.run(
        once.of_app(
            code,
            naming.transient("prove", tree.paths.app),
            [code.python, "-c", script, *words],
            cwd=work,
            settings=tree.paths.env(tree.release),
            timeout=120,
            writable=[tree.paths.data, tree.paths.home, *tree.scratch()],
        )
    )


def choose(tree: Tree, candidates: list[Target], trusted: str) -> Target:
    """The first candidate that is there; one that breaks while it is imported is an error."""
    if candidates[0].target == trusted:  # the live release runs it; starting the new one proves it again
        return candidates[0]
    for candidate in candidates[:_TRIES]:
        work = tree.project / candidate.directory if candidate.directory else tree.work
        result = run(tree, _SCRIPT, candidate.target, work=work)
        if result.code == 0:
            return candidate
        if result.code != _NOT_THERE:
            state = {"ExecMainStatus": str(result.code)}
            reason = cause.explain(result.lines, state, tree.about())
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
