#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Look at Caddy once: what is installed, what was applied, and what runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: caddy_state
short_description: Tell Caddy's version, the configuration that was applied and the one that runs
description:
  - Reads in one round trip what decides whether Caddy has to be reloaded or restarted. Changes nothing.
author: Berth (@berth)
options: {}
attributes:
  check_mode:
    support: full
    description: Reads only.
"""

EXAMPLES = r"""
- name: Look at Caddy
  caddy_state:
"""

RETURN = r"""
version:
  description: Major and minor version, C(0.0) where Caddy is not installed.
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
  description: Whether the service runs now and is started at boot.
  type: bool
  returned: always
"""

import re  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.store import proxy  # noqa: E402

RUNNING = Path("/run/caddy/applied")


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    caddy = module.get_bin_path("caddy")
    # `2.6.2` from the distribution, `v2.11.7 h1:…` from the Caddy project.
    said = module.run_command([caddy, "version"])[1] if caddy else ""
    version = re.search(r"[0-9]+[.][0-9]+", said)
    sums = re.findall(r"(?m)^[0-9a-f]{40}", text_of(RUNNING))
    active, _, _ = module.run_command(["systemctl", "is-active", "--quiet", "caddy.service"])
    _, enabled, _ = module.run_command(["systemctl", "is-enabled", "caddy.service"])
    module.exit_json(
        changed=False,
        version=version[0] if version else "0.0",
        receipt=proxy.text(),
        receipt_before=proxy.BEFORE.exists(),
        unit_sha1=sums[0] if sums else "",
        sites_sha1=sums[-1] if sums else "",
        up=active == 0 and enabled.strip() == "enabled",
    )


if __name__ == "__main__":
    main()
