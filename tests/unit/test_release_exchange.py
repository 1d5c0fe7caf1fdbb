"""An app's database is exchanged while the app stands still, and exchanged back where it is not well then."""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.migrations import points
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.payload import hold
from ansible.module_utils.berth.release import engine
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import exchange
from ansible.module_utils.berth.reports import restores
from ansible.module_utils.berth.runtime import gate, health, holding, listening, transient, units
from ansible.module_utils.berth.store import journal, public, releases

LIVE = "20261130T120000Z-1a2b3c4"
SCHEMA = {"public.alembic_version": "0002"}
DIFFERS = [{"database": "board", "table": "public.posts", "restored": 30, "live": 10}]
APP: dict[str, Any] = {
    "name": "board",
    "processes": [
        {"name": "web", "command": "", "instances": 1, "stop_timeout": 10},
        {"name": "worker", "command": "x", "instances": 1, "stop_timeout": 10},
    ],
    "jobs": [{"name": "nightly"}],
    "drain": {"requests": 5},
    "health": {"timeout": 5, "interval": 1, "successes": 3, "hold": 3},
}


class Program:
    """Stands for what works as the user postgres."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, dict[str, Any]] = {
            "compare": {
                "differs": DIFFERS,
                "unknown": 0,
                "restored_schema": SCHEMA,
                "schema": SCHEMA,
                "kept": [],
                "copied": {},
            },
            "found": {"kept": [], "copied": {}, "schema": SCHEMA},
            "copy": {"name": "board_restored", "seconds": 1.0},
            "swap": {"kept": "board_before_x", "seconds": 0.1},
            "drop": {"dropped": []},
        }

    def __call__(self, _: object, verb: str, request: dict[str, Any], *__: object) -> dict[str, Any]:
        self.asked.append((verb, request))
        return self.answers[verb]

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    made = Program()
    monkeypatch.setattr(exchange.Exchange, "_ask", lambda *words: made(*words))
    monkeypatch.setattr(exchange.Exchange, "_password", lambda _: "secret")
    monkeypatch.setattr(
        restores, "standing", lambda: {"request": {"said": "the latest commit"}, "ended": "then"}
    )
    monkeypatch.setattr(points, "make", lambda _: {})
    return made


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    paths = Paths("board", tmp_path)
    paths.etc.mkdir(parents=True)
    database = {"enabled": True, "name": "board", "owner": "board_owner", "user": "board"}
    paths.provisioned.write_text(json.dumps({"digest": "x", "services": {"database": database}}))
    (tmp_path / "exchange.py").touch()
    monkeypatch.setattr(exchange, "PROGRAM", tmp_path / "exchange.py")
    monkeypatch.setattr(releases, "live", lambda _: LIVE)
    monkeypatch.setattr(journal, "read_record", lambda _: {"app": APP})
    known = {"before": {"healthy": True, "schema": {"to": "0001"}}}
    monkeypatch.setattr(releases, "records", lambda _: known)
    return Deploy(paths, {"user": "ann", "host": "laptop"})


@pytest.fixture
def stood(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that the app stood still, whether what is begun is finished without its run."""
    times: list[bool] = []

    @contextlib.contextmanager
    def still(*_: object) -> Iterator[holding.Held]:
        times.append(deploy.switched)
        yield holding.Held(["board-nightly"], let_go=1.0, seconds=2.0)

    monkeypatch.setattr(holding, "still", still)
    monkeypatch.setattr(exchange.Exchange, "_prove", lambda *_: None)
    return times


def test_check_mode_tells_what_is_lost_and_changes_nothing(deploy: Deploy, program: Program) -> None:
    said = exchange.run(deploy, {"mode": "live", "check": True})["msg"]
    assert "board: public.posts  30        10" in said
    assert "Database board becomes what was restored to the latest commit." in said
    assert program.verbs() == ["compare"]


def test_it_goes_live_while_the_app_stands_still(deploy: Deploy, program: Program, stood: list[bool]) -> None:
    said = exchange.run(deploy, {"mode": "live"})["msg"]
    assert program.verbs() == ["compare", "copy", "swap"]
    assert program.asked[2][1]["other"] == "board_restored"
    assert "kept as board_before_x: berth restore --undo board goes back to it" in said
    assert "Jobs that were at work were ended: board-nightly." in said
    assert stood == [True]
    assert not deploy.switched
    (line,) = journal.entries(deploy.paths.audit)
    assert (line["what"], line["result"], line["kept"]) == ("go-live", "ok", "board_before_x")


def test_what_is_live_already_is_not_exchanged_again(
    deploy: Deploy, program: Program, stood: list[bool]
) -> None:
    """As after a run that was cut off when it was done: rows that came since are not lost to a second try."""
    program.answers["compare"]["kept"] = [{"for": "the latest commit, then", "at": "2026-11-30T12:00:00Z"}]
    answer = exchange.run(deploy, {"mode": "live"})
    assert answer["changed"] is False
    assert "already, since 2026-11-30 12:00 UTC" in answer["msg"]
    assert stood == []
    exchange.run(deploy, {"mode": "live", "force": True})
    assert stood == [True]


def test_one_that_makes_the_app_sick_is_exchanged_back(
    deploy: Deploy, program: Program, stood: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove(*_: object) -> None:
        raise ReleaseError("The live release answers 500.", log=["boom"])

    monkeypatch.setattr(exchange.Exchange, "_prove", prove)
    with pytest.raises(ReleaseError, match=r"has what it had before again: The live release answers 500\."):
        exchange.run(deploy, {"mode": "live"})
    back = program.asked[-1][1]
    assert (back["other"], back["aside"], back["said"]["is"]) == (
        "board_before_x",
        "board_restored",
        "copied",
    )
    # Rows were written into it: it is made anew.
    assert back["said"]["restored"] == ""
    assert stood == [True, True]
    assert not deploy.switched
    assert journal.entries(deploy.paths.audit)[-1]["result"] == "failed"


def test_another_schema_is_refused_with_the_release_that_works_with_it(
    deploy: Deploy, program: Program, stood: list[bool]
) -> None:
    program.answers["compare"]["restored_schema"] = {"public.alembic_version": "0001"}
    with pytest.raises(ReleaseError) as caught:
        exchange.run(deploy, {"mode": "live"})
    assert caught.value.sentence == (
        "What was restored has the schema of 0001, as release before has, and the live release works with "
        "0002. Nothing was changed."
    )
    assert "berth rollback board --to before --force" in caught.value.advice
    assert program.verbs() == ["compare"]
    exchange.run(deploy, {"mode": "live", "force": True})
    assert stood == [True]


def test_the_schema_of_the_live_release_is_as_good_as_todays(
    deploy: Deploy, program: Program, stood: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback the database is ahead of the release, and after a forced exchange behind it."""
    monkeypatch.setattr(journal, "read_record", lambda _: {"app": APP, "schema": {"to": "0001"}})
    program.answers["compare"]["restored_schema"] = {"public.alembic_version": "0001"}
    exchange.run(deploy, {"mode": "live"})
    program.answers["found"]["kept"] = [{"name": "one", "bytes": 1, "schema": SCHEMA}]
    exchange.run(deploy, {"mode": "undo"})
    assert stood == [True, True]


def test_undo_takes_the_newest_that_was_kept_and_needs_one(
    deploy: Deploy, program: Program, stood: list[bool]
) -> None:
    with pytest.raises(
        ReleaseError, match="No earlier database of board is kept, so there is nothing to undo"
    ):
        exchange.run(deploy, {"mode": "undo"})
    kept = [{"name": "one", "bytes": 1}, {"name": "two", "bytes": 1, "at": "2026-11-30T12:00:00Z"}]
    program.answers["found"]["kept"] = kept
    assert "until 2026-11-30 12:00 UTC" in exchange.run(deploy, {"mode": "undo", "check": True})["msg"]
    assert stood == []
    exchange.run(deploy, {"mode": "undo"})
    assert program.asked[-1][1]["other"] == "two"


def test_what_is_kept_is_dropped_when_that_is_asked_for(deploy: Deploy, program: Program) -> None:
    assert exchange.run(deploy, {"mode": "drop"})["changed"] is False
    program.answers["found"]["kept"] = [{"name": "one", "bytes": 3 << 20}]
    said = exchange.run(deploy, {"mode": "drop", "check": True})["msg"]
    assert said.startswith("Would drop one (3 MB).")
    assert "drop" not in program.verbs()
    exchange.run(deploy, {"mode": "drop"})
    assert program.verbs()[-1] == "drop"


def test_a_table_is_copied_beside_the_live_ones(deploy: Deploy, program: Program, stood: list[bool]) -> None:
    program.answers["table"] = {"table": "restored_x.posts", "rows": 3}
    assert (
        "Would copy" in exchange.run(deploy, {"mode": "table", "table": "public.posts", "check": True})["msg"]
    )
    assert program.verbs() == []
    said = exchange.run(deploy, {"mode": "table", "table": "public.posts"})["msg"]
    assert said.startswith("3 rows of public.posts are in restored_x.posts of database board now")
    assert stood == []


@pytest.mark.usefixtures("stood")
def test_what_is_undone_is_known_by_its_restore_and_so_is_what_is_live_again(
    deploy: Deploy, program: Program
) -> None:
    program.answers["found"]["kept"] = [{"name": "one", "bytes": 1, "for": "R"}]
    exchange.run(deploy, {"mode": "undo"})
    program.answers["found"]["kept"] = [{"name": "two", "bytes": 1, "undone": "R"}]
    exchange.run(deploy, {"mode": "undo"})
    said = [request["said"] for verb, request in program.asked if verb == "swap"]
    assert [(one.get("for"), one.get("undone")) for one in said] == [(None, "R"), ("R", None)]


def test_a_copy_is_made_beforehand_and_not_twice(deploy: Deploy, program: Program, stood: list[bool]) -> None:
    assert exchange.run(deploy, {"mode": "copy"})["changed"] is True
    assert program.verbs() == ["found", "copy"]
    program.answers["found"]["kept"] = [{"for": "the latest commit, then", "at": "2026-11-30T12:00:00Z"}]
    assert exchange.run(deploy, {"mode": "copy"})["changed"] is False
    assert stood == []


@pytest.fixture
def three(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A server with three apps, and what is kept of each."""
    kept: dict[str, Any] = {"board": [], "notes": [], "shop": []}
    for name in ("notes", "shop", "plain"):
        paths = Paths(name, deploy.paths.root)
        paths.etc.mkdir(parents=True)
        database = {"enabled": name != "plain", "name": name, "owner": f"{name}_owner", "user": name}
        paths.provisioned.write_text(json.dumps({"digest": "x", "services": {"database": database}}))
    away = {"enabled": True, "name": "away", "host": "db.example.com"}
    elsewhere = Paths("away", deploy.paths.root)
    elsewhere.etc.mkdir(parents=True)
    elsewhere.provisioned.write_text(json.dumps({"digest": "x", "services": {"database": away}}))
    for name in (*kept, "plain", "away"):
        Paths(name, deploy.paths.root).state.mkdir(parents=True, exist_ok=True)
    found = {name: {"kept": kept[name], "copied": {}} for name in kept}
    monkeypatch.setattr(exchange.Exchange, "_ask", lambda one, *_: found[one.app])
    return kept


@pytest.mark.usefixtures("three")
def test_all_are_those_that_were_there_and_what_is_left_alone_is_named(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ["board", "board_restored", "board_before_20261130_120000", "notes", "wiki", "postgres"]
    monkeypatch.setattr(restores, "standing", lambda: {"databases": there})
    found = exchange.every("live", deploy.paths.root)
    assert found["apps"] == ["board", "notes"]
    assert found["said"] == [
        "Database shop of shop was not there then, and stays as it is.",
        "Of no app, so it stays as it is: database wiki.",
    ]


def test_all_go_back_that_went_live_of_one_restore_and_none_goes_forth(
    deploy: Deploy, three: dict[str, Any]
) -> None:
    def undone() -> list[str]:
        found: list[str] = exchange.every("undo", deploy.paths.root)["apps"]
        return found

    assert undone() == []
    three["shop"].append({"for": "long ago", "at": "2026-10-01T12:00:00Z"})
    for name, minute in (("board", 1), ("notes", 2)):
        three[name].append({"for": "R", "at": f"2026-11-30T12:0{minute}:00Z"})
    assert undone() == ["board", "notes"]
    # Cut off after the first one; then both are back.
    three["board"].append({"undone": "R", "at": "2026-11-30T12:05:00Z"})
    assert undone() == ["notes"]
    three["notes"].append({"undone": "R", "at": "2026-11-30T12:06:00Z"})
    assert undone() == []
    assert exchange.every("drop", deploy.paths.root)["apps"] == ["board", "notes", "shop"]


def test_an_app_without_a_database_and_an_earlier_berth_are_told(deploy: Deploy) -> None:
    exchange.PROGRAM.unlink()
    with pytest.raises(ReleaseError, match="An earlier Berth set this server up"):
        exchange.run(deploy, {"mode": "undo"})
    deploy.paths.provisioned.unlink()
    with pytest.raises(ReleaseError, match="board has no database on this server"):
        exchange.run(deploy, {"mode": "undo"})


# Of a release whose server does not say when it retires.
NO_MARK = Path("/nowhere/keepalive")


class Systemd:
    """Units that wait before they begin as long as the lock is held."""

    def __init__(self, lock: Path) -> None:
        self.lock, self.did = lock, []  # type: tuple[Path, list[str]]

    def held(self) -> bool:
        with self.lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def shown(self, names: list[str], *_: str) -> list[dict[str, str]]:
        return [{"Id": name, "SubState": "start-pre" if self.held() else "running"} for name in names]


@pytest.fixture
def systemd(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    made = Systemd(deploy.paths.root / "run/berth/board.hold")
    monkeypatch.setattr(units, "states", lambda names: dict.fromkeys(names, "active"))
    monkeypatch.setattr(units, "reload", lambda: made.did.append("reload"))
    monkeypatch.setattr(units, "stop", lambda names, **_: made.did.append(f"stop {' '.join(names)}"))
    monkeypatch.setattr(units, "ask_to_restart", lambda names: made.did.append(f"restart {len(names)}"))
    monkeypatch.setattr(units, "shown", made.shown)
    return made


def test_processes_wait_for_a_lock_that_the_kernel_frees(deploy: Deploy, systemd: Systemd) -> None:
    folder = deploy.paths.root / "run/systemd/system"
    with holding.still(deploy.paths, APP, LIVE, NO_MARK) as held:
        files = {path.parent.name: path.read_text() for path in folder.glob("*/*.conf")}
        assert set(files) == {f"board-{name}@{LIVE}.service.d" for name in ("web", "worker", "nightly")}
        for text in files.values():
            assert f"ExecStartPre=+/usr/bin/flock --shared {systemd.lock} true" in text
        assert systemd.held()
    assert systemd.did == ["reload", f"stop board-nightly@{LIVE}.service", "restart 2", "reload"]
    assert held.cut == ["board-nightly"]
    assert not systemd.held()
    assert list(folder.glob("*")) == []


def test_what_fails_meanwhile_lets_them_go_too(deploy: Deploy, systemd: Systemd) -> None:
    with pytest.raises(RuntimeError), holding.still(deploy.paths, APP, LIVE, NO_MARK):
        raise RuntimeError
    assert not systemd.held()


def test_one_that_does_not_end_is_told(
    deploy: Deploy, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_MARGIN", 0)
    monkeypatch.setattr(units, "to_end", lambda _: -15)
    monkeypatch.setattr(
        units, "shown", lambda names, *_: [{"Id": name, "SubState": "stop"} for name in names]
    )
    app = {**APP, "drain": {"requests": -10}}
    with (
        pytest.raises(ReleaseError, match=r"did not end within 0 s"),
        holding.still(deploy.paths, app, LIVE, NO_MARK),
    ):
        pass
    assert not systemd.held()


class Queue:
    """Stands for what has requests wait: the socket is laid aside until the lock is free."""

    def __init__(self, deploy: Deploy, systemd: Systemd) -> None:
        self.paths, self.systemd, self.words = deploy.paths, systemd, []  # type: Paths, Systemd, list[str]
        self.socket = deploy.paths.root_socket(LIVE)
        unit = deploy.paths.units / f"board-web@{LIVE}.socket"
        for path in (self.socket, unit):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def begin(self, unit: str, _: str, argv: list[str]) -> Result:
        assert unit.startswith("berth-hold-board-")
        self.words = argv[4:]
        self.systemd.did.append("requests wait")
        hold.aside(self.socket).touch()
        threading.Thread(target=self.wait, daemon=True).start()
        return Result(0, "", "")

    def wait(self) -> None:
        while self.systemd.held():
            time.sleep(0.01)
        self.systemd.did.append("requests go on")
        hold.put_back(self.socket)


@pytest.fixture
def queue(deploy: Deploy, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> Queue:
    made = Queue(deploy, systemd)
    monkeypatch.setattr(transient, "in_background", made.begin)
    monkeypatch.setattr(holding, "ids", lambda _: (1234, 1234))
    monkeypatch.setattr(holding, "_READ", 0.3)
    return made


def test_requests_wait_before_a_server_is_asked_to_end(
    deploy: Deploy, systemd: Systemd, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = deploy.paths.root / "keepalive"
    left = [2, 1, 0]
    monkeypatch.setattr(listening, "waiting", lambda _: left.pop(0))
    with holding.still(deploy.paths, APP, LIVE, mark) as held:
        assert left == []
    ended = [f"stop board-nightly@{LIVE}.service", "requests wait", "restart 2"]
    assert systemd.did == ["reload", *ended, "requests go on", "reload"]
    assert queue.words == [str(systemd.lock), str(queue.socket), str(mark), "2.0", "1234"]
    # It stands still from when requests wait: what was asked before that was answered.
    assert 0.3 <= held.seconds < 5
    assert not hold.aside(queue.socket).exists()


def test_a_web_that_makes_its_socket_is_waited_for_and_waits_for_its_relay(
    deploy: Deploy, systemd: Systemd, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay's start comes first, so the web only starts when the lock is free."""
    relayed = {**APP, "processes": [{**APP["processes"][0], "command": "x {socket}"}]}
    state = {"Id": f"board-web@{LIVE}.service", "SubState": "dead"}
    monkeypatch.setattr(units, "shown", lambda *_: [state])
    with holding.still(deploy.paths, relayed, LIVE, NO_MARK):
        assert systemd.held()
    assert queue.words[5:] == [str(deploy.paths.own_socket(LIVE))]


@pytest.mark.usefixtures("queue")
def test_an_app_whose_requests_cannot_wait_goes_on(
    deploy: Deploy, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transient, "in_background", lambda *_: Result(1, "", "Failed: no.\n"))
    with (
        pytest.raises(ReleaseError, match=r"^Requests for board could not be made to wait: Failed: no\."),
        holding.still(deploy.paths, APP, LIVE, NO_MARK),
    ):
        pass
    assert "restart 2" not in systemd.did
    assert not systemd.held()


def test_a_mark_that_a_power_cut_left_aside_is_back_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths("board", tmp_path)
    monkeypatch.setattr(engine, "Paths", lambda _: paths)
    monkeypatch.setattr(engine.temporary, "sweep", lambda: None)
    paths.state.mkdir(parents=True)
    paths.base.mkdir(parents=True)
    paths.web_sock.symlink_to(paths.root_socket(LIVE))
    mark = public.lasting(paths.release(LIVE))
    mark.parent.mkdir(parents=True)
    for _ in range(2):
        hold.aside(mark).touch()
        one = engine.Engine()
        one.run("lock", {"name": "board", "holder": {}}, None)
        one.run("unlock", {"name": "board"}, None)
        assert [path.name for path in mark.parent.iterdir()] == ["keepalive"]


def test_health_is_judged_by_what_came_after_the_exchange(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(exchange.settings, "served", lambda _, app, __: app)
    monkeypatch.setattr(health, "probe", lambda *_: None)
    monkeypatch.setattr(gate, "wait_healthy", lambda *words: asked.append(words))
    exchange.Exchange(deploy)._prove(7.0)
    _, unit, once, _, past = asked[0]
    assert unit == f"board-web@{LIVE}.service"
    assert (once["successes"], once["hold"], past.since) == (1, 0, 7.0)
