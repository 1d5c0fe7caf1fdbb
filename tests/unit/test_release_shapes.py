"""Records as earlier versions wrote them are read in today's shape, by whoever reads one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reports import diff
from ansible.module_utils.berth.runtime import naming, units
from ansible.module_utils.berth.services import redis
from ansible.module_utils.berth.store import journal, presence, public, releases, shapes

from tests.unit.test_contract_applies import entries, paths

# Written for the demo's board by the versions of those days, which had no formats, and by those of a format.
RECORDS = Path(__file__).parent / "records"
OLD = [RECORDS / "2026-11-21.json", RECORDS / "2026-11-24.json"]
TODAY: dict[str, Any] = entries("demo")[0]


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a release of then."""
    folder: Path = Paths("board", tmp_path).release("r1")
    folder.mkdir(parents=True)
    (folder / journal.RECORD).write_text(request.param.read_text())
    return folder


def test_an_old_record_has_every_key_of_today(old: Path) -> None:
    before = json.loads((old / journal.RECORD).read_text())
    assert "format" not in before
    assert set(paths(before["app"])) < set(paths(TODAY))
    record = journal.read_record(old)
    assert set(paths(record["app"])) == set(paths(TODAY))
    assert record["format"] == shapes.FORMAT
    # What it said then it says still.
    assert {key: record[key] for key in before if key != "app"} == {
        key: before[key] for key in before if key != "app"
    }
    for path in paths(before["app"]):
        assert value(record["app"], path) == value(before["app"], path), path


def value(app: dict[str, Any], path: str) -> Any:
    here: Any = app
    for key in path.split("."):
        here = here[key]
        if isinstance(here, list) and here and isinstance(here[0], dict):
            here = here[0]
    return here


def test_only_what_meant_something_else_then_differs_from_today(old: Path) -> None:
    """What was not asked for then is what its default is now, but for how long some things may take."""
    record = journal.read_record(old)
    changes = {one["key"]: (one["from"], one["to"]) for one in diff.setting_changes(record["app"], TODAY)}
    assert changes == {
        "processes.web.stop_timeout": ("70", "90"),
        "processes.worker.stop_timeout": ("70", "90"),
        "migrations.lock_timeout": ("5", "2"),
        "migrations.lock_retries": ("2", "10"),
    }
    assert units.to_end(record["app"]) == 75


@pytest.mark.usefixtures("old")
def test_what_reads_an_old_record_gets_on_with_it(tmp_path: Path) -> None:
    place = Paths("board", tmp_path)
    app = releases.records(place)["r1"]["app"]
    assert naming.alone(app, "r1") == ["board-worker@r1.service"]
    assert naming.unit_stems(app)["jobs"] == ["board-nightly"]
    assert public.asked_as(app) == "board.localhost"
    assert not presence.uses(redis.SERVICE, "board", tmp_path)


def test_an_old_record_that_is_written_again_is_one_of_today(old: Path, tmp_path: Path) -> None:
    releases.withdraw(Paths("board", tmp_path), "r1")
    written = json.loads((old / journal.RECORD).read_text())
    assert (written["format"], bool(written["withdrawn"])) == (shapes.FORMAT, True)
    assert written["app"] == journal.read_record(old)["app"]


def test_a_record_of_today_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = {"id": "r1", "app": TODAY}
    journal.write_record(tmp_path, record)
    assert journal.read_record(tmp_path) == {"format": shapes.FORMAT, **record}
    # It holds the app's variables, and other apps pass through the folders above it.
    assert (tmp_path / "release.json").stat().st_mode & 0o777 == 0o600


def test_a_record_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    record = {"format": shapes.FORMAT + 1, "app": {"name": "board"}}
    journal.write_record(tmp_path, record)
    assert journal.read_record(tmp_path) == record


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"app": null}'])
def test_what_is_no_record_is_read_as_little(tmp_path: Path, text: str) -> None:
    (tmp_path / journal.RECORD).write_text(text)
    assert not journal.read_record(tmp_path).get("app")


@pytest.mark.parametrize("number", range(1, shapes.FORMAT + 1))
def test_a_new_option_needs_a_new_format(number: int, tmp_path: Path) -> None:
    """A record of each format says what its version knew; if it now lacks a key, `shapes` lacks a step."""
    assert len(shapes._STEPS) == shapes.FORMAT
    (tmp_path / journal.RECORD).write_text((RECORDS / f"format-{number}.json").read_text())
    assert set(paths(journal.read_record(tmp_path)["app"])) == set(paths(TODAY))
