"""What the playbooks' own filters say."""

from __future__ import annotations

from typing import Any

from plugins.filter.wiring import (
    deploy_summary,
    drill_checks,
    files_to_recover,
    live_versions,
    recovery_summary,
)


def test_a_run_over_several_apps_ends_with_one_line_each() -> None:
    failed = {"shop": "The new release did not start: no module named x."}
    assert deploy_summary(failed, ["board", "shop", "notes"]) == (
        "1 of 3 apps failed:\n"
        "  board  live\n"
        "  shop   failed: The new release did not start: no module named x.\n"
        "  notes  live\n"
        "Next: correct it, then repeat with -e app=shop (berth deploy shop)."
    )
    assert "  board  would be deployed\n" in deploy_summary(failed, ["board", "shop"], check=True)


def app(name: str, *, redis: bool = False, **source: str) -> dict[str, Any]:
    return {"name": name, "source": source, "redis": {"enabled": redis, "persistence": True}}


COMMIT = "0123456789abcdef0123456789abcdef01234567"
APPS = [app("board", git="https://git.example.net/board"), app("shop", redis=True, path="/shop")]
LIVE = {
    "board": {"release": "20261129T120000Z-0123456", "version": COMMIT, "source": ""},
    "shop": {"release": "20261128T120000Z-f00", "version": "f00", "source": ""},
}


def test_a_question_to_what_was_restored_is_asked_as_the_role_that_reads() -> None:
    database = {"enabled": True, "name": "board_db", "user": "board_db", "owner": "board_db_owner"}
    apps = [{"name": "board", "database": database}, {"name": "plain", "database": {"enabled": False}}]
    check = {"app": "board", "query": "select true"}
    assert drill_checks([check], apps) == [{**check, "database": "board_db", "role": "board_db_ro"}]


def test_what_comes_from_git_is_deployed_as_it_was_live() -> None:
    assert live_versions(LIVE, [*APPS, app("new", git="https://git.example.net/new")]) == {"board": COMMIT}
    assert files_to_recover(APPS) == {"board": {"redis": False}, "shop": {"redis": True}}


def test_a_server_that_was_built_anew_is_told_with_what_was_lost_and_how_long_it_took() -> None:
    answers = {
        "look": {"place": "nas", "where": "keeper@nas:/berth", "run": "2026-11-30T12:00:00Z", "live": LIVE},
        "rows": {"last": "2026-11-30 11:56:00.123456 UTC"},
        "files": {
            "files": {"board": {"of": "2026-11-30T04:40:00Z", "bytes": 1}, "shop": {"of": "", "bytes": 0}}
        },
    }
    times: list[list[Any]] = [["begun", 100.0], ["secrets", 110.4], ["provision", 170], ["backups", "230.2"]]
    assert recovery_summary(answers, times, {"shop": "No code."}, APPS) == (
        "From nas (keeper@nas:/berth):\n"
        "  rows    up to the commit of 2026-11-30 11:56:00 UTC, 4 min before this began; what was committed "
        "later is lost\n"
        "  board    live; was 20261129T120000Z-0123456; files of 2026-11-30T04:40:00Z\n"
        "  shop    not live: No code.; was 20261128T120000Z-f00; no files stored; its code is that of the "
        "folder today\n"
        "It took 130 s: secrets 10 s, provision 60 s, backups 60 s."
    )
    answers["rows"] = {"last": ""}
    assert "does not tell when it committed" in recovery_summary(answers, times, {}, APPS)
