"""An app's database and what was restored of it change places: names, the copy, and the swap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, exchange, side

NOW = 1796040000.0
SETTINGS: dict[str, Any] = {"socket": "/run/postgresql", "port": 5432, "version": 17, "restored": "/r"}


class Server:
    """Answers queries by their words, and keeps what it was asked."""

    def __init__(self, **answers: str) -> None:
        self.answers, self.asked = answers, []  # type: tuple[dict[str, str], list[str]]

    def words(self) -> list[str]:
        return ["-h", "live"]

    def ask(self, query: str, *_: object, **__: object) -> str:
        self.asked.append(" ".join(query.split()))
        return next((answer for word, answer in self.answers.items() if word in query), "")


def test_names_fit_sort_by_time_and_are_told_from_others() -> None:
    assert exchange.copy_of("board") == "board_restored"
    kept = exchange.kept_of("board", NOW)
    assert kept == "board_before_20261130_120000"
    assert exchange.is_kept(kept, "board")
    assert not exchange.is_kept(kept, "notes")
    assert not exchange.is_kept("board_before_lunch", "board")
    long = "x" * 57
    for name in (exchange.copy_of(long), exchange.kept_of(long, NOW)):
        assert len(name) == 63
    assert exchange.is_kept(exchange.kept_of(long, NOW), long)


def row(name: str, said: object) -> str:
    return json.dumps({"name": name, "bytes": 7, "said": json.dumps({"berth": said}) if said else None})


def test_a_comment_of_an_apps_own_names_no_other_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of a database writes its comment: what is dropped or renamed is not read there."""
    monkeypatch.setattr(exchange.drill, "tables", lambda *_: {})
    monkeypatch.setattr(exchange.drill, "revisions", lambda *_: {})
    rows = [
        row("board_before_20261130_120000", {"is": "kept", "name": "notes", "at": "then"}),
        row("board_restored", {"is": "copied", "name": "notes", "restored": "x"}),
        row("board_other", {"is": "kept"}),
    ]
    found = exchange.found(Server(json_build_object="\n".join(rows)), "board")
    assert [one["name"] for one in found["kept"]] == ["board_before_20261130_120000"]
    assert (found["copied"]["name"], found["copied"]["restored"]) == ("board_restored", "x")


@pytest.mark.parametrize("said", [None, "", "a note of mine", "[]", '{"berth": 3}'])
def test_other_comments_say_nothing(said: str | None) -> None:
    assert exchange.described(said) == {}


def test_a_copy_is_made_as_the_live_one_is() -> None:
    how = {"encoding": "UTF8", "datcollate": "C.UTF-8", "datctype": "C.UTF-8", "datconnlimit": -1}
    made = exchange.created("b", {**how, "datlocprovider": "c"})
    assert made == (
        """CREATE DATABASE "b" TEMPLATE template0 ENCODING  E'UTF8' LC_COLLATE  E'C.UTF-8' """
        """LC_CTYPE  E'C.UTF-8' LOCALE_PROVIDER libc CONNECTION LIMIT -1"""
    )
    icu = exchange.created("b", {**how, "datlocprovider": "i", "daticulocale": "de"})
    assert "LOCALE_PROVIDER icu ICU_LOCALE  E'de'" in icu
    assert exchange.assigned("b", "o", "lock_timeout=5s") == (
        """ALTER ROLE "o" IN DATABASE "b" SET lock_timeout =  E'5s'"""
    )
    assert exchange.assigned("b", "", "search_path=a, b") == 'ALTER DATABASE "b" SET search_path = a, b'
    assert exchange.granted("b", "", "CONNECT", False) == 'GRANT CONNECT ON DATABASE "b" TO PUBLIC'


LISTED = """;
; Archive created at 2026-11-30 12:00:00 UTC
;
2; 3079 16400 EXTENSION - pg_trgm
3500; 0 0 COMMENT - EXTENSION pg_trgm
6; 2615 16500 SCHEMA - trgm board_owner
215; 1259 16385 TABLE public posts board_owner
216; 1259 16390 TABLE public own notes board
3360; 0 16385 TABLE DATA public posts board_owner
217; 1259 16999 TABLE public ours postgres
3400; 826 16999 DEFAULT ACL public DEFAULT PRIVILEGES FOR TABLES postgres
"""


def test_the_owner_brings_back_what_is_its_and_a_superuser_the_rest() -> None:
    listed = LISTED.replace("pg_trgm\n", "pg_trgm \n")
    ours, others = exchange.split(listed, {"board_owner", "board"}, [["pg_trgm", "trgm"]])
    assert [line.split(";")[0] for line in ours.splitlines()] == ["215", "216", "3360"]
    assert [line.split(";")[0] for line in others.splitlines()] == ["217", "3400"]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(side, "live", lambda _: server)
    monkeypatch.setattr(exchange.time, "sleep", lambda _: None)
    monkeypatch.setattr(exchange.time, "time", lambda: NOW)
    return server


def test_the_swap_is_one_transaction_and_waits_for_whoever_came_between(
    live: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[str]] = []

    def run(argv: list[str], *_: object, **__: object) -> str:
        tried.append(argv)
        if len(tried) == 1:
            raise backup.BackupError('database "board" is being accessed by other users')
        return ""

    monkeypatch.setattr(backup, "run", run)
    request = {"database": "board", "other": "board_restored", "said": {"app": "board"}, "aside": ""}
    assert exchange.swap(SETTINGS, request)["kept"] == "board_before_20261130_120000"
    assert "-1" in tried[1]
    statements = [word for word in tried[1] if word.startswith(("ALTER", "COMMENT"))]
    assert statements[:2] == [
        'ALTER DATABASE "board" RENAME TO "board_before_20261130_120000"',
        'ALTER DATABASE "board_restored" RENAME TO "board"',
    ]
    assert sum("pg_terminate_backend" in asked for asked in live.asked) == 2
    aside = exchange.swap(SETTINGS, {**request, "aside": "board_restored", "other": "board_before_x"})
    assert aside["kept"] == "board_restored"


def test_another_refusal_of_a_swap_is_told_at_once(live: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> str:
        raise backup.BackupError("permission denied")

    monkeypatch.setattr(backup, "run", run)
    with pytest.raises(backup.BackupError, match="permission denied"):
        exchange.swap(SETTINGS, {"database": "board", "other": "x", "said": {}})
    assert len(live.asked) == 1


def copying(server: Server, folder: Path, restored: str = "now") -> tuple[Any, list[str]]:
    """A copy on this server, and how often it was filled."""
    copy = exchange.Copy(SETTINGS, {"database": "board", "owner": "board_owner", "restored": restored})
    copy.live = copy.restored = server
    copy.folder = folder
    filled: list[str] = []

    def fill() -> None:
        filled.append(copy.name)
        if restored == "broken":
            raise backup.BackupError("no room")

    copy.make, copy.fill = lambda: None, fill
    return copy, filled


@pytest.mark.parametrize(
    ("there", "filled"), [({}, True), ({"name": "n", "restored": "now"}, False), ({"name": "n"}, True)]
)
def test_a_copy_that_is_whole_is_used_again_and_one_that_was_cut_off_is_not(
    there: dict[str, Any], filled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "found", lambda *_: {"copied": there})
    monkeypatch.setattr(side, "have_room", lambda *_: None)
    copy, made = copying(Server(count="0", pg_database_size="9"), tmp_path)
    assert copy.run()["name"] == "board_restored"
    assert bool(made) is filled
    # It is whole when that is said, and not before.
    assert copy.live.asked[-1:] == (
        ['COMMENT ON DATABASE "board_restored" IS E\'' + '{"berth": {"is": "copied", "restored": "now"}}\'']
        if filled
        else []
    )
    dropped = [one for one in copy.live.asked if one.startswith("DROP")]
    assert bool(dropped) is bool(there and filled)


def test_a_database_of_somebody_elses_is_not_touched_and_a_failed_copy_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "found", lambda *_: {"copied": {}})
    monkeypatch.setattr(side, "have_room", lambda *_: None)
    with pytest.raises(backup.BackupError, match="there is a database board_restored already"):
        copying(Server(count="1"), tmp_path)[0].run()
    copy, _ = copying(Server(count="0", pg_database_size="9"), tmp_path, "broken")
    with pytest.raises(backup.BackupError, match="no room"):
        copy.run()
    assert copy.live.asked[-1].startswith("DROP DATABASE IF EXISTS")


def test_one_at_a_time_also_after_a_run_that_was_cut_off(tmp_path: Path) -> None:
    settings = {"state": str(tmp_path)}
    with exchange.alone(settings), pytest.raises(backup.BackupError, match="still at work"):
        exchange.alone(settings).__enter__()
    with exchange.alone(settings):
        pass


def test_a_table_comes_with_its_rows_or_not_at_all(live: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ['["n", "integer"]', '["\\"Te xt\\"", "text"]']
    monkeypatch.setattr(exchange, "beside", lambda _: Server(pg_attribute="\n".join(columns)))
    ran: list[list[str]] = []

    def piped(*argvs: list[str]) -> str:
        ran.extend(argvs)
        return "3"

    monkeypatch.setattr(exchange, "piped", piped)
    request = {"database": "board", "owner": "board_owner", "host": "h", "port": "1", "table": "posts"}
    assert exchange.table(SETTINGS, request)["rows"] == 3
    out, into = ran
    assert out[-1] == 'COPY (SELECT n, "Te xt" FROM "public"."posts") TO STDOUT'
    assert "-1" in into
    assert any(word.endswith('."posts" (n integer, "Te xt" text)') for word in into)

    def broken(*_: object) -> str:
        raise backup.BackupError("the source went away")

    monkeypatch.setattr(exchange, "piped", broken)
    with pytest.raises(backup.BackupError, match="went away"):
        exchange.table(SETTINGS, request)
    assert live.asked[-1].startswith("DROP SCHEMA IF EXISTS restored_")
    monkeypatch.setattr(exchange, "beside", lambda _: Server())
    with pytest.raises(backup.BackupError, match=r"there is no table public\.posts in what was restored"):
        exchange.table(SETTINGS, request)


def test_a_pipe_fails_where_either_end_does() -> None:
    assert exchange.piped(["echo", "3"], ["cat"]) == "3"
    for source, target in ((["sh", "-c", "echo 1; exit 1"], ["cat"]), (["echo", "3"], ["false"])):
        with pytest.raises(backup.BackupError, match="psql ended with 1"):
            exchange.piped(source, target)
