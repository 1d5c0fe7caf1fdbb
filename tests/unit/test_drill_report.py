"""What is said of the last rehearsed restore, and of one that should have been."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, drill
from ansible.module_utils.berth.reports import backups, drills, status

from tests.unit.test_backup_report import NOW, STATE

REPORT: dict[str, Any] = {
    "began": "2026-11-30T05:10:00Z", "ended": "2026-11-30T05:10:43Z", "seconds": 43.2, "ok": True,
    "problem": "", "failed": [], "notes": ["unlogged tables are in no backup: board: public.rate_limits"],
    "steps": [{"step": "restore", "seconds": 21.4, "bytes": 2300 << 20},
              {"step": "amcheck", "seconds": 0.0, "bytes": 0}],
    "backup": "20261129-020000F",
    "last_commit": {"live": "2026-11-30T05:10:01Z", "restored": "2026-11-30T05:10:01Z", "lost_seconds": 0.0},
    "rows": {"databases": 1, "tables": 5, "rows": 1200, "unknown": 0},
    "schema": {"board": {"public.alembic_version": "0002"}}, "checksums": True,
}  # fmt: skip
FAILED = {
    **REPORT, "ok": False, "problem": "x",
    "failed": [{"check": "commits", "text": "the last 4 min before the drill are lost"},
               {"check": "rows", "text": "3 of 9 rows of board: public.posts are missing"}],
    "last_commit": {**REPORT["last_commit"], "restored": "2026-11-30T05:06:01Z", "lost_seconds": 240.0},
}  # fmt: skip
NONE = {**REPORT, "backup": "", "last_commit": None, "rows": None, "schema": {}, "notes": [], "steps": []}


def state(last: dict[str, Any], schedule: int = 86400, **more: Any) -> dict[str, Any]:
    found = copy.deepcopy({**STATE, "drill": last, **more})
    found["settings"]["expected"]["drill"] = schedule
    return found


def test_one_that_went_well_is_a_line_and_no_finding() -> None:
    found = state(REPORT)
    assert backups.judge(found, NOW) == []
    line = "drill: 2300 MB with 1200 rows restored and checked in 43 s, 7 h ago."
    assert backups.summary(found, NOW).splitlines()[1] == line
    assert line[1:] in backups.table(found, NOW)
    lines = drills.table(found).splitlines()
    assert lines[0] == "Drill of 2026-11-30 05:10 UTC: well, 43 s, from backup 20261129-020000F."
    assert lines[3].split() == ["restore", "21.4", "s", "2300", "MB"]
    assert lines[4].split() == ["amcheck", "0.0", "s", "-"]
    assert lines[6].endswith("2026-11-30 05:10:01 UTC in what was restored: nothing is lost.")
    assert lines[7:9] == ["Rows: 1200 in 5 tables of the database.", "Schema of board: 0002."]
    assert lines[9] == "(note) Unlogged tables are in no backup: board: public.rate_limits."
    assert drills.verdict(found) == ""


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (state(FAILED), ["The last drill failed at 2026-11-30 05:10 UTC: the last 4 min before the drill are "
                         "lost. Next: berth drill tries again.",
                         "The last drill failed at 2026-11-30 05:10 UTC: 3 of 9 rows of board: public.posts "
                         "are missing. Next: berth drill tries again."]),
        # It is trying again.
        (state(FAILED, at_work=["drill"]), []),
        # And has been for days.
        (state({**FAILED, "ended": "2026-11-27T11:00:00Z"}, at_work=["drill"]),
         ["The last drill was 3 days ago, so that no restore was seen to work since. Next: berth drill tries "
          "again."]),
        (state({**REPORT, "ended": "2026-11-28T11:00:00Z"}),
         ["The last drill was 2 days ago, so that no restore was seen to work since. Next: berth drill tries "
          "again."]),
        # No more often than that; or never, and only by hand.
        (state({**REPORT, "ended": "2026-11-28T20:00:00Z"}), []),
        (state({**REPORT, "ended": "2026-11-23T01:00:00Z"}, 7 * 86400), []),
        (state({**REPORT, "ended": "2026-11-24T11:00:00Z"}, 0), []),
        (state({}, drills_since="2026-11-29T12:00:00Z"), []),
        (state({}, drills_since="2026-11-26T12:00:00Z"),
         ["There was no drill in 4 days, so that no restore was seen to work since. Next: berth drill tries "
          "again."]),
        (state(REPORT, timers={**STATE["timers"], "drill": "inactive"}),
         ["No restore is rehearsed by the clock: its timer is inactive. Next: berth up (site.yml)."]),
        (state(REPORT, 0, timers={**STATE["timers"], "drill": "inactive"}), []),
    ],
)  # fmt: skip
def test_each_trouble_is_one_sentence(found: dict[str, Any], said: list[str]) -> None:
    assert backups.verdict(found, NOW).splitlines() == said


def test_one_that_failed_says_what_is_lost() -> None:
    found = state(FAILED)
    assert "in what was restored: 240 s are lost." in drills.table(found)
    assert drills.verdict(found).splitlines() == [
        "The last 4 min before the drill are lost.",
        "3 of 9 rows of board: public.posts are missing.",
    ]
    assert drills.summary(found, NOW) == "drill: failed 7 h ago."
    server = {
        "host": "web1", "proxy": "active", "postgres": "accepts", "pgbouncer": "", "memory": {}, "disks": [],
        "reboot": "", "unknown": [], "backups": found,
    }  # fmt: skip
    answer = status.judged(server, [])
    assert [one["code"] for one in answer["server"]["findings"]] == ["drill", "drill"]


def test_tables_that_were_not_compared_are_told() -> None:
    rows = {**REPORT["rows"], "unknown": 2}
    assert drills.summary(state({**REPORT, "rows": rows}), NOW) == (
        "drill: 2300 MB with 1200 rows restored and checked in 43 s, 7 h ago (2 tables not compared)."
    )


def test_what_had_no_time_to_be_known_is_left_out() -> None:
    assert drills.table(state(NONE)).splitlines()[0] == "Drill of 2026-11-30 05:10 UTC: well, 43 s."
    assert drills.table(None) == "No restore was rehearsed yet."
    assert drills.verdict(None).startswith("There was no drill: server.backup.enabled is false")
    assert drills.summary(state({}), NOW) == ""


def test_the_program_tells_of_the_newest_one_and_since_when_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> str:
        raise backup.BackupError("away")

    monkeypatch.setattr(backup, "info", down)
    monkeypatch.setattr(backup, "sql", down)
    settings = {
        "state": str(tmp_path), "repository": str(tmp_path), "dumps": str(tmp_path / "dumps"),
        "drill": str(tmp_path / "drill"), "archive_command": "push",
    }  # fmt: skip
    assert backup.state(settings)["drills_since"] == ""
    (tmp_path / "drill").mkdir()
    assert backup.state(settings)["drills_since"] != ""
    drill.keep(tmp_path, REPORT)
    assert backup.state(settings)["drill"] == REPORT
