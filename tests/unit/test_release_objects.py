"""What a migration that failed left in the database, and what a broken index means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.migrations import migrate, objects, schema
from ansible.module_utils.berth.migrations.objects import Thing
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import migrate as step
from ansible.module_utils.berth.reports import history

from tests.support.entry import board

TABLE = Thing("table", "public.things", "", broken=False)
ID = Thing("column", "public.things.id bigint not null", "public.things", broken=False)
SIZE = Thing("column", "public.things.size integer", "public.things", broken=False)
INDEX = Thing("index", "public.by_name", "public.things", broken=True)
OTHER = Thing("table", "public.other", "", broken=False)
NOTE = Thing("column", "public.other.note text", "public.other", broken=False)
PENDING = [schema.Revision("5", ["4"], "5_sizes.py", ""), schema.Revision("6", ["5"], "6_names.py", "")]


def test_what_came_and_went() -> None:
    answer = '["table", "public.things", "", false]\n["index", "public.by_name", "public.things", true]\n'
    assert objects.read(answer) == {TABLE, INDEX}
    # A table stands for what is in it.
    came, gone = objects.since({TABLE, ID, OTHER, NOTE}, {TABLE, ID, SIZE, INDEX})
    assert (came, gone) == ([SIZE, INDEX], [OTHER])
    assert (
        objects.names(came)
        == "column public.things.size integer, index public.by_name of public.things (invalid)"
    )
    assert objects.names([SIZE] * 10).endswith("integer and 2 more")


SHOP: dict[str, Any] = {"name": "shop", "database": {"name": "shop"}}


def test_a_broken_index_is_named_with_the_way_to_clear_it() -> None:
    assert objects.broken([TABLE, INDEX._replace(broken=False)], SHOP) == ""
    said = objects.broken([TABLE, INDEX], SHOP)
    assert "invalid: public.by_name of public.things. " in said
    clear = 'runuser -u postgres -- psql -d shop -c "DROP INDEX CONCURRENTLY public.by_name"'
    assert f"Clear them with: {clear}; then make them" in said
    odd = objects.broken([INDEX, INDEX._replace(name='public."O`dd"')], SHOP)
    assert (
        '-c "DROP INDEX CONCURRENTLY public.\\"O\\`dd\\"" -c "DROP INDEX CONCURRENTLY public.by_name"' in odd
    )
    # Where nobody is a superuser, its owner clears it.
    there = {"name": "shop", "database": {**SHOP["database"], "host": "db.example.net"}}
    clear = "berth psql shop --owner, and there DROP INDEX CONCURRENTLY public.by_name"
    assert f"Clear them with: {clear}; then make them" in objects.broken([INDEX], there)


class Asked:
    """A database before a migration and after it."""

    def __init__(self, revision: str | None, *after: frozenset[Thing] | None) -> None:
        self.revision = revision
        self.states = [frozenset({TABLE, ID}), *after]

    def ask(self) -> str | None:
        return self.revision

    def objects(self) -> frozenset[Thing] | None:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    @contextmanager
    def timeouts(self, *_: int) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("revision", "after", "said"),
    [
        ("4", {TABLE, ID}, ["Nothing of it stays in the database."]),
        (
            "4",
            {TABLE, SIZE},
            [
                "The schema is at 4 as before, but what was done outside of a transaction stays, and the "
                "next try meets it: there is now column public.things.size integer; gone is column "
                "public.things.id bigint not null."
            ],
        ),
        (
            "5",
            {TABLE, ID, SIZE},
            [
                "It got from schema 4 to 5; 5_sizes applied; 6_names not; there is now column "
                "public.things.size integer."
            ],
        ),
        (
            "5",
            {TABLE, ID, INDEX},
            ["It got from schema 4 to 5", "Indexes that broke off while they were made"],
        ),
        ("4", None, ["What it left in the database cannot be told, since that does not answer."]),
        (None, {TABLE, ID}, ["What it left in the database cannot be told, since that does not answer."]),
    ],
)
def test_a_failure_says_what_it_left(
    monkeypatch: pytest.MonkeyPatch, revision: str | None, after: set[Thing] | None, said: list[str]
) -> None:
    def run(*words: Any) -> int:
        # A second try would meet what the first one left.
        assert words[4]() is (revision == "4" and after == {TABLE, ID})
        raise ReleaseError("No.")

    state = frozenset(after) if after is not None else None
    asked: Any = Asked(revision, state)
    monkeypatch.setattr(migrate, "run", run)
    monkeypatch.setattr(step, "revisions", lambda _, *way: PENDING[: int(way[1]) - int(way[0])])
    tree: Any = SimpleNamespace(role=lambda: ("runtime", ""), code=lambda: None)
    app = {"migrations": {"lock_timeout": 2, "timeout": 900}, "database": {"name": "shop"}}
    deploy: Any = SimpleNamespace(app=app)
    decision: Any = SimpleNamespace(command="alembic upgrade head", directory=Path())
    seen = step.Look(decision, asked, "digest", "4", pending=True)
    with pytest.raises(ReleaseError) as failed:
        step.attempt(deploy, tree, seen, PENDING, repeatable=True)
    assert len(failed.value.also) == len(said)
    for sentence, start in zip(failed.value.also, said, strict=True):
        assert sentence.startswith(start)


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Deploy, list[set[str]]]:
    """A deploy whose migration fails, and what was known at its beginning of what ran on the database."""
    paths = Paths("shop", tmp_path)
    paths.state.mkdir(parents=True)
    known: list[set[str]] = []

    def fails(*_: Any) -> int:
        known.append(set(history.ran(paths)))
        raise ReleaseError("No.", advice="correct the migration")

    asked: Any = SimpleNamespace(advisory_lock=contextlib.nullcontext)
    decision: Any = SimpleNamespace(command="alembic upgrade head", directory=tmp_path)
    for name in ("_prove_import", "_lint", "_may_run"):
        monkeypatch.setattr(step, name, lambda *_: None)
    monkeypatch.setattr(step, "revisions", lambda *_: PENDING)
    monkeypatch.setattr(step, "attempt", fails)
    monkeypatch.setattr(step.tables, "is_transactional", lambda *_: True)
    deploy = Deploy(paths, {})
    deploy.app, deploy.release = board(name="shop"), "r2"
    deploy.looked = step.Look(decision, asked, "digest", "", pending=True)
    deploy.folder.mkdir(parents=True)
    (deploy.folder / "pyproject.toml").touch()
    return deploy, known


def test_what_is_about_to_run_is_known_whatever_becomes_of_its_release(
    failing: tuple[Deploy, list[set[str]]],
) -> None:
    """A rollback asks what it did when the only files that tell are gone."""
    deploy, known = failing
    with pytest.raises(ReleaseError, match="No") as failed:
        step.run(deploy, {})
    assert known == [{"5", "6"}]
    assert failed.value.advice == "correct the migration"


def test_what_fails_for_an_app_that_creates_its_tables_itself_says_how_to_do_without(
    failing: tuple[Deploy, list[set[str]]],
) -> None:
    deploy, _ = failing
    (deploy.folder / "main.py").write_text("Base.metadata.create_all(engine)\n")
    with pytest.raises(ReleaseError) as failed:
        step.run(deploy, {})
    assert "(main.py:1), write migrations: {enabled: false}, then: berth deploy shop" in failed.value.advice


def test_where_the_app_is_the_owner_the_command_alone_is_limited() -> None:
    app = {"migrations": {"lock_timeout": 3, "timeout": 60}}
    asked: Any = None
    tree: Any = SimpleNamespace(role=lambda: ("owner", ""))
    deploy: Any = SimpleNamespace(app=app)
    with step._timeouts(deploy, tree, asked) as more:
        assert more["PGOPTIONS"].startswith("-c lock_timeout=3s -c statement_timeout=60s -c ")
