"""Secrets that an app draws at random where none is given: every process then has another one."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import project, reads

_RANDOM = {
    *("token_urlsafe", "token_hex", "token_bytes", "urandom", "uuid4", "generate_key", "get_random_bytes"),
    *("randbytes", "getrandbits"),
}
_READS = re.compile(r"env|config", re.IGNORECASE)
_SECRET = re.compile(r"secret|salt|pepper|signing|password|(^|_)key($|_)|jwt|token", re.IGNORECASE)


@dataclass(frozen=True)
class Default:
    """A setting with a random default."""

    name: str  # of the environment variable; "" where none is read
    where: str  # file:line
    constant: str  # what it is called in the code

    def sentence(self) -> str:
        """What is wrong, and what to write."""
        said = f"{self.constant} ({self.where}) is drawn at random in every process, so what one worker "
        said += "signs another refuses"
        if self.name:
            return f"{said}: add under secrets: - {{name: {self.name}, generate: true}}"
        return f"{said}, and no variable sets it: read it from one, or set processes.web.workers: 1"


def unset(folder: Path, app: Mapping[str, Any]) -> list[Default]:
    """Those that the inventory gives no value for."""
    known = {*app["env"], *(secret["name"] for secret in app["secrets"])}
    known |= set(app["database"]["variables"].values())
    lower = {name.lower() for name in known if name}
    return [one for one in find(folder) if not _is_set(one, lower)]


def _is_set(default: Default, known: Collection[str]) -> bool:
    """Settings libraries ignore case, and nested ones put the names above in front."""
    nested = f"__{default.name or default.constant}".lower()
    return default.name.lower() in known or any(one.endswith(nested) for one in known)


def find(folder: Path) -> list[Default]:
    """Every one in the sources, which are read and not run."""
    found = []
    for path, text in project.texts(folder):
        if not any(name in text for name in _RANDOM):
            continue
        for name, constant, line in _in_module(project.parse(text)):
            found.append(Default(name, f"{path.relative_to(folder)}:{line}", constant))
    return found


def _in_module(tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """(variable, name in the code, line) of module constants and of class attributes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            prefix = reads.prefix(node)
            for inner in node.body:
                for target, value in _assigned(inner):
                    name = _variable(value)
                    if not name and prefix is not None:
                        name = _alias(value) or f"{prefix}{target}".upper()
                    yield from _judge(target, name, value, prefix is not None)
        else:
            for target, value in _assigned(node):
                yield from _judge(target, _variable(value), value)


def _judge(target: str, name: str, value: ast.expr, settings: bool = False) -> Iterator[tuple[str, str, int]]:
    random = _names_random(value) if settings or name else _calls_random(value)
    if random and _SECRET.search(name or target):
        yield name, target, value.lineno


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    for target in targets:
        if isinstance(target, ast.Name) and value is not None:
            yield target.id, value


def _names_random(value: ast.expr) -> bool:
    """A setting's default: a call of such a function, or its name given as a factory."""
    if not isinstance(value, (ast.Call, ast.BoolOp, ast.IfExp, ast.BinOp)):
        return False
    return any(getattr(node, "attr", getattr(node, "id", "")) in _RANDOM for node in ast.walk(value))


def _calls_random(value: ast.AST) -> bool:
    """Called right here: what a column or a field of a model is given as its factory is new for every row."""
    if isinstance(value, (ast.keyword, ast.Lambda)):
        return False
    if isinstance(value, ast.Call) and getattr(value.func, "attr", getattr(value.func, "id", "")) in _RANDOM:
        return True
    return any(_calls_random(inner) for inner in ast.iter_child_nodes(value))


def _variable(value: ast.expr) -> str:
    """The variable of `os.getenv("X", …)`, `os.environ.get("X", …)` or `os.environ["X"]`."""
    for node in ast.walk(value):
        first: ast.expr | None = None
        if isinstance(node, ast.Call) and node.args and _READS.search(ast.unparse(node.func)):
            first = node.args[0]
        elif isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
            first = node.slice
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return ""


def _alias(value: ast.expr) -> str:
    """What pydantic's `Field(alias=…)` names instead of the attribute."""
    for word in value.keywords if isinstance(value, ast.Call) else []:
        if word.arg in ("alias", "validation_alias") and isinstance(word.value, ast.Constant):
            return str(word.value.value)
    return ""
