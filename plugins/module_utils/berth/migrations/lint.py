"""What the SQL of migrations does to the release that runs, in sentences: two sets of squawk's findings.

What is destructive, what keeps a table locked, and what is a matter of taste and not told, is decided here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import cut

DESTRUCTIVE, LOCKS = "destructive", "locks"
# Below so many bytes a table is read or written anew before anybody notices.
SMALL = 8 << 20
_SHOWN = 100
_LATER = "first deploy code that does without it, and do this with a later release"
_NEW_COLUMN = "add a new column, write both, and take the old one away with a later release"


@dataclass(frozen=True)
class Rule:
    kind: str
    does: str
    instead: str

    def __str__(self) -> str:
        return f"{self.does}; {self.instead}"


def _gone(what: str) -> Rule:
    return Rule(DESTRUCTIVE, f"the live release fails where it still uses the {what}", _LATER)


_RULES = {
    "ban-drop-column": _gone("column"),
    "ban-drop-table": _gone("table"),
    "ban-drop-database": _gone("database"),
    **{
        f"ban-drop-{what}": _gone(what)
        for what in ("view", "function", "type", "schema", "sequence", "domain")
    },
    "renaming-column": Rule(
        DESTRUCTIVE, "the live release fails, since it asks for the old name", _NEW_COLUMN
    ),
    "renaming-table": Rule(
        DESTRUCTIVE,
        "the live release fails, since it asks for the old name",
        "make a view of the old name beside it, and drop that with a later release",
    ),
    "changing-column-type": Rule(
        DESTRUCTIVE,
        "the live release may not understand the new type, and nobody reads the table while it is rewritten",
        _NEW_COLUMN,
    ),
    "adding-required-field": Rule(
        DESTRUCTIVE,
        "each INSERT of the live release fails, and so does this where the table has rows",
        "give the column a DEFAULT, or let it be NULL",
    ),
    "adding-not-nullable-field": Rule(
        DESTRUCTIVE,
        "INSERTs of the live release that leave it out fail, and nobody reads the table while it is searched",
        "first deploy code that always fills it, then add CHECK (… IS NOT NULL) NOT VALID and validate that",
    ),
    "ban-drop-not-null": Rule(
        DESTRUCTIVE,
        "the live release may meet a NULL that it does not expect",
        "first deploy code that can read one",
    ),
    "ban-truncate-cascade": Rule(
        DESTRUCTIVE, "its rows and those of all tables that refer to it are gone", _LATER
    ),
    "truncate": Rule(DESTRUCTIVE, "its rows are gone", _LATER),
    "require-concurrent-index-creation": Rule(
        LOCKS,
        "nobody writes to the table while the index is made",
        "CREATE INDEX CONCURRENTLY in an autocommit_block, in a revision of its own",
    ),
    "require-concurrent-index-deletion": Rule(
        LOCKS,
        "nobody reads or writes the table until all who do now have ended",
        "DROP INDEX CONCURRENTLY in an autocommit_block, in a revision of its own",
    ),
    "require-concurrent-reindex": Rule(
        LOCKS, "nobody writes to the table while the index is made", "REINDEX … CONCURRENTLY"
    ),
    "require-concurrent-partition-detach": Rule(
        LOCKS, "nobody reads or writes the table meanwhile", "DETACH PARTITION … CONCURRENTLY"
    ),
    "adding-foreign-key-constraint": Rule(
        LOCKS,
        "nobody writes to both tables while all rows are compared",
        "add it NOT VALID, and VALIDATE CONSTRAINT in a revision of its own",
    ),
    "disallowed-unique-constraint": Rule(
        LOCKS,
        "nobody reads or writes the table while its index is made",
        "CREATE UNIQUE INDEX CONCURRENTLY first, then ADD CONSTRAINT … UNIQUE USING INDEX",
    ),
    "adding-serial-primary-key-field": Rule(
        LOCKS,
        "nobody reads or writes the table while its index is made",
        "CREATE UNIQUE INDEX CONCURRENTLY first, then ADD CONSTRAINT … PRIMARY KEY USING INDEX",
    ),
    "constraint-missing-not-valid": Rule(
        LOCKS,
        "nobody reads or writes the table while all rows are checked",
        "add it NOT VALID, and VALIDATE CONSTRAINT in a revision of its own",
    ),
    "adding-field-with-default": Rule(
        LOCKS,
        "nobody reads or writes the table while it is rewritten",
        "add the column without this DEFAULT, set that, and fill old rows in portions",
    ),
    "ban-concurrent-index-creation-in-transaction": Rule(
        LOCKS, "Postgres refuses it inside of a transaction", "put it into an autocommit_block"
    ),
}
# Of several for one statement this one says nothing that another does not.
_WEAKEST = "constraint-missing-not-valid"

_REVISION = re.compile(r"-- Running upgrade .*?-> ([^\s,]+)")
_TRUNCATE = re.compile(r"\s*TRUNCATE\b(?!.*\bCASCADE\b)", re.I)
_NAME = r'((?:"[^"]+"|[\w$]+)(?:\.(?:"[^"]+"|[\w$]+))?)'
_CREATES = re.compile(rf"\s*CREATE\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{_NAME}", re.I)
_TARGET = re.compile(
    rf"\s*(?:ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?"
    rf"|CREATE\s+(?:UNIQUE\s+)?INDEX\s+.*?\bON\s+(?:ONLY\s+)?|TRUNCATE\s+(?:TABLE\s+)?(?:ONLY\s+)?"
    rf"|(?P<index>DROP\s+INDEX\s+(?:IF\s+EXISTS\s+)?)){_NAME}",
    re.I | re.DOTALL,
)


@dataclass(frozen=True)
class Finding:
    kind: str
    rule: str
    revision: str
    statement: str  # on one line, cut, without secrets
    says: str
    # The table, or the index, as the statement names it; empty where that is not understood.
    target: str = ""

    def sentence(self, files: Mapping[str, str]) -> str:
        """`files`: what each revision's file is called."""
        return f"{files.get(self.revision, self.revision)}: {self.statement}: {self.says}."

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class UnreadableError(Exception):
    """The statement."""


def read(report: str, sql: str, mask: Callable[[str], str]) -> list[Finding]:
    """Findings in squawk's JSON on this SQL.

    ValueError, KeyError or TypeError where it is none; UnreadableError where it tells of a statement that
    squawk does not understand, since it says nothing of all others then.
    """
    lines = sql.split("\n")
    places = _places(lines)
    rules: dict[Place, set[str]] = {place: set() for place in places.values()}
    for one in json.loads(report):
        place = places.get(int(one["line"]))
        if one["rule_name"] == "syntax-error":
            raise UnreadableError(_brief(place, mask) if place else "all of it")
        if place and one["rule_name"] in _RULES:
            rules[place].add(one["rule_name"])
    made: set[str] = set()
    found = []
    for place, names in rules.items():
        here = sorted(names | ({"truncate"} if _TRUNCATE.match(place.text) else set()))
        if len(here) > 1 and _WEAKEST in here:
            here.remove(_WEAKEST)
        match = _TARGET.match(place.text)
        target = match[2] if match else ""
        # What came with this deploy is nothing to the live release, whichever transaction made it.
        if created := _CREATES.match(place.text):
            made.add(_plain(created[1]))
        elif _plain(target) not in made:
            statement = _brief(place, mask)
            found += [
                Finding(_RULES[rule].kind, rule, place.revision, statement, str(_RULES[rule]), target)
                for rule in here
            ]
    return found


@dataclass(frozen=True)
class Place:
    """One statement: where it begins, whose it is, and itself."""

    first: int
    revision: str
    text: str


def _places(lines: Sequence[str]) -> dict[int, Place]:
    """The statement on each line, as alembic writes them: one ends with its line."""
    found: dict[int, Place] = {}
    revision, start = "", -1
    for number, line in enumerate(lines):
        if start < 0:
            if told := _REVISION.match(line):
                revision = told[1]
            if not line.strip() or line.startswith("--"):
                continue
            start = number
        if line.rstrip().endswith(";") or number == len(lines) - 1:
            place = Place(start, revision, "\n".join(lines[start : number + 1]))
            found |= dict.fromkeys(range(start, number + 1), place)
            start = -1
    return found


def _brief(place: Place, mask: Callable[[str], str]) -> str:
    return cut(mask(" ".join(place.text.split()).rstrip("; ")), _SHOWN)


def _plain(name: str) -> str:
    return name.replace('"', "").removeprefix("public.").lower()


def weighty(found: Sequence[Finding], sizes: Mapping[str, int]) -> list[Finding]:
    """Without locks of tables that are small; `sizes` in bytes, of those that are known."""
    return [one for one in found if one.kind != LOCKS or sizes.get(one.target, SMALL) >= SMALL]
