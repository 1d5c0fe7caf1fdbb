"""What is said of backups: when they are well nothing, and one sentence for each thing that is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.payload import backup as program
from ansible.module_utils.berth.reports import backups, findings, status, telling

NOW = telling.seconds("2026-11-30T12:00:00Z")
STATE: dict[str, Any] = {
    "settings": {"stanza": "main", "expected": {"backup": 86400, "full": 7 * 86400, "dump": 86400}},
    "stanza": {"code": 0, "message": "ok"},
    "backups": [
        {"label": "20261129-020000F", "kind": "full", "began": "2026-11-29T02:00:00Z",
         "ended": "2026-11-29T02:00:30Z", "seconds": 30, "stored_mb": 3.0, "data_mb": 22.4, "damaged": False,
         "where": "server"},
        {"label": "20261129-020000F_20261130-020000I", "kind": "incremental", "began": "2026-11-30T02:00:00Z",
         "ended": "2026-11-30T02:00:05Z", "seconds": 5, "stored_mb": 0.4, "data_mb": 22.4, "damaged": False,
         "where": "server"},
    ],
    "archiving": {"mode": "on", "ours": True, "failing": False, "failed": "", "last": "2026-11-30T11:59:00Z",
                  "waiting": 0, "oldest_seconds": 0, "wal_mb": 48},
    "window": {"from": "2026-11-29T02:00:30Z", "to": "2026-11-30T11:59:00Z", "missing": [], "broken": False},
    "dumps": [{"of": "board", "roles": False, "at": "2026-11-30T04:00:00Z", "kept": 7, "stored_mb": 1.2,
               "file": "/d/x.dump"}],
    "databases": ["board"],
    "repository": {"path": "/var/lib/pgbackrest", "free_mb": 5000, "used_percent": 50},
    "runs": {"full": {"began": "2026-11-29T02:00:00Z", "ended": "2026-11-29T02:00:31Z", "problem": ""},
             "incremental": {"began": "2026-11-30T02:00:00Z", "ended": "2026-11-30T02:00:06Z", "problem": ""},
             "dump": {"began": "2026-11-30T04:00:00Z", "ended": "2026-11-30T04:00:06Z", "problem": ""}},
    "drill": {}, "drills_since": "",
    "timers": {"full": "active", "incremental": "active", "dump": "active", "drill": "active"},
    "files": None, "at_work": [], "restored": {"there": False, "takes": 0, "unit": "active"},
    "unknown": [],
}  # fmt: skip
GAP = {"after": "000000010000000000000003", "before": "000000010000000000000005", "segments": 1}


def state(**more: Any) -> dict[str, Any]:
    """One that is well, and what is otherwise with it; a part is changed key by key."""
    found = copy.deepcopy(STATE)
    for name, value in more.items():
        found[name] = {**found[name], **value} if isinstance(found[name], dict) else value
    return found


def test_of_backups_that_are_well_nothing_is_said() -> None:
    assert backups.judge(state(), NOW) == []
    assert backups.verdict(state(), NOW) == ""
    lines = backups.table(state(), NOW).splitlines()
    assert lines[0].split() == ["BACKUP", "KIND", "MADE", "TOOK", "STORED", "DATA", "WHERE"]
    assert lines[2].split()[:4] == ["20261129-020000F_20261130-020000I", "incremental", "2026-11-30", "02:00"]
    assert lines[3].startswith("dump of board")
    assert lines[-1] == ("Each second from 2026-11-29 02:00:30 to 2026-11-30 11:59:00 UTC can be restored.")
    assert backups.summary(state(), NOW).startswith("backups: the newest (incremental) 10 h ago. Each second")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"archiving": {"failing": True, "failed": "2026-11-30T11:58:00Z", "waiting": 3}},
         "Archiving WAL fails (last at 2026-11-30 11:58 UTC): 3 segments wait, 48 MB of WAL are on the"),
        ({"archiving": {"oldest_seconds": 300, "waiting": 1}}, "Archiving WAL is 5 min late: a segment"),
        ({"archiving": {"oldest_seconds": 100, "waiting": 1}}, ""),
        ({"archiving": {"mode": "off"}}, "into the repository of backups: archive_mode is off."),
        ({"archiving": {"ours": False}}, "repository of backups: archive_command is not Berth's."),
        ({"stanza": {"code": 1}, "backups": []}, "The repository of backups is gone or was never made."),
        ({"stanza": {"code": 99, "message": "other: cipher"}},
         "The repository of backups cannot be read: other: cipher."),
        ({"stanza": {"code": 2}, "backups": []}, "No backup was made yet. Next: berth backup."),
        ({"stanza": {"code": 2}, "backups": [], "at_work": ["full"]}, ""),
        ({"backups": STATE["backups"][:1]},
         "The newest backup is 34 h old, and there should be one every 24 h. Next: berth backup"),
        ({"backups": [{**STATE["backups"][1], "damaged": True}]}, "found damaged pages in the database"),
        ({"dumps": [{**STATE["dumps"][0], "at": "2026-11-29T04:00:00Z"}]},
         "The newest dump of board is 32 h old."),
        # Its database is gone: no new one comes.
        ({"dumps": [{**STATE["dumps"][0], "at": "2026-11-29T04:00:00Z"}], "databases": ["other"]}, ""),
        ({"dumps": []}, "There is no dump of any database."),
        ({"dumps": [], "backups": STATE["backups"][1:]}, ""),
        ({"repository": {"used_percent": 97, "free_mb": 90}},
         "The disk of the backups (/var/lib/pgbackrest) is 97 % full, 90 MB are free."),
        ({"window": {"missing": [GAP], "broken": True}},
         "A segment of WAL after 000000010000000000000003 is not in the repository: nothing that came after"),
        ({"runs": {"incremental": {"ended": "2026-11-30T02:00:06Z", "problem": "the disk is full"}}},
         "The last incremental backup failed at 2026-11-30 02:00 UTC: the disk is full. Next: berth backup"),
        # A full one has been made since.
        ({"runs": {"incremental": {"ended": "2026-11-28T02:00:06Z", "problem": "the disk is full"}}}, ""),
        ({"runs": {"dump": {"ended": "2026-11-30T04:00:06Z", "problem": "board: locked"}}},
         "The last dump failed at 2026-11-30 04:00 UTC: board: locked."),
        ({"timers": {"full": "inactive"}}, "No full is made by the clock: its timer is inactive."),
        ({"unknown": ["Whether WAL is archived is unknown: no server."], "archiving": {"failing": False}},
         "Whether WAL is archived is unknown: no server."),
    ],
)  # fmt: skip
def test_each_trouble_is_one_sentence(more: dict[str, Any], said: str) -> None:
    verdict = backups.verdict(state(**more), NOW)
    assert said in verdict
    assert bool(verdict) == bool(said)
    assert verdict.count("\n") == 0


def test_a_gap_that_a_backup_came_after_is_told_and_no_trouble_any_more() -> None:
    found = state(window={"from": "2026-11-30T02:00:05Z", "missing": [GAP]})
    assert backups.verdict(found, NOW) == ""
    assert "(note) A segment of WAL after" in backups.table(found, NOW)
    found["window"]["missing"] = [{**GAP, "segments": 5}]
    assert "(note) 5 segments of WAL after 000000010000000000000003 are not in" in backups.table(found, NOW)


def test_a_status_tells_of_it_too() -> None:
    server = {
        "host": "web1", "proxy": "", "postgres": "accepts", "pgbouncer": "", "memory": {}, "disks": [],
        "reboot": "", "unknown": [], "backups": state(timers={"dump": "inactive"}),
    }  # fmt: skip
    answer = status.judged(server, [])
    assert (answer["state"], answer["server"]["findings"][0]["code"]) == ("sick", "timer")
    lines = status.table(answer).splitlines()
    assert lines[2].startswith("backups: the newest (incremental)")
    assert lines[-1].startswith("server: no dump is made by the clock: its timer is inactive. Next: ")
    assert findings.of_server({**server, "backups": None}) == []


def test_a_server_without_backups_says_so(tmp_path: Path) -> None:
    found = backups.describe(tmp_path)
    assert found["answer"]["state"] == "sick"
    assert found["verdict"].startswith("There are no backups on this server. Next: set server.backup.enabled")
    assert found["table"].startswith("There are no backups on this server: server.backup.enabled is false")


def test_the_program_is_asked_as_the_user_whose_backups_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / program.SETTINGS.relative_to("/")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    known = {name: value for name, value in state().items() if name not in ("timers", "at_work")}
    del known["restored"]["unit"]
    asked: list[list[str]] = []

    def run(argv: list[str], stdin: str = "", **_: Any) -> command.Result:
        asked.append(argv)
        assert stdin == Path(program.__file__).read_text()
        return command.Result(0, json.dumps(known), "")

    monkeypatch.setattr(backups.command, "run", run)
    monkeypatch.setattr(backups.units, "states", lambda names: dict.fromkeys(names, "active"))
    found = backups.facts(tmp_path)
    assert found
    assert found["restored"]["unit"] == "active"
    assert found == STATE
    assert asked[0][:4] == ["runuser", "-u", "postgres", "--"]
    monkeypatch.setattr(backups.command, "run", lambda *_, **__: command.Result(1, "", "no such file\n"))
    with pytest.raises(ReleaseError, match="no such file"):
        backups.facts(tmp_path)
    # A file of the user postgres' is damaged, or forged.
    others: list[Any] = [{}, [], {**known, "runs": {"full": [1]}}, {**known, "dumps": [{"of": "board"}]}]
    for damaged in others:
        said = command.Result(0, json.dumps(damaged), "")
        monkeypatch.setattr(backups.command, "run", lambda *_, said=said, **__: said)
        with pytest.raises(ReleaseError, match="What the server says of its backups cannot be read"):
            backups.facts(tmp_path)


@pytest.mark.parametrize(
    "last", [[1], {"x": 1}, 7, "yes", {"ok": True, "ended": "yesterday"}, {"ok": False, "failed": None}]
)
def test_a_drill_of_which_nothing_can_be_read_stops_no_status(
    last: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / program.SETTINGS.relative_to("/")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    said = command.Result(0, json.dumps({**STATE, "drill": last}), "")
    monkeypatch.setattr(backups.command, "run", lambda *_, **__: said)
    monkeypatch.setattr(backups.units, "states", lambda names: dict.fromkeys(names, "active"))
    found = backups.facts(tmp_path)
    assert [one[1:3] for one in backups.judge(found, NOW)] == [
        ("unknown", "How the last drill went is unknown: what the server says of it cannot be read")
    ]
    assert "No restore was rehearsed yet" in backups.describe(tmp_path)["drill"]
