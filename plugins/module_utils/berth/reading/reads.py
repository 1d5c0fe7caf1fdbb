"""What the sources read from the environment, and whether they can do without. They are read, never run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import venv
from ..services import table as services
from . import project

_MENTIONED = re.compile(r"environ|getenv|Settings\b|decouple|starlette\.config|environs")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# Modules whose one object reads a variable, and fails where it is not set.
_READERS = {"decouple": "config", "starlette.config": "Config", "environs": "Env", "environ": "Env"}
_ALIASES = ("validation_alias", "alias", "env")
# What every process has.
_GIVEN = {
    *("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "PWD", "TMPDIR"),
    *("WEB_CONCURRENCY", "INVOCATION_ID", "JOURNAL_STREAM"),
    *venv.GIVEN,
}


@dataclass(frozen=True)
class Variable:
    """One that is read; `required` where the code does not start without it."""

    name: str
    where: str  # file:line
    required: bool = False
    optional: bool = False  # it says itself that there may be none


def find(folder: Path, only: re.Pattern[str] = _MENTIONED) -> list[Variable]:
    """Every variable once, the strictest of its readings first; of files that mention `only`, where given."""
    read: list[tuple[Path, _Reading]] = []
    bases: dict[str, set[str]] = {}
    for path, text in project.texts(folder):
        relative = path.relative_to(folder)
        if project.is_command(relative) or not (_MENTIONED.search(text) and only.search(text)):
            continue
        if _is_alembics(path, text):
            continue
        tree = project.parse(text)
        try:
            read += [(relative, one) for one in _in_module(tree)]
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, set()).update(map(_last, node.bases))
    found: dict[str, Variable] = {}
    for relative, (owner, name, line, required, optional) in read:
        if owner and not _is_settings(owner, bases):
            continue
        known = found.get(name)
        if not known or (required and not known.required):
            found[name] = Variable(name, f"{relative}:{line}", required, optional)
    return list(found.values())


def _is_settings(name: str, bases: Mapping[str, set[str]]) -> bool:
    """Whether a class is one of pydantic's for settings, over however many others of the project."""
    todo, seen = [name], set()
    while todo:
        one = todo.pop()
        if one == "BaseSettings":
            return True
        if one not in seen:
            seen.add(one)
            todo += bases.get(one, ())
    return False


def _is_alembics(path: Path, text: str) -> bool:
    """Migrations have settings of their own (migrations.env)."""
    return path.name == "env.py" and "alembic" in text


def given(app: Mapping[str, Any]) -> set[str]:
    """The names that the inventory and Berth give an app, in capitals: settings libraries ignore case."""
    names = {*app["env"], *(secret["name"] for secret in app["secrets"])}
    for service in services.of(app):
        names |= set(service.variables(app).values())
    return {str(name).upper() for name in names if name} | _GIVEN


def unset(read: Iterable[Variable], app: Mapping[str, Any]) -> list[Variable]:
    """Those that nobody sets. A nested setting counts as set where one inside of it is."""
    known = given(app)

    def is_set(name: str) -> bool:
        return name in known or any(one.startswith(f"{name}__") or one.endswith(f"__{name}") for one in known)

    return [one for one in read if not is_set(one.name.upper())]


# The class whose field it is, the variable, its line, whether it is required, whether it may be missing.
_Reading = tuple[str, str, int, bool, bool]


def _in_module(tree: ast.Module) -> Iterator[_Reading]:
    readers = _objects(tree)
    # Inside of functions, and where it was asked before, a name that is not set stops no start.
    yield from _below(tree, readers, at_import=True)


def _objects(tree: ast.Module) -> set[str]:
    """Names of objects that read a variable when they are called: `config` of decouple, `env = Env()`."""
    classes: set[str] = set()
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in _READERS:
            for one in node.names:
                if one.name == _READERS[node.module]:
                    (classes if one.name[0].isupper() else names).add(one.asname or one.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = [target.id for target in node.targets if isinstance(target, ast.Name)]
            names.update(made if _last(node.value.func) in classes else [])
    return names


def _below(node: ast.AST, readers: set[str], *, at_import: bool) -> Iterator[_Reading]:
    for child in ast.iter_child_nodes(node):
        inside = at_import and not isinstance(
            child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.If, ast.IfExp, ast.Try, ast.BoolOp)
        )
        if isinstance(child, ast.ClassDef) and (start := prefix(child)) is not None:
            yield from _fields(child, start)
        elif isinstance(child, ast.Subscript) and isinstance(child.ctx, ast.Load):
            if _last(child.value) == "environ":
                yield from _named(child.slice, child.lineno, required=inside)
        elif isinstance(child, ast.Call) and child.args:
            yield from _call(child, readers, inside=inside)
        yield from _below(child, readers, at_import=inside)


def _call(node: ast.Call, readers: set[str], *, inside: bool) -> Iterator[_Reading]:
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    default = node.args[1] if len(node.args) > 1 else None
    default = next((word.value for word in node.keywords if word.arg == "default"), default)
    if _last(node.func) == "getenv" or (owner and _last(owner) == "environ" and _last(node.func) == "get"):
        yield from _named(node.args[0], node.lineno, optional=_is_none(default))
    elif _last(owner or node.func) in readers:
        # decouple's second place is the default, the others' is a type.
        required = inside and not any(word.arg == "default" for word in node.keywords)
        if len(node.args) > 1 and not isinstance(node.args[1], (ast.Name, ast.Attribute)):
            required = False
        yield from _named(node.args[0], node.lineno, required=required, optional=_is_none(default))


def _named(
    node: ast.expr, line: int, *, required: bool = False, optional: bool = False
) -> Iterator[_Reading]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and _VARIABLE.fullmatch(node.value):
        yield "", node.value, line, required, optional


def prefix(node: ast.ClassDef) -> str | None:
    """The env_prefix of a class of settings; None for any other class."""
    if not any(_last(base).endswith("Settings") for base in node.bases):
        return None
    for inner in ast.walk(node):
        name = inner.arg if isinstance(inner, ast.keyword) else ""
        if isinstance(inner, ast.Assign):
            name = _last(inner.targets[0])
        value = getattr(inner, "value", None)
        if name == "env_prefix" and isinstance(value, ast.Constant):
            return str(value.value)
    return ""


def _fields(node: ast.ClassDef, start: str) -> Iterator[_Reading]:
    """The fields of a class of settings under the names of their variables."""
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name = field.target.id
        if name.startswith("_") or name == "model_config" or "ClassVar" in ast.unparse(field.annotation):
            continue
        value = field.value
        names = [f"{start}{name}".upper()]
        if isinstance(value, ast.Call) and _last(value.func) == "Field":
            names = _other_names(value) or names
            given = [word.value for word in value.keywords if word.arg in ("default", "default_factory")]
            value = next(iter([*given, *value.args[:1]]), None)
        required = value is None or (isinstance(value, ast.Constant) and value.value is ...)
        # Of several names for one setting any will do, so none is asked for.
        for one in names:
            yield node.name, one, field.lineno, required and len(names) == 1, _is_none(value)


def _other_names(field: ast.Call) -> list[str]:
    """What `Field(alias=…)` names instead of the attribute, or `AliasChoices`."""
    for word in field.keywords:
        if word.arg in _ALIASES:
            found = [one.value for one in ast.walk(word.value) if isinstance(one, ast.Constant)]
            return [one for one in found if isinstance(one, str)]
    return []


def _is_none(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
