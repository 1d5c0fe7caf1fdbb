"""A place off the server may be away without a loss here, and what is restored from it is whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support.kit import Kit
from tests.support.pace import patience
from tests.support.storage import make

KEY = "kV9zQm3TrustNoOne7xWb2LpYc5Hd8Rf"
STATE = "/var/lib/berth/backup/offsite/storage.relay.json"


@pytest.fixture(scope="module")
def storage(boot: Callable[..., Host]) -> Host:
    """A bare host, to be another server."""
    return boot("storage")


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], storage: Host, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A provisioned host that keeps its backups there as well."""
    folder: Path = tmp_path_factory.mktemp("offsite")
    place, opens = make(storage, folder)
    server = {"proxy": {"tls": "internal"}, "backup": {"offsite": [place]}}
    secrets = {"key": KEY, "offsite": {"storage": opens}}
    kit = Kit(folder, boot("offsite", provisioned=True), server=server, vault={"server": {"backup": secrets}})
    kit.play("playbooks/provision.yml", "--tags", "postgresql,backup")
    return kit


def relay(kit: Kit) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kit.host.sh(f"cat {STATE}"))
    return found


def wait(kit: Kit, good: Callable[[dict[str, Any]], bool]) -> None:
    end = time.monotonic() + patience(90)
    while not good(relay(kit)):
        assert time.monotonic() < end, relay(kit)
        time.sleep(1)


def sql(kit: Kit, query: str) -> str:
    return kit.host.sh(f'runuser -u postgres -- psql -qXAt -d postgres -c "{query}"')


def test_a_place_gets_backups_and_is_away_without_a_loss_here(kit: Kit, storage: Host) -> None:
    assert kit.play("playbooks/provision.yml", "--tags", "postgresql,backup").changed == 0
    assert "storage" in kit.berth("backup")
    sql(kit, "create table rows (n int)")
    failed = "select failed_count from pg_stat_archiver"  # some, before there is a repository
    before = sql(kit, failed)
    storage.sh("systemctl stop ssh.socket ssh.service")
    for number in range(3):
        sql(kit, f"insert into rows values ({number}); select pg_switch_wal()")
    wait(kit, lambda known: known["behind"] >= 3 and "cannot be reached" in known["problem"])
    assert sql(kit, failed) == before
    storage.sh("systemctl start ssh.service")
    last = sql(kit, "select pg_walfile_name(pg_switch_wal() - 1)")
    wait(kit, lambda known: known["pushed"] >= last and not known["problem"])


def test_what_is_restored_from_there_is_all_of_it(kit: Kit) -> None:
    assert "from off-site storage" in kit.berth("restore", "--from", "storage")
    server = "-h /var/lib/postgresql/berth-restored/socket"
    count = "select count(*) from rows"
    assert kit.host.sh(f'runuser -u postgres -- psql -qXAt {server} -d postgres -c "{count}"') == "3"
    kit.berth("restore", "--drop")


@pytest.mark.long
def test_a_cluster_that_is_lost_with_its_repository_is_rescued_from_there(kit: Kit) -> None:
    """What had not got there yet is in pg_wal alone."""
    sql(kit, "create table kept (n int)")
    assert "storage" in kit.berth("backup")
    kit.host.sh("systemctl stop berth-backup-relay@storage")
    sql(kit, "insert into kept values (1); select pg_switch_wal(); insert into kept values (2)")
    kit.host.sh(
        "systemctl kill -s KILL 'postgresql@*'; systemctl stop 'postgresql@*'; rm -r /var/lib/pgbackrest/*;"
        "find /var/lib/postgresql/*/main -mindepth 1 -maxdepth 1 ! -name pg_wal -exec rm -r {} +"
    )
    assert "read it from storage with --from storage" in kit.berth("rescue", "--confirm", "rescue", status=2)
    assert "at storage and all WAL" in kit.berth("rescue", "--from", "storage", "--", "--check")
    said = kit.berth("rescue", "--from", "storage", "--confirm", "rescue")
    assert "Postgres is back" in said
    assert sql(kit, "select n from kept order by n").split() == ["1", "2"]
    wait(kit, lambda known: known["pushed"].startswith("00000002") and not known["problem"])
    kit.host.sh("systemctl start berth-backup-offsite.service")
    assert "Backups are well." in kit.berth("check-backups")
    assert kit.play("playbooks/provision.yml", "--tags", "postgresql,backup").changed == 0


def test_no_secret_is_where_others_can_read_it(kit: Kit, storage: Host) -> None:
    modes = kit.host.sh("stat -c '%a %U %G' /etc/berth/backup/offsite-storage.*")
    assert set(modes.splitlines()) == {"640 root postgres"}
    assert kit.host.sh(f"grep -rl {KEY} /var/log /var/lib/berth /run || true") == ""
    assert storage.sh("grep -rlE 'create table rows|PGDMP' /berth || true") == ""
