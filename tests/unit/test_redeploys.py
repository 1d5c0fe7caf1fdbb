"""Deploys that nobody starts by hand: what is tried, what is not, and what is told of it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.module_utils.berth import windows
from ansible.module_utils.berth.diagnosis import cause
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.payload import gitwork
from ansible.module_utils.berth.release import clocks, plan, redeploy, unattended
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import plan as step
from ansible.module_utils.berth.release.steps import table
from ansible.module_utils.berth.store import journal, redeploys, settings

from berth.progress import Account
from plugins.filter.wiring import redeploy_ends, redeploy_summary
from tests.unit.contract_case import problems
from tests.unit.test_contract_applies import entries
from tests.unit.test_release_steps import tasks

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    return Paths("board", tmp_path)


@pytest.fixture
def app() -> dict[str, Any]:
    found = entries("demo")[0]
    found["source"] |= {"git": "https://git.example.com/board", "path": "", "version": "main"}
    found["database"]["enabled"] = False
    return found


@pytest.mark.parametrize(
    ("text", "moment", "within"),
    [
        ("22:00-06:00", "2026-11-30T23:00", True),  # a Monday
        ("22:00-06:00", "2026-11-30T05:59", True),
        ("22:00-06:00", "2026-11-30T06:00", False),
        ("Fri 16:00-24:00", "2026-12-04T23:59", True),
        ("Fri 16:00-24:00", "2026-12-05T00:00", False),
        ("Sun 22:00-06:00", "2026-11-30T05:00", True),
        ("Mon 22:00-06:00", "2026-11-30T05:00", False),
        ("Sat,Sun", "2026-12-06T12:00", True),
        ("Fri-Mon", "2026-11-30T12:00", True),
        ("Fri-Mon", "2026-12-02T12:00", False),
    ],
)
def test_a_window_is_open_when_it_says(text: str, moment: str, within: bool) -> None:
    assert windows.understood(text)
    assert (windows.open_window([text], datetime.fromisoformat(moment)) == text) is within


@pytest.mark.parametrize(
    "text", ["", "Friday", "25:00-26:00", "16:00", "Fri16:00-17:00", "16:00-16:00", " Sat"]
)
def test_what_is_no_window_is_not_understood(text: str) -> None:
    assert not windows.understood(text)


@pytest.mark.parametrize(
    ("tags", "pattern", "newest"),
    [
        (["v1.9.0", "v1.10.0", "v1.2.0"], "v*", "v1.10.0"),
        (["v1.0.0", "v2.0.0-rc1"], "v*", "v1.0.0"),
        (["v2.0.0-rc1", "v2.0.0-rc10", "v2.0.0-rc2"], "v*-rc*", "v2.0.0-rc10"),
        (["v2.0.0", "v2.0.0-rc1"], "v*-*", "v2.0.0-rc1"),
        (["release-7", "v9"], "v*", "v9"),
        (["nightly"], "*", ""),
        (["v1.2", "v" + "9" * 5000, "v1." + "9" * 5000, "v٣", "v1.3" + "-" * 500], "v*", "v1.2"),
        ([], "v*", ""),
    ],
)
def test_the_newest_tag_is_that_of_the_newest_version(tags: list[str], pattern: str, newest: str) -> None:
    listing = f"{OLD}\tHEAD\n{OLD}\trefs/heads/v99\n"
    listing += "".join(f"{NEW}\trefs/tags/{tag}\n" for tag in tags)
    assert gitwork.newest_tag(listing, pattern) == (newest, NEW if newest else "")


def test_an_annotated_tag_stands_for_its_commit() -> None:
    listing = f"{'c' * 40}\trefs/tags/v1\n{NEW}\trefs/tags/v1^{{}}\n"
    assert gitwork.newest_tag(listing, "v*") == ("v1", NEW)


def fail(place: Paths, **more: Any) -> None:
    past = {"commit": NEW, "step": "build", "reason": "No.", "passing": False, "waits": False, **more}
    redeploys.failed(place, "print", **past)


def test_what_failed_is_not_tried_again_until_it_is_forgiven_or_goes_well(place: Paths) -> None:
    fail(place)
    assert "It failed in step build" in redeploys.quarantine(redeploys.state(place), "print")
    assert redeploys.quarantine(redeploys.state(place), "another") == ""
    assert redeploys.forgive(place) == [NEW]
    assert redeploys.quarantine(redeploys.state(place), "print") == ""
    fail(place)
    redeploys.succeeded(place, "print")
    assert redeploys.quarantine(redeploys.state(place), "print") == ""
    assert (place.state / redeploys.FILE).stat().st_mode & 0o777 == 0o600


def test_what_may_pass_is_tried_so_often_and_later_each_time(place: Paths) -> None:
    now = datetime.now(UTC)
    for seconds in redeploys.PATIENCE:
        fail(place, passing=True)
        known = redeploys.state(place)
        assert redeploys.quarantine(known, "print", now + timedelta(seconds=seconds - 30))
        assert not redeploys.quarantine(known, "print", now + timedelta(seconds=seconds + 30))
        # Nor does a clock that was set back keep it waiting.
        assert not redeploys.quarantine(known, "print", now - timedelta(days=1))
    fail(place, passing=True)
    assert redeploys.quarantine(redeploys.state(place), "print", now + timedelta(days=30))


def test_a_run_that_is_cut_off_again_and_again_ends(place: Paths) -> None:
    redeploys.begin(place, "print")
    assert not redeploys.quarantine(redeploys.state(place), "print")
    redeploys.begin(place, "print")
    assert "cut off" in redeploys.quarantine(redeploys.state(place), "print")
    redeploys.begin(place, "another")
    assert not redeploys.quarantine(redeploys.state(place), "print")


def test_the_same_trouble_is_told_once_a_day(place: Paths) -> None:
    assert redeploys.note(place, "held", "The disk has 5 MB left.", "timer")
    assert redeploys.note(place, "begun", "", "timer")
    assert not redeploys.note(place, "held", "The disk has 4 MB left.", "timer")
    assert redeploys.note(place, "waits", "The disk has 4 MB left.", "timer")
    with redeploys.changing(place) as now:
        now["told"]["at"] = "2026-01-01T00:00:00Z"
    assert redeploys.note(place, "waits", "The disk has 3 MB left.", "timer")
    redeploys.note(place, "nothing", "", "timer")
    assert redeploys.note(place, "waits", "The disk has 3 MB left.", "timer")


def test_a_full_disk_stops_no_deploy_and_no_look_but_a_pause_says_so(
    place: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(redeploys.journal, "replace_text", full)
    redeploys.begin(place, "print")
    redeploys.remember(place, NEW, "")
    assert redeploys.note(place, "held", "The disk has 0 MB left.", "timer")
    with pytest.raises(OSError, match="No space"):
        redeploys.pause(place, "ann@laptop")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"failed": 1'])
def test_a_damaged_state_is_none(place: Paths, text: str) -> None:
    place.state.mkdir(parents=True)
    (place.state / redeploys.FILE).write_text(text)
    assert redeploys.state(place) == {}
    assert redeploys.pause(place, "ann@laptop")
    assert redeploys.state(place)["paused"]["by"] == "ann@laptop"
    assert not redeploys.pause(place, "bob@laptop")
    assert redeploys.resume(place)
    assert not redeploys.resume(place)


@pytest.mark.parametrize(
    ("sentence", "passes"),
    [
        ("The repository x cannot be read from the server: fatal: no.", True),
        ("The server's disk is full (/srv).", True),
        ("Installing failed: error sending request for url (https://index.example/simple)", True),
        ("board.main:app cannot be imported: ModuleNotFoundError: No module named 'x'", False),
        ("The migration failed: column does not exist", False),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(sentence: str, passes: bool) -> None:
    assert cause.passes(sentence) is passes


# A look ---------------------------------------------------------------------------------------------------


Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(place: Paths, app: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Look:
    """A look at a repository whose `main` is NEW, with OLD live; everything is well unless told otherwise."""
    folder = place.release("r1")
    folder.mkdir(parents=True)
    place.web_sock.symlink_to("r1.sock")
    journal.write_record(
        folder, {"id": "r1", "version": OLD, "fingerprint": "old", "healthy": True, "app": app}
    )
    monkeypatch.setattr(plan, "server_side", lambda *_: ("", []))
    monkeypatch.setattr(plan, "fingerprint", lambda _app, commit, *_: {OLD: "old", NEW: "print"}[commit])
    monkeypatch.setattr(settings, "compare", lambda *_: {"stale": False, "problem": "", "secrets": []})
    for name in ("_refuse_sick", "_refuse_full"):
        monkeypatch.setattr(redeploy, name, lambda *_: None)

    def ask(found: tuple[str, str] = (NEW, ""), **more: Any) -> dict[str, Any]:
        monkeypatch.setattr(redeploy, "_ask", lambda *_: found)
        answer: dict[str, Any] = redeploy.look(place, {"app": app, **more}, "timer")
        return answer

    return ask


def test_what_is_new_goes_and_what_is_live_does_not(look: Look, place: Paths) -> None:
    assert look()["go"]
    assert look()["commit"] == NEW
    nothing = look((OLD, ""))
    assert (nothing["go"], nothing["status"], nothing["news"]) == (False, 0, False)
    assert redeploys.state(place)["last"]["outcome"] == "nothing"


def test_a_look_in_check_mode_writes_nothing(look: Look, place: Paths) -> None:
    assert look(check=True)["go"]
    assert not (place.state / redeploys.FILE).exists()


def test_what_failed_is_held_and_told_once_and_retried_on_request(look: Look, place: Paths) -> None:
    fail(place)
    held = look()
    # It was told when it failed.
    assert (held["go"], held["status"], held["news"]) == (False, 10, False)
    assert "It failed in step build" in held["said"]
    assert "berth redeploy board --retry" in held["said"]
    assert look(retry=True)["go"]
    fail(place, waits=True)
    assert look()["status"] == 11
    assert "berth deploy board" in look()["said"]


def test_what_was_gone_back_from_does_not_come_back_by_the_clock(look: Look, place: Paths) -> None:
    folder = place.release("r0")
    folder.mkdir()
    journal.write_record(folder, {"id": "r0", "version": NEW, "withdrawn": journal.now()})
    assert "was gone back from" in look()["said"]
    assert look(retry=True)["go"]


def test_a_pause_and_a_window_hold_it_without_a_word(look: Look, place: Paths, app: dict[str, Any]) -> None:
    redeploys.pause(place, "ann@laptop")
    held = look()
    assert (held["status"], held["news"]) == (10, False)
    assert "paused by ann@laptop" in held["said"]
    assert look((OLD, ""))["status"] == 0
    redeploys.resume(place)
    app["redeploy"]["not_during"] = ["Mon-Sun"]
    held = look()
    assert (held["status"], held["news"]) == (10, False)


def test_a_tag_that_was_moved_waits_and_an_older_one_is_held(
    look: Look, place: Paths, app: dict[str, Any]
) -> None:
    app["redeploy"]["version"] = "v*"
    with redeploys.changing(place) as now:
        now["deployed"] = {"commit": OLD, "tag": "v1.4.0"}
    moved = look((NEW, "v1.4.0"))
    assert (moved["status"], moved["go"]) == (11, False)
    assert "v1.4.0 was moved from aaaaaaa to bbbbbbb" in moved["said"]
    assert "berth deploy board --version v1.4.0" in moved["said"]
    assert look((NEW, "v1.3.9"))["status"] == 10
    assert look((NEW, "v1.10.0"))["go"]
    # Where somebody deployed it, it is known from the next look on.
    look((OLD, "v1.3.0"))
    assert redeploys.state(place)["deployed"] == {"commit": OLD, "tag": "v1.3.0"}


def test_changed_settings_are_the_controllers_alone(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "compare", lambda *_: {"stale": True, "problem": "", "secrets": ["KEY"]})
    assert look((OLD, ""))["go"]
    assert look(alone=True)["status"] == 10
    monkeypatch.setattr(
        settings, "compare", lambda *_: {"stale": False, "problem": "domains changed.", "secrets": []}
    )
    assert look()["status"] == 10


def test_a_sick_release_a_full_disk_and_bad_backups_stop_it(
    place: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeploy.shutil, "disk_usage", lambda _: type("", (), {"free": 5 << 20})())
    with pytest.raises(redeploy._Held) as full:
        redeploy._refuse_full(place)
    assert "has 5 MB left" in full.value.said
    monkeypatch.setattr(
        redeploy.backups, "judge", lambda *_: [("old", "sick", "the newest is 3 days old", "x")]
    )
    with pytest.raises(redeploy._Held) as old:
        redeploy._refuse_unsaved(place.root, lambda _: {})
    assert "the newest is 3 days old" in old.value.said
    monkeypatch.setattr(redeploy.backups, "judge", lambda *_: [("drill", "sick", "no drill", "x")])
    redeploy._refuse_unsaved(place.root, lambda _: {})


def test_a_repository_that_does_not_answer_is_told_of_the_third_time(
    place: Paths, app: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any) -> None:
        raise ReleaseError("The repository did not answer within 45 s.")

    monkeypatch.setattr(redeploy.source, "Repository", silent)
    found = [redeploy.look(place, {"app": app}, "timer") for _ in range(4)]
    assert [(one["status"], one["news"]) for one in found] == [
        (0, False),
        (0, False),
        (10, True),
        (10, False),
    ]


def test_a_branch_that_is_gone_is_said(
    place: Paths, app: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> Gone:
            return self

        def __exit__(self, *_: object) -> None: ...
        def newest(self, _: str) -> tuple[str, str]:
            return "", ""

    monkeypatch.setattr(redeploy.source, "Repository", Gone)
    held = redeploy.look(place, {"app": app}, "timer")
    assert held["status"] == 10
    assert "No branch or tag is main in https://git.example.com/board: was it deleted?" in held["said"]


@pytest.mark.parametrize(
    ("failed", "status"),
    [("", 0), ("board is locked: ann@laptop …", 10), ("it waits for somebody", 11), ("No.", 1)],
)
def test_the_end_has_a_status(look: Look, place: Paths, failed: str, status: int) -> None:
    look((NEW, "v1"))
    ended = redeploy.conclude(place, failed, "timer")
    assert (ended["status"], ended["news"]) == (status, True)
    assert redeploys.state(place)["last"]["by"] == "timer"


def test_what_is_behind_what_is_live_waits_and_is_no_failure(place: Paths, app: dict[str, Any]) -> None:
    """Nor is it tried at each look."""
    place.release("r1").mkdir(parents=True)
    deploy = Deploy(place, {"unattended": True})
    deploy.app, deploy.commit, deploy.previous, deploy.fingerprint = app, NEW, "r1", "print"
    repository: Any = SimpleNamespace(is_ancestor=lambda *_: True, descends=lambda *_: False)
    deploy.repository = repository

    def waits(refuse: Callable[[], None]) -> bool:
        with pytest.raises(ReleaseError) as error:
            refuse()
        noted: dict[str, Any] = redeploys.state(place)["failed"]["print"]
        redeploys.forgive(place)
        return bool(error.value.waits and noted["waits"])

    assert waits(lambda: step._refuse_older(deploy, {"version": OLD}, False))
    assert waits(lambda: step._refuse_rewritten(deploy, {"version": OLD}))


# The server's own -------------------------------------------------------------------------------------------


def test_the_timer_takes_the_steps_that_a_deploy_takes(app: dict[str, Any]) -> None:
    asked: list[str] = []

    class Engine:
        def run(self, step: str, args: dict[str, Any], _body: None) -> dict[str, Any]:
            known = table.find(step)
            given = {"name", *(known.takes if known else ())} - {"body"}
            assert given - set(args) <= {"force", "vault", "provisioned"}
            asked.append(step)
            return {"action": "deploy", "msg": "live"}

    assert unattended._deploy(Engine(), app, NEW) == "live"
    whole = [task["step"] for file in ("settings.yml", "main.yml") for task in tasks(file)]
    assert asked == [step for step in dict.fromkeys(whole) if step != "unlock"]


def test_the_timer_deploys_with_the_settings_that_the_server_has(place: Paths, app: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match=r"no redeploy\.schedule"):
        unattended.description(place)
    place.etc.mkdir(parents=True)
    source = {**app["source"], "version": "release"}
    told = {"redeploy": {**app["redeploy"], "schedule": "hourly"}, "source": source}
    (place.etc / redeploys.FILE).write_text(json.dumps(told))
    with pytest.raises(ReleaseError, match="never deployed"):
        unattended.description(place)
    for name, entry in (("r1", app), ("r2", {**app, "env": {"GREETING": "hello"}})):
        place.release(name).mkdir(parents=True)
        record = {"id": name, "created": f"2026-11-30T0{name[1]}:00:00Z", "app": entry}
        journal.write_record(place.release(name), record)
    place.provisioned.write_text(json.dumps({"digest": settings.provision_digest(app)}))
    assert unattended.description(place) == {**app, **told}
    place.provisioned.write_text(json.dumps({"digest": "another"}))
    with pytest.raises(ReleaseError, match="those of no release"):
        unattended.description(place)


def test_a_run_over_several_apps_ends_with_the_worst() -> None:
    looked = [
        {"redeploy_item": {"name": "a"}, "go": True, "status": 0, "said": "Deploying.", "news": True},
        {"redeploy_item": {"name": "b"}, "go": False, "status": 10, "said": "Held.", "news": False},
        {"redeploy_item": {"name": "c"}, "changed": True, "said": "Paused."},
    ]
    done: list[dict[str, Any]] = [
        {"redeploy_name": "a", "status": 1, "said": "It failed.", "news": True},
        {"redeploy_name": "b"},
    ]
    ends = redeploy_ends(looked, done)
    assert [(one["name"], one["status"]) for one in ends] == [("a", 1), ("b", 10)]
    assert redeploy_summary(ends, 1) == "a: It failed."


# A clock on a controller ------------------------------------------------------------------------------------


def account(events: list[dict[str, Any]], stats: dict[str, Any]) -> Account:
    """What a quiet run makes of the events of a playbook."""
    verdict = {"Fail where it failed": 1, "Fail where it is held back": 10, "Fail where it waits still": 11}
    with Account("redeploy.yml", answer=False, verdict=verdict, quiet=True) as found:
        for name, data in [*((event.pop("event"), event) for event in events), ("playbook_on_stats", stats)]:
            found.event({"event": name, "event_data": data})
    return found


def failing(task: str) -> dict[str, Any]:
    return {"event": "runner_on_failed", "task": task, "host": "web", "res": {"msg": "board: why"}}


def test_a_quiet_run_without_news_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    fine = {"event": "runner_on_ok", "task": "Look", "host": "web", "res": {"changed": False}}
    assert account([fine], {"failures": {}}).refused == 0
    known = account([failing("Fail where it waits still")], {"failures": {"web": 1}})
    assert (known.refused, known.broken) == (11, False)
    assert capsys.readouterr().out == ""


def test_a_quiet_run_tells_what_changed_or_failed(capsys: pytest.CaptureFixture[str]) -> None:
    account([{"event": "runner_on_ok", "task": "Switch", "host": "web", "res": {"changed": True}}], {})
    assert "Switch" in capsys.readouterr().out
    held = account([failing("Fail where it is held back")], {"failures": {"web": 1}})
    assert (held.refused, held.broken) == (10, False)
    assert "board: why" in capsys.readouterr().out


def test_a_failure_that_was_rescued_does_not_hide_the_verdict_and_another_one_does() -> None:
    rescued = [failing("Build the release"), failing("Fail where it failed")]
    found = account(rescued, {"failures": {"web": 1}, "rescued": {"web": 1}})
    assert (found.refused, found.broken) == (1, False)
    elsewhere = account([failing("Fail where it failed")], {"failures": {"web": 1, "other": 1}})
    assert elsewhere.broken
    assert account([failing("Fail where it failed")], {"failures": {"web": 1}, "dark": {"other": 1}}).broken


@pytest.fixture
def packed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("berth/__init__.py", "")
    return buffer.getvalue()


def test_a_timer_is_made_once_changed_and_taken_away(
    tmp_path: Path, app: dict[str, Any], packed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(clocks.clocks.units, "systemctl", lambda *words, **_: asked.append(words))
    monkeypatch.setattr(clocks.clocks, "running", lambda _: True)
    entry = {**app, "redeploy": {**app["redeploy"], "schedule": "*:0/5"}}
    assert clocks.differs(entry, tmp_path)
    assert clocks.apply([entry], True, tmp_path, packed)
    assert not (tmp_path / "etc").exists()
    clocks.apply([entry], False, tmp_path, packed)
    assert ("restart", "berth-redeploy@board.timer") in asked
    units = tmp_path / "etc/systemd/system"
    assert "OnCalendar=*:0/5\n" in (units / "berth-redeploy@board.timer").read_text()
    assert (units / "timers.target.wants/berth-redeploy@board.timer").is_symlink()
    assert (tmp_path / "usr/local/lib/berth/engine.zip").read_bytes() == packed
    assert (tmp_path / "etc/berth/board/redeploy.json").stat().st_mode & 0o777 == 0o600
    assert not clocks.differs(entry, tmp_path)
    asked.clear()
    assert clocks.apply([entry], False, tmp_path, packed) == []
    assert asked == []
    other = {**entry, "source": {**entry["source"], "version": "release"}}
    assert clocks.differs(other, tmp_path)
    assert clocks.apply([other], False, tmp_path, packed) == ["redeploy.json"]
    assert clocks.apply([app], False, tmp_path, packed) == ["board: no timer any more"]
    assert clocks.clocks.apps(tmp_path) == []
    assert not clocks.differs(app, tmp_path)


@pytest.mark.parametrize(
    ("redeploy", "said"),
    [
        ({"schedule": "hourly"}, "apps[0].redeploy.schedule: is for a repository"),
        ({"version": "a b"}, "apps[0].redeploy.version: "),
        ({"not_during": ["Friday"]}, 'apps[0].redeploy.not_during[0]: "Friday" is no time of the week'),
        ({"jitter": -1}, "apps[0].redeploy.jitter: "),
    ],
)
def test_what_is_written_wrong_is_said_with_its_place(redeploy: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems({"apps[0].redeploy": redeploy}))


def test_nothing_is_kept_or_told_with_a_secret_in_it(place: Paths) -> None:
    place.etc.mkdir(parents=True)
    (place.etc / "secrets.json").write_text(json.dumps({"DATABASE_PASSWORD": "canary-4711-canary"}))
    said = "postgresql://u:canary-4711-canary@h is away"
    redeploys.failed(place, "f", commit=NEW, step="start", reason=said)
    assert redeploys.note(place, "failed", said, "timer")
    assert "canary-4711" not in (place.state / redeploys.FILE).read_text()
    assert not redeploys.note(place, "failed", said, "timer")


def test_the_role_looks_where_the_engine_is_kept() -> None:
    told = yaml.safe_load(Path("roles/redeploy/vars/main.yml").read_text())
    assert told["__redeploy_engine"] == str(clocks.program.ENGINE)
