"""What a move of PostgreSQL would be, what keeps it from being made, and what is told of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.reports import upgrades as report
from ansible.module_utils.berth.runtime import lasting
from ansible.module_utils.berth.store import presence, upgrades

from tests.unit.test_postgresql_clusters import cluster

ASKED: dict[str, Any] = {"to": "", "confirm": "", "inventory": "", "undo": False, "drop_old": False}
DONE = {
    "kind": "upgrade",
    "old": 15,
    "new": 17,
    "phase": "done",
    "began": "2026-11-30T12:00:00Z",
    "seconds": 18.2,
}
POLICY = """\
postgresql-15:
  Installed: 15.20-0+deb12u1
  Candidate: 15.20-0+deb12u1
postgresql-16:
  Installed: (none)
  Candidate: (none)
postgresql-17:
  Installed: (none)
  Candidate: 17.12-0+deb13u1
  Version table:
     17.12-0+deb13u1 500
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server with a cluster of 15, for which apt has 17 and 18."""
    cluster(tmp_path, 15)
    monkeypatch.setattr(lasting, "at_work", lambda _: False)
    monkeypatch.setattr(presence, "known", lambda _: [])
    monkeypatch.setattr(report, "_offers", lambda: [15, 17, 18])
    monkeypatch.setattr(report, "_packages", lambda _, new: [f"postgresql-{new}"])
    monkeypatch.setattr(report, "_databases", lambda: [("board", 3 << 30)])
    monkeypatch.setattr(report, "_room", lambda _: (4 << 30, 90 << 30))
    monkeypatch.setattr(report, "_order", lambda _: "")
    return tmp_path


def plan(root: Path, **asked: Any) -> dict[str, Any]:
    found: dict[str, Any] = report.plan({**ASKED, **asked}, root)
    return found


def test_what_was_restored_beside_the_live_server_is_ended_first(server: Path) -> None:
    (server / "var/lib/postgresql/berth-restored/data").mkdir(parents=True)
    for asked in ({}, {"confirm": "17"}, {"undo": True}):
        with pytest.raises(ReleaseError, match=r"berth restore --drop \(.*=true\)\. Nothing"):
            plan(server, **asked)
    with pytest.raises(ReleaseError, match="No cluster is kept"):
        plan(server, drop_old=True)


def test_a_data_folder_of_no_cluster_is_never_taken_for_the_new_one(server: Path) -> None:
    (server / "var/lib/postgresql/17/main").mkdir(parents=True)
    with pytest.raises(ReleaseError, match="17/main is there already, and no cluster's: move it away"):
        plan(server, confirm="17")
    assert plan(server, to="18")["new"] == 18


def test_without_confirm_it_is_only_told_what_would_be(server: Path) -> None:
    found = plan(server)
    assert (found["kind"], found["old"], found["new"], found["go"]) == ("upgrade", 15, 17, False)
    assert "PostgreSQL 15 would be moved to 17: 1 databases, 4096 MB." in found["said"]
    assert "Downtime: about 3 min" in found["said"]
    assert "No backup is made" in found["said"]
    assert found["said"].endswith(
        "Nothing was changed. To do it: berth upgrade-postgresql --confirm 17 "
        "(upgrade-postgresql.yml -e confirm=17)."
    )
    assert "--to 18 --confirm 18" in plan(server, to="18")["said"]
    # Whoever wrote it into the inventory already means that one.
    assert plan(server, inventory="18")["new"] == 18
    assert plan(server, confirm="17")["go"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"to": "17.2"}, 'to: "17.2" is no major version; write for example 17'),
        ({"to": "15"}, "PostgreSQL 15 is what this server has"),
        ({"to": "14"}, "no cluster moves to an older version"),
        ({"to": "19"}, "apt offers no PostgreSQL 19 here; it has 17, 18"),
        ({"confirm": "18"}, 'confirm: "18" is another version: this moves all databases to PostgreSQL 17'),
        ({"confirm": "17", "inventory": "15"}, 'is "15", and this moves to 17; write "17" there first'),
        ({"undo": True}, "There is nothing to undo"),
        ({"drop_old": True}, "No cluster is kept beside PostgreSQL 15"),
    ],
)
def test_what_cannot_be_is_one_sentence(server: Path, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ReleaseError, match=r"Nothing was changed\.") as error:
        plan(server, **asked)
    assert said in str(error.value)


def test_a_server_that_has_the_newest_says_where_a_newer_one_comes_from(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_offers", lambda: [15])
    with pytest.raises(ReleaseError, match=r"no PostgreSQL newer than 15 .*repository: pgdg"):
        plan(server)


def test_what_is_kept_of_that_version_goes_first(server: Path) -> None:
    cluster(server, 17, "manual")
    with pytest.raises(ReleaseError, match=r"17 is kept here already. Remove it first: .*--drop-old"):
        plan(server)
    found = plan(server, drop_old=True)
    assert (found["kind"], found["drop"]) == ("drop", [17])


def test_the_live_cluster_is_not_dropped_and_two_that_start_are_refused(server: Path) -> None:
    cluster(server, 17, "auto")
    with pytest.raises(ReleaseError, match="15 and 17 start at boot"):
        plan(server, drop_old=True)


def test_one_at_work_is_waited_for_and_nothing_else_comes_between(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrades.write({**DONE, "phase": "copy"}, server)
    monkeypatch.setattr(lasting, "at_work", lambda _: True)
    assert plan(server, confirm="17")["kind"] == "wait"
    for asked in ({"undo": True}, {"drop_old": True}, {"to": "18"}):
        with pytest.raises(ReleaseError, match="from PostgreSQL 15 to 17 is at work"):
            plan(server, **asked)


def test_one_that_reached_no_end_is_gone_on_with(server: Path) -> None:
    state = {**DONE, "phase": "failed", "closed": 1.0, "problem": "the disk is full", "step": "switch"}
    upgrades.write(state, server)
    assert (plan(server)["kind"], plan(server)["go"]) == ("resume", True)
    ((code, level, text, then),) = report.judge({**report.facts(server), "at_work": False})
    assert (code, level) == ("upgrade", "sick")
    assert "did not come to its end: the disk is full" in text
    assert "goes on, or back" in then
    # Before anybody was shut out, or where it went back, there is nothing to go on with.
    for more in ({"back": True}, {"closed": None}):
        upgrades.write({**state, **more}, server)
        assert plan(server)["kind"] == "upgrade"


def test_to_undo_it_what_is_lost_is_counted(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_folder = server / "etc/postgresql/15/main/start.conf"
    cluster_folder.write_text("manual\n")
    cluster(server, 17)
    upgrades.write(DONE, server)
    monkeypatch.setattr(report, "_changes", lambda: [("board", "public.posts", 1), ("notes", "public.x", 2)])
    found = plan(server, undo=True)
    assert (found["kind"], found["old"], found["new"], found["go"]) == ("undo", 17, 15, False)
    assert "3 rows were inserted, changed or deleted since, and would be LOST:" in found["said"]
    assert "  board: public.posts 1" in found["said"]
    assert found["said"].endswith("--undo --confirm 15 (upgrade-postgresql.yml -e undo=true -e confirm=15).")
    with pytest.raises(ReleaseError, match="this goes back to PostgreSQL 15"):
        plan(server, undo=True, confirm="17")
    assert plan(server, undo=True, confirm="15", inventory="17")["go"]
    said = plan(server, undo=True, inventory="17")["said"]
    assert 'After it, write server.postgresql.version: "15" into the inventory, which says "17".' in said


def test_apt_offers_what_it_can_install() -> None:
    names = "postgresql-15 postgresql-16 postgresql-17 postgresql-17-jit"
    assert report.offered(names, POLICY) == [15, 17]


def test_extensions_come_along_under_their_new_names() -> None:
    installed = (
        "postgresql-15 postgresql-client-15 postgresql-15-pgvector postgresql-15-dbgsym postgresql-doc-15"
    )
    assert report.renamed(f"{installed} postgresql-plpython3-15 postgresql-150-x", 15, 17) == [
        "postgresql-17",
        "postgresql-17-pgvector",
        "postgresql-client-17",
        "postgresql-plpython3-17",
    ]


def test_the_downtime_grows_with_the_size() -> None:
    assert [report.expected(size << 20) for size in (0, 652, 20480)] == ["20 s", "50 s", "12 min"]


def test_its_end_tells_the_way_back_and_what_is_left_to_write(server: Path) -> None:
    upgrades.write({**DONE, "notes": ["no segment got into the repository."]}, server)
    said = report.describe("", server)
    assert said.startswith(
        "PostgreSQL 17 serves, and every app that was well is well. Nobody was served for 18 s."
    )
    assert "No segment got into the repository." in said
    assert "--undo" in said
    assert "--drop-old" in said
    upgrades.write({**DONE, "kind": "undo", "old": 17, "new": 15}, server)
    assert 'Write server.postgresql.version: "15" into the inventory' in report.describe("17", server)
    upgrades.write({**DONE, "phase": "failed", "back": True, "problem": "board says 500."}, server)
    with pytest.raises(ReleaseError, match=r"^PostgreSQL 15 serves as before: board says 500\.$"):
        report.describe("", server)


def test_a_status_tells_what_is_kept_and_nothing_on_other_servers(server: Path) -> None:
    cluster(server, 17, "manual")
    assert report.judge(report.facts(server)) == []
    upgrades.write({**DONE, "kind": "undo", "old": 17, "new": 15}, server)
    ((_, level, text, then),) = report.judge(report.facts(server))
    assert (level, text) == ("note", "the stopped cluster of PostgreSQL 17 is kept")
    assert "--drop-old" in then
