"""How many database connections an app may open: the pools its sources make, times its processes.

The sources are read, never run. What cannot be read is said to be unknown rather than guessed.
"""

from __future__ import annotations

import ast
import contextlib
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import project

# What makes a pool, by the parameters that size it: (parameter, its place, its default); they are added up.
_Sizes = tuple[tuple[str, int, int], ...]
_SQLALCHEMY: _Sizes = (("pool_size", 99, 5), ("max_overflow", 99, 10))
_MAKERS: dict[str, _Sizes] = {
    "sqlalchemy.create_engine": _SQLALCHEMY,
    "sqlalchemy.create_async_engine": _SQLALCHEMY,
    "sqlmodel.create_engine": _SQLALCHEMY,
    "asyncpg.create_pool": (("max_size", 99, 10),),
    "aiopg.create_pool": (("maxsize", 99, 10),),
    "databases.Database": (("max_size", 99, 10),),
    "psycopg2.SimpleConnectionPool": (("maxconn", 1, 1),),
    "psycopg2.ThreadedConnectionPool": (("maxconn", 1, 1),),
    "psycopg_pool.ConnectionPool": (("max_size", 99, 4),),
    "psycopg_pool.AsyncConnectionPool": (("max_size", 99, 4),),
}
_NO_POOL = {"NullPool": 0, "StaticPool": 1}
_ARITHMETIC: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_ENVIRONMENT = {"getenv", "get", "config", "int", "env"}
_MENTIONED = re.compile("|".join({name.split(".")[1] for name in _MAKERS}))
# For psql, monitoring and a migration beside the apps.
RESERVE = 10
# Places that a message names.
_SHOWN = 3


@dataclass(frozen=True)
class Pool:
    """One place that makes a pool. `most` is None where its size is not to be read."""

    where: str
    says: str
    most: int | None


class Values:
    """What the project's names stand for, where one number or text is all they ever are."""

    def __init__(self, env: Mapping[str, Any], texts: Mapping[Path, str]) -> None:
        self.env = {name.upper(): value for name, value in env.items() if not isinstance(value, dict)}
        self.texts = texts

    def name(self, name: str) -> Any:
        """A setting comes from the inventory's `env` first, with or without a prefix."""
        wanted = name.upper()
        for key, value in self.env.items():
            if key == wanted or ("_" in wanted and key.endswith(f"_{wanted}")):
                return value
        assigned = re.compile(rf"^[ \t]*{re.escape(name)}\s*(:[^=\n]+)?=[^=]", re.MULTILINE)
        values = {
            self._literal(value)
            for text in self.texts.values()
            if assigned.search(text)
            for value in _assigned(text, name)
        }
        return values.pop() if len(values) == 1 else None

    def _literal(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and _last(node.func) == "Field":
            given = next((word.value for word in node.keywords if word.arg == "default"), None)
            return self._literal(given or node.args[0]) if given or node.args else None
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, str)):
            return node.value
        return self._from_environment(node) if isinstance(node, ast.Call) else None

    def number(self, node: ast.expr) -> int | None:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inside = self.number(node.operand)
            return None if inside is None else -inside
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left, right = self.number(node.left), self.number(node.right)
            if left is None or right is None or (right == 0 and isinstance(node.op, ast.FloorDiv)):
                return None
            return int(_ARITHMETIC[type(node.op)](left, right))
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            return next((found for found in map(self.number, node.values) if found), None)
        if isinstance(node, ast.IfExp):
            both = [self.number(node.body), self.number(node.orelse)]
            return None if None in both else max(one for one in both if one is not None)
        if isinstance(node, ast.Subscript):  # os.environ["POOL"]
            at = node.slice
            return _whole(self.env.get(str(at.value).upper())) if isinstance(at, ast.Constant) else None
        if isinstance(node, ast.Call):
            return _whole(self._from_environment(node))
        if isinstance(node, (ast.Name, ast.Attribute)):
            return _whole(self.name(_last(node)))
        return _whole(node.value) if isinstance(node, ast.Constant) else None

    def _from_environment(self, node: ast.Call) -> Any:
        """`int(os.getenv("POOL", "5"))` and its like: the inventory's value, else the default beside it."""
        if _last(node.func) not in _ENVIRONMENT or not node.args:
            return None
        first = node.args[0]
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            return self.number(first) if _last(node.func) == "int" else None
        if first.value.upper() in self.env:
            return self.env[first.value.upper()]
        default = next((word.value for word in node.keywords if word.arg == "default"), None)
        default = default or (node.args[1] if len(node.args) > 1 else None)
        return self._literal(default) if default else None

    def text(self, node: ast.expr | None) -> str:
        if isinstance(node, ast.JoinedStr) and node.values:
            return self.text(node.values[0])
        value: Any = node.value if isinstance(node, ast.Constant) else None
        if isinstance(node, (ast.Name, ast.Attribute)):
            value = self.name(_last(node))
        return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    try:
        return None if value is None or isinstance(value, bool) else int(str(value))
    except ValueError:
        return None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def find(folder: Path, env: Mapping[str, Any]) -> list[Pool]:
    """Every pool that a server's sources make; of two branches of an `if`, the larger one's."""
    texts = dict(project.texts(folder))
    values = Values(env, texts)
    found: list[Pool] = []
    for path, text in texts.items():
        if not _MENTIONED.search(text) or project.is_command(path.relative_to(folder)):
            continue
        tree = project.parse(text)
        # An expression may be nested deeper than can be followed, and a name may stand for itself.
        with contextlib.suppress(RecursionError):
            found += _Reader(str(path.relative_to(folder)), _imports(tree), values).inside(tree)
    return found


def _assigned(text: str, name: str) -> Iterator[ast.expr]:
    """Every value that a file gives to a name."""
    for node in ast.walk(project.parse(text)):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            yield node.value


def _imports(tree: ast.Module) -> dict[str, str]:
    """Local names for what was imported: `sa` is sqlalchemy, `make` is sqlalchemy.ext.asyncio's function."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                names[one.asname or one.name.split(".")[0]] = (
                    one.name if one.asname else one.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                names[one.asname or one.name] = f"{node.module}.{one.name}"
    return names


@dataclass(frozen=True)
class _Reader:
    file: str
    imports: Mapping[str, str]
    values: Values

    def inside(self, node: ast.AST) -> list[Pool]:
        if isinstance(node, (ast.If, ast.IfExp)):
            sides = [node.body, node.orelse]
            both = [self._all(side if isinstance(side, list) else [side]) for side in sides]
            return [*self.inside(node.test), *max(both, key=_weight)]
        below = self._all(ast.iter_child_nodes(node))
        pool = self._pool(node) if isinstance(node, ast.Call) else None
        return [pool, *below] if pool else below

    def _all(self, nodes: Any) -> list[Pool]:
        return [pool for node in nodes for pool in self.inside(node)]

    def _pool(self, call: ast.Call) -> Pool | None:
        maker = self._maker(call.func)
        sizes = _MAKERS.get(maker, ())
        if not sizes:
            return None
        given = {word.arg: word.value for word in call.keywords if not _is_none(word.value)}
        address = given.get("url") or given.get("dsn") or (call.args[0] if call.args else None)
        if self.values.text(address).startswith(("sqlite", "mysql")):
            return None
        where = f"{self.file}:{call.lineno}"
        kind = given.get("poolclass")
        if kind is not None and _last(kind) in _NO_POOL:
            return Pool(where, _last(kind), _NO_POOL[_last(kind)])
        if None in given:
            return Pool(where, "its size is in a mapping", None)
        if maker.startswith("psycopg_pool.") and "max_size" not in given:
            sizes = (("min_size", 99, 4),)
        parts: list[str] = []
        most = 0
        for name, place, default in sizes:
            node = given.get(name) or (call.args[place] if len(call.args) > place else None)
            number = default if node is None else self.values.number(node)
            if node is not None and number is None:
                return Pool(where, f"{name} is {ast.unparse(node)}, which has no value in the sources", None)
            if number is None or number < 0 or (number == 0 and name == "pool_size"):
                return Pool(where, f"{name}={number} sets no limit", None)
            parts.append(f"{name} {number}" + (" by default" if node is None else ""))
            most += number
        return Pool(where, " + ".join(parts), most)

    def _maker(self, function: ast.expr) -> str:
        """The package and the name of what is called: `sqlalchemy.create_engine`."""
        root, name = function, _last(function)
        while isinstance(root, ast.Attribute):
            root = root.value
        origin = self.imports.get(root.id, "") if isinstance(root, ast.Name) else ""
        if isinstance(function, ast.Name):
            name = origin.rsplit(".", 1)[-1]
        return f"{origin.split('.')[0]}.{name}"


def _weight(pools: list[Pool]) -> int:
    return sum(pool.most or 0 for pool in pools)


@dataclass(frozen=True)
class Demand:
    """What all processes of an app may open together, and how that comes about."""

    pools: list[Pool]
    most: int
    sum: str


def demand(app: Mapping[str, Any], folder: Path) -> Demand:
    """The pools of the project in `folder`, in each of the app's processes."""
    web = next(process for process in app["processes"] if process["name"] == "web")
    workers = 1 if web["command"] else web["workers"]
    # The address of the database is Berth's, whatever the sources have as their default.
    told = app["database"]["variables"]
    env = {"WEB_CONCURRENCY": workers, **{name: "postgresql" for name in told.values() if name}}
    env.update(app["env"])
    pools = find(folder, env)
    each = sum(pool.most or 0 for pool in pools)
    times = [f"{workers} web worker{'s' if workers > 1 else ''}"]
    processes = workers
    for process in app["processes"]:
        if process["name"] != "web":
            count = process["instances"]
            processes += count
            times.append(f"{count} {process['name']}")
    return Demand(pools, each * processes, f"{each} ({_shown(pools)}) x ({' + '.join(times)})")


def _shown(pools: list[Pool]) -> str:
    """Pools of one size together, each with the first places that make it."""
    places: dict[str, list[str]] = {}
    for pool in pools:
        if pool.most:
            places.setdefault(pool.says, []).append(pool.where)
    parts = []
    for says, where in places.items():
        more = f" and {len(where) - _SHOWN} more" if len(where) > _SHOWN else ""
        each = " each" if len(where) > 1 else ""
        parts.append(f"{', '.join(where[:_SHOWN])}{more}: {says}{each}")
    return "; ".join(parts)


# What to do where this server's own PostgreSQL has too few, beside opening fewer.
MORE = "raise max_connections in server.postgresql.settings, or write pooler: {enabled: true}"


def warning(wanted: Demand, given: int, why: str, more: str = MORE) -> str:
    """One sentence where the app may ask for more than there is."""
    if wanted.most <= given:
        return ""
    return (
        f"Under load the app opens up to {wanted.most} database connections, {wanted.sum}, and "
        f"{shortage(given, why, more)}"
    )


def overlapping(wanted: Demand, held: int, given: int, why: str, more: str = MORE) -> str:
    """The same for the time in which the new release serves beside those before it, as one role."""
    if wanted.most + held <= given:
        return ""
    return (
        f"While releases overlap the app may need {wanted.most + held} database connections, {wanted.most} "
        f"for the new one, {wanted.sum}, beside the {held} that it holds now, and "
        f"{shortage(given, why, more)}"
    )


def shortage(given: int, why: str, more: str = MORE) -> str:
    """The second half of it, for where the first has been said."""
    return f"{why} leaves it {max(given, 0)}: make the pool smaller, give web fewer workers, {more}"
