"""Decisions of a deploy: what to do, what to keep, what to say when somebody else is at it."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth import paths
from ansible.module_utils.berth.errors import ReleaseError, next_run
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.packaging import uv
from ansible.module_utils.berth.reading.dependencies import Installer
from ansible.module_utils.berth.release import plan
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.engine import Engine
from ansible.module_utils.berth.release.steps import plan as plan_step
from ansible.module_utils.berth.release.steps import table
from ansible.module_utils.berth.runtime import gate, naming, units
from ansible.module_utils.berth.store import disk, journal, lock, prune, releases, temporary

from tests.support.entry import board

APP = board(
    source={"subdir": ""},
    processes=[{"name": "web", "workers": 2}, {"name": "worker", "command": "w", "instances": 2}],
    jobs=[{"name": "nightly", "command": "n"}],
    keep_releases=5,
)


def test_a_fingerprint_covers_code_settings_and_units() -> None:
    first = plan.fingerprint(APP, "abc", "A=1", ["unit"])
    assert plan.fingerprint({**APP, "keep_releases": 9}, "abc", "A=1", ["unit"]) == first
    drains = [{"requests": 60, "releases": 2}, {"requests": 60, "releases": 9}, {"requests": 61}]
    found = [plan.fingerprint({**APP, "drain": drain}, "abc", "A=1", []) for drain in drains]
    assert found[0] == found[1] != found[2]
    others = [
        plan.fingerprint(APP, "abd", "A=1", ["unit"]),
        plan.fingerprint(APP, "abc", "A=2", ["unit"]),
        plan.fingerprint(APP, "abc", "A=1", ["unit2"]),
        plan.fingerprint({**APP, "jobs": []}, "abc", "A=1", ["unit"]),
        plan.fingerprint({**APP, "source": {"subdir": "api"}}, "abc", "A=1", ["unit"]),
    ]
    assert len({first, *others}) == len(others) + 1


@pytest.mark.parametrize(
    ("live", "running", "force", "action"),
    [
        ({}, False, False, "deploy"),
        ({"fingerprint": "f", "healthy": True}, True, False, "nothing"),
        ({"fingerprint": "f", "healthy": True}, False, False, "restart"),
        ({"fingerprint": "f", "healthy": True}, True, True, "deploy"),
        ({"fingerprint": "f", "healthy": False}, True, False, "resume"),
        ({"fingerprint": "g", "healthy": False}, True, False, "deploy"),
        ({"fingerprint": "g", "healthy": True}, True, False, "deploy"),
    ],
)
def test_what_a_deploy_does(live: dict[str, Any], running: bool, force: bool, action: str) -> None:
    assert plan.decide(live, "f", running, force) == action


NEW, OLD = "5d6e7f8" + "0" * 33, "1a2b3c4" + "0" * 33


def test_an_older_commit_is_named_with_who_deployed_the_newer_one() -> None:
    live = {"version": NEW, "asked": "0.10.0", "by": "anna@desk", "live_since": "2026-11-28T09:00:00Z"}
    assert plan.older({"version": "0.9.0"}, OLD, live) == (
        "1a2b3c4 (0.9.0) is older than what is live (5d6e7f8, deployed with --version 0.10.0 by anna@desk at "
        "2026-11-28T09:00:00Z)."
    )
    # From CI, each with its own commit.
    said = plan.older({"version": OLD}, OLD, {**live, "asked": NEW})
    assert said.startswith("1a2b3c4 is older than what is live (5d6e7f8, deployed by anna@desk at")


def test_the_ways_on_from_an_older_commit() -> None:
    here = {
        "r1": {"version": OLD, "healthy": True, "turn": 1},
        "r2": {"version": "f" * 40, "healthy": True, "turn": 2},
        "r3": {"version": NEW, "healthy": True, "turn": 3, "asked": "0.10.0"},
    }
    forced = "to deploy it all the same: -e force=true (--force)."
    assert plan.ways("board", "e" * 40, "0.9.0", here, "r3") == forced
    assert plan.ways("board", OLD, "", here, "r3") == (
        "to keep what is live, write source.version: 0.10.0; "
        f"to go back to it: berth rollback board --to r1 (rollback.yml -e app=board -e to=r1); {forced}"
    )
    assert "berth rollback board (rollback.yml -e app=board);" in plan.ways("board", "f" * 40, "", here, "r3")


def test_a_release_sorts_by_time_and_names_its_source() -> None:
    moment = datetime(2026, 11, 21, 1, 48, 37, tzinfo=UTC)
    assert plan.release_id("1a2b3c4d5e", moment) == "20261121T014837Z-1a2b3c4"


def test_every_process_and_job_has_its_unit() -> None:
    assert naming.template_files(APP) == [
        "board-web@.socket",
        "board-web@.service",
        "board-worker@.service",
        "board-worker-2@.service",
        "board-nightly@.service",
        "board-nightly@.timer",
    ]
    assert naming.beside_web(APP, "r") == [
        "board-worker@r.service",
        "board-worker-2@r.service",
        "board-nightly@r.timer",
    ]
    assert naming.instance_file("board-web@.service", "r") == "board-web@r.service"
    own = {**APP, "processes": [{"name": "web", "command": "serve {socket}"}], "jobs": []}
    assert naming.template_files(own) == [
        "board-web@.socket", "board-web-relay@.service", "board-web@.service",
    ]  # fmt: skip


def records(*names: str, bad: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    return {name: {"healthy": name not in bad} for name in names}


def test_the_newest_healthy_ones_and_the_live_one_stay() -> None:
    stay, go = releases.select(records("1", "2", "3", "4", bad=("4",)), "1", 2, [])
    assert (stay, go) == (["1", "3"], ["2", "4"])


def test_what_is_still_at_work_stays_and_a_partial_one_never_does() -> None:
    stay, go = releases.select(records("1", "2", "3", "4", bad=("2",)), "4", 1, ["1", "2"])
    assert (stay, go) == (["1", "4"], ["2", "3"])


def test_a_live_release_without_a_folder_keeps_nothing_alive() -> None:
    assert releases.select(records("1", "2"), "9", 1, []) == (["2"], ["1"])


def test_a_rollback_goes_to_the_newest_healthy_older_one() -> None:
    all_of_them = records("1", "2", "3", "4", "5", bad=("3",))
    assert releases.previous(all_of_them, "4") == "2"
    assert releases.candidates(all_of_them, "4") == ["5", "2", "1"]
    assert releases.previous(all_of_them, "1") == ""


def test_the_live_release_is_where_the_socket_points(tmp_path: Path) -> None:
    place = paths.Paths("board", tmp_path)
    place.base.mkdir(parents=True)
    assert releases.live(place) == ""
    units.replace_link(place.web_sock, naming.socket(place, "r1"))
    units.replace_link(place.web_sock, naming.socket(place, "r2"))
    assert releases.live(place) == "r2"


def test_what_must_not_run_twice_ends_before_its_successor_starts() -> None:
    processes = [
        {"name": "web"}, {"name": "beat", "command": "b"}, {"name": "queue", "command": "q", "overlap": True},
        {"name": "worker", "command": "w", "instances": 2, "stop_timeout": 600},
    ]  # fmt: skip
    app = board(processes=processes)
    assert naming.alone(app, "r") == ["board-beat@r.service"]
    assert units.to_end(app) == 605
    assert units.to_end(board(processes=processes[:2])) == 95
    assert units.to_end(board(processes=processes[:1])) == 10


def test_a_release_is_found_where_root_made_its_socket(tmp_path: Path) -> None:
    place = paths.Paths("board", tmp_path)
    for name in ("board-web@new.socket", "board-web@new.service", "board-web@old.service"):
        unit_file(place, name, "board")
    assert naming.socket(place, "new") == tmp_path / "run/berth/board/new.sock"
    assert naming.serving(place, "new") == ["board-web@new.socket", "board-web@new.service"]
    # Released by an earlier Berth.
    assert naming.socket(place, "old") == tmp_path / "run/board/old.sock"
    assert naming.serving(place, "old") == ["board-web@old.service"]
    unit_file(place, "board-web-relay@new.service", "board")
    assert naming.serving(place, "new")[2:] == ["board-web-relay@new.service"]


@pytest.mark.parametrize(
    ("states", "verb"),
    [
        (("inactive", "inactive"), "start --no-block board-web@r.service"),
        (("active", "active"), "start --no-block board-web@r.service"),
        (("active", "activating"), "start --no-block board-web@r.service"),
        # A retirement was on its way.
        (("inactive", "active"), "restart --no-block board-web@r.service"),
        (("inactive", "deactivating"), "restart --no-block board-web@r.service"),
    ],
)
def test_a_web_never_starts_beside_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: tuple[str, str], verb: str
) -> None:
    place = paths.Paths("board", tmp_path)
    unit_file(place, "board-web@r.socket", "board")
    asked: list[str] = []
    monkeypatch.setattr(units, "states", lambda names: dict(zip(names, states, strict=True)))
    monkeypatch.setattr(units, "past", lambda _: units.Past())

    def systemctl(*words: str, **_: float) -> Result:
        asked.append(" ".join(words))
        return Result(0, "", "")

    monkeypatch.setattr(units, "systemctl", systemctl)
    units.begin(place, "r")
    assert asked == [verb]


def test_unused_environments_go(tmp_path: Path) -> None:
    place = paths.Paths("board", tmp_path)
    for name in ("a", "b"):
        (place.envs / name).mkdir(parents=True)
    place.release("r").mkdir(parents=True)
    (place.release("r") / ".venv").symlink_to(place.envs / "a")
    assert prune.remove_unused_envs(place) == ["b"]
    assert [path.name for path in place.envs.iterdir()] == ["a"]


def test_what_may_be_half_written_after_a_power_cut_is_made_again(tmp_path: Path) -> None:
    place, boot = paths.Paths("board", tmp_path), tmp_path / "boot_id"
    boot.write_text("monday\n")
    made = [place.mirror, place.uv_cache, place.envs / "new"]
    for folder in (*made, place.envs / "live", place.release("r"), place.state):
        folder.mkdir(parents=True)
    (place.release("r") / ".venv").symlink_to(place.envs / "live")
    disk.begin(place, boot)
    disk.distrust(place, boot)
    assert all(folder.exists() for folder in made), "the server was not booted since"
    boot.write_text("tuesday\n")
    disk.distrust(place, boot)
    assert not any(folder.exists() for folder in made)
    assert [path.name for path in place.envs.iterdir()] == ["live"]


def test_what_is_on_the_disk_outlives_a_power_cut(tmp_path: Path) -> None:
    place, boot = paths.Paths("board", tmp_path), tmp_path / "boot_id"
    boot.write_text("monday\n")
    for folder in (place.mirror, place.release("r"), place.state):
        folder.mkdir(parents=True)
    disk.begin(place, boot)
    disk.end(place, disk.flush(place, "r"))
    boot.write_text("tuesday\n")
    disk.distrust(place, boot)
    assert place.mirror.exists()


def test_a_run_that_was_cut_off_is_found(tmp_path: Path) -> None:
    place = paths.Paths("board", tmp_path)
    assert journal.unfinished(place) is None
    journal.note(place, "r", "build", "begin")
    entry = journal.unfinished(place)
    assert entry
    assert entry["step"] == "build"
    with (place.state / "journal.jsonl").open("a") as handle:
        handle.write('{"half a li')
    assert journal.unfinished(place)
    # Between two steps is as unfinished as inside one.
    journal.note(place, "r", "build", "end")
    assert journal.unfinished(place)
    with (place.state / "journal.jsonl").open("a") as handle:
        handle.write('{"half a li')
    journal.note(place, "r", "finish", "end")
    assert journal.unfinished(place) is None, "half a line before it does not swallow this one"
    journal.note(place, "r", "gate", "begin")
    journal.note(place, "r", "gate", "failed")
    assert journal.unfinished(place) is None


def test_journal_and_audit_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = paths.Paths("board", tmp_path)
    monkeypatch.setattr(journal, "JOURNAL_LIMIT", 1000)
    monkeypatch.setattr(journal, "AUDIT_LIMIT", 1000)
    for number in range(200):
        journal.note(place, f"r{number}", "build", "begin")
        journal.audit(place, what="deploy", to=f"r{number}")
        entry = journal.unfinished(place)
        assert entry
        assert entry["release"] == f"r{number}"
    for folder in (place.state, place.audit.parent):
        files = list(folder.iterdir())
        assert len(files) == 2
        assert max(path.stat().st_size for path in files) < 1200
    assert [entry["to"] for entry in journal.entries(place.audit)][-3:] == ["r197", "r198", "r199"]
    # The moment between putting the full file aside and writing the first line of the new one.
    (place.state / "journal.jsonl").replace(place.state / "journal.jsonl.1")
    assert journal.unfinished(place)


def unit_file(place: paths.Paths, name: str, app: str) -> Path:
    place.units.mkdir(parents=True, exist_ok=True)
    path: Path = place.units / name
    path.write_text(f"# Ansible managed\n# Berth app: {app}\n[Service]\n")
    return path


@pytest.mark.parametrize(
    ("said", "sudo", "login"),
    [
        ("0\n", "anna", "root"),
        # A container, and a kernel without audit, know of no login.
        ("4294967295", "anna", "anna"),
        ("4294967295", "", None),
        ("", "", None),
        ("4200000000", "", "4200000000"),
    ],
)
def test_the_audit_tells_who_logged_in_beside_who_they_say_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, sudo: str, login: str | None
) -> None:
    """`by` is what the other machine says of itself; what the server knows can be held against it."""
    monkeypatch.setattr(journal, "_LOGIN", tmp_path / "loginuid")
    if said:
        (tmp_path / "loginuid").write_text(said)
    monkeypatch.delenv("SUDO_USER", raising=False)
    if sudo:
        monkeypatch.setenv("SUDO_USER", sudo)
    place = paths.Paths("board", tmp_path)
    journal.audit(place, what="deploy", by="somebody@elsewhere")
    (entry,) = journal.entries(place.audit)
    assert entry["by"] == "somebody@elsewhere"
    assert entry.get("login") == login


def test_an_app_never_takes_the_units_of_one_whose_name_begins_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune.units, "stop", lambda *_, **__: None)
    monkeypatch.setattr(units, "systemctl", lambda *_: None)
    place = paths.Paths("a", tmp_path)
    mine = unit_file(place, "a-web@r1.service", "a")
    other = unit_file(place, "a-b-web@r1.service", "a-b")
    template = unit_file(place, "a-web@.service", "a")
    assert naming.instances(place) == {"r1": ["a-web@r1.service"]}
    prune.remove_release(place, "r1")
    assert not mine.exists()
    assert other.exists()
    assert template.exists()


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune.units, "stop", lambda *_, **__: None)
    monkeypatch.setattr(units, "systemctl", lambda *_: None)
    place = paths.Paths("board", tmp_path)
    for folder in (place.release("r1"), place.frozen, place.run, place.sockets, place.state):
        folder.mkdir(parents=True)
    kept = [
        unit_file(place, "board-web@r1.service", "board"),
        unit_file(place, "board-web@.service", "board"),
    ]
    kept += [place.env("r1"), place.migrate_env("r1"), place.etc / "env"]
    kept += [place.root_socket("r1"), place.own_socket("r1")]
    gone = [unit_file(place, "board-web@r2.service", "board"), place.env("r2"), place.migrate_env("r2")]
    gone += [
        place.root_socket("r2"),
        place.own_socket("r2"),
        place.base / ".web.sock.new",
        place.frozen / ".r1.env.new",
    ]
    gone += [place.release("r1") / ".release.json.new", place.units / ".board-web@r1.service.new"]
    for path in (*kept, *gone):
        path.touch()
    prune.sweep(place)
    assert [path for path in gone if path.exists()] == []
    assert all(path.exists() for path in kept)
    assert prune.sweep(place) == []


@pytest.mark.parametrize("engine", ["from berth.transport.agent import main", "berth.release.agent"])
def test_folders_for_git_go_unless_another_engine_may_use_them(tmp_path: Path, engine: str) -> None:
    key = tmp_path / "run/berth-git-abc/key"
    key.parent.mkdir(parents=True)
    key.write_text("private")
    proc = tmp_path / "proc"
    other, shell = proc / "1/cmdline", proc / "2/cmdline"
    for path, words in (
        (other, ["python3", "-c", engine]),
        (shell, ["sh", "berth.release.agent"]),
    ):
        path.parent.mkdir(parents=True)
        path.write_text("\0".join(words))
    assert temporary.sweep(tmp_path, proc) == []
    assert key.exists()
    other.unlink()
    assert temporary.sweep(tmp_path, proc) == ["berth-git-abc"]
    assert not key.parent.exists()


@pytest.mark.parametrize(
    ("since", "text"),
    [
        ("2026-11-21T00:00:00Z", "2 h 3 min"),
        ("2026-11-21T02:02:58Z", "7 s"),
        ("2026-11-19T02:03:05Z", "2 d 0 h"),
        ("nonsense", "an unknown time"),
    ],
)
def test_ages(since: str, text: str) -> None:
    assert lock.age(since, datetime(2026, 11, 21, 2, 3, 5, tzinfo=UTC)) == text


def test_the_second_deploy_is_told_who_has_the_lock(tmp_path: Path) -> None:
    place = paths.Paths("board", tmp_path)
    first, second = lock.Lock(place), lock.Lock(place)
    first.take({"user": "ann", "host": "laptop", "pid": 7, "version": "v2", "since": journal.now()}, 0)
    with pytest.raises(ReleaseError, match=r"board is locked: ann@laptop \(pid 7\).*version v2.*-e wait=300"):
        second.take({"user": "bob"}, 0)
    first.release()
    second.take({"user": "bob"}, 0)
    assert json.loads((place.state / "lock").read_text()) == {"user": "bob"}


def test_a_lock_file_left_behind_locks_nothing(tmp_path: Path) -> None:
    place = paths.Paths("board", tmp_path)
    place.state.mkdir(parents=True)
    (place.state / "lock").write_text('{"user": "gone"}')
    lock.Lock(place).take({"user": "bob"}, 0)


def test_a_wait_ends_with_a_refusal(tmp_path: Path) -> None:
    place = paths.Paths("board", tmp_path)
    place.state.mkdir(parents=True)
    descriptor = os.open(place.state / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ReleaseError, match="waited 0 s"):
        lock.Lock(place).take({}, 0.15)
    os.close(descriptor)


def test_without_provisioning_a_deploy_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"board has no place on this server yet\.$") as refused:
        plan.server_side(paths.Paths("board", tmp_path), APP)
    assert refused.value.advice == "berth up (site.yml) prepares the server and deploys."
    run = Deploy(paths.Paths("board", tmp_path), {})
    run.problem = "domains, static or proxy of board changed."
    with pytest.raises(ReleaseError) as refused:
        plan_step.run(run, {"app": APP})
    assert refused.value.text().endswith("Next: berth up (site.yml) applies them, and deploys.")


@pytest.mark.parametrize(("step", "verb"), [("plan", "deploy"), ("plan_rollback", "rollback")])
def test_what_comes_next_is_said_once_for_both_kinds_of_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, verb: str
) -> None:
    engine = Engine()
    engine.deploys["board"] = Deploy(paths.Paths("board", tmp_path), {})
    for advice in ("", "another thing."):
        error = ReleaseError("It is wrong.", advice=advice)
        known = table.find(step)
        assert known
        refusing = replace(known, run=lambda *_, error=error: _refuse(error))
        monkeypatch.setattr(table, "STEPS", (refusing,))
        with pytest.raises(ReleaseError) as refused:
            engine.run(step, {"name": "board"}, None)
        wanted = advice or f"correct it, then: berth {verb} board ({verb}.yml -e app=board)"
        assert refused.value.text() == f"It is wrong.\nNext: {wanted}"


_REACH = "let the server reach it (server.python names other addresses)"


@pytest.mark.parametrize(
    ("said", "doing", "advice"),
    [
        ("error sending request for url: dns error", uv.INSTALLING, _REACH),
        ("Hash mismatch for fastapi", uv.INSTALLING, "correct the lock, or the index"),
        ("No solution found", uv.INSTALLING, "correct the dependency files"),
        ("No interpreter found", "Bringing Python", "correct python.version or server.python"),
    ],
)
def test_what_to_do_where_nothing_could_be_installed(
    tmp_path: Path, said: str, doing: str, advice: str
) -> None:
    program = uv.Uv(paths.Paths("board", tmp_path), APP, tmp_path, Installer("none", ""))
    again = ", then: berth deploy board (deploy.yml -e app=board)"
    assert program._advice(doing, said) == advice + again


@pytest.mark.parametrize(
    ("sentence", "site"),
    [
        ("it gives Redis no password: under redis.variables write the name of the variable", True),
        ("where nothing answers: write redis: {enabled: true}", True),
        ("its role may not: set database.role: owner", True),
        ("redis.exceptions.ConnectionError: Error 111", False),
        ("the environment variable KEY is not set: add it to env or secrets of the app", False),
    ],
)
def test_what_a_deploy_does_not_apply_is_left_to_up(sentence: str, site: bool) -> None:
    up = "berth up (site.yml)"
    assert next_run("deploy", "board", sentence) == (
        up if site else "berth deploy board (deploy.yml -e app=board)"
    )
    advice = gate._failed(sentence, "board-web@r1.service", []).advice
    assert advice.startswith(f"write it, then: {up}. ") is site
    assert "journalctl -u board-web@r1.service" in advice


def _refuse(error: ReleaseError) -> None:
    raise error


def test_a_failed_deploy_leaves_its_environment_for_the_next_try(tmp_path: Path) -> None:
    place = paths.Paths("board", tmp_path)
    for name in ("live", "failed", "older"):
        (place.envs / name).mkdir(parents=True)
        place.env_mark(name).parent.mkdir(parents=True, exist_ok=True)
        place.env_mark(name).touch()
    for release, env in (("r1", "live"), ("r2", "failed")):
        place.release(release).mkdir(parents=True)
        (place.release(release) / ".venv").symlink_to(place.envs / env)
    spare = prune.env_of(place, "r2")
    (place.release("r2") / ".venv").unlink()
    assert prune.remove_unused_envs(place, spare) == ["older"]
    assert prune.remove_unused_envs(place) == ["failed"]
    # One that was not built to its end is of no use.
    (place.release("r2") / ".venv").symlink_to(place.envs / "half")
    assert prune.env_of(place, "r2") == ""
