"""PgBouncer: which pools, of which size, for whom; where its packages are too old; what an app is told."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.migrations import connections
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reading import pools as sources
from ansible.module_utils.berth.runtime import units
from ansible.module_utils.berth.services import pgbouncer, postgresql
from ansible.module_utils.berth.services import table as services
from ansible.module_utils.berth.store import presence, receipts, settings

from plugins.filter.pgbouncer import suitable
from plugins.filter.wiring import pools, receipt
from plugins.modules import pgbouncer_pools as module
from tests.support.entry import board
from tests.unit.contract_case import ROOT

POOL = {"app": "my-board", "database": "my_board", "user": "my_board"}
SUM = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"
SHOWN = (
    "database|user|cl_active|cl_waiting|sv_active|maxwait|maxwait_us|pool_mode\n"
    "board|board|4|{0}|20|{1}|17|transaction\npgbouncer|pgbouncer|1|0|0|99|0|statement\n(2 rows)\n"
)


def app(**more: Any) -> dict[str, Any]:
    return board(**{"name": "my-board", "database": {}, "pooler": {"enabled": True}, **more})


@pytest.mark.parametrize(
    ("connections", "sharing", "cores", "size"),
    [(100, 1, 2, 20), (100, 4, 2, 20), (100, 9, 2, 10), (200, 1, 16, 64), (10, 3, 1, 1), (30, 1, 1, 10)],
)
def test_a_pool_gets_its_share_of_the_servers_connections(
    connections: int, sharing: int, cores: int, size: int
) -> None:
    assert module.share(connections, sharing, cores) == size
    assert size * sharing <= max(sharing, connections - module.RESERVE)


def test_each_app_finds_its_own_database_alone_and_no_password_lies_there(tmp_path: Path) -> None:
    files = module.written([POOL], 20, "[pgbouncer]\n", {"my_board": SUM})
    assert files[module.HBA] == (
        '# Ansible managed\nhost "my_board" "my_board" 127.0.0.1/32 scram-sha-256\nhost all all all reject\n'
    )
    assert files[module.USERS] == f'; Ansible managed\n"my_board" "{SUM}"\n'
    assert files[module.INI].endswith(
        "[databases]\n; app my-board\nmy_board = host=127.0.0.1 port=5432 dbname=my_board pool_size=20\n"
    )
    ini = tmp_path / "etc/berth/pgbouncer/pgbouncer.ini"
    ini.parent.mkdir(parents=True)
    ini.write_text(files[module.INI])
    assert pgbouncer.pool_size("my-board", tmp_path) == 20
    assert pgbouncer.pool_size("board", tmp_path) == 0
    # Nor is the sum of one shown by a diff.
    assert module.masked(files[module.USERS]) == '; Ansible managed\n"my_board" "(hidden)"\n'


class Fake:
    """As much of an Ansible module as an instance needs; it notes what was run."""

    check_mode = False

    def __init__(self) -> None:
        self.params = {"unit": "[Unit]\n"}
        self.ran: list[str] = []

    def run_command(self, words: list[str], **_: Any) -> tuple[int, str, str]:
        self.ran.append(" ".join(words[:2]))
        return 0, "", ""

    def warn(self, _text: str) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A PgBouncer that runs and takes its files as they are; what its console was asked."""
    for name in ("INI", "HBA", "USERS", "PENDING", "UNIT_FILE"):
        monkeypatch.setattr(module, name, tmp_path / name)
    known: dict[str, Any] = {"asked": [], "pools": {"my_board": 20}, "state": "active", "gets_in": True}

    def prove(_pool: module.Pool) -> None:
        if not known["gets_in"]:
            raise module.RefusedError("role my_board does not get through")

    def write(_: module.Instance, files: dict[Path, str]) -> None:
        for path, text in files.items():
            path.write_text(text)

    monkeypatch.setattr(module.Instance, "write", write)
    monkeypatch.setattr(module.Instance, "account", lambda _: True)
    monkeypatch.setattr(module.Instance, "badly_kept", lambda _: False)
    monkeypatch.setattr(module, "WAIT", 0.0)
    monkeypatch.setattr(module, "loaded", lambda: known["pools"])
    monkeypatch.setattr(module, "prove", prove)
    monkeypatch.setattr(module, "ask", known["asked"].append)
    monkeypatch.setattr(module, "in_the_way", lambda: known.get("in_the_way", False))
    shown = {"UnitFileState": "enabled", "MainPID": "1"}
    monkeypatch.setattr(units, "show", lambda *_: {**shown, "ActiveState": known["state"]})
    return known


def converged(size: int = 20, check: bool = False) -> tuple[list[str], list[str]]:
    fake = Fake()
    fake.check_mode = check
    files = module.written([POOL], size, "[pgbouncer]\n", {"my_board": SUM})
    instance = module.Instance(fake, [POOL], size, files)
    instance.converge()
    return instance.actions, [ran for ran in fake.ran if ran.startswith("systemctl")]


def test_a_change_is_loaded_and_restarts_nothing(server: dict[str, Any]) -> None:
    said = ["configure PgBouncer", "have PgBouncer load its configuration"]
    assert converged(check=True) == (said, [])
    assert not module.INI.exists()
    assert converged() == (said, ["systemctl reload"])
    assert server["asked"] == ["reconnect"]
    assert converged() == ([], [])
    module.PENDING.touch()
    assert converged() == (said[1:], ["systemctl reload"])
    assert not module.PENDING.exists()


def test_what_does_not_work_is_put_back_and_told(server: dict[str, Any]) -> None:
    converged()
    before = module.INI.read_text()
    server["pools"] = {"my_board": 30}
    server["gets_in"] = False
    with pytest.raises(module.WrongError, match=r"role my_board does not get.*former configuration is back"):
        converged(30)
    assert module.INI.read_text() == before


def test_one_that_is_down_is_started_unless_something_is_in_its_place(server: dict[str, Any]) -> None:
    server["state"] = "failed"
    assert converged() == (["configure PgBouncer", "start PgBouncer"], ["systemctl restart"])
    server["in_the_way"] = True
    with pytest.raises(module.WrongError, match=r"another process listens on 127\.0\.0\.1:6432"):
        converged()


def test_one_that_is_tried_again_and_again_does_not_stand_in_its_own_way(server: dict[str, Any]) -> None:
    converged()
    server["state"] = "activating"
    assert converged() == (["start PgBouncer"], ["systemctl stop", "systemctl restart"])


def test_a_pool_whose_connections_are_all_at_work_is_no_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        Error = OSError
        said = "FATAL:  query_wait_timeout"

        def connect(self, **_: Any) -> None:
            raise self.Error(self.said)

    monkeypatch.setattr(importlib, "import_module", lambda _: Driver())
    monkeypatch.setattr(postgresql, "read_password", lambda *_: "secret")
    module.prove(POOL)
    Driver.said = "FATAL:  SASL authentication failed"
    with pytest.raises(module.RefusedError, match="does not get through to its database: FATAL: SASL"):
        module.prove(POOL)


def release(root: Path, name: str, entry: dict[str, Any]) -> None:
    paths = Paths(entry["name"], root)
    paths.state.mkdir(parents=True, exist_ok=True)
    paths.release(name).mkdir(parents=True)
    (paths.release(name) / "release.json").write_text(json.dumps({"format": 2, "app": entry}))


def test_a_pool_stays_for_as_long_as_a_release_was_made_with_one(tmp_path: Path) -> None:
    release(tmp_path, "r1", app())
    release(tmp_path, "r2", app(pooler={"enabled": False}))
    release(tmp_path, "r1", app(name="other", pooler={"enabled": False}))
    assert module.kept([], tmp_path) == [POOL]
    assert module.kept([POOL], tmp_path) == []
    (Paths("my-board", tmp_path).release("r1") / "release.json").unlink()
    assert module.kept([], tmp_path) == []


def test_a_record_from_before_there_were_poolers_has_none(tmp_path: Path) -> None:
    entry = app()
    del entry["pooler"]
    release(tmp_path, "r1", entry)
    path = Paths("my-board", tmp_path).release("r1") / "release.json"
    path.write_text(json.dumps({"format": 1, "app": entry}))
    assert module.kept([], tmp_path) == []
    assert not presence.uses(pgbouncer.SERVICE, "my-board", tmp_path)


def test_the_app_goes_through_it_and_its_migrations_around_it(tmp_path: Path) -> None:
    for role in ("my_board", "my_board_owner"):
        path = tmp_path / "etc/berth/postgresql" / role
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    told = services.given(app(), tmp_path).variables["DATABASE_URL"]
    assert told == "postgresql://my_board:secret@127.0.0.1:6432/my_board"
    assert services.given(app(), tmp_path, owner=True).variables["DATABASE_URL"].endswith(":5432/my_board")
    plain = app(pooler={"enabled": False})
    assert postgresql.SERVICE.address(plain) == ("127.0.0.1", "5432")
    assert (pgbouncer.SERVICE.after(app()), pgbouncer.SERVICE.after(plain)) == (["berth-pgbouncer"], [])


def test_only_apps_that_ask_are_pooled_and_recorded() -> None:
    apps = [app(), app(name="other", pooler={"enabled": False})]
    assert pools(apps) == [POOL]
    assert list(receipt(apps, "pgbouncer")) == ["my-board"]
    # What was set up before there were poolers is as it should be.
    assert receipts.given(apps[1], "postgresql") == receipts.given({**apps[1], "pooler": None}, "postgresql")


def test_a_deploy_makes_no_release_with_it_whose_environment_is_from_before() -> None:
    """Its record would say that nothing uses PgBouncer, which would end below the release."""
    plain = app(pooler={"enabled": False})
    assert settings.provision_digest(app()) != settings.provision_digest(plain)
    assert receipts.given(app(), receipts.UNITS) != receipts.given(plain, receipts.UNITS)


@pytest.mark.parametrize(
    ("wanted", "release", "repository", "well"),
    [
        ([POOL], "trixie", "distribution", True),
        ([POOL], "noble", "distribution", True),
        ([POOL], "bookworm", "pgdg", True),
        ([], "bookworm", "distribution", True),
        ([POOL], "bookworm", "distribution", False),
        ([POOL], "jammy", "distribution", False),
    ],
)
def test_packages_that_are_too_old_are_refused(
    wanted: list[dict[str, str]], release: str, repository: str, well: bool
) -> None:
    if well:
        assert suitable(wanted, release, repository)
        return
    with pytest.raises(
        AnsibleFilterError, match=r"pooler\.enabled of my-board: .* has PgBouncer 1\.1[68], which"
    ):
        suitable(wanted, release, repository)


def test_so_is_a_program_that_is_too_old() -> None:
    assert module.version_problem("PgBouncer 1.24.1\nlibevent 2.1\n") == ""
    assert module.version_problem("PgBouncer 1.21.0\n") == ""
    assert module.version_problem("PgBouncer 2.0.0\n") == ""
    assert "this server has PgBouncer 1.18" in module.version_problem("PgBouncer 1.18.0\n")


@pytest.mark.parametrize(
    ("code", "waiting", "seconds", "state"),
    [(0, 0, 0, "accepts"), (0, 3, 4, "accepts"), (0, 3, 9, "queues"), (2, 0, 0, "silent")],
)
def test_a_status_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, waiting: int, seconds: int, state: str
) -> None:
    assert pgbouncer.SERVICE.state(tmp_path) == ""
    ini = tmp_path / "etc/berth/pgbouncer/pgbouncer.ini"
    ini.parent.mkdir(parents=True)
    ini.touch()
    monkeypatch.setattr(command, "run", lambda *_, **__: Result(code, SHOWN.format(waiting, seconds), ""))
    assert pgbouncer.SERVICE.state(tmp_path) == state
    assert (pgbouncer.SERVICE.trouble(state) is None) == (state == "accepts")


def test_what_pooled_connections_cannot_have_is_explained() -> None:
    error = "psycopg.OperationalError: FATAL: unsupported startup parameter in options: statement_timeout"
    said = pgbouncer.SERVICE.explain(error, " (db.py:3)")
    assert said.startswith(
        "it sets statement_timeout as it connects (db.py:3), and connections of the pooler"
    )
    assert pgbouncer.SERVICE.explain("psycopg.OperationalError: no route", "") == ""


def test_the_budget_counts_a_pool_and_not_what_apps_open_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = sources.Demand([], 300, "300")

    class Database:
        def limits(self, _role: str) -> tuple[int, int, int]:
            return 97, 45, 0

    monkeypatch.setattr(connections, "Database", lambda _: Database())
    monkeypatch.setattr(connections, "_of_others", lambda _: [])
    assert connections.check(app(), "my_board", wanted) == ""
    assert connections.check(app(), "my_board_owner", wanted) != "", "it goes around the pooler"
    assert connections.check(app(pooler={"enabled": False}), "my_board", wanted) != ""


def test_other_apps_leave_room_for_the_pool_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    record: dict[str, Any] = {"connections": 300, "app": app()}
    monkeypatch.setattr(connections.presence, "deployed", lambda: ["my-board", "board"])
    monkeypatch.setattr(connections.releases, "live", lambda _: "r1")
    monkeypatch.setattr(connections, "read_record", lambda _: record)
    monkeypatch.setattr(pgbouncer, "pool_size", lambda _: 20)
    board = app(name="board")
    assert list(connections._of_others(board)) == [20]
    record["app"] = app(pooler={"enabled": False})
    assert list(connections._of_others(board)) == [300]
    # What is elsewhere takes no connection from who is here.
    record["app"]["database"]["host"] = "db.example.net"
    assert list(connections._of_others(board)) == []
    board["database"]["host"] = "db.example.net"
    assert list(connections._of_others(board)) == [300]


def test_it_follows_the_passwords_that_postgres_has() -> None:
    """Also where role postgresql alone is run, and where the roles came back with a server that was lost."""
    (play,) = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
    tags = [task["tags"] for task in play["tasks"] if sets_up(task, "import_role")]
    assert tags == [["postgresql", "pgbouncer"]]
    plays = yaml.safe_load((ROOT / "playbooks/onto.yml").read_text())
    steps = [task for play in plays for task in play.get("tasks", [play])]
    (after,) = [index for index, task in enumerate(steps) if sets_up(task, "include_role")]
    (rows,) = [index for index, task in enumerate(steps) if "tasks/rescue.yml" in json.dumps(task)]
    (deploy,) = [index for index, one in enumerate(steps) if "deploy.yml" in json.dumps(one)]
    assert rows < after < deploy


def sets_up(task: dict[str, Any], how: str) -> bool:
    return bool(task.get(f"ansible.builtin.{how}") == {"name": "pgbouncer"})
