#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Look at a proxy once: what is installed, what was applied, and what runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: proxy_state
short_description: Tell a proxy's version, the configuration that was applied and the one that runs
description:
  - Reads in one round trip what decides whether the proxy has to be reloaded or restarted. Changes nothing.
author: Berth (@berth)
options:
  version:
    description: The command that prints its version. It may be missing.
    type: list
    elements: str
    required: true
  units:
    description: Its units, all of which are to be active now and enabled for the next boot.
    type: list
    elements: str
    required: true
  applied:
    description: >-
      Where its unit writes SHA-1 sums, as sha1sum prints them. The first is of the unit's drop-in when it was
      started, the last of the sites that were loaded last.
    type: path
    required: true
  group:
    description: The group of its processes.
    type: str
    required: true
  paths:
    description: Paths of which some may be there.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
    description: Reads only.
"""

EXAMPLES = r"""
- name: Look at Caddy
  proxy_state:
    version: [caddy, version]
    units: [caddy.service]
    applied: /run/caddy/applied
    group: caddy
"""

RETURN = r"""
version:
  description: Its version as numbers, C(0.0) where it is not installed.
  type: str
  returned: always
receipt:
  description: The text of role proxy's last receipt, empty where there is none.
  type: str
  returned: always
receipt_before:
  description: Whether there is one where an earlier Berth has kept it.
  type: bool
  returned: always
unit_sha1:
  description: SHA-1 of the unit's drop-in when the service was started, empty where it does not run.
  type: str
  returned: always
sites_sha1:
  description: SHA-1 of the sites that were loaded last, empty where the service does not run.
  type: str
  returned: always
up:
  description: Whether all units run now and are started at boot.
  type: bool
  returned: always
groups:
  description: Groups beside RV(group) that live sockets of apps belong to, which another proxy was there for.
  type: list
  elements: str
  returned: always
paths:
  description: Those of the paths that are there.
  type: list
  elements: str
  returned: always
ipv6:
  description: Whether the kernel speaks IPv6.
  type: bool
  returned: always
"""

import grp  # noqa: E402
import re  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.host import untrusted  # noqa: E402
from ansible.module_utils.berth.store import proxy  # noqa: E402

# Root's folders alone: what is in /run/<app> is the app's.
SOCKETS = Path("/run/berth")


def text_of(path: Path) -> str:
    """What the proxy's own user wrote."""
    try:
        return str(untrusted.read_text(path, errors="replace"))
    except OSError:
        return ""


def other_groups(own: str, folder: Path = SOCKETS) -> list[str]:
    """Whose sockets there are, and not for this group."""
    found = set()
    for path in folder.glob("*/*.sock"):
        try:
            found.add(grp.getgrgid(path.lstat().st_gid).gr_name)
        except (OSError, KeyError):
            continue
    return sorted(found - {own, "root"})


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "list", "elements": "str", "required": True},
            "units": {"type": "list", "elements": "str", "required": True},
            "applied": {"type": "path", "required": True},
            "group": {"type": "str", "required": True},
            "paths": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    asked = module.params
    program = module.get_bin_path(asked["version"][0])
    # `2.6.2` from the distribution, `v2.11.7 h1:…` from a project; some say it on stderr.
    said = "".join(module.run_command([program, *asked["version"][1:]])[1:]) if program else ""
    version = re.search(r"[0-9]+([.][0-9]+)+", said)
    sums = re.findall(r"(?m)^[0-9a-f]{40}", text_of(Path(asked["applied"])))
    states = module.run_command(["systemctl", "show", "-P", "ActiveState", *asked["units"]])[1].split()
    enabled = module.run_command(["systemctl", "is-enabled", *asked["units"]])[1].split()
    module.exit_json(
        changed=False,
        version=version[0] if version else "0.0",
        receipt=proxy.text(),
        receipt_before=proxy.BEFORE.exists(),
        unit_sha1=sums[0] if sums else "",
        sites_sha1=sums[-1] if sums else "",
        up={*states} == {"active"} and enabled == ["enabled"] * len(asked["units"]),
        groups=other_groups(asked["group"]),
        paths=[path for path in asked["paths"] if Path(path).exists()],
        ipv6=Path("/proc/net/if_inet6").exists(),
    )


if __name__ == "__main__":
    main()
