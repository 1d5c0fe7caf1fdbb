"""Backups from the first run on: rows are written all along, and what is restored holds every one of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testhost import Host

from tests.support.kit import Kit
from tests.support.pace import patience
from tests.support.wal import REPOSITORY, archived

RESTORED = "/var/lib/postgresql/restored"
# Each row is noted once its commit has been acknowledged.
WRITER = """
echo $$ > /tmp/writer.pid
for n in $(seq 100000); do
  [ ! -e /tmp/stop ] || exit 0
  runuser -u postgres -- psql -qXAt -d ledger -c "insert into rows values ($n)" || exit 1
  echo $n >> /tmp/acknowledged
  sleep 0.1
done
"""


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A provisioned host, with a database of nobody's."""
    host = boot("backup", provisioned=True)
    kit = Kit(tmp_path_factory.mktemp("backup"), host)
    host.sh("runuser -u postgres -- createdb ledger")
    sql(kit, "create table rows (n bigint primary key, at timestamptz default clock_timestamp())")
    return kit


@pytest.fixture
def writer(kit: Kit) -> Iterator[Callable[[], list[int]]]:
    """Commits numbered rows until it is asked which ones."""
    kit.host.sh(f"setsid bash -c '{WRITER}' > /tmp/writer.log 2>&1 < /dev/null &")

    def stop() -> list[int]:
        kit.host.sh("touch /tmp/stop; while kill -0 $(cat /tmp/writer.pid) 2> /dev/null; do sleep 0.1; done")
        return [int(line) for line in kit.host.sh("cat /tmp/acknowledged").split()]

    try:
        yield stop
    finally:
        kit.host.sh("touch /tmp/stop")


def sql(kit: Kit, query: str, server: str = "", database: str = "ledger") -> str:
    return kit.host.sh(f'runuser -u postgres -- psql -qXAt {server} -d {database} -c "{query}"')


def saved(kit: Kit) -> dict[str, Any]:
    found: dict[str, Any] = json.JSONDecoder().raw_decode(kit.berth("backups", "--json"))[0]
    return found


def restored(kit: Kit) -> list[int]:
    """The rows of a copy beside the live one, made of the repository alone."""
    version = kit.host.sh("pg_lsclusters -h | cut -d' ' -f1").strip()
    binaries = f"/usr/lib/postgresql/{version}/bin"
    kit.host.sh(
        f"set -e; rm -rf {RESTORED}; install -d -o postgres -g postgres -m 700 {RESTORED}; cd /;"
        f"runuser -u postgres -- pgbackrest --stanza=main --pg1-path={RESTORED} --archive-mode=off restore;"
        f"cd {RESTORED}; echo 'local all postgres peer' > pg_hba.conf; touch postgresql.conf pg_ident.conf;"
        "chown postgres: *.conf; connections=$(runuser -u postgres -- psql -XAtc 'show max_connections');"
        f'runuser -u postgres -- {binaries}/pg_ctl -D {RESTORED} -w -s -l {RESTORED}/log start -o "-p 5433'
        " -c listen_addresses='' -c unix_socket_directories=/tmp -c archive_mode=off"
        ' -c max_connections=$connections -c shared_buffers=32MB"'
    )
    server, end = "-h /tmp -p 5433", time.monotonic() + patience(60)
    while sql(kit, "select pg_is_in_recovery()", server, "postgres").strip() != "f":
        assert time.monotonic() < end
        time.sleep(0.2)
    rows = [int(line) for line in sql(kit, "select n from rows order by n", server).split()]
    assert sql(kit, "show data_checksums", server).strip() == "on"
    kit.host.sh(
        f"runuser -u postgres -- {binaries}/pg_ctl -D {RESTORED} -m immediate -s stop; rm -rf {RESTORED}"
    )
    return rows


def test_the_first_run_ends_with_a_backup_and_the_second_changes_nothing(kit: Kit) -> None:
    found = saved(kit)
    # The host is as it was provisioned, which may have been days ago.
    assert {one["code"] for one in found["findings"]} <= {"old", "dump", "no-drill"}, found["findings"]
    assert found["backups"][0]["kind"] == "full"
    assert found["archiving"]["ours"]
    assert set(found["timers"].values()) == {"active"}
    assert found["window"]["from"]
    run = kit.play("playbooks/provision.yml", "--tags", "postgresql,backup", "--diff", "-vvv")
    assert run.changed == 0, run.output
    key = kit.host.sh("cat /etc/berth/backup/key").strip()
    assert len(key) == 48
    assert key not in run.output
    modes = kit.host.sh(f"stat -c '%a %U' /etc/berth/backup/key /etc/pgbackrest/pgbackrest.conf {REPOSITORY}")
    assert modes.splitlines() == ["600 root", "640 root", "750 postgres"]


def test_what_was_written_before_and_during_a_backup_is_restored(
    kit: Kit, writer: Callable[[], list[int]]
) -> None:
    kit.berth("backup")
    numbers = writer()
    assert len(numbers) > 5
    archived(kit.host)
    assert restored(kit) == numbers
    assert saved(kit)["backups"][-1]["kind"] == "incremental"
    kit.host.sh("systemctl start berth-backup-dump")
    (dump,) = (one["file"] for one in saved(kit)["dumps"] if one["of"] == "ledger")
    assert "TABLE DATA public rows" in kit.host.sh(f"pg_restore --list {dump}")


def test_an_archive_that_takes_nothing_is_named_and_nothing_is_lost(kit: Kit) -> None:
    folders = kit.host.sh(f"find {REPOSITORY}/archive/main -type d").split()
    failed = "select failed_count from pg_stat_archiver"
    before = sql(kit, failed)
    kit.host.sh(f"chmod 500 {' '.join(folders)}")
    sql(kit, "insert into rows values (1000000)")
    sql(kit, "select pg_switch_wal()")
    end = time.monotonic() + patience(60)
    while sql(kit, failed) == before:
        assert time.monotonic() < end
        time.sleep(0.2)
    said = kit.berth("check-backups", status=1)
    assert "Archiving WAL fails" in said
    assert "a segment waits" in said
    assert "archiving WAL fails" in kit.berth("status")
    kit.host.sh(f"chmod 750 {' '.join(folders)}")
    archived(kit.host)
    assert "Backups are well" in kit.berth("check-backups")


def test_without_backups_no_more_are_made_and_none_is_lost(kit: Kit) -> None:
    before = kit.host.sh(f"find {REPOSITORY}/backup -name '*.manifest' | sort")
    kit.server["backup"] = {"enabled": False}
    kit.play("playbooks/provision.yml", "--tags", "postgresql,backup")
    assert sql(kit, "show archive_mode").strip() == "off"
    assert "berth-backup" not in kit.host.sh("systemctl list-timers --all --no-legend --plain")
    assert kit.host.sh(f"find {REPOSITORY}/backup -name '*.manifest' | sort") == before
    assert "There are no backups on this server" in kit.berth("check-backups", status=1)
    assert "backups:" not in kit.berth("status")
