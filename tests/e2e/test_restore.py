"""What was backed up, restored beside the live one, to the transaction, until it is dropped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testhost import Host

from tests.support.kit import Kit
from tests.support.pace import patience

FOLDER = "/var/lib/postgresql/berth-restored"
SOCKET = f"-h {FOLDER}/socket"
UNIT = "berth-backup-restored.service"


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A provisioned host with a backup, and rows that came after it, one to a transaction."""
    host = boot("restore", provisioned=True)
    kit = Kit(tmp_path_factory.mktemp("restore"), host)
    host.sh("runuser -u postgres -- createdb ledger")
    sql(kit, "create table rows (n int primary key, at timestamptz default clock_timestamp())")
    host.sh("systemctl start berth-backup-full.service; sleep 2")
    for first, last in ((1, 10), (11, 20)):
        for number in range(first, last + 1):
            sql(kit, f"insert into rows values ({number})")
        host.sh("sleep 1.1")
    return kit


@pytest.fixture(autouse=True)
def dropped(kit: Kit) -> Iterator[None]:
    """Nothing of a restore is left to the next test."""
    yield
    kit.host.sh(
        f"systemctl stop {UNIT}; runuser -u postgres -- python3 -I /usr/local/lib/berth/restore.py drop"
    )


def sql(kit: Kit, query: str, server: str = "") -> str:
    return kit.host.sh(f'cd /; runuser -u postgres -- psql -qXAt {server} -d ledger -c "{query}"').strip()


def answer(kit: Kit, *arguments: str) -> dict[str, Any]:
    said = kit.berth("restore", "--json", *arguments)
    # What is done meanwhile is told on standard error, which comes along here.
    found: dict[str, Any] = json.loads(said[said.index("{") :])
    return found


def test_the_latest_stands_beside_the_live_one_until_it_is_dropped(kit: Kit) -> None:
    said = kit.berth("restore", "--", "--check")
    assert "Would restore all databases to the latest commit" in said
    assert kit.host.sh(f"ls -A {FOLDER}").strip() == ""
    said = kit.berth("restore")
    assert "Every table has as many rows as the live one." in said
    assert sql(kit, "select count(*) from rows", SOCKET) == "20"
    assert sql(kit, "show default_transaction_read_only; show archive_mode", SOCKET) == "on\noff"
    assert "A restored server stands here already" in kit.berth("restore", status=2)
    assert "a restored server of the latest commit stands here since" in kit.berth("status")
    assert "A restored server of the latest commit stands here" in kit.berth("check-backups", status=0)
    assert kit.play("playbooks/provision.yml", "--tags", "backup").changed == 0
    assert kit.host.sh(f"systemctl is-active {UNIT}").strip() == "active"
    assert "The restored server is gone" in kit.berth("restore", "--drop")
    assert kit.host.sh(f"ls -A {FOLDER}").strip() == ""
    assert "No restored server is there." in kit.berth("restore", "--drop")


def test_a_moment_is_kept_to_the_transaction_and_lost_rows_come_back(kit: Kit) -> None:
    between = sql(kit, "select max(at) + interval '0.5 s' from rows where n <= 10")
    found = answer(kit, "--to-time", between)
    assert sql(kit, "select max(n), count(*) from rows", SOCKET) == "10|10"
    (row,) = found["differs"]
    assert (row["table"], row["restored"], row["live"]) == ("public.rows", 10, 20)
    sql(kit, "delete from rows where n in (3, 4)")
    kit.host.sh(
        f"cd /; runuser -u postgres -- pg_dump {SOCKET} -t public.rows --data-only --inserts "
        "--on-conflict-do-nothing ledger | runuser -u postgres -- psql -qX -1 -v ON_ERROR_STOP=1 ledger"
    )
    assert sql(kit, "select count(*) from rows") == "20"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to-time", "2020-01-01 00:00:00+00"), "is before what can be restored, which begins at"),
        (("--to-time", "2199-01-01 00:00:00+00"), "is in the future"),
        (("--to-time", "soon"), "is no time with its zone"),
        (("--to-release", "20260101T000000Z-abcdef0", "--app", "board"), "there is no release"),
    ],
)
def test_what_cannot_be_restored_is_one_sentence_and_changes_nothing(
    kit: Kit, arguments: tuple[str, ...], said: str
) -> None:
    assert said in kit.berth("restore", *arguments, status=2)
    assert kit.host.sh(f"ls -A {FOLDER}").strip() == ""


def test_what_a_power_cut_left_does_not_come_back_and_is_dropped(kit: Kit) -> None:
    kit.berth("restore")
    kit.host.power_off()
    kit.host.power_on()
    assert kit.host.sh(f"systemctl is-active {UNIT} || true").strip() == "inactive"
    assert "lies here and does not run any more" in kit.berth("check-backups", status=0)
    assert "The restored server is gone" in kit.berth("restore", "--drop")


# Takes the data folder away from under who writes rows, and notes each that was committed.
DATA = "cd /; data=$(echo /var/lib/postgresql/*/main)"
LOSE = """
touch /run/writer
write() { runuser -u postgres -- psql -qXAt -d ledger -c "insert into rows values ($1)" 2> /dev/null; }
( n=2000; while [ -e /run/writer ]; do n=$((n + 1)); write $n && echo $n; done > /run/committed ) &
until [ "$(wc -l < /run/committed)" -ge 10 ]; do sleep 0.1; done
find $data -mindepth 1 -maxdepth 1 ! -name pg_wal -exec rm -r {} +
sleep 1; rm /run/writer; systemctl kill -s KILL 'postgresql@*'; wait; systemctl stop 'postgresql@*'
"""


@pytest.mark.parametrize("disk", ["", pytest.param("mount --bind $data $data", marks=pytest.mark.long)])
def test_a_data_folder_that_is_lost_under_a_writer_is_rescued_with_all_rows(kit: Kit, disk: str) -> None:
    """Those that no archive has are in pg_wal alone. Also on a disk of its own, and cut off meanwhile."""
    assert "Postgres is running" in kit.berth("rescue", "--confirm", "rescue", status=2)
    sql(kit, "delete from rows where n > 1000")
    if disk:
        kit.host.sh(f"systemctl stop 'postgresql@*'; {DATA}; {disk}; systemctl restart postgresql")
    kit.host.sh(f"{DATA}; {LOSE}")
    assert "segments are left in" in kit.berth("rescue", "--", "--check")
    assert "confirm: Restores all databases" in kit.berth("rescue", "--confirm", "no", status=2)
    if disk:
        run = kit.start("playbooks/rescue.yml", "-e", "confirm=rescue")
        moved = "ls -d /var/lib/postgresql/*/main.lost-*/pg_wal"
        kit.host.sh(f"timeout 120 sh -c 'until {moved}; do sleep 0.05; done' 2> /dev/null")
        kit.host.sh("pkill -9 -f '/berth/[r]escue.py restore'; pkill -9 pgbackrest; true")
        assert "Nothing is rescued yet: it was cut off." in run.communicate(timeout=patience(300))[0]
    said = kit.berth("rescue", "--confirm", "rescue")
    assert "Postgres is back" in said
    assert re.search(r"Last commit: \d{4}-", said), said
    committed = set(kit.host.sh("cat /run/committed").split())
    assert committed <= set(sql(kit, "select n from rows").split())
    assert len(committed) >= 10
    assert sql(kit, "select pg_is_in_recovery()") == "f"
    assert kit.play("playbooks/provision.yml", "--tags", "postgresql,backup").changed == 0
    kit.host.sh("rm -r /var/lib/postgresql/*/main.lost-*")
