"""A restore that is rehearsed: it sees what is really wrong with backups, names it, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testhost import Host

from tests.support.kit import Kit
from tests.support.pace import patience
from tests.support.wal import REPOSITORY

FOLDER = "/var/lib/postgresql/berth-drill"
SOCKET = f"-h {FOLDER}/socket"
FLIP = (
    "import sys; f = open(sys.argv[1], 'r+b'); f.seek(0, 2); n = f.tell() // 2; f.seek(n); b = f.read(1)[0];"
    " f.seek(n); f.write(bytes([b ^ 1]))"
)


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A provisioned host, with a database of nobody's."""
    host = boot("drill", provisioned=True)
    kit = Kit(tmp_path_factory.mktemp("drill"), host)
    host.sh("runuser -u postgres -- createdb ledger")
    sql(kit, "create table rows (n bigint primary key, pad text)")
    sql(kit, "create table alembic_version (version_num text); insert into alembic_version values ('0002')")
    sql(kit, "insert into rows select g, repeat('x', 50) from generate_series(1, 20000) g")
    host.sh("systemctl start berth-backup-full.service")
    return kit


def sql(kit: Kit, query: str, server: str = "", check: bool = True) -> str:
    return kit.host.sh(f'runuser -u postgres -- psql -qXAt {server} -d ledger -c "{query}"', check=check)


def drilled(kit: Kit) -> dict[str, Any]:
    """What is reported of a drill by its unit, after which nothing of it is left."""
    unit = "berth-backup-drill.service"
    kit.host.sh(f"systemctl reset-failed {unit}; systemctl start {unit} || true")
    assert kit.host.sh(f"ls -A {FOLDER}; pgrep -f '[b]erth-drill/data' || true").strip() == ""
    found: dict[str, Any] = json.loads(kit.host.sh("cat /var/lib/berth/backup/drill.json"))
    return found


def failures(report: dict[str, Any]) -> dict[str, str]:
    return {one["check"]: one["text"] for one in report["failed"]}


@contextlib.contextmanager
def meanwhile(kit: Kit, act: Callable[[], Any]) -> Iterator[None]:
    """Do something as soon as the restored server is open, while it is looked at."""

    def wait() -> None:
        end = time.monotonic() + patience(120)
        while sql(kit, "select pg_is_in_recovery()", SOCKET, check=False).strip() != "f":
            if time.monotonic() > end:
                return
            time.sleep(0.05)
        act()

    other = threading.Thread(target=wait)
    other.start()
    try:
        yield
    finally:
        other.join()


def test_all_came_back_and_nothing_is_left(kit: Kit) -> None:
    said = kit.berth("drill")
    assert "nothing is lost" in said
    assert "Schema of ledger: 0002." in said
    report = json.JSONDecoder().raw_decode(kit.berth("drill", "--json"))[0]
    assert (report["ok"], report["failed"]) == (True, [])
    assert report["rows"]["rows"] == 20001
    steps = {one["step"]: one for one in report["steps"]}
    assert list(steps) == ["begin", "count", "archive", "restore", "replay", "amcheck", "rows", "checksums"]
    assert steps["restore"]["bytes"] > 1 << 20
    assert report["checksums"]
    assert report["last_commit"]["lost_seconds"] == 0
    assert kit.host.sh(f"ls -A {FOLDER}").strip() == ""
    assert "restored and checked in" in kit.berth("status")
    assert "drill" not in kit.berth("check-backups", status=0)


def test_a_hole_in_the_wal_is_seen_and_named(kit: Kit) -> None:
    before = sql(kit, "select pg_walfile_name(pg_switch_wal() - 1)").strip()
    sql(kit, "insert into rows select g from generate_series(20001, 20100) g")
    segment = sql(kit, "select pg_walfile_name(pg_switch_wal() - 1)").strip()
    end, path = time.monotonic() + patience(60), ""
    while not path:
        assert time.monotonic() < end
        path = kit.host.sh(f"find {REPOSITORY}/archive -name '{segment}-*' -not -name '*.tmp'").strip()
    kit.host.sh(f"mv {path} /root/segment")
    try:
        found = failures(drilled(kit))
        assert "before the drill are lost: no commit after" in found["commits"]
        assert found["commits"].endswith(f"the archive lacks what follows {before}")
        assert found["rows"] == "100 of 20100 rows of ledger: public.rows are missing in what was restored"
        verdict = kit.berth("check-backups", status=1)
        assert "The last drill failed" in verdict
    finally:
        kit.host.sh(f"mv /root/segment {path}")
    assert drilled(kit)["ok"]


def test_a_flipped_byte_a_wrong_key_and_a_full_disk_are_named(kit: Kit) -> None:
    conf = "/etc/pgbackrest/pgbackrest.conf"
    file = kit.host.sh(
        f"find {REPOSITORY}/backup/main/latest/ -type f -size +100k -printf '%s %p\\n' | sort -n | tail -1"
    ).split()[1]
    kit.host.sh(f'cp -p {file} /root/file; python3 -c "{FLIP}" {file}')
    try:
        found = failures(drilled(kit))
        assert "cannot be restored: a file of it is damaged" in found["restore"]
    finally:
        kit.host.sh(f"cp -p /root/file {file}")
    kit.host.sh(f"cp -p {conf} /root/conf; sed -i 's/^repo1-cipher-pass=.*/repo1-cipher-pass=other/' {conf}")
    try:
        found = failures(drilled(kit))
        assert "another key than today's wrote" in found["begin"]
    finally:
        kit.host.sh(f"cp -p /root/conf {conf}")
    kit.host.sh(f"mount -t tmpfs -o size=300m,mode=700,uid=$(id -u postgres) none {FOLDER}")
    try:
        found = failures(drilled(kit))
        assert "has 300 MB free, and the drill needs about" in found["begin"]
    finally:
        kit.host.sh(f"umount {FOLDER}")
    assert drilled(kit)["ok"]


def test_rows_and_a_revision_that_did_not_come_back_are_named(kit: Kit) -> None:
    def lose() -> None:
        sql(kit, "delete from rows where n <= 7; update alembic_version set version_num = '0001'", SOCKET)

    with meanwhile(kit, lose):
        found = failures(drilled(kit))
    assert found["rows"].startswith("7 of ")
    assert "is at 0001 in what was restored, and at 0002 in the live database" in found["schema"]


def test_what_is_deleted_meanwhile_is_told_and_no_failure(kit: Kit) -> None:
    sql(kit, "create table gone as select generate_series(1, 500)")
    with meanwhile(kit, lambda: sql(kit, "truncate gone; delete from rows where n > 15000")):
        report = drilled(kit)
    assert report["ok"], report["failed"]
    assert "ledger: public.gone has 0 rows in the live database now, and 500 were restored" in report["notes"]


def test_what_a_kill_left_goes_when_the_server_boots_and_with_the_next_drill(kit: Kit) -> None:
    def killed() -> None:
        kit.host.sh("systemctl start --no-block berth-backup-drill.service")
        with meanwhile(kit, lambda: kit.host.sh("systemctl kill -s KILL berth-backup-drill.service")):
            pass
        assert "data" in kit.host.sh(f"ls -A {FOLDER}")

    killed()
    assert "it was cut off" in kit.berth("check-backups", status=1)
    kit.host.sh("systemd-tmpfiles --boot --remove")
    assert kit.host.sh(f"ls -A {FOLDER}").strip() == ""
    killed()
    assert drilled(kit)["ok"]
    assert kit.host.sh("runuser -u postgres -- psql -XAtc 'select 1'").strip() == "1"


def test_without_a_schedule_there_is_none_by_the_clock(kit: Kit) -> None:
    timer = "systemctl is-enabled berth-backup-drill.timer || true"
    assert kit.host.sh(timer).strip() == "enabled"
    kit.server["backup"] = {"drill": ""}
    kit.play("playbooks/provision.yml", "--tags", "backup")
    assert kit.host.sh(timer).strip() != "enabled"
    assert "drill" not in kit.berth("check-backups", status=0)
    del kit.server["backup"]
    kit.play("playbooks/provision.yml", "--tags", "backup")
    assert kit.host.sh(timer).strip() == "enabled"


@pytest.mark.long
def test_a_question_of_ones_own_is_asked_of_what_came_back(kit: Kit) -> None:
    path = "/etc/berth/backup/settings.json"
    before = kit.host.sh(f"cat {path}")
    sql(kit, "create role ledger_ro login; grant select on rows to ledger_ro")
    queries = ("select count(*) > 0 from rows", "select count(*) < 0 from rows", "delete from rows")
    ask = {"app": "ledger", "database": "ledger", "role": "ledger_ro"}
    checks = [{**ask, "query": query} for query in queries]
    try:
        kit.host.sh(f"cat > {path}", stdin=json.dumps({**json.loads(before), "checks": checks}))
        found = [one["text"] for one in drilled(kit)["failed"]]
    finally:
        kit.host.sh(f"cat > {path}", stdin=before)
        sql(kit, "drop owned by ledger_ro; drop role ledger_ro")
    assert len(found) == 2
    assert found[0].endswith("its answer is not true")
    assert "read-only transaction" in found[1] or "permission denied" in found[1]
