"""What the SQL of migrations does to the live release: what is told of it, and done about it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.migrations import lint, schema
from ansible.module_utils.berth.release.steps import migrate

# As alembic writes it, with a transaction for each revision.
SQL = """BEGIN;

-- Running upgrade 0001 -> 0002, A table

CREATE TABLE notes (
    id SERIAL NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX by_id ON notes (id);

UPDATE alembic_version SET version_num='0002' WHERE alembic_version.version_num = '0001';

COMMIT;

BEGIN;

-- Running upgrade 0002 -> 0003, Much

ALTER TABLE public.notes ADD CONSTRAINT one UNIQUE (id);

ALTER TABLE things
    DROP COLUMN price,
    DROP COLUMN size;

ALTER TABLE things ADD CONSTRAINT known FOREIGN KEY (id) REFERENCES other (id);

CREATE UNIQUE INDEX by_name ON "O dd".things (name);

TRUNCATE TABLE things;
INSERT INTO things (name) VALUES ('hush; DROP TABLE x');

COMMIT;
"""


def report(*found: tuple[str, str]) -> str:
    """As squawk gives it: where a line begins so, this rule."""
    lines = SQL.split("\n")
    places = [
        next(at for at, line in enumerate(lines) if line.strip().startswith(start)) for start, _ in found
    ]
    return json.dumps([{"line": at, "rule_name": rule} for at, (_, rule) in zip(places, found, strict=True)])


FOUND = report(
    ("id SERIAL", "prefer-identity"),
    ("CREATE TABLE", "ban-drop-column"),
    ("CREATE INDEX", "require-concurrent-index-creation"),
    ("ALTER TABLE public.notes", "disallowed-unique-constraint"),
    ("DROP COLUMN price", "ban-drop-column"),
    ("DROP COLUMN size", "ban-drop-column"),
    ("ALTER TABLE things ADD", "adding-foreign-key-constraint"),
    ("ALTER TABLE things ADD", "constraint-missing-not-valid"),
    ("CREATE UNIQUE", "require-concurrent-index-creation"),
    ("INSERT", "ban-truncate-cascade"),
)


def test_what_is_told_of_it() -> None:
    found = lint.read(FOUND, SQL, lambda text: text.replace("hush", "(hidden)"))
    # Nothing about the table that came with it, or its index; each rule once for a statement; no style.
    assert [(one.kind, one.rule, one.revision, one.target) for one in found] == [
        ("destructive", "ban-drop-column", "0003", "things"),
        ("locks", "adding-foreign-key-constraint", "0003", "things"),
        ("locks", "require-concurrent-index-creation", "0003", '"O dd".things'),
        ("destructive", "truncate", "0003", "things"),
        ("destructive", "ban-truncate-cascade", "0003", ""),
    ]
    assert found[0].sentence({"0003": "0003_much"}) == (
        "0003_much: ALTER TABLE things DROP COLUMN price, DROP COLUMN size: the live release fails where it "
        "still uses the column; first deploy code that does without it, and do this with a later release."
    )
    assert found[-1].statement == "INSERT INTO things (name) VALUES ('(hidden); DROP TABLE x')"
    for rule in lint._RULES.values():
        assert rule.kind in ("destructive", "locks")
        assert not str(rule).endswith(".")


@pytest.mark.parametrize("wrong", ["", "error", '[{"line": "x"}]', "[1]", "{}x"])
def test_what_is_no_report_is_none(wrong: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        lint.read(wrong, SQL, str)


def test_a_statement_that_is_not_understood_hides_all_others() -> None:
    with pytest.raises(lint.UnreadableError, match=r"^TRUNCATE TABLE things$"):
        lint.read(report(("CREATE TABLE", "ban-drop-table"), ("TRUNCATE", "syntax-error")), SQL, str)


def test_a_lock_of_a_small_table_is_not_told() -> None:
    found = lint.read(FOUND, SQL, str)
    small = lint.weighty(found, {"things": 16384, '"O dd".things': lint.SMALL})
    assert [one.rule for one in small] == [
        "ban-drop-column",
        "require-concurrent-index-creation",
        "truncate",
        "ban-truncate-cascade",
    ]
    assert lint.weighty(found, {}) == found


@pytest.mark.parametrize("policy", ["warn", "refuse", "allow"])
def test_the_policy_is_about_what_is_destructive(policy: str) -> None:
    said: list[str] = []
    app = {"migrations": {"destructive": policy}}
    deploy: Any = SimpleNamespace(app=app, notes=said, again=lambda: "berth deploy shop", unattended=False)
    # What its file tells is not asked where the SQL is known.
    pending = [schema.Revision("0003", [], "0003_much.py", "", ["drops a table"])]
    found = lint.read(FOUND, SQL, str)
    migrate._may_run(deploy, pending, [])
    assert said == []
    if policy == "refuse":
        with pytest.raises(
            ReleaseError, match=r"^0003_much: ALTER TABLE .* is refuse\. The database is unchanged"
        ):
            migrate._may_run(deploy, pending, found)
    else:
        migrate._may_run(deploy, pending, found)
    assert sum("nobody writes" in one for one in said) == 2
    assert sum("DROP COLUMN" in one for one in said) == (policy == "warn")


@pytest.mark.parametrize("policy", ["warn", "refuse", "allow"])
def test_where_nobody_looks_on_it_waits_for_somebody(policy: str) -> None:
    deploy: Any = SimpleNamespace(
        app={"migrations": {"destructive": policy}}, notes=[], again=lambda: "it", unattended=True
    )
    pending = [schema.Revision("0003", [], "0003_much.py", "", ["drops a table"])]
    found = lint.read(FOUND, SQL, str)
    if policy == "allow":
        migrate._may_run(deploy, pending, found)
        return
    with pytest.raises(ReleaseError) as error:
        migrate._may_run(deploy, pending, found)
    assert error.value.waits == (policy == "warn")
