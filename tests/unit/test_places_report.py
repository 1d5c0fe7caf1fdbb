"""What is said of places off the server: nothing where they are in step, one sentence for each thing else."""

# ruff: noqa: E501 (sentences are to be read as they are)
from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible.module_utils.berth.reports import backups, places, telling

from tests.unit.test_backup_report import state

NOW = telling.seconds("2026-11-30T12:00:00Z")
GAP = {"after": "000000010000000000000003", "before": "000000010000000000000006", "segments": 2}
PLACE: dict[str, Any] = {
    "name": "storage", "where": "berth@b.net:/berth", "config": "/etc/x.conf", "problem": "",
    "relay": {"pushed": "000000010000000000000009", "behind": 0, "since": "", "failing_since": "", "problem": "",
              "gap": None, "at": "2026-11-30T11:59:50Z"},
    "backups": {"asked": "2026-11-30T11:30:00Z", "problem": "", "backups": [
        {"label": "20261130-020100F", "kind": "full", "began": "2026-11-30T02:01:00Z",
         "ended": "2026-11-30T02:01:30Z", "seconds": 30, "stored_mb": 3.0, "data_mb": 22.4, "damaged": False,
         "where": "storage", "from": "000000010000000000000004"},
    ]},
}  # fmt: skip


def with_place(**more: Any) -> dict[str, Any]:
    place = copy.deepcopy(PLACE)
    for key, value in more.items():
        place[key] = {**place[key], **value} if isinstance(place[key], dict) and value else value
    return {**state(), "offsite": [place]}


def test_of_a_place_in_step_nothing_is_said_and_its_backups_are_listed() -> None:
    found = with_place()
    assert backups.judge(found, NOW) == []
    table = backups.table(found, NOW)
    (row,) = [line for line in table.splitlines() if line.startswith("20261130-020100F")]
    assert row.endswith("storage")
    said = "ff-site storage (berth@b.net:/berth): up to date, the newest backup (full) 10 h ago."
    assert f"O{said}" in table
    assert f"o{said}" in backups.summary(found, NOW)
    assert places.missed(found) == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"problem": "pgBackRest 2.45 of this server knows no SFTP"}, "pgBackRest 2.45 of this server knows no SFTP. Next: "),
        ({"relay": {}, "backups": {}}, "nothing was sent there yet. Next: "),
        ({"relay": {"at": "2026-11-30T11:00:00Z"}}, "its relay has not been at work for 60 min. Next: journalctl -u berth-backup-relay@storage"),
        ({"relay": {"behind": 3, "since": "2026-11-30T11:56:00Z", "failing_since": "2026-11-30T11:56:30Z", "problem": "it does not answer"}},
         "3 segments behind since 2026-11-30 11:56 UTC: it does not answer. Next: set that right there"),
        ({"relay": {"behind": 1, "since": "2026-11-30T11:56:00Z"}}, "a segment behind since 2026-11-30 11:56 UTC: it is slower than"),
        ({"relay": {"failing_since": "2026-11-30T11:56:30Z", "problem": "it has no such bucket"}}, "it has no such bucket. Next: "),
        ({"relay": {"gap": GAP}}, "2 segments of WAL after 000000010000000000000003 never got there: nothing later can be restored from there. Next: berth backup"),
        ({"backups": {"problem": "its disk is full"}}, "no backup is made there (tried at 2026-11-30 11:30 UTC): its disk is full. Next: "),
        ({"backups": {"backups": [{**PLACE["backups"]["backups"][0], "ended": "2026-11-28T02:01:30Z"}]}}, "the newest backup there is 2 days old. Next: berth backup"),
    ],
)  # fmt: skip
def test_what_is_not_well_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    found = with_place(**change)
    (said,) = backups.verdict(found, NOW).splitlines()
    assert said.startswith(f"Off-site storage: {sentence}")
    assert "not well" in backups.table(found, NOW)


def test_a_moment_is_no_reason_and_neither_is_a_gap_that_a_backup_has_healed() -> None:
    short = {
        "behind": 2,
        "since": "2026-11-30T11:59:30Z",
        "failing_since": "2026-11-30T11:59:40Z",
        "problem": "x",
    }
    assert backups.judge(with_place(relay=short), NOW) == []
    healed = [{**PLACE["backups"]["backups"][0], "from": GAP["before"]}]
    assert backups.judge(with_place(relay={"gap": GAP}, backups={"backups": healed}), NOW) == []


def test_a_backup_that_a_place_missed_is_named() -> None:
    assert (
        places.missed(with_place(backups={"problem": "its disk is full"}))
        == "There is none at storage: its disk is full."
    )
    assert places.missed(None) == places.missed(state()) == ""
