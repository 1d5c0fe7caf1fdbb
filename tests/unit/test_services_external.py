"""An app's database on somebody else's server: what is refused, what an app is told, and what Berth leaves."""

# ruff: noqa: E501 (messages are to be read as they are)
from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.migrations import points
from ansible.module_utils.berth.migrations.database import Database
from ansible.module_utils.berth.migrations.migrate import Blockers
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import exchange, migrate, remove, restore_point
from ansible.module_utils.berth.reports import facts, findings, restores, sessions
from ansible.module_utils.berth.services import external, postgresql, superuser
from ansible.module_utils.berth.services import table as services
from ansible.module_utils.berth.store import journal, receipts, settings

from plugins.filter import wiring
from plugins.modules import app_egress, postgresql_databases
from tests.support.entry import board
from tests.unit.contract_case import PRIVATE_KEY, ROOT, SECRET, problems, resolved

HOST = "db.example.net"
RIGHT: dict[str, Any] = {
    "apps[0].database": {"host": HOST},
    "vault.server": {"postgresql": {HOST: SECRET}},
}
VAULT = f"vault.server.postgresql.{HOST}"
WANTED = "the password of apps[0].database.admin"
SERVICE = postgresql.SERVICE


def with_database(**more: Any) -> dict[str, Any]:
    return {**RIGHT, "apps[0].database": {"host": HOST, **more}}


def with_password(value: object) -> dict[str, Any]:
    return {**RIGHT, "vault.server": {"postgresql": {HOST: value}}}


def elsewhere(**more: Any) -> dict[str, Any]:
    """An app with a database on somebody else's server."""
    return board(database={"host": HOST, **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A server with the passwords of such an app's roles, and what it was set up from."""
    folder = tmp_path / postgresql.FOLDER
    folder.mkdir(parents=True)
    for role in ("board", "board_owner", "board_ro"):
        (folder / role).write_text(f"secret-of-{role}\n")
    paths = Paths("board", tmp_path)
    paths.etc.mkdir(parents=True)
    paths.provisioned.write_text(json.dumps(settings.provisioned(elsewhere())))
    return tmp_path


# What the contract says -------------------------------------------------------------------------------------


def test_a_host_and_a_login_are_enough() -> None:
    assert problems(RIGHT) == []
    assert problems(with_database(admin="doadmin", maintenance_db="defaultdb")) == []
    database = resolved(with_database(host="DB.example.net."))["apps"][0]["database"]
    assert {key: database[key] for key in external.OPTIONS} == {
        "host": HOST, "port": 5432, "admin": "postgres", "maintenance_db": "postgres",
        "sslmode": "verify-full", "ca": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (with_database(host="postgres://db.example.net"), f'apps[0].database.host: "postgres://{HOST}" is not a host name or an address; write it alone, e.g. "db.example.net"'),
        (with_database(host="db.example.net:25060"), f'apps[0].database.host: "{HOST}:25060" is not a host name or an address; write it alone, e.g. "db.example.net"'),
        (with_database(port=0), "apps[0].database.port: 0 is out of range; write 1 to 65535"),
        (with_database(sslmode="prefer"), 'apps[0].database.sslmode: "prefer" is not known; write verify-full or verify-ca or require or disable; known: disable, require, verify-ca, verify-full'),
        (with_database(sslmode="disable"), f'apps[0].database.sslmode: "disable" would send every row through other people\'s networks in the clear to {HOST}; write verify-full, or the private address of that server as database.host'),
        (with_database(sslmode="require", ca="ca.pem"), "apps[0].database.ca: has no effect with sslmode: require; remove one of them"),
        (with_database(ca="no.pem"), f'apps[0].database.ca: "{ROOT}/inventories/example/no.pem" does not exist; paths are relative to the inventory\'s folder'),
        ({"apps[0].database": {"port": 5433}}, "apps[0].database.port: has no effect without database.host; write that, or remove it"),
        ({"apps[0].database": {"ca": "x"}}, "apps[0].database.ca: has no effect without database.host; write that, or remove it"),
        ({**RIGHT, "apps[0].pooler": {"enabled": True}}, "apps[0].pooler.enabled: pools connections to this server's own PostgreSQL, and database.host is elsewhere; remove it, and use that one's own pooler, if it has one (docs/your-app.md)"),
        ({**RIGHT, "apps[1].database": {"host": HOST, "port": 5433}}, f"apps[1].database.port: is another one than apps[0].database.port, and both are of {HOST}; write the same"),
        ({"apps[0].database": {"host": "localhost"}}, 'apps[0].database.host: "localhost" is this server, which has a PostgreSQL for its apps itself; remove it, or write the port of your tunnel (none of 5432 to 5439)'),
        (with_database(admin=""), 'apps[0].database.admin: is empty; write its name, or leave it out for "postgres"'),
        ({"apps[0].database": {"host": HOST}}, f"{VAULT}: missing; write {WANTED} there (ansible-vault edit)"),
        (with_password({"password": SECRET}), f"{VAULT}: is not text; write {WANTED} in quotes"),
        (with_password("changeme"), f"{VAULT}: is a placeholder; write {WANTED}"),
        (with_password("a\nb"), f"{VAULT}: has a line break or another control character; write {WANTED} in one line"),
        ({"vault.server": {"postgresql": {HOST: SECRET}}}, f"{VAULT}: no app's database.host is so; remove it"),
        ({**RIGHT, "vault.server": {"postgresql": {HOST: SECRET, "db.example.com": SECRET}}}, 'vault.server.postgresql.db.example.com: no app\'s database.host is so; did you mean "db.example.net"?'),
        ({**RIGHT, "vault.server": {"postgresql": SECRET}}, "vault.server.postgresql: is not a mapping; write a name, and below it its secrets"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence_without_a_secret(changes: dict[str, Any], expected: str) -> None:
    found = [one.partition(" [")[0] if one.endswith("]") else one for one in problems(changes)]
    assert expected in found
    assert SECRET not in "\n".join(found)


def test_a_file_with_a_key_is_no_authority(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(f"-----BEGIN {PRIVATE_KEY}-----\nx\n-----END {PRIVATE_KEY}-----\n")
    said = problems(with_database(ca=str(file)))
    assert any("contains a private key; write a file with the certificate alone" in one for one in said)


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "10.0.0.5", "sslmode": "disable"},
        {"host": "db.internal", "sslmode": "disable"},
        {"host": "127.0.0.1", "port": 6000, "sslmode": "disable"},
        {"host": "2001:db8::1", "port": 5433},
    ],
)
def test_a_private_way_needs_no_tls(changes: dict[str, Any]) -> None:
    login = {"vault.server": {"postgresql": {changes["host"]: SECRET}}}
    assert problems({"apps[0].database": changes, **login}) == []


def test_an_app_that_goes_needs_no_login() -> None:
    assert problems({"apps[0].database": {"host": HOST}, "apps[0].state": "absent"}) == []


# What an app is told ----------------------------------------------------------------------------------------


def test_it_is_told_of_tls_by_variables_that_every_driver_reads(root: Path) -> None:
    app = elsewhere(port=25060)
    variables, known = services.given(app, root)
    assert variables == {
        "DATABASE_URL": f"postgresql://board:secret-of-board@{HOST}:25060/board",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/etc/ssl/certs/ca-certificates.crt",
    }
    assert known["db.sslmode"] == "verify-full"
    owner = services.given(app, root, owner=True).variables
    assert owner["DATABASE_URL"].startswith("postgresql://board_owner:secret-of-board_owner@")


def test_an_authority_of_its_own_lies_where_apps_may_read_it(root: Path) -> None:
    told = services.given(elsewhere(ca="/inventory/ca.pem"), root).variables
    assert told["PGSSLROOTCERT"] == f"/etc/ssl/berth/{HOST}.crt"


def test_what_checks_no_certificate_names_no_file(root: Path) -> None:
    """With one, libpq would take `require` for `verify-ca`."""
    told = services.given(elsewhere(sslmode="require"), root).variables
    assert told["PGSSLMODE"] == "require"
    assert "PGSSLROOTCERT" not in told
    assert external.environment(elsewhere(sslmode="require")["database"]) == {"PGSSLMODE": "require"}


def test_an_address_of_version_6_has_brackets_in_the_url_alone(root: Path) -> None:
    app = elsewhere(host="2001:db8::1", variables={"host": "DB_HOST"})
    told = services.given(app, root).variables
    assert told["DATABASE_URL"].endswith("@[2001:db8::1]:5432/board")
    assert told["DB_HOST"] == "2001:db8::1"


def test_of_a_database_here_nothing_is_another_than_before(root: Path) -> None:
    app = board(database={"enabled": True})
    assert list(services.given(app, root).variables) == ["DATABASE_URL"]
    told = SERVICE.meant(app["database"])
    assert not {*external.OPTIONS} & set(told)
    assert not {*external.VARIABLES} & set(told["variables"])
    there = receipts.given(elsewhere(), "postgresql")
    assert receipts.given(app, "postgresql") != there
    assert receipts.given(elsewhere(sslmode="require"), "postgresql") != there
    # An older record knows no host.
    del app["database"]["host"]
    assert SERVICE.address(app, root) == ("127.0.0.1", "5432")


# What roles are given ---------------------------------------------------------------------------------------


def test_each_server_comes_once_with_its_databases_and_no_password() -> None:
    apps = [elsewhere(), {**elsewhere(name="notes"), "name": "notes"}, board(database={"name": "own"})]
    vault = {"server": {"postgresql": {HOST: SECRET}}}
    (server,) = wiring.database_servers(apps)
    assert (server["host"], server["admin"], server["maintenance_db"]) == (HOST, "postgres", "postgres")
    assert [one["name"] for one in server["databases"]] == ["board", "notes"]
    assert server["databases"][0]["reader"] == "board_ro"
    assert wiring.administrators(vault) == {HOST: SECRET}
    assert wiring.administrators(None) == {}
    assert [one["name"] for one in wiring.databases(apps)] == ["own"]


def test_a_server_needs_no_cluster_where_every_database_is_elsewhere() -> None:
    assert not wiring.own_cluster([elsewhere(), board()])
    assert wiring.own_cluster([elsewhere(), board(database={"name": "own"})])
    assert wiring.own_cluster([board()])
    assert wiring.own_cluster([])


def test_they_are_dumped_unless_there_are_to_be_no_backups() -> None:
    apps = [elsewhere(sslmode="require"), board(database={"name": "own"})]
    checks = [{"app": "board", "query": "select true"}, {"app": "notes", "query": "select false"}]
    assert wiring.dumped_elsewhere(apps, {"enabled": True, "checks": checks}) == [
        {
            "app": "board", "name": "board", "owner": "board_owner", "roles": ["board", "board_ro"],
            "extensions": [], "host": HOST, "port": 5432, "sslmode": "require", "sslrootcert": "",
            "checks": ["select true"],
        }
    ]  # fmt: skip
    assert wiring.drill_checks(checks, apps[:1]) == [], "that one is not in this server's own cluster"
    assert wiring.dumped_elsewhere(apps, {"enabled": False}) == []


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        (HOST, 'oif != "lo" tcp dport 6543 accept'),
        ("203.0.113.7", "ip daddr 203.0.113.7 tcp dport 6543 accept"),
        ("127.0.0.1", "ip daddr 127.0.0.1 tcp dport 6543 accept"),
        ("localhost", 'oif "lo" tcp dport 6543 accept'),
        ("2001:db8::1", "ip6 daddr 2001:db8::1 tcp dport 6543 accept"),
    ],
)
def test_its_port_is_open_to_the_app_alone_and_that_of_the_server_s_own_is_not(host: str, rule: str) -> None:
    app = elsewhere(host=host, port=6543)
    app["egress"]["policy"] = "listed"
    (told,) = wiring.egress_of_apps([app])
    mine = app_egress.chain(told, "", builds=False)
    assert mine.index(rule) < mine.index("counter reject")
    assert not [line for line in mine if app_egress.DATABASES in line and line.endswith("accept")]
    assert rule not in app_egress.chain(told, "", builds=True)


def test_a_deploy_sees_a_host_that_the_filter_was_not_told_of() -> None:
    app = elsewhere()
    assert receipts.given(app, receipts.EGRESS) != receipts.given(elsewhere(port=1), receipts.EGRESS)
    own = board(database={"enabled": True})
    assert receipts.given(own, receipts.EGRESS) == ""
    own["egress"]["policy"] = app["egress"]["policy"] = "listed"
    without = {key: value for key, value in own.items() if key != "database"}
    assert receipts.given(own, receipts.EGRESS) == receipts.given(without, receipts.EGRESS)


# What a client says -----------------------------------------------------------------------------------------

AT = {"host": HOST, "port": 25060}
BEGIN = f'connection to server at "{HOST}" (203.0.113.7), port 25060 failed: '


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f'could not translate host name "{HOST}" to address: Name or service not known', f"{HOST} has no address (DNS): correct database.host, or this server's resolver"),
        (f"{BEGIN}Connection refused Is the server running on that host", f"nothing answers at {HOST}:25060 (Connection refused): look whether it is up, whether database.port is right, and whether this server's address is allowed there"),
        (f"{BEGIN}timeout expired", f"nothing answers at {HOST}:25060 (timeout expired): "),
        (f"{BEGIN}server does not support SSL, but SSL was required", f"{HOST}:25060 speaks no TLS: turn it on there"),
        (f'{BEGIN}server certificate for "other.example" (and 1 other name) does not match host name "{HOST}"', f"{HOST}:25060 shows a certificate of other.example: write that name into database.host, or database.sslmode: verify-ca"),
        (f'{BEGIN}server certificate for "other.example" does not match host name "{HOST}"', f"{HOST}:25060 shows a certificate of other.example: "),
        (f"{BEGIN}SSL error: certificate verify failed", f"{HOST}:25060 shows a certificate that no trusted authority signed, or an expired one (certificate verify failed): write the file of its authority into database.ca"),
        (f'{BEGIN}FATAL:  password authentication failed for user "doadmin"', f"{HOST}:25060 does not let in doadmin: its password or its name is another one there"),
        (f'{BEGIN}FATAL:  no pg_hba.conf entry for host "203.0.113.9", user "doadmin"', f"{HOST}:25060 admits doadmin from elsewhere, not from this server: allow its address there"),
        (f'{BEGIN}FATAL:  database "postgres" does not exist', f"{HOST}:25060 has no database postgres: write one that is there into database.maintenance_db"),
        (f"{BEGIN}FATAL:  unsupported startup parameter: options", f"{HOST}:25060 is a pooler: write the port of PostgreSQL itself into database.port"),
        (f"{BEGIN}FATAL:  remaining connection slots are reserved", f"{HOST}:25060 has no connection left"),
        ("something new", f"{HOST}:25060 cannot be used: something new"),
    ],
)  # fmt: skip
def test_what_a_client_says_is_a_sentence_that_says_what_to_do(said: str, expected: str) -> None:
    assert external.explain(said, AT, "doadmin", "postgres").startswith(expected)


def test_who_is_mighty_calls_nobody_else_s_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Psycopg2:
        OperationalError = OSError

        def connect(self, **words: Any) -> Any:
            asked.append(words)
            return type("Connection", (), {})()

    monkeypatch.setitem(sys.modules, "psycopg2", Psycopg2())
    monkeypatch.setattr(superuser, "as_user", lambda _: contextlib.nullcontext())
    superuser.connect("board")
    external.connect(elsewhere()["database"], "doadmin", SECRET, "board")
    assert [words["options"].split(" -c ")[0] for words in asked] == ["-c search_path=pg_catalog"] * 2
    assert {key: asked[1][key] for key in ("sslmode", "gssencmode")} == {
        "sslmode": "verify-full", "gssencmode": "disable"
    }  # fmt: skip


def test_roles_of_which_nobody_here_has_a_password_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    roles = ["board", "board_owner", "board_ro"]
    (tmp_path / "board_ro").write_text("x" * 40)

    class Connection:
        server_version = 170002

        def close(self) -> None: ...

    answers = {postgresql_databases.ADMINISTRATOR: [(True, True, False, ["board"], roles)]}
    monkeypatch.setattr(external, "connect", lambda *_: Connection())
    monkeypatch.setattr(postgresql_databases, "rows", lambda _, query, *__: answers[query])
    (server,) = wiring.database_servers([elsewhere()])
    plan = postgresql_databases.Plan(False)
    with pytest.raises(postgresql_databases.WrongError) as told:
        postgresql_databases.look_at(plan, server, SECRET, False, tmp_path)
    assert str(told.value).startswith(
        f"roles board and board_owner are at {HOST} already, and this server has "
    )
    assert f"(umask 077; mkdir -p {tmp_path}; for role in board board_owner; do " in str(told.value)


# What Berth does with it ------------------------------------------------------------------------------------


def test_psql_goes_there_by_tls_with_the_role_s_own_password(root: Path) -> None:
    said = sessions.psql("board", "owner", False, True, root)
    assert f"--host={HOST} --port=5432" in said
    assert "PGSSLMODE=verify-full PGSSLROOTCERT=/etc/ssl/certs/ca-certificates.crt" in said
    assert "secret-of" not in said
    with pytest.raises(ReleaseError, match=f"The database of board is at {HOST}, so it is in nothing"):
        sessions.psql("board", "owner", True, True, root)


def test_migrations_are_looked_after_there(root: Path) -> None:
    env = Database(elsewhere(), root).env
    assert {key: env[key] for key in ("PGHOST", "PGUSER", "PGPASSWORD", "PGSSLMODE")} == {
        "PGHOST": HOST, "PGUSER": "board_owner", "PGPASSWORD": "secret-of-board_owner", "PGSSLMODE": "verify-full"
    }  # fmt: skip


def test_who_holds_a_lock_is_asked_as_the_owner_and_ended_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "read_password", lambda *_: "secret")
    watch = Blockers(elsewhere(), 2, str)
    assert watch.argv[0] == "psql"
    assert (watch.env or {})["PGOPTIONS"] == superuser.CATALOG_ALONE
    assert (watch.env or {})["PGUSER"] == "board_owner"
    watch.last = {
        "what": "notes", "kind": "relation", "pid": 7, "role": "board", "name": "", "state": None,
        "autovacuum": False, "seconds": None, "query": None,
    }  # fmt: skip
    assert watch.sentence() == "a lock on notes: pid 7 of Postgres holds it (role board, the app itself)"
    assert watch.advice() == (
        f"deploy again when it is done, or have it ended at {HOST}, as its role: select pg_terminate_backend(7)"
    )


def test_a_migration_there_has_no_restore_point_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: Any = None
    deploy = Deploy(Paths("board", tmp_path), {})
    deploy.release, deploy.app = "r2", elsewhere()
    deploy.looked = migrate.Look(nothing, nothing, "digest", "a1", pending=True)
    monkeypatch.setattr(points, "make", lambda _: pytest.fail("made"))
    said = restore_point.run(deploy, {})["msg"]
    assert said.startswith(f"No restore point was made before the migration: the database is at {HOST}")
    assert deploy.notes == [said]


def test_a_release_of_it_is_nothing_to_restore_to(root: Path) -> None:
    record = Paths("board", root).release("r1") / journal.RECORD
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"format": 4, "app": elsewhere()}))
    with pytest.raises(ReleaseError, match=f"the database of board is at {HOST}, so no restore here brings"):
        restores.target("", "r1", "board", 0.0, root)


def test_what_is_restored_here_never_takes_its_place(root: Path) -> None:
    with pytest.raises(
        ReleaseError, match=f"The database of board is at {HOST}.* Nothing was changed."
    ) as told:
        exchange.Exchange(Deploy(Paths("board", root), {}))
    assert "pg_restore" in told.value.advice


def test_a_purge_leaves_it_and_says_who_drops_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> command.Result:
        ran.append(argv)
        return command.Result(0, "", "")

    monkeypatch.setattr(command, "run", run)
    said = remove.remove(Paths("board", root), True, {}, False, absent=True)["msg"]
    assert (
        f"Its database board at {HOST} stays: whoever runs it drops it (DROP DATABASE board; DROP ROLE board, board_owner, board_ro)."
        in said
    )
    assert not [argv for argv in ran if "dropdb" in argv]
    assert list((root / postgresql.FOLDER).iterdir()) == []


def test_one_that_cannot_be_used_makes_an_app_sick(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def run(_argv: list[str], **more: Any) -> command.Result:
        seen.append(more["env"])
        return command.Result(2, "", f"psql: error: {BEGIN}Connection refused\n\tIs the server running?\n")

    monkeypatch.setattr(command, "run", run)
    said = SERVICE.elsewhere(elsewhere(), root)
    assert said.startswith(f"nothing answers at {HOST} (Connection refused): ")
    assert seen[0]["PGPASSWORD"] == "secret-of-board"
    one = {**facts._nothing("board", "present"), "elsewhere": [{"what": "database", "text": said}]}
    (found,) = findings.of_app(one, {"proxy_unit": "caddy"})
    assert (found["level"], found["text"]) == (findings.SICK, f"its database: {said}")
    assert SERVICE.elsewhere(board(database={"enabled": True}), root) == ""
