"""What a run makes of the live release: one that is not well is waited for; not all may replace it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release import plan, recover
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import gate as gate_step
from ansible.module_utils.berth.release.steps import plan as plan_step
from ansible.module_utils.berth.release.steps import verify
from ansible.module_utils.berth.runtime import gate, health, memory, naming, units
from ansible.module_utils.berth.sources import source
from ansible.module_utils.berth.store import disk, journal, settings

from tests.support.entry import board

APP = board(
    health={"timeout": 0.2, "interval": 0.01, "successes": 1, "hold": 0, "path": "/readyz"},
)


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """An app whose release r1 is live, runs, and is what is wanted."""
    paths = Paths("board", tmp_path)
    paths.release("r1").mkdir(parents=True)
    paths.state.mkdir(parents=True)
    units.replace_link(paths.web_sock, naming.socket(paths, "r1"))
    record = {"fingerprint": "f", "healthy": True, "app": APP, "health_path": "/readyz"}
    journal.write_record(paths.release("r1"), record)
    monkeypatch.setattr(plan, "server_side", lambda *_: ("", []))
    monkeypatch.setattr(plan, "fingerprint", lambda *_: "f")
    monkeypatch.setattr(disk, "distrust", lambda *_: None)
    monkeypatch.setattr(units, "states", lambda names: dict.fromkeys(names, "active"))
    return Deploy(paths, {})


@pytest.mark.parametrize(
    ("status", "action", "said"),
    [
        (200, "nothing", "r1 is live and is what is wanted."),
        (500, "restart", "r1 is what is wanted, but it answers 500 on /readyz: waiting until it is well."),
        (0, "restart", "r1 is what is wanted, but it does not answer: waiting until it is well."),
    ],
)
def test_the_plan_asks_the_live_release(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, status: int, action: str, said: str
) -> None:
    monkeypatch.setattr(health.Probe, "ask", lambda *_: status)
    answer = plan_step.run(deploy, {"app": APP, "digest": "d"})
    assert (answer["action"], answer["msg"], answer["changed"]) == (action, said, False)


def test_check_mode_says_it_too(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health.Probe, "ask", lambda *_: 500)
    answer = plan_step.run(deploy, {"app": APP, "digest": "d", "check": True})
    assert answer["action"] == "nothing"
    assert answer["msg"] == "r1 is live and is what is wanted, but it answers 500 on /readyz."


def test_one_that_does_not_get_well_fails_the_run_and_runs_on(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health.Probe, "ask", lambda *_: 500)
    monkeypatch.setattr(health.Probe, "get", lambda *_: health.Reply(500))
    monkeypatch.setattr(gate, "_state", lambda _: {"ActiveState": "active"})
    monkeypatch.setattr(units, "journal", lambda *_, **__: [])
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(units, "systemctl", lambda *words, **_: asked.append(words))
    plan_step.run(deploy, {"app": APP, "digest": "d"})
    with pytest.raises(ReleaseError, match="The live release answered 500 on /readyz") as caught:
        gate_step.run(deploy, {})
    assert "berth deploy board --force" in caught.value.advice
    recover.undo(deploy, "gate", caught.value)
    assert asked == []
    assert deploy.paths.release("r1").is_dir()


def test_a_process_that_stays_up_and_complains_is_told_of(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy.app = board(processes=[{"name": "web"}, {"name": "worker", "command": "arq"}])
    deploy.release, deploy.since = "r2", 5.0
    lines = ["Traceback (most recent call last):", '  File "/x/w.py", line 3, in go', "ValueError: no queue"]
    said = {
        "board-worker@r2.service": lines,
        "board-web@r2.service": ["ERROR:app.cache:no Redis at cache:6379"],
    }
    since: dict[str, float] = {}

    def written(unit: str, **asked: float) -> list[str]:
        since[unit] = asked["since"]
        return said.get(unit, [])

    deploy.past = units.Past(9.0)
    monkeypatch.setattr(units, "journal", written)
    assert verify._complaints(deploy) == [
        "board-web@r2.service runs and logs an error: ERROR:app.cache:no Redis at cache:6379.",
        "board-worker@r2.service runs and logs an error: ValueError: no queue (/x/w.py:3).",
    ]
    # Each since it was asked to start.
    assert list(since.values()) == [5.0, 9.0]
    monkeypatch.setattr(units, "journal", lambda *_, **__: ["ready"])
    assert verify._complaints(deploy) == []


@pytest.mark.parametrize("refused", [False, True])
def test_a_dead_live_release_needs_no_repository_to_start(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    started: list[str] = []

    def start(names: list[str], **_: object) -> None:
        started.extend(names)
        if refused:
            raise ReleaseError("Starting board-web@r1.service failed: bad unit file setting.")

    def away(*_: object, **__: object) -> str:
        raise ReleaseError("The repository git@x.example:y did not answer within 45 s.")

    monkeypatch.setattr(source, "Repository", away)
    monkeypatch.setattr(units, "states", lambda names: dict.fromkeys(names, "failed"))
    monkeypatch.setattr(units, "start", start)
    app = {**APP, "source": {"git": "git@x.example:y"}}
    with pytest.raises(ReleaseError, match="did not answer within 45 s") as caught:
        plan_step.run(deploy, {"app": app})
    assert started == ["board-web@r1.service"]
    assert ("bad unit file" if refused else "it was started") in caught.value.text()


def test_what_does_not_fit_beside_it_is_refused_before_anything_is_made(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "fingerprint", lambda *_: "another")
    monkeypatch.setattr(memory, "used", lambda _: 100 * memory.MB)
    monkeypatch.setattr(memory, "free", lambda: 50 * memory.MB)
    monkeypatch.setattr(plan_step.retire, "beside", lambda *_: [])
    with pytest.raises(ReleaseError, match="A second release does not fit into memory beside the live one"):
        plan_step.run(deploy, {"app": APP, "digest": "d"})
    assert [path.name for path in deploy.paths.releases.iterdir()] == ["r1"]
    answer = plan_step.run(deploy, {"app": APP, "digest": "d", "force": True})
    assert answer["action"] == "deploy"
    assert "does not fit" in answer["msg"]
    # A run that makes nothing takes no memory.
    monkeypatch.setattr(plan, "fingerprint", lambda *_: "f")
    monkeypatch.setattr(health.Probe, "ask", lambda *_: 200)
    deploy.notes.clear()
    assert plan_step.run(deploy, {"app": APP, "digest": "d"})["msg"] == "r1 is live and is what is wanted."


@pytest.mark.parametrize("check", [False, True])
def test_no_run_goes_back_to_an_older_commit_unasked(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    new, old = "5d6e7f8" + "0" * 33, "1a2b3c4" + "0" * 33
    record = journal.read_record(deploy.paths.release("r1"))
    journal.write_record(deploy.paths.release("r1"), {**record, "version": new, "by": "anna@desk"})
    order = [old, new]

    class Repository:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def is_ancestor(self, one: str, other: str) -> bool:
            return order.index(one) < order.index(other)

        def close(self) -> None: ...

    monkeypatch.setattr(source, "Repository", Repository)
    monkeypatch.setattr(plan, "fingerprint", lambda *_: "another")
    monkeypatch.setattr(plan_step.shutil, "which", lambda _: "/usr/bin/git")
    monkeypatch.setattr(memory, "used", lambda _: 0)
    app = {**APP, "source": {"git": "git@x.example:y", "version": old}}
    with pytest.raises(ReleaseError, match=r"1a2b3c4 is older than what is live \(5d6e7f8") as refused:
        plan_step.run(deploy, {"app": app, "check": check})
    assert "r1 stays live." in refused.value.text()
    assert "-e force=true" in refused.value.advice
    assert plan_step.run(deploy, {"app": app, "check": check, "force": True})["action"] == "deploy"
    order.reverse()
    assert plan_step.run(deploy, {"app": app, "check": check})["action"] == "deploy"


@pytest.mark.parametrize("active", ["active", "failed"])
def test_a_release_that_expects_another_name_is_made_anew(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, active: str
) -> None:
    """It would refuse who asks under the new one, and nothing of its fingerprint tells."""
    monkeypatch.setattr(health.Probe, "ask", lambda *_: 200)
    monkeypatch.setattr(units, "states", lambda names: dict.fromkeys(names, active))
    monkeypatch.setattr(memory, "used", lambda _: 0)
    monkeypatch.setattr(settings, "expects_another_name", lambda *_: True)
    assert plan_step.run(deploy, {"app": APP, "digest": "d"})["action"] == "deploy"


def test_what_a_cut_off_run_left_live_is_proved_before_anything_is_made(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy that fails goes back to it, and would go back to what nobody has seen answer."""
    record = {**journal.read_record(deploy.paths.release("r1")), "healthy": False}
    journal.write_record(deploy.paths.release("r1"), record)
    proved: list[str] = []

    def prove(run: Deploy, _: Any) -> dict[str, Any]:
        proved.append(run.previous)
        return {**record, "healthy": True}

    monkeypatch.setattr(plan_step, "_prove_first", prove)
    monkeypatch.setattr(plan, "fingerprint", lambda *_: "another")
    monkeypatch.setattr(memory, "used", lambda _: 0)
    assert plan_step.run(deploy, {"app": APP, "digest": "d", "check": True})["action"] == "deploy"
    assert proved == []
    assert plan_step.run(deploy, {"app": APP, "digest": "d"})["action"] == "deploy"
    assert proved == ["r1"]
