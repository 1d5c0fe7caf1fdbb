"""Filters of the role firewall: from what is given to rules of nftables."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils

# Ansible ships module_utils to hosts, but does not put this folder where filters could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth.host import metadata
else:
    from ansible.module_utils.berth.host import metadata


def _match(networks: Sequence[str], protocol: str, ports: Sequence[int]) -> list[str]:
    """Rules without their verdict, one for each version of IP that is among the networks."""
    found: dict[str, list[str]] = {}
    for text in networks:
        network = ipaddress.ip_network(text, strict=False)
        found.setdefault("ip" if network.version == 4 else "ip6", []).append(str(network))
    where = f"{protocol} dport {{ {', '.join(map(str, sorted(set(ports))))} }}"
    return [
        f"{key} saddr {{ {', '.join(sorted(set(them)))} }} {where}" for key, them in sorted(found.items())
    ]


def firewall_rules(
    ports: Mapping[str, Sequence[int]],
    opened: Sequence[Mapping[str, Any]],
    admin_networks: Sequence[str],
    ssh_ports: Sequence[int],
) -> dict[str, Any]:
    """`open`, ports for everybody by protocol; `rules`, what is open to some networks; `metadata`, where no
    container gets to.

    Raises ValueError for what is no network; the contract refuses it before.
    """
    everybody = {protocol: set(map(int, ports.get(protocol) or [])) for protocol in ("tcp", "udp")}
    rules = []
    if admin_networks:
        rules += _match(admin_networks, "tcp", ssh_ports)
    else:
        everybody["tcp"] |= set(ssh_ports)
    for entry in opened:
        if entry.get("from"):
            rules += _match(entry["from"], entry["protocol"], [entry["port"]])
        else:
            everybody[entry["protocol"]].add(int(entry["port"]))
    return {
        "open": {protocol: sorted(found) for protocol, found in everybody.items()},
        "rules": rules,
        "metadata": list(metadata.MATCHES),
    }


def firewall_closed(
    listening: Sequence[Mapping[str, Any]], opened: Sequence[Mapping[str, Any]], everybody: Mapping[str, Any]
) -> list[str]:
    """Of what listens, what nobody else reaches under these rules, as `tcp 8080 (python3)`."""
    named = {(entry["protocol"], int(entry["port"])) for entry in opened}
    return [
        f"{one['protocol']} {one['port']}" + (f" ({one['program']})" if one["program"] else "")
        for one in listening
        if one["port"] not in everybody[one["protocol"]] and (one["protocol"], one["port"]) not in named
    ]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"firewall_rules": firewall_rules, "firewall_closed": firewall_closed}
