"""Units that others installed: how long they run, and what they said last."""

from __future__ import annotations

import time
from typing import Any


def state(module: Any, unit: str) -> tuple[float | None, bool]:
    """Since how many seconds a unit runs, if it does; and whether systemd knows its files of before.

    `module` is an AnsibleModule.
    """
    keys = ("ActiveState", "InactiveExitTimestampMonotonic", "NeedDaemonReload")
    said = module.run_command(["systemctl", "show", "-p", ",".join(keys), unit], check_rc=True)[1]
    values = dict(line.partition("=")[::2] for line in said.splitlines())
    runs = values[keys[0]] in ("active", "reloading")
    age = time.monotonic() - int(values[keys[1]]) / 1e6 if runs else None
    return age, values[keys[2]] == "yes"


def age(module: Any, unit: str) -> float | None:
    """Since how many seconds a unit runs; None where it does not."""
    return state(module, unit)[0]


def last_words(module: Any, unit: str) -> str:
    """The last lines of a unit's log, in one."""
    said = module.run_command(["journalctl", "-q", "--no-pager", "-o", "cat", "-u", unit, "-n", "5"])[1]
    return " / ".join(said.splitlines())
