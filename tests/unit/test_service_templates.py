"""What role service writes into units: how each kind of process ends, and when jobs run."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from plugins.filter.app import FilterModule
from tests.support.entry import board
from tests.support.kit import ROOT


def rendered(template: str, app: dict[str, Any], **more: Any) -> list[str]:
    """The lines of a unit, as Ansible renders them."""
    folder = ROOT / "roles/service/templates"
    jinja = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), trim_blocks=True)  # noqa: S701
    jinja.filters.update({**FilterModule().filters(), "comment": str})
    text = jinja.get_template(template)
    return text.render(__service_app=app, ansible_managed="", __service_number=1, **more).splitlines()


def process(command: str = "", name: str = "worker", **more: Any) -> list[str]:
    entries = [
        {"name": "web", **(more if name == "web" else {}), "command": command if name == "web" else ""}
    ]
    if name != "web":
        entries.append({"name": name, "command": command, **more})
    app = board(processes=entries, drain={"requests": 60})
    return rendered("process.service.j2", app, __service_process=app["processes"][-1])


@pytest.mark.parametrize(
    ("command", "mode"),
    [
        ("celery -A shop worker", "mixed"),
        ("cd worker && celery -A shop worker", "mixed"),
        # Their main process is a shell, which passes no signal on: the group would be killed at once.
        ("celery -A shop worker | tee log", "control-group"),
        ("while true; do python tick.py; sleep 1; done", "control-group"),
    ],
)
def test_who_is_asked_to_end(command: str, mode: str) -> None:
    assert f"KillMode={mode}" in process(command)
    assert f"KillMode={mode}" in process(command, name="web")


def test_how_long_a_process_may_take_to_end() -> None:
    assert "TimeoutStopSec=600" in process("celery", stop_timeout=600)
    assert "TimeoutStopSec=70" in process(name="web")


def test_a_worker_that_ran_out_of_memory_ends_alone_where_a_server_replaces_it() -> None:
    assert "OOMPolicy=continue" in process(name="web")
    assert "OOMPolicy=stop" in process("celery")


def test_a_socket_is_roots_where_the_app_cannot_put_another() -> None:
    lines = rendered("web.socket.j2", board(), service_proxy_group="caddy")
    assert {"ListenStream=/run/berth/board/%i.sock", "SocketUser=root", "SocketMode=0660"} <= set(lines)


def test_a_job_runs_at_its_instant_and_a_missed_one_is_made_up_for() -> None:
    app = board(jobs=[{"name": "nightly", "command": "true", "schedule": "*-*-* 03:00"}])
    lines = rendered("job.timer.j2", app, __service_job=app["jobs"][0])
    assert {"OnCalendar=*-*-* 03:00", "Persistent=true", "AccuracySec=1s"} <= set(lines)
    # An instant within a delay would be lost between two releases' timers.
    assert not [line for line in lines if line.startswith("RandomizedDelaySec")]
