"""The drill: what fails it, what is only told, what it refuses to begin, and what it leaves."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.module_utils.berth.payload import backup, drill, offsite, reasons, side

LIVE: dict[str, Any] = {
    "board": {
        "tables": {
            7: {"name": "public.posts", "persistence": "p", "file": 70, "deleted": 5, "inserted": 100,
                "alembic": False},
            8: {"name": "public.seen", "persistence": "u", "file": 80, "deleted": 0, "inserted": 0,
                "alembic": False},
        },
        "rows": {7: 100},
        "schema": {"public.alembic_version": "0002"},
    }
}  # fmt: skip
NEWEST: dict[str, Any] = {
    "label": "20261129-020000F", "timestamp": {"start": 1795916400, "stop": 1795916430},
    "archive": {"start": "000000010000000000000002"}, "info": {"size": 22 << 20},
}  # fmt: skip


def of(rows: int | None = 100, **table: Any) -> dict[str, Any]:
    """The same database with so many posts, and something else about them."""
    found = copy.deepcopy(LIVE)
    found["board"]["rows"] = {} if rows is None else {7: rows}
    found["board"]["tables"][7].update(table)
    return found


@pytest.mark.parametrize(
    ("restored", "after", "problem"),
    [
        (of(100), of(None), ""),
        # It grew between the count and the end of what was archived.
        (of(140), of(None), ""),
        (of(99), of(None), "1 of 100 rows of board: public.posts are missing in what was restored"),
        (of(0), of(None), "100 of 100 rows of board: public.posts are missing"),
        # As many as were deleted meanwhile may be gone, and no more.
        (of(97), of(97, deleted=8), ""),
        (of(96), of(97, deleted=8), "4 of 100 rows of board: public.posts are missing in what was restored, "
                                    "and only 3 were deleted meanwhile"),
        # It was truncated meanwhile, and that is among what was restored.
        (of(0, file=71), of(0, file=71), ""),
        # The live one was dropped, or truncated, after all that was restored.
        (of(100), of(0, file=71), ""),
        ({"board": {**LIVE["board"], "tables": {}}}, of(None), "table board: public.posts is not in what"),
        ({"board": {**LIVE["board"], "tables": {}}}, {"board": {**LIVE["board"], "tables": {}}}, ""),
        ({}, of(None), "database board is not in what was restored"),
        ({}, {}, ""),
    ],
)  # fmt: skip
def test_rows_that_vanished_fail_and_rows_that_came_do_not(
    restored: dict[str, Any], after: dict[str, Any], problem: str
) -> None:
    problems, _, unknown = drill.compare_rows(LIVE, restored, after)
    assert (problem in "; ".join(problems), len(problems)) == (True, 1 if problem else 0)
    assert unknown == []


def test_rows_that_are_gone_in_the_live_table_too_are_told_and_no_failure() -> None:
    # Whoever deleted them stays in a transaction: the server has not counted them yet.
    problems, notes, _ = drill.compare_rows(LIVE, of(60), of(60))
    said = "40 of 100 rows of board: public.posts went while the drill ran, from the live table too"
    assert (problems, notes[0]) == ([], said)
    # Others came since then.
    assert drill.compare_rows(LIVE, of(60), of(70, inserted=110))[0] == []
    assert len(drill.compare_rows(LIVE, of(60), of(100))[0]) == 1
    assert len(drill.compare_rows(LIVE, of(60), of(110, inserted=110))[0]) == 1


def test_before_rows_are_called_lost_the_live_table_is_counted_again(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[bool] = []

    def look(server: side.Server, _file: Path, wanted: Any, *_: Any) -> dict[str, Any]:
        if server == side.beside(settings, Path(settings["drill"])):
            return of(60)
        # Nothing says that anything was deleted.
        counted.append(wanted("board", 7, LIVE["board"]["tables"][7]))
        return of(60 if counted[-1] else None)

    monkeypatch.setattr(drill, "look", look)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    one = drill.Drill(settings)
    one.compare(LIVE)
    assert (counted, one.failed) == ([False, True], [])


def test_only_what_is_live_is_counted_in_a_hurry_and_no_table_again_that_takes_too_long(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[bool, str, bool]] = []

    def look(server: side.Server, _file: Path, wanted: Any, options: str) -> dict[str, Any]:
        live, table = server == side.live(settings), {**LIVE["board"]["tables"][7], "deleted": 9}
        looked.append((live, options, wanted("board", 7, table)))
        return of(100)

    monkeypatch.setattr(drill, "look", look)
    drill.Drill(settings).compare(of(None))
    assert looked == [(False, drill.READING, True), (True, drill.GENTLY, False)]
    assert "timeout" not in drill.READING
    drill.Drill(settings).compare(of(100))
    assert looked[3] == (True, drill.GENTLY, True)


def test_tables_that_were_not_compared_are_told_and_none_at_all_is_a_failure(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "look", lambda *_: of(100))
    one, before = drill.Drill(settings), of(100)
    before["board"]["tables"][9] = {**before["board"]["tables"][7], "name": "public.huge"}
    monkeypatch.setattr(drill, "look", lambda *_: before)
    one.compare(before)
    assert one.failed == []
    assert one.notes[-1] == ("1 table could not be compared with the live one: board: public.huge")
    one.facts["backup"] = "B"
    said = drill.sentence(drill.report(one, 0.0))
    assert said.endswith("100 rows in 1 tables, 1 table not compared, nothing is missing in the others")
    one = drill.Drill(settings)
    one.compare(of(None))
    assert [failed["text"] for failed in one.failed] == [
        "no table could be compared with the live one: each was locked, or not counted within 30 s"
    ]
    empty = drill.Drill(settings)
    empty.compare({"board": {"tables": {}, "rows": {}, "schema": {}}})
    assert empty.failed == []
    one.facts["rows"]["unknown"] = 0
    assert drill.sentence(drill.report(one, 0.0)).endswith("100 rows in 1 tables, nothing is missing")


def test_what_cannot_be_compared_is_counted_and_what_is_less_in_the_live_one_is_told() -> None:
    assert drill.compare_rows(of(None), of(100), of(None))[2] == ["board: public.posts"]
    # The statistics began anew meanwhile.
    assert drill.compare_rows(LIVE, of(90), of(None, deleted=0))[::2] == ([], ["board: public.posts"])
    problems, notes, _ = drill.compare_rows(LIVE, of(100), of(0, file=71))
    assert problems == []
    assert notes == [
        "board: public.posts has 0 rows in the live database now, and 100 were restored",
        "unlogged tables are in no backup: board: public.seen",
    ]


def test_of_many_alike_some_are_named() -> None:
    assert drill.few(["a"] * 5) == ["a"] * 5
    assert drill.few(["a"] * 8)[4:] == ["a", "of 3 more tables the same is to be said"]
    assert drill.listed(["a"] * 7) == "a, a, a, a, a and 2 more"
    assert drill.printable("ta\x1b[2Jble\n") == "ta?[2Jble?"


def test_nobodys_functions_run_as_the_superuser_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []

    def run(_argv: list[str], _timeout: float | None = None, **more: str) -> str:
        asked.append(more)
        return ""

    monkeypatch.setattr(backup, "run", run)
    server = side.Server("/run/postgresql", 5432)
    server.ask("select 1", "board")
    server.script(tmp_path, "board", drill.GENTLY)
    assert [one["PGDATABASE"] for one in asked] == ["board", "board"]
    assert all(one["PGOPTIONS"].startswith("-c search_path=pg_catalog") for one in asked)
    assert "lock_timeout=2s -c statement_timeout=30s" in asked[1]["PGOPTIONS"]
    # A type of the app's could bring a cast of the app's.
    assert "atttypid in ('text'::regtype, 'varchar'::regtype)" in drill.TABLES


def test_a_name_with_any_character_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = '[7, "public.a\u2028b\u0085c", "p", 70, 5, 9, "public.\\"a\u2028b\\"", false]'
    monkeypatch.setattr(backup, "run", lambda *_, **__: f"{row}\n{row}\n")
    found = drill.tables(side.Server("/run", 5432), "board")
    assert (found[7]["name"], found[7]["quoted"]) == ("public.a?b?c", 'public."a\u2028b"')
    monkeypatch.setattr(backup, "run", lambda *_, **__: "a\u2028b\nboard\n")
    assert drill.databases(side.Server("/run", 5432)) == ["a\u2028b", "board"]


def test_the_schema_is_the_live_ones_or_on_its_way_there() -> None:
    def at(revision: str) -> dict[str, Any]:
        return {"board": {**LIVE["board"], "schema": {"public.alembic_version": revision}}}

    assert drill.compare_schema(LIVE, at("0002"), at("0002")) == []
    assert drill.compare_schema(LIVE, at("0003"), at("0004")) == []
    assert drill.compare_schema(LIVE, at("0001"), at("0002")) == [
        "the schema of board is at 0001 in what was restored, and at 0002 in the live database "
        "(public.alembic_version)"
    ]
    assert "at no revision in what was restored" in drill.compare_schema(LIVE, at(""), at("0002"))[0]


def test_a_hole_in_the_wal_is_seen_by_the_age_of_the_last_commit_that_came_back() -> None:
    marked, gap = {"at": 1795920000.0}, [{"after": "000000010000000000000003"}]
    assert drill.judge_commits(marked, {"whole": True, "last": 1.0}, 1.0, [], "") == []
    (said,) = drill.judge_commits(marked, {"whole": False, "last": 1795919400.0}, 1.0, gap, "0/4000060")
    assert said == (
        f"the last 10 min before the drill are lost: no commit after {drill.clock(1795919400)} came back, "
        "replay ended at 0/4000060; the archive lacks what follows 000000010000000000000003"
    )
    # Nothing was committed in what was replayed: it is as old as the backup.
    (said,) = drill.judge_commits(marked, {"whole": False, "last": None}, 1795912800.0, [], "")
    assert said.startswith("the last 2 h before the drill are lost")
    assert said.endswith("replay ended at an unknown place")


def test_bytes_of_wal_are_counted_from_the_backups_first_segment() -> None:
    assert drill.distance("000000010000000000000002", "0/4000060") == (2 * 16 << 20) + 0x60
    assert drill.distance("0000000100000001000000FF", "2/0") == 16 << 20
    assert drill.distance("", "0/4000060") == 0
    # A cluster of initdb --wal-segsize=64: PostgreSQL 15 calls the one that holds 0/FC000000 this.
    assert drill.distance("00000001000000000000003F", "1/4", 64 << 20) == (64 << 20) + 4


# One drill --------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = {
        "stanza": "main", "version": 17, "port": 5432, "socket": "/run/postgresql",
        "repository": str(tmp_path), "state": str(tmp_path / "state"), "drill": str(tmp_path / "drill"),
    }  # fmt: skip
    for name in ("state", "drill"):
        (tmp_path / name).mkdir()
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(found))
    monkeypatch.setattr(backup, "SETTINGS", path)
    monkeypatch.setattr(backup, "info", lambda *_: {"status": {"code": 0}, "backup": [NEWEST]})
    monkeypatch.setattr(side.Server, "ask", lambda *_: "20000000")
    monkeypatch.setattr(backup, "segment_size", lambda _: backup.SEGMENT)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return found


def kept(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(settings["state"]) / "drill.json").read_text())
    return found


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({"status": {"code": 0}, "backup": []}, "no drill can begin: there is no backup yet; berth backup"),
        (
            {"status": {"code": 99, "message": "the key is another"}, "backup": []},
            "the repository cannot be read: the key is another.",
        ),
    ],
)
def test_without_a_backup_nothing_is_begun(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any, known: Any, sentence: str
) -> None:
    monkeypatch.setattr(backup, "info", lambda *_: known)
    monkeypatch.setattr(drill.Drill, "rehearse", lambda *_: pytest.fail("it began"))
    assert drill.main([]) == 1
    assert sentence in capsys.readouterr().err
    assert (kept(settings)["ok"], kept(settings)["failed"][0]["check"]) == (False, "begin")


def test_on_a_full_disk_the_report_takes_the_place_of_the_one_before(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(file: Path, *words: Any) -> None:
        if file.name.startswith("."):
            raise OSError(28, "No space left on device", str(file))
        lay(file, *words)

    lay, state = backup.lay, Path(settings["state"])
    drill.keep(state, {"ok": True})
    monkeypatch.setattr(backup, "lay", full_disk)
    monkeypatch.setattr(Path, "write_text", full_disk)
    drill.keep(state, {"ok": False})
    assert kept(settings) == {"ok": False}


def test_without_room_nothing_is_begun(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(backup, "free", lambda _: 1500 << 20)
    monkeypatch.setattr(drill.Drill, "rehearse", lambda *_: pytest.fail("it began"))
    assert drill.main([]) == 1
    assert capsys.readouterr().err == (
        f"The drill failed: no drill can begin: {settings['drill']} has 1500 MB free, and the drill needs "
        "about 536 MB beside the 1024 MB that stay free; make room there.\n"
    )
    began: list[int] = []
    monkeypatch.setattr(backup, "free", lambda _: 1600 << 20)
    monkeypatch.setattr(drill.Drill, "rehearse", lambda *_: began.append(1))
    drill.Drill(settings).run()
    assert began == [1]


def test_what_a_killed_one_left_is_no_reason_that_there_is_no_room(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Path(settings["drill"], "data")
    left.mkdir()
    monkeypatch.setattr(backup, "free", lambda _: (1500 if left.exists() else 1600) << 20)
    began: list[int] = []
    monkeypatch.setattr(drill.Drill, "rehearse", lambda *_: began.append(1))
    assert drill.Drill(settings).run() is None
    assert began == [1]


def test_what_an_app_asks_has_to_be_true_and_is_asked_by_a_role_that_reads(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], dict[str, str]]] = []
    answers = {"select true": "t\n", "select count(*)\n from users": "7\n"}

    def run(argv: list[str], _timeout: float | None, **env: str) -> str:
        asked.append((argv, env))
        if argv[-1] not in answers:
            raise backup.BackupError("permission denied for table users")
        return answers[argv[-1]]

    monkeypatch.setattr(backup, "run", run)
    queries = (*answers, "delete from users")
    checks = [{"app": "board", "database": "board", "role": "board_ro", "query": query} for query in queries]
    made = drill.Drill({**settings, "checks": checks})
    made.questions()
    assert made.failed == [
        {"check": "checks", "text": "board: select count(*) from users: its answer is not true"},
        {"check": "checks", "text": "board: delete from users: permission denied for table users"},
    ]
    argv, env = asked[0]
    assert argv[argv.index("-U") + 1] == "board_ro"
    assert (env["PGDATABASE"], "search_path" in env["PGOPTIONS"]) == ("board", False)
    assert "default_transaction_read_only=on" in env["PGOPTIONS"]


def test_one_that_fails_goes_on_where_it_can_and_leaves_nothing(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = Path(settings["drill"])
    (folder / "data/base").mkdir(parents=True)  # an earlier one was killed
    began: list[str] = []

    def fails(name: str) -> Any:
        def run(*_: Any) -> None:
            began.append(name)
            (folder / "data").mkdir(exist_ok=True)
            raise backup.BackupError(f"no {name}")

        return run

    monkeypatch.setattr(drill, "look", lambda *_: LIVE)
    monkeypatch.setattr(drill, "mark", lambda *_: {"segment": "1", "number": "9", "at": 2.0})
    monkeypatch.setattr(drill, "archived", lambda *_: True)
    monkeypatch.setattr(side, "restore", lambda *_: None)
    monkeypatch.setattr(side, "configure", lambda *_, **__: None)
    monkeypatch.setattr(side, "start", lambda *_: None)
    monkeypatch.setattr(drill, "replayed", lambda *_: {"whole": True, "last": 2.0})
    for name in ("amcheck", "compare", "checksums"):
        monkeypatch.setattr(drill.Drill, name, fails(name))
    assert drill.main([]) == 1
    assert began == ["amcheck", "compare", "checksums"]
    assert [one["check"] for one in kept(settings)["failed"]] == ["amcheck", "rows", "checksums"]
    assert capsys.readouterr().err.splitlines()[1] == (
        "The drill failed: rows could not be checked: no compare."
    )
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(side, "restore", fails("restore"))
    began.clear()
    assert drill.main([]) == 1
    assert began == ["restore"]
    assert kept(settings)["problem"] == "backup 20261129-020000F cannot be restored: no restore"
    assert list(folder.iterdir()) == []


def test_one_that_is_cut_off_has_said_so_before(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: drill.Drill) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drill.Drill, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        drill.main([])
    assert (kept(settings)["ok"], kept(settings)["problem"]) == (False, "it was cut off")


def test_the_last_thirty_are_kept(settings: dict[str, Any]) -> None:
    state = Path(settings["state"])
    for number in range(33):
        drill.keep(state, {"number": number})
    lines = (state / "drills.jsonl").read_text().splitlines()
    assert [json.loads(lines[0])["number"], json.loads(lines[-1])["number"], len(lines)] == [3, 32, 30]
    assert kept(settings) == {"number": 32}


def test_damage_is_named_by_what_found_it(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = drill.Drill(settings)
    said = {
        "pg_amcheck": (2, 'btree index "board.public.pk":\n    ERROR:  lacks a tuple\nmore\n'),
        "pg_checksums": (1, "pg_checksums: error: checksum verification failed in file x, block 5\n"),
        "pg_controldata": (0, "Data page checksum version:           1\n"),
        "pg_ctl": (0, ""),
    }
    monkeypatch.setattr(side, "outcome", lambda argv, *_: said[Path(argv[0]).name])
    monkeypatch.setattr(Path, "exists", lambda _: True)
    one.amcheck({})
    one.checksums({})
    assert [failed["text"] for failed in one.failed] == [
        'a table or index is damaged: btree index "board.public.pk": ERROR:  lacks a tuple',
        "a page is damaged: checksum verification failed in file x, block 5",
    ]
    said["pg_controldata"] = (0, "Data page checksum version:           0\n")
    other = drill.Drill(settings)
    other.checksums({})
    assert (other.failed, other.notes[0][:34]) == ([], "the cluster has no data checksums,")


# What pg_amcheck 15 printed of indexes whose functions find others by search_path.
BY_PATH = """btree index "board.public.by_un":
    ERROR:  function unacc(text) does not exist
    LINE 1:  select unacc($1)\x20
                    ^
    HINT:  No function matches the given name and argument types. You might need to add explicit type casts.
    QUERY:   select unacc($1)\x20
    CONTEXT:  SQL function "f_unaccent" during inlining
btree index "board.public.by_ty":
    ERROR:  type "mood" does not exist
    LINE 1: ('a'::mood)::text
                  ^
    QUERY:  ('a'::mood)::text
    CONTEXT:  PL/pgSQL function public.f_ty(text) line 1 at RETURN
btree index "board.public.by_rel":
    ERROR:  relation "look" does not exist
    LINE 1: (select a from look limit 1)
                           ^
    QUERY:  (select a from look limit 1)
    CONTEXT:  PL/pgSQL function public.f_rel(text) line 1 at RETURN
btree index "board.public.by_op":
    ERROR:  operator does not exist: text ||| text
    LINE 1: $1 ||| $1
               ^
    HINT:  No operator matches the given name and argument types. You might need to add explicit type casts.
    QUERY:  $1 ||| $1
    CONTEXT:  PL/pgSQL function public.f_op(text) line 1 at RETURN
"""
DAMAGED = """btree index "board.public.pk":
    ERROR:  heap tuple (0,5) from table "posts" lacks matching index tuple within index "pk"
    HINT:  Retrying verification using bt_index_parent_check() might provide a more specific error.
"""


def test_an_index_whose_function_needs_a_search_path_is_no_damage(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: True)

    def checked(said: str) -> drill.Drill:
        def outcome(_: list[str], options: str) -> tuple[int, str]:
            assert options == "-c client_min_messages=error"
            return 2, said

        monkeypatch.setattr(side, "outcome", outcome)
        one = drill.Drill(settings)
        one.amcheck({})
        return one

    one = checked(BY_PATH)
    assert (one.failed, len(one.notes)) == ([], 4)
    assert one.notes[0] == (
        "index board.public.by_un cannot be checked, nor made from a dump: its function needs a search_path "
        "(function unacc(text) does not exist)"
    )
    for said in (BY_PATH + DAMAGED, DAMAGED + BY_PATH):
        one = checked(said)
        assert [failed["text"][:70] for failed in one.failed] == [
            'a table or index is damaged: btree index "board.public.pk": ERROR:  heap tuple'[:70]
        ]
        assert len(one.notes) == 4
    # It is no function that misses it.
    missing = 'btree index "b.public.x":\n    ERROR:  relation "x" does not exist\n'
    for said in (missing, "pg_amcheck: error: gone\n", ""):
        one = checked(said)
        assert (len(one.failed), one.notes) == (1, [])


# The instance -----------------------------------------------------------------------------------------------

CONTROL = """pg_control version number:            1700
max_connections setting:              120
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
"""


def test_settings_are_never_smaller_than_where_the_wal_comes_from() -> None:
    found = side.at_least(CONTROL, {"max_connections": 200, "max_worker_processes": 4})
    assert found == {
        "max_connections": 200, "max_worker_processes": 8, "max_wal_senders": 10,
        "max_locks_per_transaction": 64,
    }  # fmt: skip
    found = side.at_least(CONTROL.replace("xacts setting:           0", "xacts setting:           9"), {})
    assert found["max_prepared_transactions"] == 9


def test_there_is_room_for_two_segments_of_wal_of_any_size() -> None:
    # Else PostgreSQL does not start: "min_wal_size" must be at least twice "wal_segment_size".
    text = f"{CONTROL}Bytes per WAL segment:                67108864\n"
    assert side.wal_sizes(text) == {"min_wal_size": "128MB", "max_wal_size": "256MB"}
    assert side.wal_sizes(text.replace("67108864", "1073741824"))["max_wal_size"] == "4096MB"
    assert side.wal_sizes(CONTROL) == {"min_wal_size": "32MB", "max_wal_size": "256MB"}


def test_it_is_closed_and_does_nothing_that_the_live_one_does(tmp_path: Path) -> None:
    text = side.configuration(tmp_path, 5432, 17, {"max_connections": 9}, hot_standby="off")
    for line in (
        "listen_addresses = ''", f"unix_socket_directories = '{tmp_path}/socket'", "archive_mode = 'off'",
        "shared_preload_libraries = ''", "max_logical_replication_workers = '0'", "max_connections = '9'",
        "hot_standby = 'off'", "event_triggers = 'off'", "shared_buffers = '128MB'",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "event_triggers" not in side.configuration(tmp_path, 5432, 15, {})
    auto = (
        "archive_command = 'x'\nrestore_command = 'get'\nrecovery_target_time = 't'\nshared_buffers = '9GB'\n"
    )
    assert side.recovery(auto) == "restore_command = 'get'\nrecovery_target_time = 't'\n"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("raised from local-1 protocol: zst error: [-20] Data corruption detected [FormatError] on 2 retries "
         "from 262-15329ms: zst error",
         "a file of it is damaged (zst error: [-20] Data corruption detected)"),
        ("error restoring 'base/1/2': actual checksum 'a' does not match expected checksum 'b'",
         "a file of it is damaged (error restoring 'base/1/2': actual checksum 'a' does not match expected "
         "checksum 'b')"),
        ("unable to write '/x': [28] No space left on device",
         "unable to write '/x': [28] No space left on device"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_called_that(said: str, sentence: str) -> None:
    assert side.plain(said) == sentence


def test_why_it_did_not_start_is_in_its_log() -> None:
    log = (
        "2026 LOG:  starting\nP00  ERROR: [082]: unable to get a segment\n"
        "2026 FATAL:  WAL ends before end of online backup\nHINT: x\n2026 FATAL:  other\n"
    )
    assert side.why(log) == "WAL ends before end of online backup; unable to get a segment"
    assert side.why("LOG: fine\n") == ""
    # It was asked whether it is up.
    polled = "2026 FATAL:  the database system is starting up\n2026 FATAL:  the database system is not yet\n"
    assert side.why(polled + log) == side.why(log)
    assert side.why(polled) == ""


def test_the_end_of_replay_is_in_the_new_timelines_history(tmp_path: Path) -> None:
    assert side.ended_at(tmp_path) == ""
    folder = tmp_path / "data/pg_wal"
    folder.mkdir(parents=True)
    (folder / "00000002.history").write_text("1\t0/3000000\tno recovery target specified\n")
    (folder / "00000003.history").write_text(
        "1\t0/3000000\tno recovery target specified\n\n2\t0/5000060\tno recovery target specified\n"
    )
    assert side.ended_at(tmp_path) == "0/5000060"


def test_only_a_server_of_this_folder_is_ended(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with subprocess.Popen(["/bin/sleep", "60"], cwd="/") as other:
        # After a power cut its number is somebody else's.
        (data / "postmaster.pid").write_text(f"{other.pid}\n{data}\n")
        side.remove(tmp_path)
        assert other.poll() is None
        assert not data.exists()
        other.kill()
    data.mkdir()
    # A shell ignores this signal for what it runs in the background, and so would the child.
    before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    with subprocess.Popen(["/bin/sleep", "60"], cwd=data) as own:
        signal.signal(signal.SIGQUIT, before)
        (data / "postmaster.pid").write_text(f"{own.pid}\n{data}\n")
        end = time.monotonic() + 30
        while side.postmaster(data) != own.pid and time.monotonic() < end:
            time.sleep(0.01)
        side.remove(tmp_path)
        assert own.wait(30) == -signal.SIGQUIT
    assert not data.exists()


def test_what_is_removed_leads_nowhere_else(tmp_path: Path) -> None:
    folder, precious = tmp_path / "drill", tmp_path / "precious"
    (folder / "data/pg_tblspc").mkdir(parents=True)
    precious.mkdir()
    (precious / "row").write_text("x")
    (folder / "data/pg_tblspc/9").symlink_to(precious)
    (folder / "tablespaces").symlink_to(precious)
    (folder / "log").write_text("x")
    side.remove(folder)
    assert list(folder.iterdir()) == []
    assert (precious / "row").exists()


def test_what_it_takes_is_counted_with_its_tablespaces_once(tmp_path: Path) -> None:
    for path in ("data/base", "tablespaces/fast", "data/pg_tblspc"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("data/base/1", "tablespaces/fast/2"):
        (tmp_path / path).write_bytes(b"x" * 100_000)
    (tmp_path / "data/pg_tblspc/9").symlink_to(tmp_path / "tablespaces/fast")
    assert 200_000 <= backup.taken(tmp_path) < 300_000


def test_it_runs_by_itself_beside_the_others(tmp_path: Path) -> None:
    for module in (backup, side, drill, offsite, reasons):
        path = tmp_path / "berth" / f"{Path(module.__file__).name}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(Path(module.__file__).read_text())
    words = [sys.executable, "-I", str(tmp_path / "berth/drill.py"), "what"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "drill.py takes no argument\n")


@pytest.mark.parametrize(("kind", "limit"), [("drill", "12h"), ("full", "24h"), ("dump", "24h")])
def test_one_that_hangs_holds_up_the_others_for_hours_and_not_for_ever(kind: str, limit: str) -> None:
    template = Path("roles/backup/templates/backup.service.j2").read_text()
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 (no HTML)
    environment.filters["comment"] = str
    cluster = {"version": "17", "name": "main"}
    text = environment.from_string(template).render(
        __backup_kind=kind, __backup_what={kind: kind}, backup_cluster=cluster, backup_offsite={"places": []}
    )
    assert [line for line in text.splitlines() if line.startswith("Timeout")] == [f"TimeoutStartSec={limit}"]


def test_a_restore_by_sftp_goes_on_where_its_session_had_too_many_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pgBackRest closes none that it reads a part of before its end; a server allows about a thousand."""
    asked: list[tuple[str, ...]] = []
    limit = (
        "raised from local-1 protocol: unable to open file '/b/bundle/2' for read: libssh2 error [-31]: sftp "
        "error [4] failure"
    )

    def pgbackrest(_: dict[str, Any], *words: str) -> None:
        asked.append(words)
        if len(asked) < 4:
            # The third brings no more than the second: something else is wrong.
            (tmp_path / f"file{min(len(asked), 2)}").touch()
            raise backup.BackupError(limit)

    monkeypatch.setattr(backup, "pgbackrest", pgbackrest)
    with pytest.raises(backup.BackupError, match=r"^unable to open file '/b/bundle/2' for read"):
        side.pgbackrest_restore({"config": "/etc/nas.conf"}, tmp_path, "--archive-mode=off")
    first = ("--process-max=4", "--archive-mode=off", "restore")
    assert asked == [first, *[(first[0], "--delta", *first[1:])] * 2]
    side.pgbackrest_restore({}, tmp_path)
    assert asked[-1] == ("restore",)

    def refuse(*_: Any) -> None:
        asked.append(())
        raise backup.BackupError("unable to open file '/b/x' for read: [13] Permission denied")

    monkeypatch.setattr(backup, "pgbackrest", refuse)
    with pytest.raises(backup.BackupError, match="Permission denied"):
        side.pgbackrest_restore({}, tmp_path)
    assert len(asked) == 5
