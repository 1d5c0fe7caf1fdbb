"""The restore point before a migration: made where something migrates, and no deploy fails for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.migrations import points
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import migrate, restore_point
from ansible.module_utils.berth.reports import history
from ansible.module_utils.berth.store import journal

from tests.support.entry import board

POINT = {"name": "board-r2", "lsn": "0/3000090", "at": "2026-11-30T00:10:00Z"}


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    found = Deploy(Paths("board", tmp_path), {})
    found.release, found.app = "r2", board()
    found.folder.mkdir(parents=True)
    return found


def look(pending: bool) -> migrate.Look:
    nothing: Any = None
    return migrate.Look(nothing, nothing, "digest", "a1", pending)


def test_a_migration_has_one_before_it(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy.looked = look(pending=True)
    asked: list[str] = []

    def make(name: str) -> dict[str, str]:
        asked.append(name)
        return POINT

    monkeypatch.setattr(points, "make", make)
    answer = restore_point.run(deploy, {})
    assert asked == ["board-r2"]
    assert answer["msg"] == "Restore point board-r2 at 0/3000090."
    assert journal.read_record(deploy.folder)["restore_point"] == POINT
    assert deploy.audit("failed", 1.0)["restore_point"] == "board-r2"


@pytest.mark.parametrize("looked", [False, look(pending=False)])
def test_without_a_migration_none_is_made(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, looked: migrate.Look | bool
) -> None:
    deploy.looked = looked
    monkeypatch.setattr(points, "make", lambda _: pytest.fail("made"))
    assert "no restore point is needed" in restore_point.run(deploy, {})["msg"]
    assert "restore_point" not in deploy.audit("ok", 1.0)


def test_a_deploy_goes_on_without_one_and_says_so(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy.looked = look(pending=True)

    def fail(_: str) -> dict[str, str]:
        raise ReleaseError("Postgres made none: no.")

    monkeypatch.setattr(points, "make", fail)
    said = "No restore point was made before the migration: Postgres made none: no."
    assert restore_point.run(deploy, {}) == {"changed": False, "msg": said}
    assert deploy.notes == [said]
    monkeypatch.setattr(points, "make", lambda _: {})
    assert "archives no WAL" in restore_point.run(deploy, {})["msg"]


def test_what_is_wrong_with_migrations_is_the_next_steps_to_say(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Deploy) -> migrate.Look:
        raise ReleaseError("There are two heads.")

    monkeypatch.setattr(migrate, "_look", fail)
    assert "the next step says why" in restore_point.run(deploy, {})["msg"]
    assert deploy.notes == []
    with pytest.raises(ReleaseError, match="two heads"):
        migrate.look(deploy)


def test_postgres_is_asked_as_its_superuser(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> command.Result:
        asked.append(argv)
        return command.Result(0, json.dumps(POINT) + "\n0/4000000\n", "")

    monkeypatch.setattr(points.command, "run", run)
    assert points.make("board-r2") == POINT
    assert asked[0][:4] == ["runuser", "-u", "postgres", "--"]
    assert "pg_create_restore_point('board-r2')" in " ".join(asked[0])
    monkeypatch.setattr(points.command, "run", lambda *_, **__: command.Result(0, "", ""))
    assert points.make("board-r2") == {}
    monkeypatch.setattr(points.command, "run", lambda *_, **__: command.Result(2, "", "psql: error: away\n"))
    with pytest.raises(ReleaseError, match="Postgres made none: psql: error: away"):
        points.make("board-r2")
    with pytest.raises(ReleaseError, match="cannot name"):
        points.make("x'; drop")


def test_releases_tell_of_it() -> None:
    release = {
        "release": "r2", "age": "1 d", "version": "", "schema": "a2", "health": "well", "live": True,
        "restore_point": POINT,
    }  # fmt: skip
    text = history.table([{"app": "board", "previous": "", "releases": [release], "history": []}])
    said = "r2 migrated; before it: restore point board-r2 (2026-11-30 00:10:00 UTC, 0/3000090)."
    assert text.splitlines()[-1] == said
