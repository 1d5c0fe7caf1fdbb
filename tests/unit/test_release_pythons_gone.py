"""Releases whose Python an upgrade of the server took away."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.berth.diagnosis import cause
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.packaging import keys, pythons
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release import plan
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import plan_rollback
from ansible.module_utils.berth.reports import history
from ansible.module_utils.berth.runtime import naming, units
from ansible.module_utils.berth.store import journal, releases

from tests.support.entry import board

APP = board()


def environment(env: Path, made_for: str, interpreter: Path) -> Path:
    (env / "lib" / made_for).mkdir(parents=True)
    (env / "bin").mkdir()
    (env / "bin/python").symlink_to(interpreter)
    return env


def interpreter(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch(0o755)
    return folder / name


def test_an_interpreter_that_is_gone_or_another_one_is_noticed(tmp_path: Path) -> None:
    there = interpreter(tmp_path / "usr", "python3.13")
    assert pythons.gone(environment(tmp_path / "a", "python3.13", there)) == ""
    assert (
        pythons.gone(environment(tmp_path / "b", "python3.11", tmp_path / "usr/python3.11")) == "python3.11"
    )
    plain = tmp_path / "usr/python3"
    plain.symlink_to(there)
    assert pythons.gone(environment(tmp_path / "c", "python3.11", plain)) == "python3.11"
    assert pythons.gone(environment(tmp_path / "d", "python3.13", plain)) == ""
    assert pythons.gone(tmp_path / "none") == ""


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("healthy", [True, False])
def test_what_cannot_be_started_again_is_built_anew(running: bool, healthy: bool) -> None:
    live = {"fingerprint": "f", "healthy": healthy}
    assert plan.decide(live, "f", running, False, lost=True) == "deploy"


@pytest.mark.parametrize("status", ["126", "127", "203"])
def test_the_sentence_names_it(status: str) -> None:
    about = cause.About(app="board", lost="python3.11")
    lines = [
        "/srv/board/releases/r1/.berth/run/web: 5: exec: /srv/board/releases/r1/.venv/bin/python: not found"
    ]
    assert cause.explain(lines, {"ExecMainStatus": status}, about) == (
        "python3.11 is gone from this server since its upgrade: berth deploy board (deploy.yml -e app=board) "
        "builds the release anew"
    )
    assert "python3.11 is gone" not in cause.explain(lines, {"ExecMainStatus": "1"}, about)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Release r1, whose Python is gone, and r2, which is live."""
    paths = Paths("board", tmp_path)
    there = interpreter(tmp_path / "usr", "python3.13")
    for release, name in (("r1", "python3.11"), ("r2", "python3.13")):
        environment(paths.envs / release, name, there.with_name(name))
        paths.release(release).mkdir(parents=True)
        (paths.release(release) / ".venv").symlink_to(paths.envs / release)
        since = f"2026-11-2{release[1]}T00:00:00Z"
        record = {"healthy": True, "app": APP, "created": since, "live_since": since}
        journal.write_record(paths.release(release), record)
    paths.state.mkdir(parents=True)
    units.replace_link(paths.web_sock, naming.socket(paths, "r2"))
    monkeypatch.setattr(units, "states", lambda names: dict.fromkeys(names, "active"))
    return paths


def test_nobody_goes_back_to_it(place: Paths) -> None:
    assert releases.live(place) == "r2"
    with pytest.raises(ReleaseError, match=r"r1 cannot be started: python3\.11 is gone"):
        plan_rollback.run(Deploy(place, {}), {"name": "board", "force": True})


def test_the_list_of_releases_marks_it(place: Paths) -> None:
    found = history.describe(place)
    row = next(one for one in found["releases"] if one["release"] == "r1")
    assert row["health"] == "python3.11 is gone"
    assert row["rollback"]["allowed"] is False
    table = history.table([found])
    assert "only with force" not in table
    assert "r1: python3.11 is gone from this server since its upgrade" in table


def test_the_environment_of_before_is_known_again_after_an_update_of_python(tmp_path: Path) -> None:
    there = interpreter(tmp_path / "usr", "python3.13")
    paths = Paths("board", tmp_path)
    paths.marks.mkdir(parents=True)
    for name, like in (("a", "same"), ("b", "other"), ("c", "")):
        environment(paths.envs / name, "python3.13", there)
        paths.env_mark(name).write_text(like)
    paths.env_mark("pruned").write_text("same")
    assert keys.alike(paths, "same") == "a"
    assert keys.alike(paths, "none") == ""
    there.unlink()
    assert keys.alike(paths, "same") == ""
