"""When a new release is given up, and when it is waited for."""

from __future__ import annotations

import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from ansible.module_utils.berth.diagnosis import cause
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.packaging import start_scripts
from ansible.module_utils.berth.runtime import gate, health, public_route, units
from ansible.module_utils.berth.runtime.transient import Work, transient
from ansible.module_utils.berth.runtime.units import Past

NEW = Past()
HEALTH = {"timeout": 5, "interval": 0.01, "successes": 1, "hold": 0}


def wait(monkeypatch: pytest.MonkeyPatch, states: list[dict[str, str]], past: Past = NEW) -> None:
    """The gate, where systemd says one after the other, and the release answers with the last of them."""

    def show(*_: str) -> dict[str, str]:
        return {"NRestarts": "0", **(states.pop(0) if len(states) > 1 else states[0])}

    monkeypatch.setattr(units, "show", show)
    monkeypatch.setattr(units, "journal", lambda *_, **__: [])
    monkeypatch.setattr(health.Probe, "ask", lambda *_: 0 if len(states) > 1 else 200)
    probe = health.Probe(Path("s"), "board.localhost", "/healthz")
    gate.wait_healthy(probe, "web", HEALTH, cause.About(), past)


@pytest.mark.parametrize("state", ["inactive", "deactivating", "failed"])
def test_a_start_that_waits_its_turn_has_not_failed(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    wait(monkeypatch, [{"ActiveState": state, "Job": "12"}, {"ActiveState": "active", "Job": ""}])


@pytest.mark.parametrize("job", ["", "0"])
def test_a_release_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    with pytest.raises(ReleaseError, match="did not start"):
        wait(monkeypatch, [{"ActiveState": "failed", "Job": job}, {"ActiveState": "active", "Job": ""}])


def test_a_restart_of_weeks_ago_is_not_held_against_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    past = Past(restarts={"web": 1})
    wait(monkeypatch, [{"ActiveState": "active", "NRestarts": "1"}], past)
    with pytest.raises(ReleaseError, match="did not start"):
        wait(monkeypatch, [{"ActiveState": "active", "NRestarts": "2"}], past)


OLD = "[2026-11-01] [7] [ERROR] Worker (pid:9) was sent SIGKILL! Perhaps out of memory?"


def journalctl(monkeypatch: pytest.MonkeyPatch, written: list[tuple[float, str]]) -> None:
    """The journal, with when its lines were written."""

    def run(argv: list[str], **_: object) -> command.Result:
        since = next((float(one.partition("@")[2]) for one in argv if one.startswith("--since=")), 0.0)
        return command.Result(0, "".join(f"{line}\n" for at, line in written if at >= since), "")

    monkeypatch.setattr(command, "run", run)


@pytest.mark.parametrize(("since", "refused"), [(1000.0, False), (10.0, True)])
def test_only_what_was_written_since_the_start_counts(
    monkeypatch: pytest.MonkeyPatch, since: float, refused: bool
) -> None:
    journalctl(monkeypatch, [(100.0, OLD)])
    monkeypatch.setattr(units, "show", lambda *_: {"ActiveState": "active", "NRestarts": "0"})
    answers = iter([0] * 30 + [200] * 9)
    monkeypatch.setattr(health.Probe, "ask", lambda *_: next(answers))
    probe = health.Probe(Path("s"), "board.localhost", "/healthz")
    if refused:
        with pytest.raises(ReleaseError, match="more memory than it may"):
            gate.wait_healthy(probe, "web", HEALTH, cause.About(), Past(since))
    else:
        gate.wait_healthy(probe, "web", HEALTH, cause.About(), Past(since))


def test_a_slow_systemd_and_a_slow_journal_fail_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", _slow)
    monkeypatch.setattr(health.Probe, "ask", lambda *_: 200)
    probe = health.Probe(Path("s"), "board.localhost", "/healthz")
    gate.wait_healthy(probe, "web", {**HEALTH, "hold": 0.01}, cause.About(), Past(1.0))


def test_a_slow_systemd_keeps_no_first_release_from_going_live(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "run", _slow)
    (tmp_path / ".berth").mkdir()
    settings = tmp_path / ".berth/serve.json"
    settings.write_text('{"first": true, "workers": 2}')
    start_scripts.grow(tmp_path, "web")
    assert '"first": false' in settings.read_text(), "its next start has them all"


def test_a_slow_journal_does_not_hide_what_a_command_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], **_: object) -> command.Result:
        return command.Result(1, "", "it said why") if argv[0] == "systemd-run" else _slow(argv)

    monkeypatch.setattr(command, "run", run)
    work = Work("berth-build-board", ["false"], user="app", sandbox=[], writable=[], timeout=5)
    assert transient(work).err == "it said why"


def _slow(argv: list[str], **_: object) -> command.Result:
    raise ReleaseError(f"{argv[0]} took longer than 20 s and was stopped.")


def public(monkeypatch: pytest.MonkeyPatch, statuses: list[int], before_is_well: bool) -> str:
    """The public route, which gives one of these after the other."""

    class Proxy:
        certificate = b""

        def __init__(self, *_: object) -> None:
            self.status = statuses.pop(0) if len(statuses) > 1 else statuses[0]

        def getresponse(self) -> Proxy:
            return self

        def request(self, *_: object, **__: object) -> None: ...

        def read(self) -> None: ...

        def close(self) -> None: ...

        def getheader(self, *_: object) -> str:
            return "r2"

    monkeypatch.setattr(public_route, "_LoopbackHTTPS", Proxy)
    probe = health.Probe(Path("s"), "board.localhost", "/readyz")
    said: str = public_route.verify_public(
        "board.localhost", "/readyz", probe, "r2", 2, lambda: before_is_well
    )
    return said


def test_a_database_that_restarts_takes_no_good_release_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert public(monkeypatch, [503] * 10 + [200], before_is_well=False) == ""
    with pytest.raises(ReleaseError, match="answers 503"):
        public(monkeypatch, [503] * 10 + [200], before_is_well=True)
    with pytest.raises(ReleaseError, match="answers 503"):
        public(monkeypatch, [503], before_is_well=False)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"/healthz": "ok", "/health": "ok"}, "/healthz"),
        ({"/health": '{"status": "well"}'}, "/health"),
        ({}, "/"),
    ],
)
def test_the_page_that_answers_every_path_is_not_taken_for_health(
    tmp_path: Path, known: dict[str, str], found: str
) -> None:
    class App(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(known.get(self.path, "\n<!doctype html><title>App</title>").encode())

        def address_string(self) -> str:
            return ""

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.UnixStreamServer(str(tmp_path / "s"), App) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        probe = health.Probe(tmp_path / "s", "board.localhost", "")
        assert probe.good(probe.ask(5))
        server.shutdown()
    assert probe.path == found


def test_a_host_name_that_is_refused_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "show", lambda *_: {"ActiveState": "active", "NRestarts": "0"})
    monkeypatch.setattr(units, "journal", lambda *_, **__: [])
    monkeypatch.setattr(gate, "_SURE", 0.1)
    monkeypatch.setattr(health.Probe, "ask", lambda *_: 400)
    probe = health.Probe(Path("s"), "board.localhost", "/healthz")
    wanted = {**HEALTH, "timeout": 60}
    monkeypatch.setattr(health.Probe, "get", lambda *_: health.Reply(400, body="Invalid host header"))
    began = time.monotonic()
    with pytest.raises(ReleaseError, match=r"host name board\.localhost"):
        gate.wait_healthy(probe, "web", wanted, cause.About(), NEW)
    assert time.monotonic() - began < 30, "it was waited for until the end"
    # Any other 400 may still end: the app may be starting.
    monkeypatch.setattr(health.Probe, "get", lambda *_: health.Reply(400, body="not yet"))
    answers = iter([400] * 20 + [200] * 3)
    monkeypatch.setattr(health.Probe, "ask", lambda *_: next(answers))
    gate.wait_healthy(probe, "web", wanted, cause.About(), NEW)


class Time:
    """A clock that goes on by itself only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def crew(
    monkeypatch: pytest.MonkeyPatch, boots: float, lines: list[str] | None = None, *, needed: bool = True
) -> float:
    """When the gate opens for eight workers, each so long after the one before; the first answers at once."""
    clock = Time()
    monkeypatch.setattr(gate, "time", clock)
    state = {"ActiveState": "active", "NRestarts": "0", "MainPID": "7"}
    monkeypatch.setattr(units, "show", lambda *_: state)
    monkeypatch.setattr(units, "journal", lambda *_, **__: lines or [])
    monkeypatch.setattr(health.Probe, "ask", lambda *_: 200)

    def accepting(path: Path, server: int) -> int:
        assert (path, server) == (Path("s"), 7)
        return min(8, 1 + int((clock.now - 100) / boots)) if boots else 0

    monkeypatch.setattr(gate.listening, "accepting", accepting)
    probe = health.Probe(Path("s"), "board.localhost", "/healthz")
    wanted = {"timeout": 30, "interval": 0.5, "successes": 2, "hold": 3}
    gate.wait_healthy(probe, "web", wanted, cause.About(), NEW, gate.Crew(8, needed))
    return clock.now - 100


def test_the_gate_opens_when_all_workers_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert crew(monkeypatch, 0.1) == pytest.approx(3, abs=0.1)
    assert crew(monkeypatch, 2) == pytest.approx(14, abs=0.6)
    # A kernel that does not tell who listens.
    assert crew(monkeypatch, 0) == pytest.approx(3, abs=0.1)


def test_workers_that_are_missing_at_the_end_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "but only 4 of 8 workers were ready after 33 s: raise health.timeout"
    with pytest.raises(ReleaseError, match=said) as few:
        crew(monkeypatch, 10, ["Booting worker with pid: 9"])
    assert few.value.log == ["Booting worker with pid: 9"]
    # One that was well before is gone back to with those that are there.
    assert crew(monkeypatch, 10, needed=False) == pytest.approx(33, abs=0.6)


def test_a_worker_that_ends_by_itself_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReleaseError, match="answered well, and failed after"):
        crew(monkeypatch, 10, ["[2026-11-01] [7] [ERROR] Worker (pid:9) exited with code 1."])
