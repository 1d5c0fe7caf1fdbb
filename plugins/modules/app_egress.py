#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Rules of nftables for what apps connect to, by the user ids that the apps have on this server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_egress
short_description: Keeps each app from connecting to what is not its own
description:
  - Writes the table C(inet berth_apps) of nftables to C(/etc/berth/egress.nft) and loads it in one
    transaction. It is about the users of apps and of their builds alone; nobody else's packets are looked at,
    and no other table is touched.
  - An app that has no user here yet is left out, for the next run.
options:
  apps:
    description:
      - Per app C(name), C(user), C(build_user), C(database) (whether it has one on this server), C(server)
        with C(host) and C(port) where it has one elsewhere, and what the contract says of its C(egress),
        C(policy), C(allow) and C(metadata).
    type: list
    elements: dict
    required: true
  receipt:
    description:
      - Per app the digest of what it is given here. Recorded in C(/var/lib/berth/firewall.json) when all else
        has succeeded, for a deploy to compare with.
    type: dict
    default: {}
  enabled:
    description: Whether there are to be any rules. Without, table and file are taken away.
    type: bool
    default: true
author: Berth (@berth)
attributes:
  check_mode:
    support: full
    description: Tells what would be done, also where nftables or an app's user is not there yet.
  diff_mode:
    support: full
    description: Shows the rules.
"""

EXAMPLES = r"""
- name: Keep apps from what is not theirs
  app_egress:
    apps: "{{ contract_apps | egress_of_apps }}"
    receipt: "{{ contract_apps | receipt('firewall') }}"
"""

RETURN = r"""
loaded:
  description: Whether rules were, or would be, loaded.
  type: bool
  returned: always
"""

import ipaddress  # noqa: E402
import pwd  # noqa: E402
from collections.abc import Iterator, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.host import metadata  # noqa: E402
from ansible.module_utils.berth.services import pgbouncer, redis  # noqa: E402
from ansible.module_utils.berth.store import journal, receipts  # noqa: E402

RULES = Path("/etc/berth/egress.nft")
TABLE = ("inet", "berth_apps")
NFT = "/usr/sbin/nft"
# Where Debian's clusters, and PgBouncer, listen; and around that one, where instances of Redis do.
DATABASES = f"5432-5439, {pgbouncer.PORT}"
INSTANCES = f"{redis.PORTS[0]}-{pgbouncer.PORT - 1}, {pgbouncer.PORT + 1}-{redis.PORTS[-1]}"
HEAD = """# Ansible managed
# One transaction. The first two lines are for where there is no table yet.
table inet berth_apps
delete table inet berth_apps
table inet berth_apps {
"""


def _allowed(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in entries:
        family = "ip6" if ":" in one["to"] else "ip"
        yield f"{family} daddr {one['to']} {one['protocol']} dport {one['port']} accept"


def _elsewhere(server: Mapping[str, Any]) -> Iterator[str]:
    """To a database on somebody else's server. Where a name leads today it may not lead tomorrow."""
    if not server:
        return
    host, port = server["host"], f"tcp dport {server['port']} accept"
    try:
        family = "ip6" if ipaddress.ip_address(host).version == 6 else "ip"
    except ValueError:
        yield f'oif "lo" {port}' if host == "localhost" else f'oif != "lo" {port}'
    else:
        yield f"{family} daddr {host} {port}"


def chain(app: Mapping[str, Any], port: str, *, builds: bool) -> list[str]:
    """What an app, or a build of it, may connect to; `port` is that of its Redis, if it has one."""
    found = ["ct state { established, related } accept"]
    if not builds:
        found += _allowed(app["allow"])
        own = [one for one in (DATABASES if app["database"] else "", port) if one]
        found += _elsewhere(app["server"])
        if own:
            found.append(f'oif "lo" tcp dport {{ {", ".join(own)} }} accept')
    found.append(f'oif "lo" tcp dport {{ {DATABASES}, {INSTANCES} }} reject with tcp reset')
    if not app["metadata"]:
        found += [f"{where} counter reject" for where in metadata.MATCHES]
    if app["policy"] == "listed" and not builds:
        found += [
            'oif "lo" accept',
            "meta l4proto { tcp, udp } th dport 53 accept",
            f'limit rate 5/minute log prefix "berth egress {app["name"]}: "',
            "counter reject",
        ]
    return found


def rules(apps: Sequence[Mapping[str, Any]], users: Mapping[str, int], ports: Mapping[str, str]) -> str:
    """The whole file, by the ids of the users that there are and the ports of apps' Redis instances."""
    text, jumps = HEAD, []
    for app in sorted(apps, key=lambda one: str(one["name"])):
        for who, builds in ((app["user"], False), (app["build_user"], True)):
            if who not in users:
                continue
            name = f"user_{users[who]}"
            jumps.append(f"{users[who]} : jump {name}")
            lines = chain(app, ports.get(app["name"], ""), builds=builds)
            body = "".join(f"    {line}\n" for line in (f"# {who}", *lines))
            text += f"  chain {name} {{\n{body}  }}\n"
    text += "  chain output {\n    type filter hook output priority filter; policy accept;\n"
    if jumps:
        text += f"    meta skuid vmap {{ {', '.join(jumps)} }}\n"
    return text + "  }\n}\n"


def users_of(apps: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found = {}
    for name in (one[key] for one in apps for key in ("user", "build_user")):
        try:
            found[name] = pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return found


def ports_of(apps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """An instance that is switched off may have a release to go back to: it is the app's own still."""
    found = {}
    for one in apps:
        port = text_of(redis.Redis(one["name"]).born / "port").strip()
        if port.isdecimal():
            found[one["name"]] = port
    return found


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "apps": {"type": "list", "elements": "dict", "required": True},
            "receipt": {"type": "dict", "default": {}},
            "enabled": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    apps, check = module.params["apps"], module.check_mode
    before = text_of(RULES)
    wanted = rules(apps, users_of(apps), ports_of(apps)) if module.params["enabled"] else ""
    there = Path(NFT).exists() and module.run_command([NFT, "list", "table", *TABLE])[0] == 0
    load = before != wanted or there != bool(wanted)
    if load and not check:
        if wanted:
            # One transaction, so what is loaded is what it was before where this is refused.
            code, _, err = module.run_command([NFT, "-f", "-"], data=wanted)
            if code != 0:
                why = (err.strip().splitlines() or ["no reason given"])[0]
                module.fail_json(
                    msg=f"nft refuses the apps' rules ({why}). They are as they were before. "
                    "To go on without: server.firewall.enabled: false."
                )
            RULES.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            journal.replace_text(RULES, wanted, 0o600)
        else:
            if there:
                module.run_command([NFT, "delete", "table", *TABLE])
            RULES.unlink(missing_ok=True)
    noted = receipts.write(receipts.EGRESS, module.params["receipt"] if wanted else {}, check)
    module.exit_json(
        changed=load or noted,
        loaded=load and bool(wanted),
        diff={"before": before, "after": wanted, "before_header": str(RULES), "after_header": str(RULES)},
    )


if __name__ == "__main__":
    main()
