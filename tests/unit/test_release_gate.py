"""When a new release is given up, and when it is waited for."""

from __future__ import annotations

import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from ansible.module_utils.berth.release import cause, command, gate
from ansible.module_utils.berth.release.errors import ReleaseError

HEALTH = {"timeout": 5, "interval": 0.01, "successes": 1, "hold": 0}


def wait(monkeypatch: pytest.MonkeyPatch, states: list[dict[str, str]]) -> None:
    """The gate, where systemd says one after the other, and the release answers with the last of them."""

    def show(*_: str) -> dict[str, str]:
        return {"NRestarts": "0", **(states.pop(0) if len(states) > 1 else states[0])}

    monkeypatch.setattr(command, "show", show)
    monkeypatch.setattr(command, "journal", lambda *_: [])
    monkeypatch.setattr(gate.Probe, "ask", lambda *_: 0 if len(states) > 1 else 200)
    gate.wait_healthy(gate.Probe(Path("s"), "board.localhost", "/healthz"), "web", HEALTH, cause.About())


@pytest.mark.parametrize("state", ["inactive", "deactivating", "failed"])
def test_a_start_that_waits_its_turn_has_not_failed(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    wait(monkeypatch, [{"ActiveState": state, "Job": "12"}, {"ActiveState": "active", "Job": ""}])


@pytest.mark.parametrize("job", ["", "0"])
def test_a_release_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    with pytest.raises(ReleaseError, match="did not start"):
        wait(monkeypatch, [{"ActiveState": "failed", "Job": job}, {"ActiveState": "active", "Job": ""}])


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
        probe = gate.Probe(tmp_path / "s", "board.localhost", "")
        assert probe.good(probe.ask(5))
        server.shutdown()
    assert probe.path == found
