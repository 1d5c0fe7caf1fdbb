#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Look at who filters a server's packets: sshd's ports, and any firewall that is there already."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_host
short_description: What role firewall has to know of the server
description:
  - Reads, in one round trip. Fails with a sentence where another firewall is at work, before anything is
    changed.
author: Berth (@berth)
options: {}
attributes:
  check_mode:
    support: full
    description: Reads only.
"""

EXAMPLES = r"""
- name: Look at who filters packets
  firewall_host:
"""

RETURN = r"""
host:
  description:
    - C(ssh_ports), the ports that sshd listens on and that this run came in by, C(client), the address that
      it comes from, C(filtered), whether the rules are there, C(enabled), whether its unit is on, and
      C(listening), what others may reach until then, as C(protocol), C(port) and C(program).
  type: dict
  returned: success
"""

import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.host.command import over_ssh  # noqa: E402
from ansible.module_utils.berth.runtime.listening import beyond  # noqa: E402

RULES = Path("/etc/berth/firewall.nft")
UFW = Path("/etc/ufw/ufw.conf")
# Let in by the rules themselves.
LEASES = {("udp", 68), ("udp", 546)}


def ports_of(settings: str, listening: str, connection: list[str]) -> list[int]:
    """From `sshd -T`, from `systemctl show -P Listen ssh.socket`, and from the words of SSH_CONNECTION."""
    found = re.findall(r"(?m)^port (\d+)", settings) + re.findall(r"(?m)\S*:(\d+) \(Stream\)", listening)
    return sorted({int(port) for port in [*found, *connection[3:4]]}) or [22]


def dropping(chains: dict[str, Any]) -> list[str]:
    """Others' chains of `nft -j list chains` that drop whatever comes in, as `family table chain`."""
    found = [entry["chain"] for entry in chains.get("nftables", []) if "chain" in entry]
    return [
        f"{one['family']} {one['table']} {one['name']}"
        for one in found
        if one.get("hook") == "input"
        and one.get("policy") == "drop"
        and (one["family"], one["table"]) != ("inet", "berth")
    ]


def listening(sockets: str) -> list[dict[str, Any]]:
    """From `ss -Hltunp`: what listens on more than the loopback, but for a lease's own answers."""
    found = {
        (protocol, port): program
        for protocol, port, program in beyond(sockets)
        if (protocol, port) not in LEASES
    }
    return [
        {"protocol": protocol, "port": port, "program": program}
        for (protocol, port), program in sorted(found.items())
    ]


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)

    def ask(*words: str) -> tuple[int, str]:
        if not module.get_bin_path(words[0], opt_dirs=["/usr/sbin", "/sbin"]):
            return 127, ""
        code, out, _ = module.run_command(list(words))
        return code, out

    where = "Nothing was changed. Switch it off, or write server.firewall.enabled: false."
    if UFW.is_file() and re.search(r"(?mi)^\s*ENABLED\s*=\s*[\"']?yes", UFW.read_text(errors="replace")):
        module.fail_json(
            msg=f"ufw filters this server's packets already (`ufw disable` switches it off). {where}"
        )
    if ask("systemctl", "is-active", "--quiet", "firewalld.service")[0] == 0:
        module.fail_json(
            msg="firewalld filters this server's packets already (`systemctl disable --now firewalld` "
            f"switches it off). {where}"
        )
    connection = over_ssh(os.getpid())
    code, out = ask("nft", "-j", "list", "chains")
    if code == 0 and (others := dropping(json.loads(out or "{}"))):
        module.fail_json(
            msg=f"Another firewall drops what comes in already: chain {others[0]} of nftables. {where}"
        )
    module.exit_json(
        changed=False,
        host={
            "ssh_ports": ports_of(
                ask("sshd", "-T")[1],
                ask("systemctl", "show", "-P", "Listen", "ssh.socket")[1]
                if ask("systemctl", "is-active", "--quiet", "ssh.socket")[0] == 0
                else "",
                connection,
            ),
            "client": (connection or ["127.0.0.1"])[0],
            "filtered": RULES.exists(),
            "listening": listening(ask("ss", "-Hltunp")[1]),
            "enabled": ask("systemctl", "is-enabled", "--quiet", "berth-firewall.service")[0] == 0,
        },
    )


if __name__ == "__main__":
    main()
