"""What asks for something new of an app by the clock: a timer each, and one service for all of them."""

from __future__ import annotations

from pathlib import Path

from ..paths import UNITS
from . import units

_STEM = "berth-redeploy"
SERVICE = f"{_STEM}@.service"
_SERVICE = """\
# Ansible managed
[Unit]
Description=Deploy what is new of %i
Wants=network-online.target
After=network-online.target
ConditionPathExists=/etc/berth/%i/redeploy.json
# Somebody may start it as often as they like.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -I {program} %i
# Held back, and waiting for somebody, are no failures of this unit.
SuccessExitStatus=10 11
# What a deploy began is ended by its engine, or finished where it is live already.
KillMode=mixed
TimeoutStartSec=4h
TimeoutStopSec=5min
UMask=0022
"""
_TIMER = """\
# Ansible managed
[Unit]
Description=Ask for something new of {app}

[Timer]
OnCalendar={schedule}
RandomizedDelaySec={jitter}
AccuracySec=1s
# What was missed while the server was off is made up for.
Persistent=true

[Install]
WantedBy=timers.target
"""


def service(program: Path) -> str:
    """The text of the service."""
    return _SERVICE.format(program=program)


def timer(app: str, schedule: str, jitter: int) -> str:
    """The text of an app's timer."""
    return _TIMER.format(app=app, schedule=schedule, jitter=jitter)


def name(app: str) -> str:
    """An app's timer."""
    return f"{_STEM}@{app}.timer"


def file(unit: str, root: Path = Path("/")) -> Path:
    return root / UNITS.relative_to("/") / unit


def apps(root: Path = Path("/")) -> list[str]:
    """Those that have a timer."""
    found = file("", root).glob(f"{_STEM}@*.timer")
    return sorted(path.name.partition("@")[2].removesuffix(".timer") for path in found)


def start(wanted: list[str], changed: list[str], root: Path = Path("/")) -> None:
    """Have timers go on now and after each boot; those that changed, anew."""
    units.reload()
    for app in wanted:
        want = _want(app, root)
        want.parent.mkdir(exist_ok=True)
        units.replace_link(want, file(name(app), root))
    if changed:
        units.systemctl("restart", *map(name, changed))


def running(app: str) -> bool:
    """Whether its timer goes."""
    return units.states([name(app)]).get(name(app)) == "active"


def enabled(app: str, root: Path = Path("/")) -> bool:
    return _want(app, root).is_symlink()


def forget(app: str, root: Path = Path("/")) -> None:
    """It asks no more; a deploy that it has begun comes to its end."""
    units.systemctl("stop", name(app))
    for path in (_want(app, root), file(name(app), root)):
        path.unlink(missing_ok=True)
    units.reload()


def due(app: str) -> str:
    """When it asks next, as systemd says; empty where it does not."""
    return units.show(name(app), "NextElapseUSecRealtime").get("NextElapseUSecRealtime", "")


def _want(app: str, root: Path) -> Path:
    return file("", root) / "timers.target.wants" / name(app)
