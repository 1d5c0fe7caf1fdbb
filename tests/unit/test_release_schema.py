"""What lies between two schema revisions, read from their files, and whether old code can live with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible.module_utils.berth.migrations import schema


def revision(body: str, name: str = "2", down: str = '"1"', after: str = "") -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return (
        f'"""Title of {name}\n\nMore."""\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
        f'revision: str = "{name}"\ndown_revision = {down}\n{after}\n\ndef upgrade() -> None:\n{lines}\n'
        'def downgrade() -> None:\n    op.drop_table("x")\n    op.execute("DROP TABLE y")\n'
    )


@pytest.mark.parametrize(
    ("body", "risk"),
    [
        ('op.create_table("t", sa.Column("id", sa.Integer, nullable=False))', ""),
        ('op.add_column("t", sa.Column("c", sa.Integer))', ""),
        ('op.add_column("t", sa.Column("c", sa.Integer, nullable=False, server_default="0"))', ""),
        ('op.create_index("i", "t", ["c"])', ""),
        ('op.execute("alter table t add column c int not null default 0")', ""),
        ('op.execute("update t set renamed = 1")', ""),
        ('op.alter_column("t", "c", nullable=True)', ""),
        ('op.drop_table("t")', "drops table t"),
        ('op.drop_column("t", "c")', "drops column t.c"),
        ('op.rename_table("t", "u")', "renames table t"),
        ('op.alter_column("t", "c", new_column_name="d")', "renames column t.c"),
        ('op.alter_column("t", "c", type_=sa.Text())', "changes the type of t.c"),
        ('op.alter_column("t", "c", nullable=False)', "makes t.c NOT NULL"),
        ('with op.batch_alter_table("t") as batch:\n    batch.drop_column("c")', "drops column c"),
        (
            'op.add_column("t", sa.Column("c", sa.Integer, nullable=False))',
            "adds column t.c NOT NULL without a default",
        ),
        ('op.execute("ALTER TABLE t DROP COLUMN c")', "drops a column"),
        ('op.execute(sa.text("alter table t rename c to d"))', "renames something"),
        ('op.execute("alter table t alter column c type bigint")', "changes a column's type"),
        ('op.execute("alter table t add c int not null")', "adds a column NOT NULL without a default"),
        ("op.execute(STATEMENT)", "runs statements that cannot be read from its file"),
    ],
)
def test_what_a_revision_takes_away(body: str, risk: str) -> None:
    found = schema.parse(revision(body), "2_x.py")
    assert found
    assert found.risks == ([risk] if risk else [])
    assert (found.id, found.down, found.title) == ("2", ["1"], "Title of 2")


def test_what_is_no_revision() -> None:
    assert schema.parse("x = 1\n", "env.py") is None
    assert schema.parse("revision = compute()\n", "env.py") is None


@pytest.fixture
def revisions(tmp_path: Path) -> dict[str, schema.Revision]:
    """1 ← 2 ← 3 (drops) and a branch 1 ← b, merged into m."""
    files = {
        "1.py": revision('op.create_table("t")', "1", "None"),
        "2_add.py": revision('op.add_column("t", sa.Column("c", sa.Text))', "2"),
        "3_drop.py": revision('op.drop_column("t", "c")', "3", '"2"'),
        "b.py": revision('op.create_table("b")', "b"),
        "m.py": revision("pass", "m", '("3", "b")'),
        "broken.py": "def (",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found: dict[str, schema.Revision] = schema.read_all(tmp_path.iterdir())
    return found


def test_the_way_between(revisions: dict[str, schema.Revision]) -> None:
    def ids(old: str, new: str) -> list[str]:
        return [one.id for one in schema.between(revisions, old, new)]

    assert ids("", "2") == ["1", "2"]
    assert ids("1", "m") == ["2", "b", "3", "m"]
    assert ids("2,b", "m") == ["3", "m"]
    assert ids("3", "2") == []
    assert schema.heads(revisions) == ["m"]


@pytest.mark.parametrize(
    ("made_for", "today", "safe", "says"),
    [
        ("2", "2", True, "is at 2, the schema R ran on"),
        ("1", "2", True, r"stays at schema 2; R ran on 1. What came since \(2_add\) only adds"),
        ("1", "3", False, r"got 3_drop \(drops column t.c\), which its code does not expect"),
        ("2", "1", False, "needs schema 2, and the database is at 1"),
        ("1", "zz", False, "which no release here knows"),
        ("1", "", False, "tells no schema version"),
        ("", "", True, "without a schema version"),
    ],
)
def test_the_verdict(
    revisions: dict[str, schema.Revision], made_for: str, today: str, safe: bool, says: str
) -> None:
    verdict = schema.judge(revisions, "R", made_for, today)
    assert verdict.safe is safe
    assert re.search(says, verdict.sentence), verdict.sentence
