#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Confine services that others installed, without a restart that nobody asked for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_drop_ins
short_description: Give services a drop-in, restart them where nobody is served yet, else say what waits
description:
  - Writes C(60-berth-hardening.conf) for each unit given, and takes it away from every other one.
  - What confines a process holds from its start on. Where no app has a live release, units that run are
    restarted, and one that does not come up so has its former drop-in back. Else they are left to their next
    restart, and RV(waiting) names them until then.
author: Berth (@berth)
options:
  units:
    description: The whole drop-in by the full name of the unit.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Tells which drop-ins would be written and taken away.
  diff_mode:
    support: full
    description: Shows each of them before and after.
"""

EXAMPLES = r"""
- name: Confine PostgreSQL
  unit_drop_ins:
    units:
      postgresql@17-main.service: "{{ lookup('ansible.builtin.file', 'postgresql.conf') }}"
"""

RETURN = r"""
restarted:
  description: Units that were restarted.
  type: list
  elements: str
  returned: success
waiting:
  description: Units that still run as they did before.
  type: list
  elements: str
  returned: success
"""

import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.paths import UNITS  # noqa: E402
from ansible.module_utils.berth.runtime import others  # noqa: E402
from ansible.module_utils.berth.store.journal import replace_text  # noqa: E402

NAME = "60-berth-hardening.conf"
SERVED = Path("/srv")


def drop_in(unit: str) -> Path:
    """Where a unit's drop-in is."""
    return Path(UNITS, f"{unit}.d", NAME)


def former() -> dict[str, str]:
    """The drop-ins that are there, by unit."""
    return {path.parent.name.removesuffix(".d"): path.read_text() for path in UNITS.glob(f"*.d/{NAME}")}


def put(unit: str, text: str | None) -> None:
    """Write a unit's drop-in, or take it away with its folder if nothing else is in there."""
    path = drop_in(unit)
    if text is not None:
        path.parent.mkdir(exist_ok=True, mode=0o755)
        replace_text(path, text, 0o644)
        return
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def in_use() -> bool:
    """Whether a release of any app is live."""
    # glob passes over links that lead nowhere.
    return any((path / "web.sock").is_symlink() for path in SERVED.glob("*"))


def is_confined(unit: str, age: float) -> bool:
    """Whether a unit that runs for so many seconds was started with the drop-in that is there now.

    Ages are compared: the clock on the wall may have been set since.
    """
    return age < time.time() - drop_in(unit).stat().st_mtime


def reload(module: AnsibleModule) -> None:
    module.run_command(["systemctl", "daemon-reload"], check_rc=True)


def restart(module: AnsibleModule, unit: str, before: str | None) -> None:
    """Restart a unit with its new drop-in; with the former one where it does not come up."""
    if module.run_command(["systemctl", "restart", unit])[0] == 0:
        return
    words = others.last_words(module, unit)
    put(unit, before)
    reload(module)
    again = module.run_command(["systemctl", "restart", unit])[0] == 0
    module.fail_json(
        msg=f"{unit} did not come up with its new {NAME}: {words}. What was before is back, "
        + ("and it runs. " if again else "and it does not start with that either. ")
        + "To go on without: server.hardening.units: false."
    )


def confine(module: AnsibleModule, wanted: dict[str, str]) -> dict[str, Any]:
    """What the module returns."""
    before = former()
    written = [unit for unit in wanted if before.get(unit) != wanted[unit]]
    removed = sorted(set(before) - set(wanted))
    diff = [
        {
            "before_header": str(drop_in(unit)),
            "after_header": str(drop_in(unit)),
            "before": before.get(unit, ""),
            "after": wanted.get(unit, ""),
        }
        for unit in written + removed
    ]
    result = {"changed": bool(diff), "restarted": [], "waiting": [], "diff": diff}
    if module.check_mode:
        return result
    # Asked before: what is taken away leaves nothing whose age could be compared.
    ages = {unit: others.age(module, unit) for unit in removed}
    waiting = {unit for unit, age in ages.items() if age is not None and is_confined(unit, age)}
    for unit in written + removed:
        put(unit, wanted.get(unit))
    states = {unit: others.state(module, unit) for unit in wanted}
    # A run before this one may have ended between writing and this.
    if removed or any(stale for _, stale in states.values()):
        reload(module)
    waiting |= {unit for unit, (age, _) in states.items() if age is not None and not is_confined(unit, age)}
    if in_use():
        return {**result, "waiting": sorted(waiting)}
    for unit in sorted(waiting):
        restart(module, unit, before.get(unit))
    return {**result, "changed": bool(diff or waiting), "restarted": sorted(waiting)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"units": {"type": "dict", "required": True}}, supports_check_mode=True
    )
    module.exit_json(**confine(module, module.params["units"]))


if __name__ == "__main__":
    main()
