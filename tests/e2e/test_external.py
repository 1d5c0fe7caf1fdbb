"""A database on somebody else's PostgreSQL: made there by no superuser, by verified TLS, dumped, missed."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support.kit import ROOT, Kit
from tests.support.pace import patience

NAME = "db.internal"
PORT = 5499
PASSWORD = "KtzR7vQm2xWb5Yc9Hd3F"
DRIVERS = ("asyncpg", "sqlalchemy", "psycopg", "psycopg2")
# A cluster beside the host's own, which it knows nothing of, with a certificate for its name by an authority
# of its own, and an administrator who is no superuser, as managed ones have.
MANAGED = textwrap.dedent(
    """
    set -eu
    version=$(ls /usr/lib/postgresql | tail -1)
    cd /root
    exec 2>/dev/null
    key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl req -x509 $key -days 2 -subj /CN=test-authority -keyout ca.key -out ca.crt
    openssl req $key -subj /CN={name} -keyout db.key -out db.csr
    printf 'subjectAltName=DNS:{name}\\n' >san
    openssl x509 -req -in db.csr -CA ca.crt -CAkey ca.key -days 2 -extfile san -out db.crt
    exec 2>&1
    install -d -m 0700 -o postgres /var/lib/postgresql/tls
    install -m 0600 -o postgres db.key db.crt /var/lib/postgresql/tls/
    pg_createcluster $version managed -p {port} >/dev/null
    etc=/etc/postgresql/$version/managed
    printf 'hostssl all all all scram-sha-256\\nlocal all postgres peer\\n' >$etc/pg_hba.conf
    printf "listen_addresses = '*'\\nssl = on\\nssl_cert_file = '/var/lib/postgresql/tls/db.crt'\\n" \
        >>$etc/postgresql.conf
    printf "ssl_key_file = '/var/lib/postgresql/tls/db.key'\\n" >>$etc/postgresql.conf
    nft flush ruleset
    pg_ctlcluster $version managed start
    runuser -u postgres -- psql -qX -p {port} -c \
        "create role doadmin login createdb createrole password '{password}'"
    """
)


def app() -> dict[str, Any]:
    return {
        "name": "one",
        "domains": ["one.localhost"],
        "source": {"path": str(ROOT / "tests/fixtures/poolapp")},
        "processes": [{"name": "web", "workers": 2}],
        "keep_releases": 2,
        "database": {"host": NAME, "port": PORT, "admin": "doadmin", "ca": "files/ca.pem"},
    }


@pytest.fixture(scope="module")
def managed(boot: Callable[..., Host]) -> Host:
    host = boot("managed", provisioned=True)
    script = MANAGED.format(name=NAME, port=PORT, password=PASSWORD)
    host.sh("bash -s", stdin=script)
    return host


def address(host: Host) -> str:
    return host.sh("hostname -I").split()[0]


def inventory(folder: Path, host: Host, managed: Host) -> Kit:
    """An inventory with such an app; the host finds the other one by its name."""
    authority = folder / "files" / "ca.pem"
    authority.parent.mkdir(exist_ok=True)
    authority.write_text(managed.sh("cat /root/ca.crt"))
    host.sh(
        f"sed -i '/ {NAME}$/d' /etc/hosts 2>/dev/null || true; echo '{address(managed)} {NAME}' >>/etc/hosts"
    )
    vault = {"server": {"postgresql": {NAME: PASSWORD}}}
    return Kit(folder, host, apps=[app()], vault=vault)


@pytest.fixture(scope="module")
def bare(boot: Callable[..., Host], managed: Host, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return inventory(tmp_path_factory.mktemp("external"), boot("external", provisioned=True), managed)


@pytest.fixture(scope="module")
def kit(bare: Kit) -> Kit:
    bare.play("site.yml")
    return bare


def there(managed: Host, query: str, database: str = "postgres") -> str:
    """As its superuser, whom Berth does not know."""
    psql = f"psql -qXAt -p {PORT} -d {database}"
    return managed.sh(f"cd /; runuser -u postgres -- {psql}", stdin=query).strip()


def answers(kit: Kit, driver: str) -> str:
    """The status with which a row is written by it."""
    quiet = ("-X", "POST", "-o", "/dev/null", "-w", "%{http_code}")
    return kit.curl(f"https://one.localhost/{driver}", *quiet, check=False)


def wait_until_well(kit: Kit) -> None:
    """Connections that broke are noticed as they are used next."""
    end = time.monotonic() + patience(60)
    for driver in DRIVERS:
        while answers(kit, driver) != "200":
            assert time.monotonic() < end, driver
            time.sleep(0.5)


def post(kit: Kit, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kit.curl(f"https://one.localhost/{path}", "-X", "POST"))
    return found


def test_what_cannot_work_is_one_sentence_before_anything_is_changed(bare: Kit, managed: Host) -> None:
    before = there(managed, "select count(*) from pg_roles")
    vault = bare.vault["server"]
    database = bare.app("one")["database"]

    def refused(expected: str) -> None:
        output = " ".join(
            bare.play("playbooks/provision.yml", "--tags", "postgresql", succeed=False).output.split()
        )
        assert expected in output, output
        assert "Nothing of any database was changed" in output
        assert PASSWORD not in output

    vault["postgresql"] = {NAME: "WrongWrongWrong7x"}
    refused(f"{NAME}:{PORT} does not let in doadmin")
    vault["postgresql"] = {NAME: PASSWORD}
    database["ca"] = ""
    refused(f"{NAME}:{PORT} shows a certificate that no trusted authority signed")
    database["ca"] = "files/ca.pem"
    there(managed, "alter role doadmin nocreaterole")
    refused("doadmin may not create roles at")
    there(managed, "alter role doadmin createrole")
    other = address(managed)
    vault["postgresql"] = {other: PASSWORD}
    database["host"] = other
    refused(f"{other}:{PORT} shows a certificate of {NAME}")
    vault["postgresql"] = {NAME: PASSWORD}
    database["host"] = NAME
    assert there(managed, "select count(*) from pg_roles") == before
    assert bare.host.sh("ls /etc/berth/postgresql | grep -c '^one' || true").strip() == "0"


def test_every_driver_gets_there_by_verified_tls(kit: Kit, managed: Host) -> None:
    for driver in DRIVERS:
        assert post(kit, driver)["id"], driver
    assert there(managed, "select count(*) from seen", "one") == "4"
    sessions = there(
        managed,
        "select bool_and(ssl) from pg_stat_ssl s join pg_stat_activity a using (pid) where a.usename = 'one'",
    )
    assert sessions == "t"
    env = kit.host.sh("cat /etc/berth/one/env")
    assert 'PGSSLMODE="verify-full"' in env
    assert f'PGSSLROOTCERT="/etc/ssl/berth/{NAME}.crt"' in env


def test_roles_there_are_what_they_are_here(kit: Kit, managed: Host) -> None:
    owner = there(managed, "select pg_get_userbyid(datdba) from pg_database where datname = 'one'")
    assert owner == "one_owner"
    powers = "select bool_or(rolsuper or rolcreaterole or rolcreatedb) from pg_roles where rolname ~ '^one'"
    assert there(managed, powers) == "f"
    insert = "insert into seen (driver) values ('psql')"
    assert "read-only transaction" in kit.berth("psql", "one", "-c", insert, status=3)
    assert "permission denied" in kit.berth("psql", "one", "--runtime", "-c", "create table x ()", status=3)
    kit.berth("psql", "one", "--runtime", "-c", insert)
    kit.berth("psql", "one", "--owner", "-c", "create table x (); drop table x")
    # Who may make others is not kept here.
    kept = kit.host.sh(f"grep -rsl {PASSWORD} /etc /var/lib/berth /srv /var/log || true")
    assert kept == ""


def test_a_second_run_changes_nothing(kit: Kit) -> None:
    assert kit.play("site.yml").changed == 0


def test_a_password_that_was_changed_there_is_set_again_and_no_function_of_an_app_s_runs(
    kit: Kit, managed: Host
) -> None:
    there(managed, "alter role one password 'another'")
    # It would be found before PostgreSQL's own, by the types of its arguments, by who makes databases.
    trap = (
        "create function format(text, name, name) returns text language plpgsql as $$ begin "
        "insert into public.caught values (current_user); "
        "return pg_catalog.format('%I.%I', $2, $3); end $$"
    )
    table = "create table caught (who text); grant insert on caught to public"
    kit.berth("psql", "one", "--owner", "-c", f"{table}; {trap}")
    assert kit.play("playbooks/provision.yml", "--tags", "postgresql").changed > 0
    assert there(managed, "select count(*), min(who) from caught", "one") == "0|"
    kit.berth("psql", "one", "--owner", "-c", "drop function format(text, name, name); drop table caught")
    assert post(kit, "asyncpg")["id"]


def test_it_is_dumped_and_a_dump_that_is_missing_is_told(kit: Kit, managed: Host) -> None:
    kit.play("playbooks/backup.yml")
    folder = f"/var/lib/berth/backup/dumps/at-{NAME}/db-one"
    assert (
        kit.host.sh(
            f"pg_restore -l $(ls {folder}/*.dump | tail -1) | grep -c 'TABLE DATA public seen'"
        ).strip()
        == "1"
    )
    assert "no restore of them is rehearsed" not in kit.play("playbooks/check-backups.yml").output
    managed.sh("pg_ctlcluster $(ls /etc/postgresql | tail -1) managed stop")
    try:
        said = " ".join(kit.play("playbooks/backup.yml", succeed=False).output.split())
        assert "Databases on servers of others are not all dumped: one at" in said
        said = " ".join(kit.play("playbooks/status.yml").output.split())
        assert f"one: its database: nothing answers at {NAME}:{PORT} (Connection refused)" in said
    finally:
        managed.sh("pg_ctlcluster $(ls /etc/postgresql | tail -1) managed start")
    wait_until_well(kit)


FOLDER = f"/var/lib/berth/backup/dumps/at-{NAME}/db-one"


def drilled(kit: Kit, *, succeed: bool = True) -> str:
    """What the drill says, of dumps too."""
    return " ".join(kit.play("playbooks/drill.yml", succeed=succeed).output.split())


def test_a_restore_of_the_newest_dump_is_rehearsed(kit: Kit) -> None:
    kit.host.sh("systemctl start berth-backup-dumps.service")
    said = drilled(kit)
    assert "Drill of dumps of" in said
    assert f"one at {NAME}" in said
    told = json.loads(kit.host.sh("cat /var/lib/berth/backup/dumps-drill.json"))
    (one,) = told["databases"]
    assert (told["ok"], one["name"], one["rows"] > 0) == (True, "one", True)
    assert kit.host.sh("ls /var/lib/postgresql/berth-dumps-drill").strip() == ""
    assert "their drill went well" in kit.play("playbooks/status.yml").output


@pytest.mark.long
def test_a_dump_that_is_cut_or_of_another_schema_fails_the_drill(kit: Kit) -> None:
    held = f"{FOLDER}/newest.json"
    # The first one was made before the app was deployed, and has no table.
    kit.host.sh("systemctl start berth-backup-dumps.service")
    newest = kit.host.sh(f"ls {FOLDER}/*.dump | tail -1").strip()
    kit.host.sh(f"cp -p {newest} /root/whole.dump")
    try:
        kit.host.sh(f"truncate -s $(($(stat -c %s {newest}) * 2 / 3)) {newest}")
        said = drilled(kit, succeed=False)
        assert f"One at {NAME}: {newest.rpartition('/')[2]} cannot be restored" in said
        alarm = " ".join(kit.play("playbooks/check-backups.yml", succeed=False).output.split())
        assert "The last drill of dumps failed at" in alarm
        kit.host.sh(f"cp -p /root/whole.dump {newest}")
        facts = json.loads(kit.host.sh(f"cat {held}"))
        facts["tables"]["public.seen"] += 1
        kit.host.sh(f"cat >{held}", stdin=json.dumps(facts))
        assert "public.seen has" in drilled(kit, succeed=False)
        kit.berth("psql", "one", "--owner", "-c", "update alembic_version set version_num = 'another'")
        kit.host.sh("systemctl start berth-backup-dumps.service")
        said = drilled(kit, succeed=False)
        assert "has the schema another, and the release of then left it at 0001" in said
    finally:
        kit.berth("psql", "one", "--owner", "-c", "update alembic_version set version_num = '0001'")
        kit.host.sh(f"cp -p /root/whole.dump {newest}; systemctl start berth-backup-dumps.service")
    drilled(kit)


@pytest.mark.long
def test_nothing_in_a_dump_is_done_by_a_superuser(kit: Kit) -> None:
    """What an app wrote is called as its dump is restored: here, a check that no superuser passes."""
    mighty = (
        "create function mighty() returns bool language plpgsql as $$ begin return (select usesuper "
        "from pg_catalog.pg_user where usename = current_user); end $$"
    )
    table = "create table act (n int check (not mighty())); insert into act values (1)"
    kit.berth("psql", "one", "--owner", "-c", f"{mighty}; {table}")
    try:
        kit.host.sh("systemctl start berth-backup-dumps.service")
        drilled(kit)
    finally:
        kit.berth("psql", "one", "--owner", "-c", "drop table act; drop function mighty()")


def test_a_dump_is_brought_back_as_the_docs_say(kit: Kit, managed: Host) -> None:
    kit.host.sh("systemctl start berth-backup-dumps.service")
    rows = there(managed, "select count(*) from seen", "one")
    there(managed, "truncate seen", "one")
    kit.host.sh(
        f"cd /var/lib/berth/backup/dumps/at-{NAME}/db-one && "
        "PGPASSWORD=$(cat /etc/berth/postgresql/one_owner) PGSSLMODE=verify-full "
        f"PGSSLROOTCERT=/etc/ssl/berth/{NAME}.crt runuser -u postgres -- "
        "pg_restore --clean --if-exists --single-transaction --no-owner --no-acl --no-comments "
        f'-h {NAME} -p {PORT} -U one_owner -d one "$(ls *.dump | tail -1)"',
        timeout=patience(120),
    )
    assert there(managed, "select count(*) from seen", "one") == rows
    assert post(kit, "psycopg")["id"]


def test_a_purge_leaves_the_database(kit: Kit, managed: Host) -> None:
    said = " ".join(
        kit.play(
            "playbooks/remove.yml", "-e", "app=one", "-e", "confirm=one", "-e", "purge=true"
        ).output.split()
    )
    assert f"Its database one at {NAME}:{PORT} stays: whoever runs it drops it" in said
    assert there(managed, "select count(*) from seen", "one") != ""


@pytest.mark.long
def test_a_server_all_of_whose_databases_are_elsewhere_gets_no_cluster(
    boot: Callable[..., Host], managed: Host, tmp_path_factory: pytest.TempPathFactory
) -> None:
    there(managed, "drop database if exists one with (force)")
    there(managed, "drop owned by one, one_owner, one_ro; drop role if exists one, one_owner, one_ro")
    kit = inventory(tmp_path_factory.mktemp("nocluster"), boot("external-bare"), managed)
    kit.play("site.yml", "--check")
    kit.play("site.yml")
    assert post(kit, "asyncpg")["id"]
    assert kit.host.sh("ls /etc/postgresql 2>/dev/null || true").strip() == ""
    assert kit.play("site.yml").changed == 0
    assert kit.play("site.yml", "--check").changed == 0
    kit.play("playbooks/backup.yml")
    drilled(kit)
    kit.play("playbooks/check-backups.yml")
    kit.play("playbooks/status.yml")
