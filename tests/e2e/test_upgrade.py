"""PostgreSQL moves from one major version to the next, and back; only rows are lost that were told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import testhost
from testhost import Host

from tests.support.kit import INTERNAL_CA, Kit, demo_apps, kill
from tests.support.pace import patience

pytestmark = [pytest.mark.long, pytest.mark.timeout(patience(3600), func_only=True)]

POSTGRES = ("--tags", "postgresql,backup")
STATE = "/var/lib/berth/postgresql.upgrade/state.json"
UNIT = "berth-upgrade-postgresql.service"
# The old version is that of the suite before: of its packages nothing else comes.
SUITE, BEFORE, OLD, NEW = "trixie", "bookworm", "15", "17"
KEPT = "board_before_20261101_000000"
# A client that notes each answer, for as long as its file is there.
CLIENT = f"""
touch /run/client; rm -f /run/answers
while [ -e /run/client ]; do
  curl -s -o /dev/null --cacert {INTERNAL_CA} --resolve board.localhost:443:127.0.0.1 -m 60 \
    -w '%{{http_code}} %header{{retry-after}}\\n' https://board.localhost/readyz >> /run/answers; sleep 0.1
done
"""


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host of today's suite with an app on the PostgreSQL of the suite before, and rows in it."""
    if SUITE not in testhost.suites():
        pytest.skip(f"{BEFORE} beside {SUITE} needs a Debian machine")
    host = boot("upgrade", suite=SUITE)
    lines = "\n".join(testhost.apt_lines(BEFORE))
    host.sh("cat > /etc/apt/sources.list.d/before.list", stdin=lines)
    pin = f"Package: *\nPin: release n={BEFORE}*\nPin-Priority: 100\n"
    host.sh("cat > /etc/apt/preferences.d/before; apt-get -q update", stdin=pin)
    apps = [app for app in demo_apps() if app["name"] == "board"]
    kit = Kit(tmp_path_factory.mktemp("upgrade"), host, apps=apps, server=server(OLD))
    kit.play("site.yml")
    sql(kit, "create table ledger (n int primary key, t text)")
    sql(kit, "insert into ledger select g, md5(g::text) from generate_series(1, 20000) g")
    sql(kit, f"create database {KEPT}")
    sql(kit, f"alter database {KEPT} allow_connections false")
    return kit


def server(version: str) -> dict[str, object]:
    return {"proxy": {"tls": "internal"}, "postgresql": {"version": version}}


def sql(kit: Kit, query: str) -> str:
    return kit.host.sh(f'cd /; runuser -u postgres -- psql -qXAt -d board -c "{query}"').strip()


def serves(kit: Kit, version: str) -> None:
    """Everything is in place, and nothing of a move is left."""
    assert sql(kit, "show server_version").startswith(f"{version}.")
    assert sql(kit, "show port") == "5432"
    assert kit.curl("https://board.localhost/readyz", "-o", "/dev/null", "-w", "%{http_code}") == "200"
    units = kit.host.sh("systemctl is-active 'board-*' || true").split()
    assert set(units) == {"active"}
    assert len(units) == 4  # socket, web, worker and the job's timer
    assert kit.host.sh(f"ls /run/berth/board; ls /etc/systemd/system/{UNIT} 2>&1 || true").count("\n") == 1
    assert kept_is_shut(kit)


def kept_is_shut(kit: Kit) -> bool:
    """The database that berth restore --undo goes back to is there, and takes no connections."""
    return sql(kit, f"select datallowconn from pg_database where datname = '{KEPT}'") == "f"


def until(kit: Kit, phase: str) -> None:
    kit.host.sh(
        f"""timeout 900 sh -c 'until grep -q "phase.: .{phase}." {STATE}; do sleep 0.1; done'""", timeout=900
    )


def test_to_look_changes_nothing_and_an_inventory_that_names_the_old_one_is_refused(kit: Kit) -> None:
    said = kit.berth("upgrade-postgresql")
    assert f"PostgreSQL {OLD} would be moved to {NEW}" in said
    assert "(app board)" in said
    assert f'rite server.postgresql.version: "{NEW}"' in said
    assert f'write "{NEW}" there first' in kit.berth("upgrade-postgresql", "--confirm", NEW, status=2)
    for arguments, refused in (
        (("--to", "99"), "apt offers no PostgreSQL 99"),
        (("--to", OLD), f"PostgreSQL {OLD} is what this server has"),
        (("--undo",), "There is nothing to undo"),
        (("--drop-old",), "No cluster is kept"),
    ):
        assert refused in kit.berth("upgrade-postgresql", *arguments, status=2)
    kit.server = server(NEW)
    said = kit.play("playbooks/provision.yml", *POSTGRES, succeed=False).output
    assert re.sub(r"\s+", " ", said).count(f"move the data first: berth upgrade-postgresql --to {NEW}")
    assert kit.play("playbooks/upgrade-postgresql.yml", "-e", f"confirm={NEW}", "--check").changed == 0
    assert kit.host.sh("ls /etc/postgresql") == OLD


def test_cut_off_while_it_copies_it_goes_back_by_itself(kit: Kit) -> None:
    run = kit.start("playbooks/upgrade-postgresql.yml", "-e", f"confirm={NEW}")
    until(kit, "copy")
    kill(run)
    kit.host.sh(f"systemctl kill -s KILL {UNIT}")
    until(kit, "failed")
    kit.host.sh(f"timeout 60 sh -c 'while [ -e /etc/systemd/system/{UNIT} ]; do sleep 0.1; done'")
    assert "cut off in step copy" in kit.host.sh(f"cat {STATE}")
    serves(kit, OLD)
    assert sql(kit, "select count(*) from ledger") == "20000"


def test_it_moves_and_every_row_and_the_backups_come_along(kit: Kit) -> None:
    kit.host.sh("cat > /root/client", stdin=CLIENT)
    kit.host.sh("nohup bash /root/client > /dev/null 2>&1 &")
    said = kit.berth("upgrade-postgresql", "--confirm", NEW)
    kit.host.sh("rm -f /run/client")
    assert f"PostgreSQL {NEW} serves, and every app that was well is well." in said
    serves(kit, NEW)
    assert sql(kit, "select count(*), sum(n) from ledger") == "20000|200010000"
    assert {line.strip() for line in kit.host.sh("cat /run/answers").splitlines()} <= {"200", "503 5"}
    found = json.loads(
        kit.host.sh("cd /; runuser -u postgres -- pgbackrest --stanza=main info --output=json")
    )[0]
    assert found["backup"][-1]["database"]["id"] == found["db"][-1]["id"]
    assert found["db"][-1]["version"] == NEW
    backups = kit.berth("backups")
    assert f"full of PostgreSQL {OLD}" in backups
    assert "can be restored." in backups
    assert "Backups are well." in kit.berth("check-backups")
    assert f"the stopped cluster of PostgreSQL {OLD} is kept" in kit.berth("status")
    assert kit.play("site.yml").changed == 0
    kit.berth("drill")
    kit.server = server(OLD)
    said = re.sub(r"\s+", " ", kit.play("playbooks/provision.yml", *POSTGRES, succeed=False).output)
    assert f'write server.postgresql.version: "{NEW}"' in said
    kit.server = server("")
    assert kit.play("playbooks/provision.yml", *POSTGRES).changed == 0


def test_undone_it_says_what_is_lost_and_serves_as_before(kit: Kit) -> None:
    sql(kit, "insert into ledger values (0, 'late')")
    said = kit.berth("upgrade-postgresql", "--undo")
    assert "board: public.ledger 1" in said
    assert "would be LOST" in said
    serves(kit, NEW)
    assert f"PostgreSQL {OLD} serves" in kit.berth("upgrade-postgresql", "--undo", "--confirm", OLD)
    serves(kit, OLD)
    assert sql(kit, "select count(*), sum(n) from ledger") == "20000|200010000"
    assert kit.play("playbooks/provision.yml", *POSTGRES).changed == 0
    assert "Backups are well." in kit.berth("check-backups")
    assert "is gone" in kit.berth("upgrade-postgresql", "--drop-old")
    assert kit.host.sh(
        "ls /var/lib/postgresql | grep -c main || true; ls -d /etc/postgresql/*/main"
    ).endswith(f"/etc/postgresql/{OLD}/main")


def test_after_a_reboot_when_the_new_one_may_have_served_it_goes_on_by_itself(kit: Kit) -> None:
    run = kit.start("playbooks/upgrade-postgresql.yml", "-e", f"confirm={NEW}")
    until(kit, "switch")
    kit.host.power_off()
    kill(run)
    kit.host.power_on()
    until(kit, "done")
    kit.host.sh(f"timeout 60 sh -c 'while [ -e /etc/systemd/system/{UNIT} ]; do sleep 0.1; done'")
    serves(kit, NEW)
    assert sql(kit, "select count(*), sum(n) from ledger") == "20000|200010000"
