"""What is told and done when a run fails, is cut off or cannot tidy up. Its systemd only remembers."""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth import venv
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.migrations import schema
from ansible.module_utils.berth.packaging import start_scripts
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.payload import retire
from ansible.module_utils.berth.release import plan, recover
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.engine import Engine
from ansible.module_utils.berth.release.perform import perform
from ansible.module_utils.berth.release.plan import Action
from ansible.module_utils.berth.release.steps import migrate, plan_rollback, table
from ansible.module_utils.berth.release.steps import plan as plan_step
from ansible.module_utils.berth.release.steps import prune as prune_step
from ansible.module_utils.berth.release.steps import retire as retire_step
from ansible.module_utils.berth.reports import history
from ansible.module_utils.berth.runtime import gate, naming, public_route, units
from ansible.module_utils.berth.store import journal, lock, prune, releases

from tests.support.entry import board

APP = board(
    processes=[{"name": "web"}, {"name": "worker", "command": "w"}],
    health={"path": "/healthz", "timeout": 1, "interval": 0.1, "successes": 1, "hold": 0},
    drain={"requests": 5, "websocket": 5},
    migrations={},
)
LONG = board(processes=[{"name": "worker", "command": "w", "stop_timeout": 600}])["processes"][0]
FULL = OSError(28, "No space left on device")


class Systemd:
    """What the engine asks of systemd, remembered; a unit is active from its start to its stop."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self.said: list[str] = []
        self.broken: set[str] = set()

    def run(self, argv: list[str], **_: Any) -> command.Result:
        words = [word for word in argv[1:] if not word.startswith("-")]
        self.said.append(" ".join(argv))
        if argv[0] in self.broken or (words and words[0] in self.broken):
            raise ReleaseError(f"{argv[0]} took longer than 60 s and was stopped.")
        if argv[0] == "systemctl" and words[0] == "is-active":
            states = ["active" if name in self.active else "inactive" for name in words[1:]]
            return command.Result(0, "\n".join(states), "")
        if argv[0] == "systemctl" and words[0] == "start":
            self.active.update(words[1:])
        if argv[0] == "systemctl" and words[0] in ("stop", "kill"):
            self.active.difference_update(words[1:])
        return command.Result(0, "", "")

    def told(self, text: str) -> bool:
        return any(text in line for line in self.said)


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    fake = Systemd()
    monkeypatch.setattr(command, "run", fake.run)
    monkeypatch.setattr(gate, "wait_healthy", lambda *_: None)
    monkeypatch.setattr(public_route, "verify_public", lambda *_, **__: "")
    monkeypatch.setattr(units, "fallen", lambda *_: "")
    monkeypatch.setattr(start_scripts, "grow", lambda *_: None)
    return fake


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    place = Paths("board", tmp_path)
    for folder in (place.releases, place.units, place.state, place.frozen, place.run):
        folder.mkdir(parents=True)
    return place


def lay(paths: Paths, name: str, **record: Any) -> None:
    paths.release(name).mkdir()
    journal.write_record(paths.release(name), {"app": APP, "healthy": True, "health_path": "/", **record})


def go_live(paths: Paths, name: str) -> None:
    units.replace_link(paths.web_sock, naming.socket(paths, name))


def deploy(paths: Paths, systemd: Systemd, old: str = "r1", new: str = "r2", **more: Any) -> Deploy:
    """A deploy that has come to its switch."""
    run = Deploy(paths, {"user": "me", "host": "here"})
    run.app, run.previous, run.release, run.action = APP, old, new, Action.DEPLOY
    if not paths.release(new).exists():
        lay(paths, new, healthy=False)
    run.record = journal.read_record(paths.release(new))
    for name, value in more.items():
        setattr(run, name, value)
    systemd.active |= {naming.web("board", name) for name in (old, new) if name}
    return run


def step(run: Deploy, *names: str) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for name in names:
        known = table.find(name)
        assert known
        answer = perform(run, name, known.run, {})
    return answer


def rollback(paths: Paths) -> tuple[Deploy, dict[str, Any]]:
    run = Deploy(paths, {"user": "me", "host": "here"})
    return run, plan_rollback.run(run, {})


def test_a_rollback_follows_what_was_live_and_not_the_names(paths: Paths, systemd: Systemd) -> None:
    for number, name in enumerate(("r1", "r2", "r3"), 1):
        lay(paths, name, turn=number)
    go_live(paths, "r3")
    run, answer = rollback(paths)
    assert answer["release"] == "r2"
    step(run, "switch", "verify", "retire", "finish")
    lay(paths, "r4", healthy=False)
    step(deploy(paths, systemd, "r2", "r4"), "switch", "verify", "retire", "finish")
    # r3 was gone back from: r2 is what was live before r4.
    _, answer = rollback(paths)
    assert answer["release"] == "r2"
    stay, gone = releases.select(releases.records(paths), "r4", 2, [])
    assert (stay, gone) == (["r2", "r4"], ["r1", "r3"])
    systemd.active.add(naming.web("board", "r3"))
    health = {one["release"]: one["health"] for one in history.describe(paths)["releases"]}
    assert health["r3"] == "ends its work"
    systemd.active.clear()
    health = {one["release"]: one["health"] for one in history.describe(paths)["releases"]}
    assert (health["r3"], health["r2"]) == ("withdrawn", "was well")


@pytest.mark.usefixtures("systemd")
def test_who_goes_back_is_told_of_rows_that_newer_code_wrote(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No migration came between, so nothing refuses it; only the code knows what it wrote."""
    more = {"app": {**APP, "database": {**APP["database"], "enabled": True}}, "schema": {"to": "1"}}
    for turn, name in enumerate(("r1", "r2"), 1):
        lay(paths, name, turn=turn, live_since=f"2026-01-0{turn}T20:31:09Z", **more)
    go_live(paths, "r2")
    monkeypatch.setattr(history, "today", lambda _: "1")
    _, answer = rollback(paths)
    assert "Rows written since 2026-01-02 20:31 UTC stay" in answer["msg"]


def test_of_too_many_that_retire_the_oldest_ends_early(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the order in which they were live, which is not that of their names.
    for turn, name in enumerate(("r3", "r1", "r2", "r4"), 1):
        lay(paths, name, turn=turn)
        systemd.active.add(naming.web("board", name))
    monkeypatch.setattr(retire, "connections", lambda path: 2 if "r3" in path else 1)
    retirement = naming.retiring("board", "r3")
    systemd.active.add(retirement)
    show = {
        "Description": "Wait for r3",
        "ActiveEnterTimestampMonotonic": str(int((time.monotonic() - 20) * 1e6)),
    }
    monkeypatch.setattr(units, "show", lambda *_: show)
    go_live(paths, "r5")
    run = deploy(paths, systemd, "r4", "r5")
    answer = step(run, "retire")
    said = (
        "r3 ends early, since 4 releases retire: its 2 open connections are closed, and requests in flight "
        "have 5 s (drain.releases is 2)."
    )
    assert said in answer["msg"]
    assert said in run.notes
    assert "r1 ends early, since 4 releases retire: its open connection is closed" in answer["msg"]
    assert not re.search("r2 ends early|r4 ends early", answer["msg"])
    # The one that waited for its WebSockets ends, and the next lets the proxy's idle time pass, no more.
    assert systemd.told(f"stop --no-block {retirement}")
    (started,) = (line for line in systemd.said if "systemd-run" in line and "End early: wait for r3" in line)
    assert re.search(r"r3\.sock \S+web\.sock 35 15 board-web@r3", started)
    (other,) = (line for line in systemd.said if "systemd-run" in line and "End early: wait for r1" in line)
    assert re.search(r"r1\.sock \S+web\.sock 35 35 board-web@r1", other)

    # It is told once, and nothing begins anew.
    show["Description"] = "End early: wait for r3"
    systemd.active |= {retirement, naming.retiring("board", "r1")}
    systemd.said.clear()
    assert "early" not in step(deploy(paths, systemd, "r4", "r5"), "retire")["msg"]
    assert not systemd.told("End early")


@pytest.mark.parametrize(("most", "connections", "early"), [(1, 1, True), (3, 1, False), (1, 0, False)])
def test_how_many_may_retire_is_the_apps_to_say(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, most: int, connections: int, early: bool
) -> None:
    for turn, name in enumerate(("r1", "r2"), 1):
        lay(paths, name, turn=turn)
        systemd.active.add(naming.web("board", name))
    monkeypatch.setattr(retire, "connections", lambda _: connections)
    go_live(paths, "r3")
    run = deploy(paths, systemd, "r2", "r3")
    run.app = {**APP, "drain": {**APP["drain"], "releases": most}}
    assert ("r1 ends early" in step(run, "retire")["msg"]) is early


@pytest.mark.usefixtures("systemd")
def test_going_forth_again_takes_the_withdrawal_back(paths: Paths) -> None:
    lay(paths, "r1", turn=1)
    lay(paths, "r2", turn=2, withdrawn="2026-01-01T00:00:00Z")
    lay(paths, "r3", turn=3)
    go_live(paths, "r3")
    run = Deploy(paths, {})
    plan_rollback.run(run, {"to": "r2"})
    step(run, "switch", "verify")
    records = releases.records(paths)
    assert not records["r2"].get("withdrawn")
    assert not records["r3"].get("withdrawn")
    assert releases.previous(records, "r2") == "r3"


def test_an_id_is_never_below_one_that_is_here() -> None:
    ahead = "20990101T000000Z-aaaaaaa"
    assert plan.release_id("b" * 40, here=[ahead, "odd"]) == "20990101T000001Z-bbbbbbb"


@pytest.mark.usefixtures("systemd")
@pytest.mark.parametrize("last", ["switch", "verify", "retire", "prune"])
def test_a_rollback_cut_off_between_two_steps_goes_no_further(paths: Paths, last: str) -> None:
    for number, name in enumerate(("r1", "r2", "r3"), 1):
        lay(paths, name, turn=number)
    go_live(paths, "r3")
    road = ("switch", "verify", "retire", "prune", "finish")
    run, _ = rollback(paths)
    step(run, *road[: road.index(last) + 1])
    for _ in range(2):  # the run that repeats it is cut off, too, before its first step
        again, answer = rollback(paths)
        assert (answer["action"], answer["release"], again.previous) == ("resume", "r2", "r3")
    step(again, *road)
    _, answer = rollback(paths)
    assert answer["release"] == "r1", "what was told as done is done"


@pytest.mark.parametrize("broken", ["systemd-run", "audit"])
def test_nothing_takes_a_proved_release_back(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    lay(paths, "r1", turn=1)
    lay(paths, "r0", healthy=False)
    run = deploy(paths, systemd)
    step(run, "switch", "verify")
    systemd.broken.add(broken)
    if broken == "audit":
        monkeypatch.setattr(journal, "audit", _raise)
    answer = step(run, "retire", "prune", "finish")
    assert releases.live(paths) == "r2"
    assert journal.read_record(paths.release("r2"))["healthy"]
    assert answer["warnings"]
    assert "Left to the next run" in answer["msg"]
    assert not run.switched
    cut = journal.unfinished(paths)
    assert cut
    assert cut["state"] == "left", "the next run tidies up"


def _raise(*_: Any, **__: Any) -> None:
    raise FULL


def test_what_must_not_run_twice_is_given_its_own_time_to_end(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor starts when it has ended, and not after the time that a request may take."""
    lay(paths, "r1", turn=1, app={**APP, "processes": [{**APP["processes"][0]}, LONG]})
    ended: list[tuple[list[str], float]] = []

    def end(names: list[str], patience: float = 0) -> None:
        ended.append((names, patience))

    monkeypatch.setattr(units, "stop", end)
    started: dict[str, int] = {}
    start = units.start

    def begin(names: list[str], **more: Any) -> Any:
        started.update(dict.fromkeys(names, len(ended)))
        return start(names, **more)

    monkeypatch.setattr(units, "start", begin)
    step(deploy(paths, systemd), "switch", "verify")
    before = ended.index((["board-worker@r1.service"], 605))
    assert started["board-worker@r2.service"] == before + 1


@pytest.mark.parametrize("before", [False, True])
def test_a_deploy_tells_what_its_processes_complain_of(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Of a release that was well before, what it logs is known."""
    lay(paths, "r1", turn=1)
    run = deploy(paths, systemd)
    run.record["healthy"] = before
    worker = naming.beside_web(APP, "r2")[0]
    said = {worker: ["ERROR:app.queue:no broker at queue:5672"]}
    monkeypatch.setattr(units, "journal", lambda unit, **_: said.get(unit, []))
    step(run, "switch", "verify")
    told = f"{worker} runs and logs an error: ERROR:app.queue:no broker at queue:5672."
    assert (told in run.notes) is not before


def test_a_full_disk_after_the_switch_stops_nothing(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(paths, "r1", turn=1)
    run = deploy(paths, systemd)
    step(run, "switch")
    monkeypatch.setattr(journal, "_append", _raise)
    monkeypatch.setattr(journal, "replace_text", _raise)
    answer = step(run, "verify", "retire", "prune", "finish")
    assert releases.live(paths) == "r2"
    assert naming.beside_web(APP, "r2")[0] in systemd.active
    assert "No space left on device" in answer["msg"]


def test_a_full_disk_stops_no_rollback(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(paths, "r1", turn=1)
    lay(paths, "r2", turn=2)
    go_live(paths, "r2")
    systemd.active.add(naming.web("board", "r2"))
    taken = lock.Lock(paths)
    monkeypatch.setattr(lock.os, "pwrite", _raise)
    taken.take({"user": "me"}, 0)
    monkeypatch.setattr(journal, "_append", _raise)
    monkeypatch.setattr(journal, "replace_text", _raise)
    run, _ = rollback(paths)
    step(run, "start", "gate", "switch", "verify", "retire", "prune", "finish")
    assert releases.live(paths) == "r1"
    assert systemd.told(f"--unit={naming.retiring('board', 'r2').removesuffix('.service')}")
    taken.release()


def test_what_is_taken_back_ends_like_any_other(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(paths, "r1", turn=1)
    run = deploy(paths, systemd)
    step(run, "switch")
    worker = naming.beside_web(APP, "r2")[0]
    monkeypatch.setattr(units, "fallen", lambda *_: worker)
    systemd.said.clear()
    with pytest.raises(ReleaseError, match="does not stay up") as failed:
        step(run, "verify")
    assert "r1 is live again." in failed.value.text()
    # How it ended is asked before systemd starts it again, whose log may be slow to come.
    asked = [line.split()[0] for line in systemd.said if "ExecMainStatus" in line or "journalctl" in line]
    assert asked[:2] == ["systemctl", "journalctl"]
    assert releases.live(paths) == "r1"
    assert naming.web("board", "r2") in systemd.active, "it has clients yet"
    assert systemd.told(f"--unit={naming.retiring('board', 'r2').removesuffix('.service')}")
    records = releases.records(paths)
    assert releases.candidates(records, "r1") == []
    assert releases.select(records, "r1", 5, ["r2"]) == (["r1", "r2"], [])
    assert releases.select(records, "r1", 5, []) == (["r1"], ["r2"])
    recover.settle(deploy(paths, systemd, "r1", "r3"), {"release": "r3", "step": "fetch"})
    assert paths.release("r2").exists()


@pytest.mark.parametrize("broken", ["is-active", "systemd-run", "stop", "audit"])
def test_the_first_cause_is_told_whatever_fails_after_it(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    lay(paths, "r1", turn=1)
    run = deploy(paths, systemd)
    step(run, "switch")

    def verify(*_: Any, **__: Any) -> str:
        systemd.broken.add(broken)
        raise ReleaseError("The public route failed.")

    monkeypatch.setattr(public_route, "verify_public", verify)
    if broken == "audit":
        monkeypatch.setattr(journal, "audit", _raise)
    with pytest.raises(ReleaseError) as failed:
        step(run, "verify")
    assert failed.value.sentence == "The public route failed."
    assert len(failed.value.also) >= 2
    assert not run.switched, "nothing goes on to prove what was refused"
    # Who cannot be asked whether it runs is not gone back to.
    assert releases.live(paths) == ("r2" if broken == "is-active" else "r1")


@pytest.mark.parametrize("old", ["", "r1"])
def test_what_serves_after_a_failure(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    if old:
        lay(paths, "r1", turn=1)
        go_live(paths, "r1")
    run = deploy(paths, systemd, old)
    monkeypatch.setattr(gate, "wait_healthy", lambda *_: _fail("It did not start."))
    with pytest.raises(ReleaseError) as failed:
        step(run, "gate")
    said = "r1 serves on." if old else "Nothing was live before, so nothing serves."
    assert failed.value.text() == f"It did not start. {said}"
    assert not paths.release("r2").exists()
    assert naming.web("board", "r2") not in systemd.active


def test_what_was_installed_for_a_failed_release_stays_for_the_next_try(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(paths, "r1", turn=1)
    go_live(paths, "r1")
    run = deploy(paths, systemd)
    for name in ("new", "older"):
        (paths.envs / name).mkdir(parents=True)
        paths.env_mark(name).parent.mkdir(parents=True, exist_ok=True)
        paths.env_mark(name).touch()
    venv.of(paths.release("r2")).symlink_to(paths.envs / "new")
    monkeypatch.setattr(gate, "wait_healthy", lambda *_: _fail("It did not start."))
    with pytest.raises(ReleaseError, match="It did not start"):
        step(run, "gate")
    assert not paths.release("r2").exists()
    assert [path.name for path in paths.envs.iterdir()] == ["new"]


def test_a_migration_that_stays_is_told(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(paths, "r1", turn=1, app={**APP, "database": {"enabled": True}}, schema={"to": "1"})
    go_live(paths, "r1")
    run = deploy(paths, systemd)
    run.record |= {"schema": {"from": "1", "to": "2"}, "migrations": {"command": "alembic upgrade head"}}
    history.remember(
        paths, [schema.Revision("1", [], "1_x.py", ""), schema.Revision("2", ["1"], "2_y.py", "")]
    )
    monkeypatch.setattr(gate, "wait_healthy", lambda *_: _fail("It did not start."))
    with pytest.raises(ReleaseError) as failed:
        step(run, "gate")
    said = "The database stays at schema 2; r1 ran on 1. What came since (2_y) only adds"
    assert said in failed.value.text()


@pytest.mark.parametrize(("policy", "stops"), [("warn", False), ("allow", False), ("refuse", True)])
def test_what_takes_something_away_needs_a_word(paths: Paths, policy: str, stops: bool) -> None:
    run = Deploy(paths, {})
    run.app = {**APP, "migrations": {"destructive": policy}}
    migrate._may_run(run, [schema.Revision("1", [], "1_adds.py", "")])
    risky = [schema.Revision("2", ["1"], "2_drops.py", "", ["drops table t"])]
    if not stops:
        migrate._may_run(run, risky)
        return
    with pytest.raises(ReleaseError, match=r"2_drops \(drops table t\).*The database is unchanged"):
        migrate._may_run(run, risky)


def _fail(sentence: str) -> None:
    raise ReleaseError(sentence)


@pytest.mark.parametrize(
    ("ready", "ends", "runs"),
    [
        (lambda run: step(run), True, False),
        (lambda run: step(run, "switch"), False, True),
        (lambda run: step(run, "switch", "verify", "retire", "prune", "finish"), True, True),
    ],
    ids=["gate", "switched", "finished"],
)
def test_a_run_that_is_gone_leaves_no_new_release_running(
    paths: Paths, systemd: Systemd, ready: Callable[[Deploy], Any], ends: bool, runs: bool
) -> None:
    lay(paths, "r1", turn=1)
    go_live(paths, "r1")
    engine = Engine()
    run = engine.deploys["board"] = deploy(paths, systemd)
    ready(run)
    assert engine.abandon() is ends
    assert (naming.web("board", "r2") in systemd.active) is runs
    if not runs:
        with pytest.raises(ReleaseError, match="is gone"):
            step(run, "switch")
        assert releases.live(paths) == "r1"


@pytest.mark.parametrize("good", [True, False])
def test_a_run_that_fails_after_the_switch_leaves_nothing_unproved(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, good: bool
) -> None:
    """A task of the playbook failed, and no step of the engine: the run goes on with its other apps."""
    lay(paths, "r1", turn=1)
    go_live(paths, "r1")
    engine = Engine()
    engine.deploys["board"] = deploy(paths, systemd)
    step(engine.deploys["board"], "switch")
    if not good:
        monkeypatch.setattr(public_route, "verify_public", lambda *_, **__: _fail("The public route failed."))
    answer = engine.run("unlock", {"name": "board"}, None)
    assert not engine.deploys
    assert releases.live(paths) == ("r2" if good else "r1")
    assert journal.read_record(paths.release("r2")).get("healthy") is good
    said = "r2 was live by then, and is proved." if good else "The public route failed. r1 is live again."
    assert answer["finished"] == said
    assert engine.run("unlock", {"name": "board"}, None)["finished"] == ""


def test_a_run_that_fails_before_the_switch_leaves_nothing_running(paths: Paths, systemd: Systemd) -> None:
    lay(paths, "r1", turn=1)
    go_live(paths, "r1")
    engine = Engine()
    engine.deploys["board"] = deploy(paths, systemd)
    assert engine.run("unlock", {"name": "board"}, None)["finished"] == ""
    assert naming.web("board", "r2") not in systemd.active
    assert naming.web("board", "r1") in systemd.active


@pytest.mark.parametrize("good", [True, False])
def test_what_a_cut_off_run_left_live_is_proved_before_the_next_deploy(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, good: bool
) -> None:
    lay(paths, "r1", turn=1)
    lay(paths, "r2", healthy=False)
    go_live(paths, "r2")
    run = deploy(paths, systemd, "r2", "r2", release="")
    if not good:
        monkeypatch.setattr(units, "fallen", lambda *_: naming.beside_web(APP, "r2")[0])
    record = plan_step._prove_first(run, {"release": "r2", "old": "r1", "step": "switch", "state": "end"})
    assert run.previous == releases.live(paths) == ("r2" if good else "r1")
    assert record["healthy"]


@pytest.mark.parametrize("refused", ["", "Failed to start x: Unit x has a bad unit file setting."])
def test_workers_that_systemd_does_not_start_again_are_told(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    lay(paths, "r1", turn=1)
    go_live(paths, "r1")
    run = deploy(paths, systemd, "r1", "r2")
    before = systemd.run

    def answer(argv: list[str], **more: Any) -> command.Result:
        done = before(argv, **more)
        return command.Result(1, "", refused) if refused and argv[:2] == ["systemctl", "start"] else done

    monkeypatch.setattr(command, "run", answer)
    recover.settle(run, {"release": "r2", "step": "fetch"})
    told = [note for note in run.notes if note.startswith("Not all of r1 could be started again: Failed")]
    assert bool(told) is bool(refused)


@pytest.mark.parametrize("step_of", ["migrate", "fetch"])
def test_what_migrations_are_limited_to_goes_with_a_run_that_was_killed(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, step_of: str
) -> None:
    freed: list[str] = []
    owner = SimpleNamespace(free=lambda: freed.append("owner"))
    monkeypatch.setattr(recover.database, "Database", lambda _: owner)
    run = deploy(paths, systemd, "", "r2")
    run.app = {**APP, "database": {**APP["database"], "enabled": True}}
    recover.settle(run, {"release": "r2", "step": step_of})
    assert freed == (["owner"] if step_of == "migrate" else [])


@pytest.mark.parametrize("waited_for", [True, False])
def test_a_release_that_nothing_waits_for_any_more_is_retired_again(
    paths: Paths, systemd: Systemd, waited_for: bool
) -> None:
    """Its retirement was killed by hand, or for want of memory: else it would be busy for ever."""
    lay(paths, "r1", turn=1)
    lay(paths, "r2", turn=2)
    (paths.units / naming.web("board", "r1")).write_text("# Berth app: board\n")
    run = deploy(paths, systemd)
    run.app = {**APP, "keep_releases": 1}
    go_live(paths, "r2")
    if waited_for:
        systemd.active.add(naming.retiring("board", "r1"))
    prune_step.run(run, {})
    begun = [line for line in systemd.said if line.startswith("systemd-run")]
    assert len(begun) == (0 if waited_for else 1)
    assert all("--property=Restart=on-failure" in line for line in begun)
    assert paths.release("r1").is_dir()


def test_a_retirement_is_given_its_text_and_its_words(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(paths, "r1", turn=1)
    retire_step.let_go(deploy(paths, systemd), "r1", APP)
    line = next(line for line in systemd.said if line.startswith("systemd-run"))
    text = command.module_source(retire)
    assert not set("$%") & set(text), "systemd would read them as its own"
    words = line.partition(f"/usr/bin/python3 -I -c {text} ")[2].split()
    assert words[:5] == [
        str(naming.socket(paths, "r1")), str(paths.web_sock), "35", "35", naming.web("board", "r1"),
    ]  # fmt: skip
    seen: list[Any] = []
    code = text.rpartition("if __name__")[2].partition(":\n")[2]
    monkeypatch.setattr("sys.argv", ["-c", "socket", "link", "35", "60", "a.service", "b.timer"])
    exec(textwrap.dedent(code), vars(retire) | {"main": lambda *given: seen.extend(given)})  # noqa: S102
    assert seen == ["socket", "link", 35.0, 60.0, ["a.service", "b.timer"]]


def test_what_cannot_be_removed_is_said_and_is_no_change(
    paths: Paths, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(paths, "r1", turn=1)
    lay(paths, "r2", turn=2)
    run = deploy(paths, systemd)
    run.app = {**APP, "keep_releases": 1}
    systemd.active.clear()
    go_live(paths, "r2")

    monkeypatch.setattr(prune.untrusted, "remove", lambda _: None)
    assert prune_step.run(run, {})["changed"] is False
    assert run.left
    assert "r1 cannot be removed" in run.left[0]


def test_a_lock_whose_file_was_removed_is_no_lock(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = lock.fcntl.flock
    purged: list[int] = []

    def purge(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        if not purged:  # while it was waited for, `remove` with purge took the file away
            purged.append(descriptor)
            (paths.state / "lock").unlink()

    monkeypatch.setattr(lock.fcntl, "flock", purge)
    taken = lock.Lock(paths)
    taken.take({"user": "me"}, 0)
    assert json.loads((paths.state / "lock").read_text()) == {"user": "me"}
    with pytest.raises(ReleaseError, match="board is locked: me@"):
        lock.Lock(paths).take({}, 0)
    taken.release()
