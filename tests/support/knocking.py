"""A second host that knocks at the first one's ports."""

from __future__ import annotations

from collections.abc import Iterable

import testhost
from testhost import Host


def knocker(host: Host) -> Host:
    """The host, able to knock."""
    host.sh("apt-get -q update; apt-get -q -y install --no-install-recommends nmap")
    return host


def address(host: Host) -> str:
    """Its address on the network that test hosts share."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return testhost.run("docker", "inspect", "-f", form, host.container).strip()


def address6(host: Host, last: int) -> str:
    """Give it an address of IPv6 on that network, which has none of its own."""
    host.sh(
        f"sysctl -q net.ipv6.conf.eth0.disable_ipv6=0; ip -6 address replace fd99::{last}/64 nodad dev eth0"
    )
    return f"fd99::{last}"


def reached(knocker: Host, where: str, ports: Iterable[int]) -> set[int]:
    """The TCP ports that the other host gets any answer from, be it that nobody listens."""
    version = "-6" if ":" in where else ""
    listed = ",".join(map(str, ports))
    found = knocker.sh(f"nmap {version} -Pn -n -sS -p {listed} -oG - {where}").partition("Ports: ")[2]
    entries = (one.strip().split("/") for one in found.split("Ignored")[0].split(","))
    return {int(entry[0]) for entry in entries if entry[1] in ("open", "closed")}
