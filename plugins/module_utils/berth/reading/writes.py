"""Folders that the sources write to, named relative to where they run or lie. Read, never run."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from . import pools, project

_MENTIONED = re.compile(
    r"open\(|mkdir|makedirs|FileHandler|basicConfig|write_text|write_bytes|touch\(|logger\.add\(|sqlite3"
)
_HANDLERS = {"FileHandler", "RotatingFileHandler", "TimedRotatingFileHandler", "WatchedFileHandler"}
_OPENERS = {"aiofiles", "io", "codecs", "gzip", "bz2", "lzma"}
_METHODS = {"write_text", "write_bytes", "touch"}
# Where it does not matter what a path is called.
_SAME = {"resolve", "absolute", "expanduser", "abspath", "realpath", "normpath", "str", "fspath", "as_posix"}
# What holds settings: its attributes are looked up by their names.
_SETTINGS = re.compile(r"settings|conf|cfg", re.IGNORECASE)
_PASSING = re.compile(r"log|cache|tmp|temp", re.IGNORECASE)


@dataclass(frozen=True)
class Written:
    """A folder of the project that code writes to; `.` where that is the project itself."""

    folder: str
    where: str  # file:line
    what: str  # the file or folder as the code names it


@dataclass(frozen=True)
class _Path:
    """A path as far as it can be read: of the project, or (`below` is true) of an unknown name in it."""

    parts: tuple[str, ...]
    below: bool = False

    def join(self, other: str, *, below: bool = False) -> _Path | None:
        """None where that leads out of the project, or anywhere."""
        if self.below:
            return self
        if other.startswith(("/", "~")):
            return None
        joined = os.path.normpath("/".join([*self.parts, other]) or ".")
        if joined.startswith(".."):
            return None
        return _Path(() if joined == "." else tuple(joined.split("/")), below)

    def up(self) -> _Path | None:
        return _Path(self.parts[:-1]) if self.parts else None


def find(folder: Path, work: Path, env: Mapping[str, Any]) -> list[Written]:
    """Every such folder once. `work` is where the app runs, `env` what the inventory sets."""
    found: dict[str, Written] = {}
    start = _Path(()).join(os.path.relpath(work, folder)) or _Path(())
    texts = dict(project.texts(folder))
    values = pools.Values(env, texts)
    for path, text in texts.items():
        relative = path.relative_to(folder)
        if project.is_command(relative) or not _MENTIONED.search(text):
            continue
        tree = project.parse(text)
        try:
            reader = _Reader(_Path(relative.parts), start, _constants(tree), values)
            for place, line, name, is_folder in reader.inside(tree):
                parts = place.parts if is_folder or place.below else place.parts[:-1]
                one = Written("/".join(parts) or ".", f"{relative}:{line}", name)
                found.setdefault(one.folder if one.folder != "." else name, one)
        except (SyntaxError, ValueError, RecursionError):
            continue
    outer = {one.folder for one in found.values() if not _holds_code(folder, one)}
    return [
        one
        for one in found.values()
        if not any(str(above) in outer for above in PurePosixPath(one.folder).parents if str(above) != ".")
    ]


def sentence(one: Written, folder: Path) -> str:
    """What is written where, and the key that allows it."""
    if _holds_code(folder, one):
        return (
            f"{one.what} is written beside the code ({one.where}), which is read-only: let it write to a "
            "folder of its own that is listed under persistent or scratch"
        )
    keys = [
        f"persistent: [{one.folder}] (outlives releases)",
        f"scratch: [{one.folder}] (ends with its release)",
    ]
    if _PASSING.search(one.folder):
        keys.reverse()
    return f"{one.folder} is written to ({one.where}): write {keys[0]} or {keys[1]}"


def _holds_code(folder: Path, one: Written) -> bool:
    return one.folder == "." or any((folder / one.folder).glob("**/*.py"))


def unlisted(folder: Path, work: Path, app: Mapping[str, Any]) -> list[Written]:
    """Those that the inventory does not open."""
    listed = [str(PurePosixPath(one)) for key in ("persistent", "scratch") for one in app[key]]
    return [
        one
        for one in find(folder, work, app["env"])
        if not any(one.folder == name or one.folder.startswith(f"{name}/") for name in listed)
    ]


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """What a file's names stand for, where they are assigned once."""
    found: dict[str, ast.expr] = {}
    twice: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    twice.update({target.id} & found.keys())
                    found[target.id] = node.value
    return {name: value for name, value in found.items() if name not in twice}


_Hit = tuple[_Path, int, str, bool]


@dataclass(frozen=True)
class _Reader:
    file: _Path
    start: _Path  # what relative names are relative to
    names: Mapping[str, ast.expr]
    values: pools.Values

    def inside(self, tree: ast.AST) -> Iterator[_Hit]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield from self._call(node)
            elif isinstance(node, ast.Dict):  # logging.config.dictConfig
                given = {
                    key.value: value for key, value in zip(node.keys, node.values, strict=True)
                    if isinstance(key, ast.Constant)
                }  # fmt: skip
                handler = given.get("class") or given.get("()")
                if isinstance(handler, ast.Constant) and str(handler.value).rpartition(".")[2] in _HANDLERS:
                    yield from self._hit(given.get("filename"), node.lineno)

    def _call(self, node: ast.Call) -> Iterator[_Hit]:
        name = _last(node.func)
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        words = {word.arg: word.value for word in node.keywords}
        first = node.args[0] if node.args else words.get("filename") or words.get("file")
        plain = owner is None or _last(owner) in _OPENERS
        if name == "open" and plain:
            if _writes(node.args[1] if len(node.args) > 1 else words.get("mode")):
                yield from self._hit(first, node.lineno)
        elif name in _METHODS or (
            name == "open" and _writes(node.args[0] if node.args else words.get("mode"))
        ):
            yield from self._hit(owner, node.lineno)
        elif name == "mkdir" and owner and _last(owner) != "os":
            yield from self._hit(owner, node.lineno, is_folder=True)
        elif name in ("mkdir", "makedirs"):
            yield from self._hit(first or words.get("name") or words.get("path"), node.lineno, is_folder=True)
        elif name in _HANDLERS or (name == "basicConfig" and "filename" in words):
            yield from self._hit(words.get("filename") or first, node.lineno)
        elif (name == "add" and owner and _last(owner) == "logger") or (
            name == "connect" and owner and _last(owner) == "sqlite3"
        ):
            yield from self._hit(first, node.lineno)

    def _hit(self, node: ast.expr | None, line: int, *, is_folder: bool = False) -> Iterator[_Hit]:
        place = self.path(node) if node else None
        if place and (place.parts or place.below) and place.parts != (":memory:",):
            yield place, line, "/".join(place.parts), is_folder

    def path(self, node: ast.expr, depth: int = 0) -> _Path | None:
        """The path that an expression stands for; None where it is absolute or cannot be read."""
        if depth > 20:
            return None
        text = self._text(node)
        if text is not None:
            head, below = text
            if below:  # the name that is not known lies below the last folder that is
                head = head.rpartition("/")[0]
            return self.start.join(head, below=below) if head or not below else None
        if isinstance(node, ast.Name):
            if node.id == "__file__":
                return self.file
            value = self.names.get(node.id)
            return self.path(value, depth + 1) if value else None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return self._joined(self.path(node.left, depth + 1), [node.right])
        if isinstance(node, ast.Attribute) and node.attr == "parent":
            inside = self.path(node.value, depth + 1)
            return inside.up() if inside and not inside.below else None
        if isinstance(node, ast.Subscript) and _last(node.value) == "parents":
            return self._above(node, depth)
        return self._of_call(node, depth) if isinstance(node, ast.Call) else None

    def _above(self, node: ast.Subscript, depth: int) -> _Path | None:
        place = self.path(node.value.value, depth + 1) if isinstance(node.value, ast.Attribute) else None
        number = node.slice.value if isinstance(node.slice, ast.Constant) else None
        for _ in range(number + 1 if isinstance(number, int) else 0):
            place = place.up() if place and not place.below else None
        return place if isinstance(number, int) else None

    def _of_call(self, node: ast.Call, depth: int) -> _Path | None:
        name, owner = _last(node.func), None
        if isinstance(node.func, ast.Attribute):
            owner = node.func.value
        if name in ("getenv", "get") and len(node.args) > 1 and isinstance(node.args[0], ast.Constant):
            # What the inventory sets is somebody's decision already.
            return (
                None
                if str(node.args[0].value).upper() in self.values.env
                else self.path(node.args[1], depth + 1)
            )
        if name in ("getcwd", "cwd"):
            return self.start
        if name in ("Path", "PurePath", "join") and node.args:
            return self._joined(self.path(node.args[0], depth + 1), node.args[1:])
        if name == "dirname" and node.args:
            inside = self.path(node.args[0], depth + 1)
            return inside.up() if inside and not inside.below else None
        if name == "joinpath" and owner:
            return self._joined(self.path(owner, depth + 1), node.args)
        if name in _SAME and (inner := node.args[0] if node.args else owner):
            return self.path(inner, depth + 1)
        return None

    def _joined(self, place: _Path | None, rest: list[ast.expr]) -> _Path | None:
        for node in rest:
            text = self._text(node)
            if place and text is None:
                place = _Path(place.parts, below=True)
            elif place and text is not None:
                head, below = text
                place = place.join(head.rpartition("/")[0] if below else head, below=below)
        return place

    def _text(self, node: ast.expr) -> tuple[str, bool] | None:
        """A text, and whether there is more of it that cannot be read."""
        if isinstance(node, ast.Name) and isinstance(self.names.get(node.id), (ast.Constant, ast.JoinedStr)):
            node = self.names[node.id]
        if isinstance(node, ast.Attribute) and _SETTINGS.search(_last(node.value)):
            value = self.values.name(node.attr)
            return (value, False) if isinstance(value, str) and value else None
        if isinstance(node, ast.Constant):
            return (node.value, False) if isinstance(node.value, str) else None
        if isinstance(node, ast.JoinedStr):
            head = ""
            for part in node.values:
                if not isinstance(part, ast.Constant):
                    known = self._text(part.value) if isinstance(part, ast.FormattedValue) else None
                    if known is None or known[1]:
                        return head, True
                    head += known[0]
                else:
                    head += str(part.value)
            return head, False
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._text(node.left), self._text(node.right)
            if left and not left[1]:
                return (left[0] + right[0], right[1]) if right else (left[0], True)
            return left
        return None


def _writes(mode: ast.expr | None) -> bool:
    return (
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and bool(set("wax+") & set(mode.value))
    )


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
