"""The ASGI applications that a project's sources seem to define. Read, not run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..host import untrusted
from . import launch
from .project import is_command, python_path, sources
from .toml import load_toml

_WRAPPER = re.compile(r"(Middleware|ASGIApp|Asgi|Wrapper)$")
_WRAPPER_TEXT = re.compile(r"(Middleware|ASGIApp|Asgi|Wrapper)\(\w")
_FACTORIES = {
    *("create_app", "make_app", "build_app", "get_app", "init_app"),
    *("create_application", "get_application"),
}


@dataclass(frozen=True, order=True)
class Target:
    rank: tuple[int, ...]
    target: str
    where: str
    directory: str = ""  # relative to the project, where the command that names it runs


def find_targets(project: Path, root: Path | None = None, directory: str = "") -> list[Target]:
    """Every ASGI application that the sources seem to define, the likeliest first.

    `directory` is the folder below the project that the server is to run in.
    """
    work = project / directory
    entry = load_toml(project / "pyproject.toml").get("tool", {}).get("fastapi", {}).get("entrypoint", "")
    if isinstance(entry, str) and ":" in entry:
        return [Target((-9,), entry, "[tool.fastapi] entrypoint")]
    said: list[Target] = []
    found: dict[str, Target] = {}
    for start in reversed(python_path(work)):
        for path in sources(start):
            if start == work and (work / "src") in path.parents:
                continue
            for hit in _targets_in(path, start, project):
                found.setdefault(hit.target, hit)
    in_code = sorted(found.values())
    for rank, (line, where) in enumerate(launch.lines(project, root or project)):
        below = "" if directory else launch.folder(line, project)
        target = launch.target(line, work / below)
        if target.endswith(":"):  # `fastapi run app/main.py` names the module alone
            target = next((hit.target for hit in in_code if hit.target.startswith(target)), "")
        if target:
            said.append(Target((-8, rank), target, where, below))
    named = {hit.target for hit in said}
    return said + [hit for hit in in_code if hit.target not in named]


def _targets_in(path: Path, root: Path, project: Path) -> Iterator[Target]:
    try:
        text = untrusted.read_text(path, errors="replace")
        interesting = "FastAPI" in text or _WRAPPER_TEXT.search(text)
        if not interesting and not any(name in text for name in _FACTORIES):
            return
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return
    relative = path.relative_to(root)
    parts = list(relative.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if not parts or not all(part.isidentifier() for part in parts):
        return
    module = ".".join(parts)
    names = {"main": 0, "app": 1, "asgi": 1, "api": 2, "server": 2, "application": 2}
    later = 100 if is_command(relative) else 0
    rank = (later + len(parts), names.get(parts[-1], 3))
    factories = _factories(tree)
    for node in tree.body:
        for name, call in _assignments(node):
            called = _called(call)
            attribute = 0 if name in ("app", "application", "api") else 1
            where = f"{path.relative_to(project)}:{node.lineno}"
            if called == "FastAPI":
                yield Target((*rank, 0, attribute), f"{module}:{name}", where)
            elif called in factories or called in _FACTORIES:
                yield Target((*rank, 1, attribute), f"{module}:{name}", where)
            elif _wraps(call):
                # A wrapped app is what its author serves, so it goes before the bare one.
                yield Target((later - 1, *rank, attribute), f"{module}:{name}", where)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in factories and _callable_bare(node):
            where = f"{path.relative_to(project)}:{node.lineno}"
            yield Target((*rank, 2, node.name not in _FACTORIES), f"{module}:{node.name}()", where)


def _wraps(call: ast.Call) -> bool:
    """`Middleware(FastAPI())`, or `SomeMiddleware(app)` of an app made before."""
    if any(_called(inner) == "FastAPI" for inner in ast.walk(call) if isinstance(inner, ast.Call)):
        return True
    given = [*call.args, *(word.value for word in call.keywords)]
    return bool(_WRAPPER.search(_called(call))) and any(isinstance(one, ast.Name) for one in given)


def _factories(tree: ast.Module) -> set[str]:
    """Functions of this module that make a FastAPI instance."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(inner, ast.Call) and _called(inner) == "FastAPI" for inner in ast.walk(node))
        and any(isinstance(inner, ast.Return) and inner.value is not None for inner in ast.walk(node))
    }


def _callable_bare(function: ast.FunctionDef) -> bool:
    given = len(function.args.defaults)
    return len(function.args.args) <= given and all(default for default in function.args.kw_defaults)


def _assignments(node: ast.stmt) -> Iterator[tuple[str, ast.Call]]:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif isinstance(node, ast.AnnAssign):
        target, value = node.target, node.value
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            yield target.id, value


def _called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""
