#!/usr/bin/python
"""Installs one set of systemd unit files in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_units
short_description: Installs the unit templates of all apps, verified, and removes those no longer listed
description:
  - Writes the given unit files to C(/etc/systemd/system), after C(systemd-analyze verify) has
    passed on a copy.
  - Removes template units (C(name@.service), C(name@.socket), C(name@.timer)) that carry the marker line of
    an app in O(apps) and are not listed any more. Instance files stay, since they belong to a release.
  - Reloads systemd once, if anything changed.
options:
  units:
    description: File name and whole content of every unit template.
    type: dict
    required: true
  apps:
    description: Names of the apps whose units these are.
    type: list
    elements: str
    required: true
  receipt:
    description:
      - Per app the digest of what it is given here. Recorded in C(/var/lib/berth/service.json) when all else
        has succeeded, for a deploy to compare with.
    type: dict
    default: {}
author: Berth
"""

EXAMPLES = r"""
- name: Install the units
  service_units:
    apps: [board]
    units:
      board-web@.service: "{{ lookup('ansible.builtin.template', 'process.service.j2') }}"
"""

RETURN = r"""
written:
  description: Unit files that were written.
  type: list
  returned: always
removed:
  description: Unit files that were removed.
  type: list
  returned: always
"""

import contextlib  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.store import journal, receipts  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402

FOLDER = Path("/etc/systemd/system")
INSTANCE = "00000000T000000Z-0000000"
# verify looks at what a release brings only when it is deployed.
HARMLESS = re.compile(
    r"is not executable|Failed to load environment|Unit .* not found|Failed to open|/etc/systemd/system/(?!tmp)"  # noqa: E501
)


def owned_templates(apps: list[str], folder: Path = FOLDER) -> set[str]:
    """Template units on this host that carry the marker of one of the apps."""
    found = set()
    for path in folder.glob("*@.*"):
        if path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError):
            match = re.search(r"^# Berth app: (\S+)$", path.read_text(), re.MULTILINE)
            if match and match.group(1) in apps:
                found.add(path.name)
    return found


def complaints(module: AnsibleModule, units: dict[str, str]) -> list[str]:
    """What systemd says about the units. A template is verified as an instance of it."""
    if not shutil.which("systemd-analyze"):
        return []
    with tempfile.TemporaryDirectory() as name:
        paths = []
        for file, text in units.items():
            path = Path(name) / file.replace("@.", f"@{INSTANCE}.")
            path.write_text(text)
            paths.append(str(path))
        code, _, err = module.run_command(["systemd-analyze", "verify", "--man=no", *paths])
        lines = [
            line.replace(f"{name}/", "")
            for line in err.splitlines()
            if name in line or file_named(line, paths)
        ]
    if code == 0:
        return []
    return [line for line in lines if not HARMLESS.search(line)]


def file_named(line: str, paths: list[str]) -> bool:
    return any(Path(path).name in line for path in paths)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "dict", "required": True},
            "apps": {"type": "list", "elements": "str", "required": True},
            "receipt": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    units: dict[str, str] = module.params["units"]
    before = {}
    for name in units:
        path = FOLDER / name
        before[name] = path.read_text() if path.is_file() else ""
    written = sorted(name for name, text in units.items() if before[name] != text)
    removed = sorted(owned_templates(module.params["apps"]) - set(units))
    if written:
        bad = complaints(module, {name: units[name] for name in written})
        if bad:
            module.fail_json(
                msg=f"systemd does not accept a unit, so none was changed: {bad[0]}", complaints=bad
            )
    diff = [{"before_header": n, "after_header": n, "before": before[n], "after": units[n]} for n in written]
    diff += [
        {"before_header": n, "after_header": n, "before": (FOLDER / n).read_text(), "after": ""}
        for n in removed
    ]
    if not module.check_mode:
        for name in written:
            journal.replace_text(FOLDER / name, units[name], 0o644)
        for name in removed:
            (FOLDER / name).unlink()
        if written or removed:
            module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    changed = receipts.write("service", module.params["receipt"], module.check_mode)
    changed |= bool(written or removed)
    module.exit_json(changed=changed, written=written, removed=removed, diff=diff)


if __name__ == "__main__":
    # Two runs may be given all apps at once: one reads, compares and writes at a time.
    with hostwide():
        main()
