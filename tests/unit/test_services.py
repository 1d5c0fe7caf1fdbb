"""A backing service is one file and one line: a made-up one is seen wherever services are asked of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible.module_utils.berth import environment
from ansible.module_utils.berth.contract import variables
from ansible.module_utils.berth.contract.problem import Report
from ansible.module_utils.berth.diagnosis import cause, masking
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command, sandbox
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.migrations import database, offline
from ansible.module_utils.berth.packaging import once
from ansible.module_utils.berth.packaging.once import Code
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reading import reads
from ansible.module_utils.berth.release.steps import remove
from ansible.module_utils.berth.reports import facts, findings, status
from ansible.module_utils.berth.runtime import units
from ansible.module_utils.berth.runtime.transient import Work
from ansible.module_utils.berth.services import postgresql
from ansible.module_utils.berth.services import table as services
from ansible.module_utils.berth.services.service import ROOT, App, Service, Settings
from ansible.module_utils.berth.store import applies, presence, receipts, settings

from plugins.filter import app as filters
from plugins.filter.wiring import receipt
from tests.support.entry import board


class Queue(Service):  # type: ignore[misc]
    key = "queue"
    prefix = "q"
    ansible_role = "rabbit"
    what = "queue"
    program = "Rabbit"
    options: ClassVar = {("environment", "unit"): "enabled", ("environment",): "size variables.url"}
    sockets = "/run/rabbit"

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def address(self, app: App, root: Path = ROOT, *, owner: bool = False) -> tuple[str, str]:
        return "mq.example.com", "5671" if owner else "5672"

    def parts(self, app: App, root: Path = ROOT, *, owner: bool = False) -> dict[str, str]:
        try:
            password = (root / "etc/berth/rabbit" / app["name"]).read_text()
        except OSError as error:
            raise ReleaseError("There is no queue.") from error
        return self._parts(app, password, owner)

    def predicted(self, app: App, *, owner: bool = False) -> dict[str, str]:
        return self._parts(app, "predicted", owner)

    def _parts(self, app: App, password: str, owner: bool) -> dict[str, str]:
        host, port = self.address(app, owner=owner)
        return {"url": f"amqp://{app['name']}:{password}@{host}:{port}", "port": port}

    def after(self, app: App) -> list[str]:
        return [self.unit(app["name"])] if self.used(app) else []

    def secret_files(self, root: Path = ROOT) -> Iterable[Path]:
        return (root / "etc/berth/rabbit").glob("*")

    def unit(self, app: str) -> str:
        return f"rabbit@{app}"

    def explain(self, error: str, where: str) -> str:
        return f"it cannot reach its queue{where}" if error.startswith("QueueError") else ""

    def traces(self, paths: Paths) -> list[Path]:
        return [paths.root / "etc/berth/rabbit" / paths.app]

    def purge(self, paths: Paths, settings: Settings) -> None:
        self.seen.append(dict(settings))


WANTED = {"enabled": True, "size": "1G", "variables": {"url": "BROKER_URL"}}


def with_queue(**more: Any) -> dict[str, Any]:
    return board(env={"PORT": {"template": "${q.port}"}}, **more) | {"queue": WANTED}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    """One line in the table."""
    service = Queue()
    monkeypatch.setattr(services, "ALL", (*services.ALL, service))
    monkeypatch.setattr(applies, "APPLIES", applies.collect())
    return service


@pytest.fixture
def server(tmp_path: Path) -> Path:
    for kind, name in (("rabbit", "board"), ("postgresql", "board"), ("postgresql", "board_owner")):
        path = tmp_path / "etc/berth" / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"secretOf{kind}{name}")
    return tmp_path


@pytest.mark.usefixtures("queue")
def test_an_app_is_told_of_it(server: Path, tmp_path: Path) -> None:
    app = with_queue()
    told = environment.variables(app, {}, *services.given(app, server))
    assert (told["BROKER_URL"], told["PORT"]) == (
        "amqp://board:secretOfrabbitboard@mq.example.com:5672",
        "5672",
    )
    # Migrations may go another way to it.
    assert environment.variables(app, {}, *services.given(app, server, owner=True))["PORT"] == "5671"
    nowhere = tmp_path / "nowhere"
    assert "predicted@" in services.given(app, nowhere, check=True).variables["BROKER_URL"]
    with pytest.raises(ReleaseError, match="no queue"):
        services.given(app, nowhere)
    assert "BROKER_URL" in reads.given(app)
    assert filters.FilterModule().filters()["units_after"](app) == "postgresql.service rabbit@board.service"


@pytest.mark.usefixtures("queue")
def test_the_contract_knows_its_variables_and_its_parts() -> None:
    def problems(app: dict[str, Any]) -> list[str]:
        report = Report()
        variables.check_variables(report, app, "apps[0]")
        return [f"{one.path}: {one.text}" for one in report.problems]

    assert problems(with_queue(redis={"enabled": False})) != []  # a part that it has no variable for
    app = with_queue() | {"env": {"A": {"template": "${q.url}"}}}
    assert problems(app) == []
    assert "BROKER_URL" in problems({**app, "env": {"BROKER_URL": "x"}})[0]
    lacking = problems({**app, "queue": {**WANTED, "enabled": False}})
    assert 'which the app does not have; write "queue: {enabled: true}"' in lacking[0]


@pytest.mark.usefixtures("queue")
def test_a_change_of_it_is_noticed(tmp_path: Path) -> None:
    app, paths = with_queue(), Paths("board", tmp_path)
    paths.etc.mkdir(parents=True)
    paths.provisioned.write_text(json.dumps(settings.provisioned(app)))
    receipts.write("rabbit", receipt([app], "rabbit"), False, tmp_path)
    assert settings.compare(paths, app, {})["problem"] == ""
    other = {**app, "queue": {**WANTED, "size": "2G"}}
    assert settings.provision_digest(other) != settings.provision_digest(app)
    problem = settings.compare(paths, other, {})["problem"]
    assert problem.startswith("The queue settings of board changed since the server was prepared")


def test_a_status_tells_of_it(queue: Queue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def systemctl(*words: str, **_: Any) -> Result:
        return Result(3, "failed\n" if words == ("is-active", "rabbit@board.service") else "", "")

    monkeypatch.setattr(units, "systemctl", systemctl)
    release = tmp_path / "srv/board/releases/r1"
    release.mkdir(parents=True)
    (release / "release.json").write_text(json.dumps({"app": with_queue(), "release": "r1"}))
    (tmp_path / "srv/board/web.sock").symlink_to("/run/berth/board/r1.sock")
    assert presence.uses(queue, "board", tmp_path)
    found = facts.app(Paths("board", tmp_path), "present", [], set())
    assert (found["rabbit"], found["redis"]) == ("failed", "")
    said = [one for one in findings.of_app(found, {"proxy_unit": "caddy"}) if one["code"] == "rabbit"]
    assert [one["text"] for one in said] == ["its Rabbit is failed"]
    assert "Rabbit failed" in status._running(found)


def test_it_goes_with_the_app(queue: Queue, server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(argv: list[str], **_: Any) -> Result:
        asked.extend(word for word in argv if word in ("daemon-reload", "disable"))
        if "disable" in argv:
            assert argv == ["systemctl", "disable", "--quiet", "--now", "rabbit@board.service"]
        return Result(0, "", "")

    monkeypatch.setattr(command, "run", run)
    paths = Paths("board", server)
    paths.etc.mkdir(parents=True)
    paths.release("r1").mkdir(parents=True)
    paths.provisioned.write_text(json.dumps(settings.provisioned(with_queue())))
    receipts.write(
        "rabbit", receipt([with_queue(), {**with_queue(), "name": "notes"}], "rabbit"), False, server
    )
    said = remove.remove(paths, False, {}, False)["msg"]
    assert "Its data, database, Redis, queue and secrets are kept" in said
    assert (asked, queue.seen) == (["daemon-reload", "disable"], [])
    assert list(receipts.read("rabbit", server)) == ["notes"]
    # What it was set up from is known still when no release is left.
    drop_in = paths.units / "rabbit@board.service.d/50-berth.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.touch()
    asked.clear()
    remove.remove(paths, True, {}, False)
    assert asked == ["daemon-reload", "disable", "disable", "daemon-reload"]
    assert (queue.seen, drop_in.parent.exists()) == ([WANTED], False)


@pytest.mark.usefixtures("queue")
def test_its_secrets_its_sockets_and_its_errors(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths("board", server)
    assert "secretOfrabbitboard" in masking.of_app(paths)
    trace = [
        "Traceback (most recent call last):",
        '  File "/app/main.py", line 3, in <module>',
        "QueueError: x",
    ]
    assert "it cannot reach its queue" in cause.reason(trace, cause.About(inside="/app"))
    asked: list[str] = []

    def transient(work: Work) -> Result:
        asked.extend(work.properties)
        return Result(0, "", "")

    monkeypatch.setattr(once, "transient", transient)
    offline.make("unit", offline.Place(server, server, Code(paths, "r", server, [])), "", "head")
    assert {f"InaccessiblePaths=-/run/{name}" for name in ("postgresql", "redis", "rabbit")} <= set(asked)


def test_a_purge_takes_the_databases_that_an_exchange_kept(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str], **_: object) -> Result:
        asked.append(argv)
        return Result(0, "board\nboard_before_20261130_120000\n" if "psql" in argv else "", "")

    monkeypatch.setattr(command, "run", run)
    postgresql.SERVICE.purge(Paths("board", server), {"enabled": True, "name": "board"})
    dropped = [argv[-1] for argv in asked if "dropdb" in argv]
    assert dropped == ["board", "board_before_20261130_120000"]
    assert [argv[-1] for argv in asked if "dropuser" in argv] == ["board", "board_owner", "board_ro"]


def test_a_build_reaches_no_service_by_a_socket() -> None:
    hidden = sandbox.build(Paths("board"), {"limits": {"build_memory": ""}})
    assert {f"InaccessiblePaths=-{folder}" for folder in services.sockets()} <= set(hidden)


def test_another_address_of_the_database_reaches_everybody(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler for the app, and the server itself, elsewhere, for its migrations."""

    def address(*_: Any, owner: bool = False) -> tuple[str, str]:
        return ("db.example.com", "5432") if owner else ("127.0.0.1", "6432")

    monkeypatch.setattr(postgresql.SERVICE, "address", address)
    app = board(database={"enabled": True})
    assert services.given(app, server).known["db.url"] == (
        "postgresql://board:secretOfpostgresqlboard@127.0.0.1:6432/board"
    )
    assert "@db.example.com:5432/" in services.given(app, server, owner=True).known["db.url"]
    asked = database.Database(app, server).env
    assert (asked["PGHOST"], asked["PGPORT"], asked["PGUSER"]) == ("db.example.com", "5432", "board_owner")
