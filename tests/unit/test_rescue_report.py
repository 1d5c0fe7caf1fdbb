"""What is told of a rescue: what it would do, why not, and how it went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.payload import backup
from ansible.module_utils.berth.reports import rescues
from ansible.module_utils.berth.runtime import units

PLANNED: dict[str, Any] = {
    "backup": "F", "wal": "/d/main/pg_wal", "segments": 3, "data": "/d/main", "keeps": "/d/main", "place": ""
}  # fmt: skip
MADE = {**PLANNED, "kept": "/d/main.lost-x", "copied": 3, "last_commit": "then", "seconds": 13.0}


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[command.Result]:
    """What commands answer, one after the other, on a server with backups."""
    path = tmp_path / backup.SETTINGS.relative_to("/")
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(rescues, "PROGRAM", path)
    monkeypatch.setattr(rescues.time, "sleep", lambda _: None)
    said = [command.Result(0, json.dumps({"version": 17, "stanza": "main"}), "")]
    monkeypatch.setattr(command, "run", lambda *_, **__: said.pop(0))
    return said


def test_the_plan_says_what_is_restored_and_what_is_kept(
    answers: list[command.Result], tmp_path: Path
) -> None:
    answers.append(command.Result(0, json.dumps(PLANNED), ""))
    found = rescues.plan("", root=tmp_path)
    assert found["unit"] == "postgresql@17-main.service"
    assert found["said"] == (
        "Restores all databases in /d/main, from backup F and all WAL, of which 3 segments are left in "
        "/d/main/pg_wal. What is there is kept beside it (/d/main)."
    )


def test_without_wal_it_says_that_rows_are_lost(answers: list[command.Result], tmp_path: Path) -> None:
    answers.append(command.Result(0, json.dumps({**PLANNED, "segments": 0, "keeps": ""}), ""))
    assert "so what was not archived is lost." in rescues.plan("", root=tmp_path)["said"]


def test_a_place_that_it_is_read_from_is_named(answers: list[command.Result], tmp_path: Path) -> None:
    answers.append(command.Result(0, json.dumps({**PLANNED, "segments": 0, "place": "nas"}), ""))
    said = rescues.plan("", "nas", tmp_path)["said"]
    assert "from backup F at nas and the WAL that got there: none is left here" in said


def test_a_refusal_is_the_programs(answers: list[command.Result], tmp_path: Path) -> None:
    answers.append(command.Result(1, "", "Postgres is running: no\n"))
    with pytest.raises(ReleaseError, match=r"^Nothing is rescued: Postgres is running: no\. Nothing was"):
        rescues.plan("", root=tmp_path)


def test_a_server_without_backups_has_nothing_to_rescue_with(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="There are no backups on this server that a rescue could restore"):
        rescues.plan("", root=tmp_path)


def test_it_is_back_when_all_wal_is_replayed(
    answers: list[command.Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "state", lambda *_: "active")
    answers.append(command.Result(2, "", "the database system is starting up"))
    answers.append(command.Result(0, json.dumps({"recovers": True}), ""))
    answers.append(command.Result(0, json.dumps({"recovers": False}), ""))
    said = rescues.describe(MADE, tmp_path)["said"]
    assert said.startswith("Postgres is back, from backup F and all WAL, of which 3 segments")
    assert "Last commit: then." in said
    assert "kept as /d/main.lost-x" in said


def test_one_that_does_not_come_up_says_what_is_kept(
    answers: list[command.Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "state", lambda *_: "failed")
    answers.append(command.Result(2, "", "no"))
    with pytest.raises(ReleaseError, match="its server does not come up") as caught:
        rescues.describe(MADE, tmp_path)
    assert "/d/main.lost-x" in caught.value.advice
