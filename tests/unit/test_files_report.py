"""What is said of files that are stored off the server, and of those that were brought back."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.payload import parts
from ansible.module_utils.berth.reports import files, telling
from ansible.module_utils.berth.runtime import units

from tests.support.tree import write

NOW = telling.seconds("2026-11-30T12:00:00Z")
PART = {
    "snapshot": "0123abcd",
    "at": "2026-11-30T04:45:00Z",
    "seconds": 9,
    "files": 12,
    "bytes": 3 << 20,
    "added": 1 << 19,
}
STATE: dict[str, Any] = {
    "places": [
        {"name": "nas", "where": "keeper@nas:/berth", "began": "2026-11-30T04:45:00Z",
         "ended": "2026-11-30T04:46:00Z",
         "stored": "2026-11-30T04:46:00Z", "problem": "", "parts": {"server": PART, "app board": PART},
         "checked": {"at": "2026-11-29T04:46:00Z", "problem": ""}},
    ],
    "since": "2026-11-01T12:00:00Z",
    "last": {"began": "2026-11-30T04:45:00Z", "ended": "2026-11-30T04:46:00Z", "problem": ""},
    "notes": [], "restored": [], "timer": "active", "unit": "inactive",
}  # fmt: skip


def state(place: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    found = {**copy.deepcopy(STATE), **more}
    found["places"][0].update(place or {})
    return found


def test_of_files_that_are_stored_nothing_is_said() -> None:
    assert files.judge(state(), NOW) == []
    assert files.judge(None, NOW) == []
    assert files.summary(state(), NOW) == "files off this server: at nas 7 h ago."
    assert files.rows(state())[1] == [
        "0123abcd", "files of board", "2026-11-30 04:45 UTC", "9 s", "0.5 MB", "3.0 MB", "nas"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "more", "said"),
    [
        ({"problem": "nothing listens there"}, {},
         "files were not stored at nas at 2026-11-30 04:46 UTC: nothing listens there"),
        ({"problem": "nothing listens there"}, {"unit": "activating"}, ""),
        ({"stored": "2026-11-29T09:00:00Z"}, {}, "the files stored at nas are 27 h old"),
        ({"stored": ""}, {}, "no files are stored at nas"),
        ({"stored": ""}, {"since": "2026-11-30T11:59:00Z"}, ""),
        ({}, {"last": {**STATE["last"], "problem": "Redis of board is not stored"}},
         "files were not all stored at 2026-11-30 04:46 UTC: Redis of board is not stored"),
        ({}, {"unit": "failed"}, "the last run that stored files was cut off"),
        ({}, {"timer": "inactive"}, "files are stored by no clock: their timer is inactive"),
        ({}, {"notes": ["app board has 120 GB of files"]}, "app board has 120 GB of files"),
        ({}, {"restored": ["/srv/board/data.restored-1"]},
         "what was restored lies in /srv/board/data.restored-1"),
    ],
)  # fmt: skip
def test_what_is_not_well_is_one_sentence(place: dict[str, Any], more: dict[str, Any], said: str) -> None:
    found = [one[2] for one in files.judge(state(place, **more), NOW)]
    assert found[:1] == ([said] if said else []), found


def test_facts_are_the_notes_of_the_runs_without_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert files.facts(tmp_path) is None
    settings = {"key": "correct horse", "places": [{"name": "nas", "private_key": "-----BEGIN"}]}
    write(tmp_path, {"etc/berth/restic.json": json.dumps(settings), "srv/board/data.restored-1/x": ""})
    monkeypatch.setattr(units, "states", lambda _: {files.TIMER: "active", files.UNIT: "inactive"})
    found = files.facts(tmp_path)
    assert found
    assert found["places"][0]["stored"] == ""
    assert found["restored"]
    write(tmp_path, {"var/lib/berth/restic/nas.json": json.dumps(STATE["places"][0])})
    found = files.facts(tmp_path)
    assert found
    assert found["places"] == STATE["places"]
    assert "correct" not in json.dumps(found)
    assert "BEGIN" not in json.dumps(found)


def test_what_cannot_be_brought_back_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="No files are stored off this server"):
        files.plan("board", "", "", tmp_path)
    write(tmp_path, {"etc/berth/restic.json": '{"places": [{"name": "nas"}]}', "srv/board/data/x": ""})
    with pytest.raises(ReleaseError, match=r"There is no place cloud in server\.backup\.offsite, but nas"):
        files.plan("board", "", "cloud", tmp_path)
    with pytest.raises(ReleaseError, match="Say whose files"):
        files.plan("", "", "", tmp_path)
    with pytest.raises(ReleaseError, match=r"There is no app notes on this server\. Nothing was changed"):
        files.plan("notes", "", "", tmp_path)
    with pytest.raises(ReleaseError, match="to_time: "):
        files.plan("board", "yesterday", "", tmp_path)
    said = files.plan("board", "2026-11-20 04:00:00+00", "", tmp_path)
    assert said["said"].startswith(
        "Would bring back the files of board from nas, as they were stored last up to 2026"
    )
    assert said["request"]["at"] == telling.seconds("2026-11-20T04:00:00Z")


def test_how_it_went_is_told_with_what_to_type_next(tmp_path: Path) -> None:
    request = {"app": "board", "at": 0.0, "place": "", "asked": 5.0}
    made = {"request": request, "problem": "", "app": "board", "files": 12, "bytes": 3 << 20, "seconds": 2,
            "of": "2026-11-30T04:45:00Z", "place": "nas", "folder": "/srv/board/data.restored-1"}  # fmt: skip
    last = {str(parts.STATE.relative_to("/") / "last-restore.json"): json.dumps(made)}
    with pytest.raises(ReleaseError, match="Nothing was restored; journalctl"):
        files.describe(request, tmp_path)
    write(tmp_path, last)
    table = files.describe(request, tmp_path)["table"]
    assert table.startswith(
        "Restored 12 files of board, 3.0 MB, in 2 s: as they were on 2026-11-30 04:45 UTC, from nas."
    )
    assert "cp -a --no-clobber /srv/board/data.restored-1/. /srv/board/data/" in table
    with pytest.raises(ReleaseError, match="Nothing was restored; journalctl"):
        files.describe({**request, "asked": 6.0}, tmp_path)
    write(
        tmp_path, {name: text.replace('"problem": ""', '"problem": "nas: no"') for name, text in last.items()}
    )
    with pytest.raises(ReleaseError, match=r"Nothing was restored: nas: no\. Nothing that was there"):
        files.describe(request, tmp_path)
