"""What is asked of a restore, what is refused, and what is told of one that stands."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.payload import backup, restore
from ansible.module_utils.berth.reports import restores
from ansible.module_utils.berth.runtime import units
from ansible.module_utils.berth.store import journal, releases

NOW = 1796040000.0
RELEASE = "20261130T115900Z-1a2b3c4"
POINT = {"name": f"board-{RELEASE}", "lsn": "0/4000060", "at": "2026-11-30T11:59:00Z"}
MADE: dict[str, Any] = {
    "began": "2026-11-30T12:00:00Z", "ended": "2026-11-30T12:00:09Z", "seconds": 9.0,
    "request": {**restore.LATEST}, "problem": "", "notes": [], "socket": "/r/socket", "port": 5432,
    "backup": "I", "bytes": 40 << 20, "last_commit": "2026-11-30 11:59:58.000001 UTC",
    "databases": ["board", "postgres"], "tables": 6, "rows": 120,
    "differs": [{"database": "board", "table": "public.po sts", "quoted": 'public."po sts"',
                 "restored": 30, "live": 10}],
    "more": 0, "schemas": [{"database": "board", "table": "public.alembic_version",
                            "restored": "0002", "live": "0003"}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def records(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {RELEASE: {"restore_point": POINT}, "quiet": {}}
    ended = {"at": "2026-11-30T12:00:30Z", "seconds": 30}
    failed = {"app": "board", "to": "failed", "restore_point": "b-f", **ended}
    monkeypatch.setattr(releases, "records", lambda _: known)
    monkeypatch.setattr(journal, "entries", lambda _: [failed])


def made(**more: Any) -> dict[str, Any]:
    return {**copy.deepcopy(MADE), **more}


@pytest.mark.parametrize("text", ["", "latest"])
def test_the_latest_is_what_nobody_names(text: str) -> None:
    assert restores.target(text, "", "", NOW) == restore.LATEST


def test_a_release_is_its_restore_point_of_a_deploy_that_failed_too() -> None:
    found = restores.target("", RELEASE, "board", NOW)
    assert (found["kind"], found["target"]) == ("name", f"board-{RELEASE}")
    assert backup.stamp(found["at"]) == POINT["at"]
    # Its record is gone, and the audit knows when it ended: the point was not made before it began.
    found = restores.target("", "failed", "board", NOW)
    assert (found["target"], backup.stamp(found["at"])) == ("b-f", "2026-11-30T12:00:00Z")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("2026-11-30 11:59:00+00", RELEASE, "board"), "to_time and to_release are both given; write one"),
        (("", RELEASE, ""), "to_release: say of which app with --app NAME"),
        (("", "", "board"), "app goes with to_release; without it all databases are restored"),
        (("", "quiet", "board"), "release quiet of board migrated nothing, so it has no restore point"),
        (("", "other", "board"), "there is no release other of board on this server; berth releases"),
        (("soon", "", ""), "to_time: 'soon' is no time with its zone; write it as"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(wanted: tuple[str, str, str], said: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        restores.target(*wanted, NOW)
    assert said in caught.value.sentence
    assert caught.value.sentence.endswith(". Nothing was changed.")


def test_backups_that_are_off_and_an_earlier_berth_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReleaseError, match="There are no backups on this server, so nothing can be restored"):
        restores.plan("", "", "", tmp_path)
    path = tmp_path / backup.SETTINGS.relative_to("/")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    monkeypatch.setattr(restores, "PROGRAM", tmp_path / "restore.py")
    with pytest.raises(ReleaseError, match="An earlier Berth set this server up"):
        restores.plan("", "", "", tmp_path)


def test_the_plan_is_the_programs_and_so_is_its_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / backup.SETTINGS.relative_to("/")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    monkeypatch.setattr(restores, "PROGRAM", path)
    monkeypatch.setattr(units, "states", lambda _: {restores.UNIT: "inactive"})
    answer = command.Result(0, json.dumps({"backup": "I", "need": 600 << 20}), "")
    monkeypatch.setattr(command, "run", lambda *_, **__: answer)
    planned = restores.plan("", "", "", tmp_path)
    assert planned["request"] == restore.LATEST
    assert planned["said"].startswith(
        "Would restore all databases to the latest commit, from backup I: about 600 MB in /var/lib/postgresql"
    )
    answer = command.Result(1, "", "there is no backup yet; berth backup makes one\n")
    with pytest.raises(
        ReleaseError, match=r"Nothing can be restored: there is no backup yet; .* Nothing was"
    ):
        restores.plan("", "", "", tmp_path)


def test_one_at_a_time_and_the_same_one_is_waited_for() -> None:
    other = restores.target("2026-11-30 11:59:00+00", "", "", NOW + 86400)
    with pytest.raises(ReleaseError) as caught:
        restores.refuse_second("active", made(), other)
    assert caught.value.sentence == (
        "A restored server stands here already, of the latest commit since 2026-11-30 12:00 UTC. "
        "Drop it first: berth restore --drop (restore.yml -e drop=true). Nothing was changed."
    )
    restores.refuse_second("activating", made(), dict(restore.LATEST))
    with pytest.raises(ReleaseError, match="A restore to the latest commit is at work; wait for it, or end"):
        restores.refuse_second("activating", made(), other)


def test_what_failed_and_what_another_one_restored_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restores, "_kept", lambda: made(problem="a file is damaged"))
    with pytest.raises(
        ReleaseError, match=r"Nothing was restored: a file is damaged\. The live server was not"
    ):
        restores.describe(dict(restore.LATEST))
    monkeypatch.setattr(restores, "_kept", made)
    with pytest.raises(ReleaseError, match="Another restore came first, to the latest commit"):
        restores.describe(restore.to_point("board-x", NOW))
    assert restores.describe(dict(restore.LATEST))["answer"] == MADE


def test_the_answer_tells_what_came_back_how_it_differs_and_what_to_type() -> None:
    text = restores.table(made())
    assert text.startswith("Restored all databases to the latest commit, from backup I: 40 MB in 9 s.\n")
    assert "Last commit: 2026-11-30 11:59:58.000001 UTC." in text
    assert "Schema of board: 0002 there, 0003 in the live database." in text
    assert "board: public.po sts  30        10" in text
    assert "sudo -u postgres psql -h /r/socket -p 5432 board" in text
    assert (
        """pg_dump -h /r/socket -p 5432 -t 'public."po sts"' --data-only --inserts """
        "--on-conflict-do-nothing board | sudo -u postgres psql -1 -v ON_ERROR_STOP=1 board"
    ) in text
    gone = restores.table(made(differs=[{**MADE["differs"][0], "live": None}], more=3))
    assert "--data-only" not in gone
    assert "and 3 more tables." in gone
    assert "Every table has as many rows" in restores.table(made(differs=[]))
    assert "Every table" not in restores.table(made(differs=None, notes=["the live one does not answer"]))


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("active", "a restored server of the latest commit stands here since 2026-11-30 12:00 UTC"),
        ("activating", "a restore to the latest commit is at work"),
        ("inactive", "what was restored of the latest commit lies here and does not run any more"),
    ],
)
def test_one_that_is_there_is_a_note_and_no_failure(unit: str, said: str) -> None:
    ((_, level, text, _),) = restores.judge(made(there=True, takes=40 << 20, unit=unit))
    assert (level, text) == ("note", f"{said}, it takes 40 MB")
    assert restores.judge(made(there=False, takes=0, unit=unit)) == []
    assert restores.judge({}) == []


def test_what_an_exchange_left_is_a_note() -> None:
    kept = {
        "name": "board_before_x",
        "bytes": 7 << 20,
        "is": "kept",
        "app": "board",
        "at": "2026-11-30T12:00:00Z",
    }
    copied = {"name": "board_restored", "bytes": 0, "is": "copied", "app": "; rm", "at": ""}
    assert restores.judge_kept([kept, copied]) == [
        (
            "kept",
            "note",
            "database board_before_x was live until 2026-11-30 12:00 UTC, and is kept; it takes 7 MB",
            "berth restore --drop-kept board ends it",
        ),
        (
            "kept",
            "note",
            "database board_restored is a copy that did not go live; it takes 0 MB",
            "berth restore --drop-kept APP ends it",
        ),
    ]
