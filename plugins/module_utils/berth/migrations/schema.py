"""Alembic's revisions read from their files and never run: which lie between two, and what they take away.

Used on the server for a rollback, and on the controller for what a deploy would bring. Standard library only.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..host import untrusted

# What older code may stumble over, in SQL that a migration spells out.
_SQL = (
    (r"\bDROP\s+(TABLE|VIEW|MATERIALIZED\s+VIEW|SCHEMA|TYPE|FUNCTION|SEQUENCE)\b", "drops a {0}"),
    (r"\bDROP\s+COLUMN\b", "drops a column"),
    (r"\bRENAME\b", "renames something"),
    (r"\bALTER\s+(?:COLUMN\s+)?\S+\s+(?:SET\s+DATA\s+)?TYPE\b", "changes a column's type"),
    (r"\bSET\s+NOT\s+NULL\b", "makes a column NOT NULL"),
    (r"\bTRUNCATE\b", "empties a table"),
)
_ADDS_NOT_NULL = re.compile(r"\bADD\s+(?:COLUMN\s+)?(?!CONSTRAINT\b)[^,;]*?\bNOT\s+NULL\b[^,;]*", re.I)
_FINE = re.compile(r"\b(DEFAULT|GENERATED|SERIAL|BIGSERIAL)\b", re.I)


@dataclass
class Revision:
    id: str
    down: list[str]
    file: str
    title: str
    risks: list[str] = field(default_factory=list)

    def stem(self) -> str:
        return Path(self.file).stem

    def label(self) -> str:
        what = f" ({'; '.join(self.risks)})" if self.risks else ""
        return f"{self.stem()}{what}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def noted(entry: Mapping[str, Any]) -> Revision:
    """A revision as a release's record has it."""
    return Revision(
        str(entry["id"]),
        list(entry.get("down") or []),
        str(entry.get("file", "")),
        str(entry.get("title", "")),
        list(entry.get("risks") or []),
    )


def read_all(files: Iterable[Path]) -> dict[str, Revision]:
    """The revisions in these files; those that are none, or do not parse, are passed over."""
    found = {}
    for path in files:
        try:
            revision = parse(untrusted.read_text(path, errors="replace"), path.name)
        except (OSError, SyntaxError, ValueError):
            continue
        if revision:
            found[revision.id] = revision
    return found


def parse(text: str, file: str) -> Revision | None:
    """One revision's file."""
    tree = ast.parse(text)
    values: dict[str, Any] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in ("revision", "down_revision", "depends_on"):
                try:
                    values[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
                except ValueError:
                    return None
    if not isinstance(values.get("revision"), str):
        return None
    down: list[str] = []
    for name in ("down_revision", "depends_on"):
        value = values.get(name)
        down += [value] if isinstance(value, str) else [str(one) for one in value or ()]
    title = (ast.get_docstring(tree) or "").strip().splitlines()
    return Revision(values["revision"], down, file, title[0] if title else "", risks(tree))


def risks(tree: ast.Module) -> list[str]:
    """What the file does, outside of its downgrade, that code from before it may not survive."""
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "downgrade":
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
                found += _call(part, part.func.attr)
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                found += sql_risks(part.value)
    return list(dict.fromkeys(found))


def _call(call: ast.Call, name: str) -> list[str]:
    words = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    what = ".".join(words[:2]) or "something"
    keywords = {word.arg: word.value for word in call.keywords}
    if name == "drop_table":
        return [f"drops table {words[0] if words else '?'}"]
    if name == "drop_column":
        return [f"drops column {what}"]
    if name == "rename_table":
        return [f"renames table {words[0] if words else '?'}"]
    if name == "alter_column":
        found = []
        if "new_column_name" in keywords or "name" in keywords:
            found.append(f"renames column {what}")
        if "type_" in keywords:
            found.append(f"changes the type of {what}")
        if _is(keywords.get("nullable"), False):
            found.append(f"makes {what} NOT NULL")
        return found
    if name == "add_column":
        for arg in call.args:
            if isinstance(arg, ast.Call) and _not_null_without_default(arg):
                column = arg.args[0].value if arg.args and isinstance(arg.args[0], ast.Constant) else "?"
                return [f"adds column {'.'.join([*words[:1], str(column)])} NOT NULL without a default"]
    if name == "execute" and not any(
        isinstance(part, ast.Constant) and isinstance(part.value, str) for part in ast.walk(call)
    ):
        return ["runs statements that cannot be read from its file"]
    return []


def _not_null_without_default(column: ast.Call) -> bool:
    keywords = {word.arg: word.value for word in column.keywords}
    made = any(
        isinstance(arg, ast.Call) and _name(arg.func) in ("Identity", "Computed") for arg in column.args
    )
    return _is(keywords.get("nullable"), False) and "server_default" not in keywords and not made


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def sql_risks(text: str) -> list[str]:
    """The same from SQL."""
    found = []
    for pattern, what in _SQL:
        for match in re.finditer(pattern, text, re.I):
            found.append(what.format(*(group.lower() for group in match.groups() if group)))
    for match in _ADDS_NOT_NULL.finditer(text):
        if not _FINE.search(match.group()):
            found.append("adds a column NOT NULL without a default")
    return list(dict.fromkeys(found))


def heads(revisions: Mapping[str, Revision]) -> list[str]:
    """Revisions that no other one builds on."""
    below = {down for revision in revisions.values() for down in revision.down}
    return sorted(set(revisions) - below)


def ancestors(revisions: Mapping[str, Revision], ends: Iterable[str]) -> set[str]:
    """These revisions and all that lie before them."""
    found: set[str] = set()
    todo = [end for end in ends if end in revisions]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += [down for down in revisions[current].down if down in revisions]
    return found


def split(heads_text: str) -> list[str]:
    """What `alembic_version` holds, as the engine writes it: several heads with commas between."""
    return [part for part in heads_text.split(",") if part]


def between(revisions: Mapping[str, Revision], old: str, new: str) -> list[Revision]:
    """What leads from one state of the schema to another, the oldest first."""
    wanted = ancestors(revisions, split(new)) - ancestors(revisions, split(old))
    ordered: list[Revision] = []
    while wanted:
        ready = sorted(name for name in wanted if not wanted.intersection(revisions[name].down))
        if not ready:  # a circle: alembic itself would refuse it
            ready = sorted(wanted)
        ordered += [revisions[name] for name in ready]
        wanted.difference_update(ready)
    return ordered


@dataclass
class Verdict:
    """Whether code that was made for one schema can run on another; one sentence, and whether to refuse."""

    sentence: str
    safe: bool


def judge(revisions: Mapping[str, Revision], target: str, made_for: str, today: str) -> Verdict:
    """For a rollback to `target`, which ran on `made_for`, on a database that is at `today`."""
    if sorted(split(made_for)) == sorted(split(today)):
        where = f"at {today}, the schema {target} ran on" if today else "without a schema version"
        return Verdict(f"The database is {where}.", True)
    if not today:
        return Verdict(
            f"The database tells no schema version (alembic_version is missing or empty); {target} ran on "
            f"{made_for}, so nobody can tell whether its code can run on it.",
            False,
        )
    unknown = [name for name in split(today) if name not in revisions]
    if unknown:
        return Verdict(
            f"The database is at schema {', '.join(unknown)}, which no release here knows, so nobody can "
            f"tell whether {target} can run on it.",
            False,
        )
    ahead = [name for name in split(made_for) if name not in ancestors(revisions, split(today))]
    if ahead:
        return Verdict(
            f"{target} needs schema {', '.join(ahead)}, and the database is at {today}: a rollback runs no "
            "migrations.",
            False,
        )
    since = between(revisions, made_for, today)
    risky = [revision for revision in since if revision.risks]
    if risky:
        return Verdict(
            f"{target} ran on schema {made_for or 'none'}; since then the database got "
            f"{', '.join(revision.label() for revision in risky)}, which its code does not expect.",
            False,
        )
    names = ", ".join(revision.label() for revision in since) or "nothing"
    return Verdict(
        f"The database stays at schema {today}; {target} ran on {made_for or 'none'}. What came since "
        f"({names}) only adds, so its code can run on it.",
        True,
    )
