"""Work of the whole server that must come to an end: whoever kills it, or a reboot, has it begin again.

Its unit file is there for as long as it is not done, and is started at boot; the work itself knows how far it
came. One of a name at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ReleaseError
from ..paths import UNITS
from . import units

_TEXT = """\
# Ansible managed
[Unit]
Description={what}
After=network-online.target {after}

[Service]
Type=exec
ExecStart={command}
# It ends well whatever it had to say; any other end is somebody's kill.
Restart=on-failure
RestartSec=2
TimeoutStopSec=60
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""


def _file(name: str, root: Path) -> Path:
    return root / UNITS.relative_to("/") / f"{name}.service"


def _want(name: str, root: Path) -> Path:
    return _file(name, root).parent / "multi-user.target.wants" / f"{name}.service"


def begin(name: str, what: str, argv: Sequence[str], after: str = "", root: Path = Path("/")) -> None:
    """Start it beside the caller. `after`: what it starts after at boot."""
    command = " ".join(_quoted(word) for word in argv)
    text = _TEXT.format(what=what, command=command, after=after).replace(" \n", "\n")
    new = _file(name, root).with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(_file(name, root))
    _want(name, root).parent.mkdir(exist_ok=True)
    units.replace_link(_want(name, root), _file(name, root))
    units.reload()
    units.forget_failure([f"{name}.service"])
    done = units.systemctl("start", f"{name}.service")
    if done.code != 0:
        raise ReleaseError(f"{name} does not start: {done.lines[0] if done.lines else done.code}.")


def _quoted(word: str) -> str:
    """As systemd reads it."""
    for char, instead in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(char, instead)
    return f'"{word}"'


def forget(name: str, root: Path = Path("/")) -> None:
    """It is done, says the work itself, which ends right after: nothing starts it again."""
    _want(name, root).unlink(missing_ok=True)
    _file(name, root).unlink(missing_ok=True)
    units.reload()


def at_work(name: str) -> bool:
    """Whether it runs, or is about to be started again."""
    return units.states([f"{name}.service"]).get(f"{name}.service") in ("active", "activating")


def said(name: str, since: float = 0.0) -> list[str]:
    """What it wrote last."""
    return units.journal(f"{name}.service", 40, since)
