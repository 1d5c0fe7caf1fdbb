"""What a migration's failure means."""

from __future__ import annotations

import pytest
from ansible.module_utils.berth.release import migrate


@pytest.mark.parametrize(
    ("lines", "limit", "sentence"),
    [
        (
            ["FAILED: Can't locate revision identified by 'abc'"],
            0,
            "The database is at revision abc, which this code does not have: deploy a version that has it",
        ),
        (["x"], 9, "The migration ran longer than migrations.timeout (9 s) and was stopped"),
        (["FAILED: no such thing"], 0, "The migration failed: FAILED: no such thing"),
        ([], 0, "The migration failed: exit status 1"),
    ],
)
def test_reasons(lines: list[str], limit: int, sentence: str) -> None:
    assert migrate._reason(lines, 1, "/srv/x", 5, limit) == sentence


def test_who_holds_the_lock() -> None:
    watch = migrate.Blockers("shop", "shop_owner")
    assert watch.sentence() == ""
    watch.last = "things|77|postgres|report|12"
    assert watch.sentence() == (
        " on things: pid 77 of Postgres holds it (report, user postgres, in a transaction for 12 s)"
    )
