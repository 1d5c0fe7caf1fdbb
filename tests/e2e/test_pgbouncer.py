"""A pooler: every driver prepares statements over few connections, and a change loses no request."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from testhost import Host

from tests.e2e.test_check_mode import untouched
from tests.support.kit import INTERNAL_CA, ROOT, Kit
from tests.support.pace import patience

DRIVERS = ("asyncpg", "sqlalchemy", "psycopg", "psycopg2")
# Clients with a connection each, on the host: every answer that is not a row is told.
LOAD = textwrap.dedent(
    """
    import http.client, json, os, socket, ssl, sys, threading, time
    domain, clients, drivers = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
    trust = ssl.create_default_context(cafile=sys.argv[5])
    good, bad, lock = [], [], threading.Lock()
    def client(number):
        sock = trust.wrap_socket(socket.create_connection(("127.0.0.1", 443)), server_hostname=domain)
        web = http.client.HTTPSConnection(domain, context=trust)
        web.sock = sock
        turn = 0
        while not os.path.exists("/tmp/enough") and (sys.argv[4] == "0" or turn < int(sys.argv[4])):
            web.request("POST", "/" + drivers[(number + turn) % len(drivers)], headers={"Host": domain})
            answer = web.getresponse()
            text = answer.read().decode()
            turn += 1
            with lock:
                well = answer.status == 200 and json.loads(text)["id"]
                (good if well else bad).append(f"{answer.status} {text[:200]}")
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(json.dumps({"good": len(good), "bad": bad[:5]}))
    """
)


def app(name: str, pooled: bool) -> dict[str, Any]:
    return {
        "name": name,
        "domains": [f"{name}.localhost"],
        "source": {"path": str(ROOT / "tests/fixtures/poolapp")},
        "processes": [{"name": "web", "workers": 2}],
        "keep_releases": 2,
        "pooler": {"enabled": pooled},
    }


@pytest.fixture(scope="module")
def bare(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A server without a PgBouncer, and an inventory that asks for one."""
    host = boot("pgbouncer", provisioned=True)
    return Kit(tmp_path_factory.mktemp("pgbouncer"), host, apps=[app("one", True)])


@pytest.fixture(scope="module")
def kit(bare: Kit) -> Kit:
    """The same with an app behind it."""
    bare.play("site.yml")
    return bare


@pytest.fixture(scope="module")
def both(kit: Kit) -> Kit:
    """Another app beside it, which has no pooler."""
    kit.apps.append(app("two", False))
    kit.play("site.yml")
    return kit


def load(kit: Kit, clients: int, turns: int, drivers: tuple[str, ...] = DRIVERS) -> dict[str, Any]:
    kit.host.sh("rm -f /tmp/enough; cat > /tmp/load.py", stdin=LOAD)
    words = f"python3 /tmp/load.py one.localhost {clients} {','.join(drivers)} {turns} {INTERNAL_CA}"
    # It may go on for as long as a whole site.yml takes.
    found: dict[str, Any] = json.loads(kit.host.sh(words, timeout=patience(1200)))
    return found


@contextmanager
def under_load(kit: Kit) -> Iterator[dict[str, Any]]:
    """Clients that go on for as long as this does; then what they saw."""
    seen: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: seen.update(load(kit, 8, 0)))
    thread.start()
    try:
        yield seen
    finally:
        kit.host.sh("touch /tmp/enough")
        thread.join()


def where(kit: Kit, name: str = "one") -> Any:
    return kit.json(f"https://{name}.localhost/where")


def superuser(kit: Kit, query: str, database: str = "postgres") -> str:
    return kit.host.sh(f'cd /; runuser -u postgres -- psql -qXAt -d {database} -c "{query}"').strip()


def rows(kit: Kit, database: str) -> int:
    """Asked of Postgres itself."""
    return int(superuser(kit, "select count(*) from seen", database))


def wait_for_rows(kit: Kit, least: int) -> None:
    end = time.monotonic() + patience(60)
    while rows(kit, "one") < least:
        assert time.monotonic() < end
        time.sleep(0.2)


def wait_until_well(kit: Kit) -> None:
    """Connections that broke are noticed as they are used next."""
    end = time.monotonic() + patience(60)
    while (
        kit.curl("https://one.localhost/where", "-o", "/dev/null", "-w", "%{http_code}", check=False) != "200"
    ):
        assert time.monotonic() < end
        time.sleep(0.5)
    while load(kit, 4, 8)["bad"]:
        assert time.monotonic() < end


def wait_until_alone(kit: Kit, name: str) -> None:
    """A release that still drains is not pruned by the deploy that comes meanwhile."""
    end = time.monotonic() + patience(120)
    while len(kit.host.sh(f"systemctl list-units --no-legend '{name}-web@*.service'").splitlines()) > 1:
        assert time.monotonic() < end
        time.sleep(1)


def kept(kit: Kit) -> str:
    return superuser(kit, "select max(datname) from pg_database where datname ~ '^one_before_'")


def still(kit: Kit) -> set[str]:
    """What nobody writes but a run: without WAL, which is archived by the clock."""
    return {line for line in untouched(kit) if not line.startswith("/var/lib/pgbackrest/")}


def pid(kit: Kit) -> str:
    return kit.host.sh("systemctl show -p MainPID --value berth-pgbouncer")


@pytest.mark.long
def test_a_check_run_before_the_first_one_tells_and_changes_nothing(bare: Kit) -> None:
    before = still(bare)
    predicted = bare.play("site.yml", "--check", "--diff")
    assert "pool_size=" in predicted.output
    assert still(bare) ^ before == set()


def test_every_driver_prepares_statements_over_few_connections(kit: Kit) -> None:
    before = where(kit)
    assert before["port"] == 6432
    found = load(kit, 60, 10)
    assert found == {"good": 600, "bad": []}
    after = where(kit)
    assert after["rows"] - before["rows"] == 600
    # The pools of two workers may hold up to 160; the server has seen no more than the pool's size.
    assert after["held"] <= 20, after
    assert ":5432/" in kit.host.sh("grep DATABASE_URL /etc/berth/one/migrate.env")
    run = kit.play("playbooks/provision.yml", "--tags", "pgbouncer")
    assert run.changed == 0, run.output


@pytest.mark.long
def test_a_second_run_changes_nothing(both: Kit) -> None:
    assert where(both, "two")["port"] == 5432
    run = both.play("site.yml")
    assert run.changed == 0, run.output
    assert both.play("site.yml", "--check", "--diff").changed == 0


@pytest.mark.long
def test_one_app_goes_live_with_what_was_restored_through_it_and_back(both: Kit) -> None:
    """Whatever connections the pool has, none leads to the database that was live before."""
    kit = both
    load(kit, 4, 4)
    old = where(kit)["rows"]
    kit.berth("restore")
    before = pid(kit)
    with under_load(kit) as seen:
        wait_for_rows(kit, old + 50)
        kit.berth("restore", "--go-live", "one", "--confirm", "one")
    assert (seen["bad"], pid(kit)) == ([], before)
    now = rows(kit, "one")
    aside = kept(kit)
    superuser(kit, f"alter database {aside} allow_connections true")
    written = rows(kit, aside) - old
    superuser(kit, f"alter database {aside} allow_connections false")
    # Each answered request is a row, in the one database or the other.
    assert now + written == old + seen["good"]
    assert written >= 50
    assert now > old
    with under_load(kit) as seen:
        kit.berth("restore", "--undo", "one", "--confirm", "one")
    assert (seen["bad"], pid(kit)) == ([], before)
    assert where(kit)["rows"] == rows(kit, "one") >= old + written
    kit.berth("restore", "--drop-kept", "one", "--confirm", "one")
    kit.berth("restore", "--drop")


@pytest.mark.long
def test_nobody_else_gets_in(both: Kit) -> None:
    kit = both
    sh = kit.host.sh
    for path in ("users.txt", "pgbouncer.ini", "hba.conf"):
        said = sh(
            f"setpriv --reuid=one --regid=one --init-groups cat /etc/berth/pgbouncer/{path} 2>&1 || true"
        )
        assert "Permission denied" in said
    console = "psql -h /run/berth-pgbouncer -p 6432 -U pgbouncer pgbouncer -c 'show pools' 2>&1 || true"
    assert "ermission denied" in sh(f"setpriv --reuid=one --regid=one --init-groups {console}")
    secret = sh("cat /etc/berth/postgresql/one").strip()
    ask = "psql -h 127.0.0.1 -p 6432 -Atc 'select 1' 2>&1 || true"
    assert sh(f"PGPASSWORD={secret} PGUSER=one PGDATABASE=one {ask}") == "1"
    assert "FATAL" in sh(f"PGPASSWORD={secret} PGUSER=one PGDATABASE=two {ask}")
    assert "FATAL" in sh(f"PGPASSWORD={secret}x PGUSER=one PGDATABASE=one {ask}")
    assert "FATAL" in sh(f"PGPASSWORD={secret} PGUSER=pgbouncer PGDATABASE=pgbouncer {ask}")
    listening = [line.split()[3] for line in sh("ss -Hltn").splitlines() if ":6432" in line]
    assert listening == ["127.0.0.1:6432"]


@pytest.mark.long
def test_releases_share_the_pool_while_they_replace_each_other_and_no_request_is_lost(both: Kit) -> None:
    kit = both
    before = pid(kit)
    with under_load(kit) as seen:
        for _ in range(2):
            live = kit.release("one")
            kit.play("playbooks/deploy.yml", "-e", "app=one", "-e", "force=true")
            assert kit.release("one") != live
        assert where(kit)["held"] <= 20
    assert (seen["bad"], pid(kit)) == ([], before)
    assert seen["good"] > 100


@pytest.mark.long
def test_another_pool_comes_and_goes_and_no_request_is_lost(both: Kit) -> None:
    kit = both
    before = pid(kit)
    with under_load(kit) as seen:
        kit.apps[1]["pooler"]["enabled"] = True
        kit.play("site.yml", "-e", "app=two")
        assert where(kit, "two")["port"] == 6432
    assert (seen["bad"], pid(kit)) == ([], before)
    assert seen["good"] > 100


@pytest.mark.long
def test_a_file_that_somebody_changed_or_opened_is_put_right(both: Kit) -> None:
    kit = both
    before = pid(kit)
    spoil = "echo >> users.txt; chmod 644 hba.conf; sed -i s/pool_size=.*/pool_size=3/ pgbouncer.ini"
    kit.host.sh(f"cd /etc/berth/pgbouncer; {spoil}")
    kit.host.sh("systemctl reload berth-pgbouncer")
    run = kit.play("playbooks/provision.yml", "--tags", "pgbouncer")
    assert run.changed == 1, run.output
    assert kit.host.sh("stat -c %a /etc/berth/pgbouncer/hba.conf") == "640"
    assert pid(kit) == before
    assert kit.play("playbooks/provision.yml", "--tags", "pgbouncer").changed == 0


@pytest.mark.long
def test_a_status_tells_of_one_that_is_down_and_a_run_starts_it(both: Kit) -> None:
    kit = both
    kit.host.sh("systemctl stop berth-pgbouncer")
    try:
        said = kit.play("playbooks/status.yml", succeed=None).output
        assert "PgBouncer is down. Next: journalctl -u berth-pgbouncer on the server" in said
    finally:
        run = kit.play("playbooks/provision.yml", "--tags", "pgbouncer")
    assert run.changed == 1
    wait_until_well(kit)


@pytest.mark.long
def test_killed_or_without_power_it_is_back_by_itself(both: Kit) -> None:
    kit = both
    before = pid(kit)
    kit.host.sh("systemctl kill --signal=KILL berth-pgbouncer")
    wait_until_well(kit)
    assert pid(kit) not in (before, "0")
    kit.host.restart()
    wait_until_well(kit)
    assert where(kit)["port"] == 6432


@pytest.mark.long
def test_killed_hard_under_load_no_answered_row_is_lost_and_the_load_goes_on(both: Kit) -> None:
    """What it held breaks, and is noticed by the driver as it is used; nobody waits for somebody to come."""
    kit = both
    before, there = pid(kit), rows(kit, "one")
    with under_load(kit) as seen:
        wait_for_rows(kit, there + 50)
        kit.host.sh("systemctl kill --signal=KILL berth-pgbouncer")
        wait_for_rows(kit, rows(kit, "one") + 200)
    assert pid(kit) not in (before, "0")
    # One that broke after its commit was not answered, and is there.
    assert rows(kit, "one") - there >= seen["good"] >= 200
    wait_until_well(kit)


@pytest.mark.long
def test_a_changed_password_is_known_to_it_before_a_release_has_it(both: Kit) -> None:
    kit = both
    before = pid(kit)
    users = "cat /etc/berth/pgbouncer/users.txt"
    stored = kit.host.sh(users)
    kit.host.sh("rm /etc/berth/postgresql/one")
    kit.play("playbooks/provision.yml", "--tags", "postgresql")
    assert kit.host.sh(users) != stored
    # The role of Postgres alone was run: a deploy tells the app.
    kit.play("playbooks/deploy.yml", "-e", "app=one")
    assert load(kit, 8, 4)["bad"] == []
    assert (where(kit)["port"], pid(kit)) == (6432, before)


@pytest.mark.long
def test_another_process_in_its_place_is_named(both: Kit) -> None:
    kit = both
    thief = "import socket, time; s = socket.create_server(('127.0.0.1', 6432)); time.sleep(900)"
    kit.host.sh(f'systemctl stop berth-pgbouncer; systemd-run -q --unit=thief python3 -c "{thief}"; sleep 1')
    # As after a reboot: it is tried again and again.
    kit.host.sh("systemctl start --no-block berth-pgbouncer; sleep 2")
    try:
        run = kit.play("playbooks/provision.yml", "--tags", "pgbouncer", succeed=False)
        assert "another process listens on 127.0.0.1:6432" in " ".join(run.output.split())
    finally:
        kit.host.sh("systemctl stop thief")
        kit.play("playbooks/provision.yml", "--tags", "pgbouncer")
    wait_until_well(kit)


@pytest.mark.long
def test_a_cluster_that_was_rescued_serves_through_it_again(both: Kit) -> None:
    kit = both
    before, there = pid(kit), rows(kit, "one")
    kit.host.sh(
        "systemctl kill -s KILL 'postgresql@*'; systemctl stop 'postgresql@*'; "
        "find /var/lib/postgresql/*/main -mindepth 1 -maxdepth 1 ! -name pg_wal -exec rm -r {} +"
    )
    kit.berth("rescue", "--confirm", "rescue")
    wait_until_well(kit)
    assert rows(kit, "one") > there
    assert (where(kit)["port"], pid(kit)) == (6432, before)
    assert kit.play("playbooks/provision.yml", "--tags", "postgresql").changed == 0


@pytest.mark.long
def test_it_goes_when_no_release_uses_it(both: Kit) -> None:
    kit = both
    for one in kit.apps:
        one["pooler"]["enabled"] = False
    assert "The pooler settings of one changed" in kit.berth("deploy", "one", status=2)
    with under_load(kit) as seen:
        kit.play("site.yml")
        assert where(kit)["port"] == 5432
    assert seen["bad"] == []
    # A release to go back to was made with it.
    kit.play("playbooks/rollback.yml", "-e", "app=one")
    assert where(kit)["port"] == 6432
    for name in ("one", "two"):
        for _ in range(2):
            kit.play("playbooks/deploy.yml", "-e", f"app={name}", "-e", "force=true")
            wait_until_alone(kit, name)
    kit.play("playbooks/provision.yml")
    assert kit.host.sh("systemctl is-active berth-pgbouncer || true") == "inactive"
    assert ":6432" not in kit.host.sh("ss -Hltn")
    assert (
        kit.host.sh("ls /etc/berth/pgbouncer /etc/systemd/system/berth-pgbouncer.service 2>/dev/null || true")
        == ""
    )
    assert kit.play("playbooks/provision.yml").changed == 0


@pytest.mark.long
def test_an_app_comes_under_load_where_there_was_none(both: Kit) -> None:
    """It is installed, begun, and meant for no release but the next: the one that serves goes straight on."""
    kit = both
    kit.apps[0]["pooler"]["enabled"] = True
    there = rows(kit, "one")
    with under_load(kit) as seen:
        assert where(kit)["port"] == 5432
        kit.play("site.yml")
        assert where(kit)["port"] == 6432
        wait_for_rows(kit, rows(kit, "one") + 50)
    assert seen["bad"] == []
    assert rows(kit, "one") - there == seen["good"]
    assert kit.play("site.yml").changed == 0
