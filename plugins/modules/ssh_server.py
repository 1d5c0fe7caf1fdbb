#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Look at a server's sshd once: its version, who asks, and whether its settings are sound as they are."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_server
short_description: What role ssh has to know of the server's sshd
description:
  - Reads, in one round trip. Fails with a sentence where sshd refuses the settings that it has, or does
    not read the folder of drop-ins, before anything is changed.
author: Berth (@berth)
options:
  login:
    description: Whoever this run logs in as. Settings on the disk that would shut this user out are refused.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Reads only.
"""

EXAMPLES = r"""
- name: Look at sshd
  ssh_server:
    login: root
"""

RETURN = r"""
server:
  description:
    - C(version) of OpenSSH, C(client), the address that this run comes from, C(hardened), whether Berth's
      drop-in is there, and C(with_keys), the accounts that have a shell and a file of keys.
  type: dict
  returned: success
"""

import os  # noqa: E402
import pwd  # noqa: E402
import re  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.host import sshd  # noqa: E402
from ansible.module_utils.berth.host.command import over_ssh  # noqa: E402

CONFIG = Path("/etc/ssh/sshd_config")
DROP_IN = Path("/etc/ssh/sshd_config.d/00-berth.conf")
NOT_SHELLS = ("nologin", "false", "sync")


def version_of(text: str) -> str:
    """`10.0` of what `ssh -V` prints; empty where it says something else."""
    found = re.search(r"OpenSSH_(\d+\.\d+)", text)
    return found[1] if found else ""


def includes(text: str) -> bool:
    """Whether sshd_config has the folder of drop-ins read."""
    return bool(re.search(r"(?mi)^\s*Include\s+.*(?:/etc/ssh/)?sshd_config\.d/\*\.conf", text))


def with_keys() -> list[str]:
    """Accounts that have a shell and a file of keys, which is not opened."""
    found = []
    for entry in pwd.getpwall():
        keys = Path(entry.pw_dir) / ".ssh" / "authorized_keys"
        try:
            there = keys.lstat().st_size > 0
        except OSError:
            continue
        if there and not entry.pw_shell.endswith(NOT_SHELLS):
            found.append(entry.pw_name)
    return sorted(found)


def main() -> None:
    module = AnsibleModule(
        argument_spec={"login": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    login = module.params["login"]
    if not Path(sshd.PROGRAM).exists():
        module.fail_json(
            msg="There is no sshd of OpenSSH here (/usr/sbin/sshd): write server.ssh.enabled: false."
        )
    if not includes(CONFIG.read_text(errors="replace")):
        module.fail_json(
            msg=f"{CONFIG} does not read its drop-ins: write `Include /etc/ssh/sshd_config.d/*.conf` as its "
            "first line (or server.ssh.enabled: false). Nothing was changed."
        )
    # Volatile, and there only once ssh.service has run: with ssh.socket that may never have been.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    status, out, err = module.run_command([sshd.PROGRAM, "-t"])
    if status != 0:
        module.fail_json(
            msg="sshd refuses the settings that it has, so it would not come back after a restart: "
            f"{' '.join((err or out).split())[:400]}. Correct them, and run again. Nothing was changed."
        )
    client = (over_ssh(os.getpid()) or ["127.0.0.1"])[0]
    if setting := sshd.keeps_out(login, client):
        module.fail_json(
            msg=f"sshd would not let {login} in once it reads the settings on its disk: `{setting}` (grep "
            f"-rin {setting.split()[0]} /etc/ssh). Correct them, and run again. Nothing was changed."
        )
    version = version_of(module.run_command(["/usr/bin/ssh", "-V"])[2])
    if not version:
        module.fail_json(msg="`ssh -V` tells no version of OpenSSH: write server.ssh.enabled: false.")
    module.exit_json(
        changed=False,
        server={
            "version": version,
            "client": client,
            "hardened": DROP_IN.exists(),
            "with_keys": with_keys(),
        },
    )


if __name__ == "__main__":
    main()
