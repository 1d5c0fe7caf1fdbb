"""The drill of dumps: what is compared, what is said of it, and what ends it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.payload import backup, drill, dumps, dumps_drill, side, snapshot
from ansible.module_utils.berth.reports import elsewhere
from ansible.module_utils.berth.store import journal

from tests.unit.test_dumps import DATABASE, HELD, NOW, STATE

PLACE = "board at db.example.net"
FOUND = {
    "tables": {1: {"quoted": "public.notes"}, 2: {"quoted": "public.old"}},
    "rows": {1: 3, 2: 8},
    "schema": {"public.alembic_version": "a1"},
}
MADE: dict[str, Any] = {
    "began": "2026-11-30T05:10:00Z", "ended": "2026-11-30T05:10:09Z", "seconds": 9.0,
    "ok": True, "problem": "", "failed": [], "notes": [],
    "databases": [{
        "app": "board", "name": "board", "host": "db.example.net", "dump": "20261130T041000Z.dump",
        "at": "2026-11-30T04:10:00Z", "seconds": 8.0, "bytes": 9 << 20, "tables": 4, "rows": 12,
        "schema": {"public.alembic_version": "a1"},
    }],
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """With a dump of a database, and an instance that is not really there."""
    monkeypatch.setattr(dumps, "expected", lambda _: 86400)
    monkeypatch.setattr(dumps_drill, "newest_server", lambda: 17)
    known: dict[str, Any] = {
        "databases": [{**DATABASE, "roles": ["board", "board_ro"], "extensions": ["citext"]}],
        "schedule": "04:00", "state": str(tmp_path), "dumps": str(tmp_path / "dumps"),
        "drill": str(tmp_path / "drill"),
    }  # fmt: skip
    folder = dumps.folder_of(known, DATABASE)
    folder.mkdir(parents=True)
    Path(known["drill"]).mkdir()
    (folder / "20261130T041000Z.dump").write_text("rows")
    (folder / dumps.HELD).write_text(json.dumps({"file": "20261130T041000Z.dump", **HELD}))
    return known


class Side:
    """An instance, as far as it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.missing = ""
        self.found = FOUND
        monkeypatch.setattr(side.Server, "ask", lambda _, query, *__, **___: self.ask(query))
        monkeypatch.setattr(side, "start", lambda *_: None)
        monkeypatch.setattr(side, "configuration", lambda *_, **__: "")
        # What initdb makes.
        monkeypatch.setattr(backup, "run", lambda argv, *_, **__: Path(argv[2]).mkdir())
        monkeypatch.setattr(drill, "survey", lambda *_: self.found)

    def ask(self, query: str) -> str:
        self.asked.append(query)
        if self.missing and self.missing in query:
            raise backup.BackupError(f'extension "{self.missing}" is not available')
        return "9437184"


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Side:
    return Side(monkeypatch)


def restores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """What stands in for pg_restore."""
    program = tmp_path / "pg_restore"
    program.write_text(f"#!{sys.executable}\nimport sys, time\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(side, "program", lambda _, name: str(tmp_path / name))


def drilled(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, Any]]:
    file = Path(settings["state"]) / "dumps.json.settings"
    file.write_text(json.dumps(settings))
    monkeypatch.setattr(dumps, "SETTINGS", file)
    status = dumps_drill.main([])
    return status, json.loads((Path(settings["state"]) / "dumps-drill.json").read_text())


def test_the_newest_dump_is_restored_by_its_owner_and_compared(
    settings: dict[str, Any], instance: Side, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    restores(monkeypatch, tmp_path, f"open({str(tmp_path / 'argv')!r}, 'w').write(' '.join(sys.argv[1:]))")
    status, made = drilled(settings, monkeypatch)
    assert (status, made["ok"], made["failed"], made["notes"]) == (
        0,
        True,
        [],
        [f"{PLACE}: not compared: public.old"],
    )
    said = capsys.readouterr().out
    assert "well: the newest dump of 1 database was restored and checked in " in said
    assert said.endswith(" s: 11 rows in 2 tables, nothing is missing.\n")
    argv = (tmp_path / "argv").read_text()
    assert argv.endswith(
        f"-U board_owner -d board {dumps.folder_of(settings, DATABASE)}/20261130T041000Z.dump"
    )
    assert "--single-transaction --no-owner --no-acl --no-comments" in argv
    assert instance.asked[:5] == [
        'create role "board_owner" login',
        'create role "board" login',
        'create role "board_ro" login',
        'create database "board" owner "board_owner" template template0',
        'create extension "citext" schema public cascade',
    ]
    assert not list(Path(settings["drill"]).iterdir()), "nothing is left of it"
    assert len((tmp_path / "dumps-drills.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "found", "check", "said"),
    [
        ("sys.exit('pg_restore: error: could not read from input file: end of file')", {}, "restore",
         f"{PLACE}: 20261130T041000Z.dump cannot be restored: could not read from input file: end of file"),
        ('sys.exit(\'pg_restore: error: could not execute query: '
         'ERROR:  role "other" does not exist\\nCommand was:\')',
         {}, "restore", f'{PLACE}: 20261130T041000Z.dump cannot be restored: role "other" does not exist'),
        ("", {"rows": {1: 2, 2: 8}}, "rows",
         f"{PLACE}: public.notes has 2 rows in what was restored, and had 3 when it was dumped"),
        ("", {"tables": {2: {"quoted": "public.old"}}}, "rows",
         f"{PLACE}: table public.notes is not in what was restored"),
        ("", {"schema": {"public.alembic_version": "b2"}}, "schema",
         f"{PLACE}: the schema is at b2 in what was restored, and was at a1 when it was dumped "
         "(public.alembic_version)"),
        ("", {"schema": {}}, "schema",
         f"{PLACE}: the schema is at no revision in what was restored, and was at a1 when it was dumped "
         "(public.alembic_version)"),
    ],
)  # fmt: skip
def test_what_does_not_come_back_fails_it(
    settings: dict[str, Any], instance: Side, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any,
    code: str, found: dict[str, Any], check: str, said: str,
) -> None:  # fmt: skip
    restores(monkeypatch, tmp_path, code)
    instance.found = {**FOUND, **found}
    status, made = drilled(settings, monkeypatch)
    assert (status, made["ok"]) == (1, False)
    assert made["failed"] == [{"check": check, "text": said}]
    assert capsys.readouterr().err == f"The drill of dumps failed: {said}.\n"


def test_what_keeps_it_from_beginning_is_said(
    settings: dict[str, Any], instance: Side, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    restores(monkeypatch, tmp_path, "")
    instance.missing = "citext"
    assert (
        "add its package to the server's packages (often postgresql-17-citext)"
        in drilled(settings, monkeypatch)[1]["problem"]
    )
    (dump,) = backup.dumps_in(dumps.folder_of(settings, DATABASE))
    os.utime(dump, (time.time() - 3 * 86400,) * 2)
    problem = drilled(settings, monkeypatch)[1]["problem"]
    assert problem == f"{PLACE}: its newest dump is 3 days old; berth backup makes one"
    dump.unlink()
    assert "there is no dump of it" in drilled(settings, monkeypatch)[1]["problem"]
    monkeypatch.setattr(dumps_drill, "newest_server", lambda: 0)
    assert "no server of PostgreSQL's is installed here" in drilled(settings, monkeypatch)[1]["problem"]


@pytest.mark.usefixtures("instance")
def test_questions_of_the_inventory_are_put_to_what_was_restored(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    restores(monkeypatch, tmp_path, "")
    settings["databases"][0]["checks"] = ["select true", "select  false"]
    asked: list[tuple[str, ...]] = []

    def ask_as(_: object, role: str, query: str, database: str, _patience: str) -> str:
        asked.append((role, query, database))
        return "t" if query == "select true" else "f"

    monkeypatch.setattr(side.Server, "ask_as", ask_as)
    made = drilled(settings, monkeypatch)[1]
    assert made["failed"] == [{"check": "checks", "text": f"{PLACE}: select false: its answer is not true"}]
    assert asked[0] == ("board_owner", "select true", "board")


@pytest.mark.usefixtures("instance")
def test_a_dump_that_fills_the_disk_is_ended(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    restores(monkeypatch, tmp_path, "time.sleep(60)")
    room = iter([1 << 40, 1 << 40])
    monkeypatch.setattr(backup, "free", lambda _: next(room, 0))
    monkeypatch.setattr(dumps_drill, "LOOK", 0.1)
    assert "what it restores leaves less than 1024 MB free" in drilled(settings, monkeypatch)[1]["problem"]


@pytest.mark.usefixtures("instance")
def test_of_a_dump_of_before_nothing_is_compared_and_that_is_said(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    restores(monkeypatch, tmp_path, "")
    (dumps.folder_of(settings, DATABASE) / dumps.HELD).write_text("broken")
    made = drilled(settings, monkeypatch)[1]
    assert made["ok"]
    assert "what the database held then is not known of 20261130T041000Z.dump" in made["notes"][0]


def test_a_snapshot_tells_what_a_database_holds_and_why_it_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = [7, "public.notes", "p", 7, 0, 0, "public.notes", False]
    version = [8, "public.alembic_version", "p", 8, 0, 0, "public.alembic_version", True]
    big = [9, "public.big", "p", 9, 0, 0, "public.big", False]
    answers = {
        "pg_export_snapshot": ["00000003-1"], "pg_database_size": ["4096"], "has_table_privilege": ["7", "8"],
        "pg_stat_get_tuples_deleted": [json.dumps(one) for one in (table, version, big)],
        "from only public.notes": ["3"], "from only public.alembic_version": ["1"], "version_num": ["a1"],
    }  # fmt: skip
    program = tmp_path / "psql"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nasked = ''\n"
        "for line in sys.stdin:\n"
        "    asked += line\n"
        "    if not line.startswith('\\\\echo'): continue\n"
        "    if 'fails' in asked: sys.exit('psql: error: nothing answers')\n"
        f"    for part, lines in {answers!r}.items():\n"
        "        if part in asked:\n"
        "            print(*lines, sep='\\n')\n"
        "            break\n"
        "    print(line.split()[1], flush=True)\n"
        "    asked = ''\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(backup, "ENVIRONMENT", {**os.environ, "PATH": str(tmp_path)})
    with snapshot.Snapshot(PGDATABASE="board") as seen:
        assert seen.name == "00000003-1"
        assert seen.holds() == {
            "bytes": 4096,
            "tables": {"public.notes": 3, "public.alembic_version": 1, "public.big": None},
            "schema": {"public.alembic_version": "a1"},
        }
        with pytest.raises(backup.BackupError, match=r"^nothing answers$"):
            seen.ask("fails")


# What is said of it -----------------------------------------------------------------------------------------


def state(**more: Any) -> dict[str, Any]:
    return {**STATE, "drill": MADE, "drill_expected": 86400, "drill_timer": "active", "released": {}, **more}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, []),
        ({"released": {"board": "a1"}}, []),
        ({"released": {"board": "b2"}},
         ["the last drill of dumps failed at 2026-11-30 05:10 UTC: board at db.example.net: its dump "
          "20261130T041000Z.dump has the schema a1, and the release of then left it at b2"]),
        ({"drill": {**MADE, "ok": False, "failed": [{"check": "restore", "text": "it is cut"}]}},
         ["the last drill of dumps failed at 2026-11-30 05:10 UTC: it is cut"]),
        ({"drill": {**MADE, "ok": False, "failed": [{"check": "begin", "text": "it was cut off"}]},
          "drill_unit": "activating"}, []),
        ({"drill": {**MADE, "ended": "2026-11-27T05:10:00Z"}},
         ["the last drill of dumps was 3 days ago, so that no restore was seen to work since"]),
        ({"drill": {}, "drills_since": "2026-11-27T12:00:00Z"},
         ["there was no drill of dumps in 3 days, so that no restore was seen to work since"]),
        ({"drill_timer": "inactive"},
         ["no restore of a dump is rehearsed by the clock: its timer is inactive"]),
        ({"drill_expected": 0}, [elsewhere.UNREHEARSED]),
    ],
)  # fmt: skip
def test_it_is_alarmed_of_as_of_the_other_drill(more: dict[str, Any], said: list[str]) -> None:
    found = elsewhere.judge(state(**more), NOW)
    assert [one[2] for one in found] == said
    assert {one[1] for one in found} <= {"note" if said == [elsewhere.UNREHEARSED] else "sick"}


def test_it_is_a_table_a_line_and_a_verdict() -> None:
    text = elsewhere.drill_table(state())
    assert text.startswith("Drill of dumps of 2026-11-30 05:10 UTC: well, 9 s.")
    assert "board at db.example.net  2026-11-30 04:10 UTC  8.0 s  9 MB  4       12    a1" in text
    assert elsewhere.drill_verdict(state()) == ""
    assert elsewhere.summary(state(), NOW).endswith("; their drill went well 7 h ago.")
    behind = state(released={"board": "b2"})
    assert elsewhere.drill_table(behind).startswith("Drill of dumps of 2026-11-30 05:10 UTC: failed")
    assert elsewhere.drill_verdict(behind).startswith("Board at db.example.net: its dump ")


def test_the_release_of_then_is_the_last_before_the_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths("board", tmp_path)
    for at, app, schema in (
        ("2026-11-29T10:00:00Z", "board", "a1"),
        ("2026-11-30T03:00:00Z", "notes", "n9"),
        ("2026-11-30T03:30:00Z", "board", ""),
        ("2026-11-30T09:00:00Z", "board", "b2"),
    ):
        monkeypatch.setattr(journal, "now", lambda at=at: at)
        journal.audit(Paths(app, tmp_path), schema_to=schema)
    assert paths.audit.exists()
    assert elsewhere._released(state(), tmp_path) == {"board": "a1"}
