"""What psql is told of an app's database, by a psql that keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.migrations import database, lint

from tests.support.entry import board


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> database.Database:
    folder = tmp_path / "etc/berth/postgresql"
    folder.mkdir(parents=True)
    (folder / "board_owner").write_text("secret\n")
    psql = tmp_path / "psql"
    psql.write_text(f'#!/bin/sh\ncat >> {tmp_path}/told\necho "$PGUSER $PGOPTIONS" > {tmp_path}/env\n')
    psql.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return database.Database(board(database={"name": "board"}), tmp_path)


def told(tmp_path: Path) -> list[str]:
    return (tmp_path / "told").read_text().splitlines()


def test_time_outs_come_with_the_role_and_go_when_the_migration_is_over(
    asked: database.Database, tmp_path: Path
) -> None:
    given: list[str] = []

    def fail() -> None:
        with asked.timeouts(3, 900):
            given.extend(told(tmp_path))
            (tmp_path / "told").unlink()
            raise ReleaseError("broken")

    with pytest.raises(ReleaseError, match="broken"):
        fail()
    mine = 'alter role current_user in database :"DBNAME"'
    # All of it, or nothing.
    assert given[:2] == ["\\set ON_ERROR_STOP on", "begin;"]
    assert given[-1] == "commit;"
    assert f"{mine} set lock_timeout = '3s';" in given
    assert f"{mine} set statement_timeout = '900s';" in given
    undone = [line.split(" set ")[0] + " reset " + line.split()[7] + ";" for line in given[2:-1]]
    assert told(tmp_path)[2:-1] == undone
    # What it asks itself waits for as long as it waits.
    assert (tmp_path / "env").read_text() == "board_owner -c lock_timeout=0 -c statement_timeout=0\n"


def test_without_time_outs_nothing_is_migrated(asked: database.Database, tmp_path: Path) -> None:
    (tmp_path / "psql").write_text("#!/bin/sh\ncat > /dev/null\nexit 3\n")
    with pytest.raises(ReleaseError, match="took no time-outs"), asked.timeouts(3, 900):
        pytest.fail("it went on")


def test_sizes_are_asked_for_names_that_need_no_quoting(asked: database.Database, tmp_path: Path) -> None:
    (tmp_path / "psql").write_text(f"#!/bin/sh\ncat > {tmp_path}/told\necho '{{\"things\": 16384}}'\n")
    found = [
        lint.Finding(lint.LOCKS, "", "", "", "", target) for target in ("things", '"a b"', "x'); drop", "")
    ]
    assert asked.sizes(found) == {"things": 16384}
    assert asked.sizes(found[1:]) == {}
    assert "json_array_elements_text('[\"things\"]')" in " ".join(told(tmp_path))
