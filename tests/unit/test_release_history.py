"""Where revisions are found, which schema the database is at, and what may be gone back to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.migrations import database, schema
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reading import tables
from ansible.module_utils.berth.reports import history
from ansible.module_utils.berth.services import postgresql

from tests.support.entry import board

INI = "[alembic]\nscript_location = %(here)s/migrations\n"


def lay(folder: Path, name: str = "1", down: str = "None", body: str = "pass") -> Path:
    """A folder with an alembic.ini and a revision."""
    versions = folder / "migrations/versions"
    versions.mkdir(parents=True, exist_ok=True)
    (folder / "alembic.ini").write_text(INI)
    text = f"revision = '{name}'\ndown_revision = {down}\n\n\ndef upgrade():\n    {body}\n"
    (versions / f"{name}_x.py").write_text(text)
    return folder / "migrations"


@pytest.mark.parametrize(
    ("where", "app"),
    [
        ("", {}),
        ("server", {}),
        ("", {"source": {"subdir": "backend"}}),
        ("backend", {"source": {"subdir": "backend"}}),
        ("backend/db/schema", {"source": {"subdir": "backend"}, "migrations": {"directory": "db/schema"}}),
    ],
)
def test_revisions_are_where_the_deploy_finds_them(tmp_path: Path, where: str, app: dict[str, Any]) -> None:
    (tmp_path / "backend").mkdir()
    laid = lay(tmp_path / where)
    entry = board(**app)
    assert list(history.known_to(tmp_path, entry)) == ["1"]
    decision = tables.decide(tmp_path / entry["source"]["subdir"], tmp_path, entry["migrations"])
    assert decision.directory == laid.parent


def test_revisions_that_only_a_record_knows(tmp_path: Path) -> None:
    paths = Paths("board", tmp_path)
    lay(paths.release("a"))
    records: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {
            "schema": {
                "revisions": [{"id": "2", "down": ["1"], "file": "2_y.py", "risks": ["drops table t"]}]
            }
        },
    }
    known = history.revisions(paths, records)
    assert sorted(known) == ["1", "2"]
    assert known["2"].label() == "2_y (drops table t)"


@pytest.mark.parametrize(
    ("asked", "now"), [("0007", "0007"), ("", ""), (None, "0005"), (ReleaseError("no password"), "0005")]
)
def test_the_schema_of_today(monkeypatch: pytest.MonkeyPatch, asked: Any, now: str) -> None:
    def ask(*_: Any) -> Any:
        if isinstance(asked, ReleaseError):
            raise asked
        return asked

    monkeypatch.setattr(database.Database, "__init__", lambda *_: None)
    monkeypatch.setattr(database.Database, "ask", ask)
    record = {"app": {"database": {"enabled": True}}, "schema": {"to": "0005"}}
    assert history.today(record) == now


ALEMBIC = {"command": "alembic upgrade head", "digest": "d"}


@pytest.mark.parametrize(
    ("record", "now", "safe", "says"),
    [
        # Without Alembic at all, on a database that never had it, and on one that has it now.
        ({}, "", True, "without migrations: Berth knows nothing of its schema"),
        ({}, "2", True, r"ran on none. What came since \(1_x, 2_x\) only adds"),
        ({}, "3", False, r"ran on schema none; since then the database got 3_x \(drops table t\)"),
        # Migrations were switched off for this one.
        ({"schema": {"to": "2"}}, "2", True, "is at 2, the schema R ran on"),
        ({"schema": {"to": "2"}}, "3", False, "drops table t"),
        ({"app": {"database": {"enabled": False}}}, "3", True, "uses no database"),
        # The table of the version is not there (any more).
        ({"migrations": ALEMBIC, "schema": {"to": "2"}}, "", False, "tells no schema version"),
        ({"migrations": ALEMBIC, "schema": {"to": ""}}, "", True, "somewhere else .* only you can tell"),
        ({"migrations": {"command": "make"}, "schema": {"to": ""}}, "", True, r"of its own \(make\)"),
        # Several heads, in whichever order.
        ({"migrations": ALEMBIC, "schema": {"to": "b1,2"}}, "2,b1", True, "the schema R ran on"),
        (
            {"migrations": ALEMBIC, "schema": {"to": "2,b1"}},
            "2,b2",
            True,
            r"What came since \(b2_x\) only adds",
        ),
        ({"migrations": ALEMBIC, "schema": {"to": "2,b1"}}, "3,b2", False, r"got 3_x \(drops table t\)"),
        (
            {"migrations": ALEMBIC, "schema": {"to": "2,b2"}},
            "3,b1",
            False,
            "needs schema b2, and the database",
        ),
        ({"migrations": ALEMBIC, "schema": {"to": "2"}}, "2,zz", False, "at schema zz, which no release"),
    ],
)
def test_what_may_be_gone_back_to(
    tmp_path: Path, record: dict[str, Any], now: str, safe: bool, says: str
) -> None:
    for name, down, body in (
        ("1", "None", "pass"),
        ("2", "'1'", "pass"),
        ("3", "'2'", "op.drop_table('t')"),
        ("b1", "None", "pass"),
        ("b2", "'b1'", "pass"),
    ):
        lay(tmp_path, name, down, body)
    known = schema.read_all((tmp_path / "migrations/versions").iterdir())
    verdict = history.judge(known, "R", record, now)
    assert re.search(says, verdict.sentence), verdict.sentence
    assert verdict.safe is safe


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"result": "ok"}, "ok"),
        ({"result": "ok", "alone": True}, "ok, by the server alone"),
        (
            {"result": "failed", "alone": True, "step": "verify", "reason": "It answers 500."},
            "failed in verify, by the server alone: It answers 500.",
        ),
    ],
)
def test_how_a_run_ended(entry: dict[str, Any], said: str) -> None:
    assert history._run(entry)[-1] == said


def test_what_a_failed_release_did_to_the_schema_is_known(tmp_path: Path) -> None:
    paths = Paths("board", tmp_path)
    paths.state.mkdir(parents=True)
    lay(paths.release("a"))
    added = schema.Revision("2", ["1"], "2_adds.py", "")
    history.remember(paths, [added])
    history.remember(paths, [schema.Revision("3", ["2"], "3_drops.py", "", ["drops table t"])])
    known = history.revisions(paths, {"a": {}})
    record = {"migrations": ALEMBIC, "schema": {"to": "1"}}
    assert history.judge(known, "a", record, "2").safe
    refused = history.judge(known, "a", record, "3")
    assert not refused.safe
    assert "3_drops (drops table t)" in refused.sentence


def test_rows_that_newer_code_wrote_are_named_with_their_beginning() -> None:
    database = {"database": {"enabled": True}}
    records: dict[str, dict[str, Any]] = {
        "a": {"turn": 1, "live_since": "2026-01-01T10:00:00Z", "app": database},
        "b": {"turn": 2, "live_since": "2026-01-02T20:31:09Z", "app": database},
        "c": {"turn": 3, "live_since": "2026-01-03T09:00:00Z", "app": database},
    }
    said = "Rows written since 2026-01-02 20:31 UTC stay, and its code may not be able to read them."
    assert history.rows_since(records, "a") == said
    records["a"]["app"] = {"database": {"enabled": False}}
    assert history.rows_since(records, "a") == ""


def test_a_database_that_accepts_and_says_nothing_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """psql stands for itself: one that waits for ever, as it does for a server that is stopped."""
    pids = tmp_path / "pids"
    (tmp_path / "psql").write_text(f"#!/bin/sh\necho $$ >> {pids}\nexec sleep 60\n")
    (tmp_path / "psql").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(postgresql, "read_password", lambda *_: "x")
    monkeypatch.setattr(history, "_PATIENCE", 0.3)
    monkeypatch.setattr(database, "_PATIENCE", 0.3)
    app = board(database={})
    assert history.today({"app": app, "schema": {"to": "0005"}}) == "0005"
    with pytest.raises(ReleaseError, match="cannot be reached"), database.Database(app).advisory_lock():
        pass
    left = [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()]
    assert left == []
