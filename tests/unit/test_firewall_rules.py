"""The packet filter: its rules from what is given, and whom it does not take over."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest

from plugins.filter.firewall import firewall_closed, firewall_rules
from plugins.modules import firewall_host as module
from tests.unit.contract_case import ROOT

WEB = {"tcp": [80, 443], "udp": [443]}


def test_ports_for_everybody_and_for_some() -> None:
    opened: list[dict[str, Any]] = [
        {"port": 8443, "protocol": "tcp", "from": []},
        {"port": 51820, "protocol": "udp", "from": []},
        {"port": 9100, "protocol": "tcp", "from": ["192.0.2.7", "2001:db8::/32", "198.51.100.0/24"]},
    ]
    found = firewall_rules(WEB, opened, [], [22])
    assert found["open"] == {"tcp": [22, 80, 443, 8443], "udp": [443, 51820]}
    assert found["rules"] == [
        "ip saddr { 192.0.2.7/32, 198.51.100.0/24 } tcp dport { 9100 }",
        "ip6 saddr { 2001:db8::/32 } tcp dport { 9100 }",
    ]


def test_admin_networks_are_all_that_sshd_is_open_to() -> None:
    found = firewall_rules(WEB, [], ["203.0.113.0/24"], [22, 2222])
    assert found["open"]["tcp"] == [80, 443]
    assert found["rules"] == ["ip saddr { 203.0.113.0/24 } tcp dport { 22, 2222 }"]


def test_sshd_s_ports_are_those_it_listens_on_and_the_one_of_this_run() -> None:
    settings = "port 22\nport 2200\nlistenaddress 0.0.0.0:22\n"
    assert module.ports_of(settings, "", ["192.0.2.7", "50022", "192.0.2.1", "2022"]) == [22, 2022, 2200]
    assert module.ports_of("", "0.0.0.0:222 (Stream)\n[::]:222 (Stream)\n", []) == [222]
    assert module.ports_of("", "", []) == [22]


def test_another_firewall_is_found_by_what_it_drops() -> None:
    def chain(family: str, table: str, hook: str, policy: str) -> dict[str, Any]:
        return {"chain": {"family": family, "table": table, "name": "input", "hook": hook, "policy": policy}}

    chains = {
        "nftables": [
            {"metainfo": {}},
            chain("inet", "berth", "input", "drop"),
            chain("inet", "f2b-table", "input", "accept"),
            chain("ip", "filter", "forward", "drop"),
            {"chain": {"family": "ip", "table": "nat", "name": "own"}},
        ]
    }
    assert module.dropping(chains) == []
    chains["nftables"].append(chain("inet", "filter", "input", "drop"))
    assert module.dropping(chains) == ["inet filter input"]


def test_what_is_reached_no_more_is_told() -> None:
    sockets = """
udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=1,fd=1))
udp UNCONN 0 0 10.0.0.2%eth0:68 0.0.0.0:* users:(("systemd-network",pid=2,fd=1))
udp UNCONN 0 0 0.0.0.0:51820 0.0.0.0:*
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=3,fd=3))
tcp LISTEN 0 200 127.0.0.1:5432 0.0.0.0:* users:(("postgres",pid=4,fd=6))
tcp LISTEN 0 5 *:8080 *:* users:(("python3",pid=5,fd=3),("python3",pid=6,fd=3))
tcp LISTEN 0 5 [::]:9100 [::]:* users:(("node",pid=7,fd=3))
tcp LISTEN 0 200 [::1]:5432 [::]:* users:(("postgres",pid=4,fd=5))
"""
    found = module.listening(sockets.strip())
    assert {"protocol": "udp", "port": 51820, "program": ""} in found
    opened = [{"port": 9100, "protocol": "tcp", "from": ["192.0.2.7"]}]
    given = firewall_rules(WEB, opened, [], [22])
    assert firewall_closed(found, opened, given["open"]) == ["tcp 8080 (python3)", "udp 51820"]


def rules(**given: Any) -> str:
    text = (ROOT / "roles/firewall/templates/firewall.nft.j2").read_text()
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701
    environment.filters["comment"] = lambda one: f"# {one}"
    values = {"ansible_managed": "Ansible managed", "__firewall_given": firewall_rules(**given)}
    return environment.from_string(text).render(values)


def test_one_transaction_that_touches_no_other_table() -> None:
    text = rules(ports=WEB, opened=[], admin_networks=[], ssh_ports=[22])
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[:2] == ["table inet berth", "delete table inet berth"]
    assert "flush" not in text
    assert [line.split()[1] for line in lines if line.startswith(("table", "delete"))] == [
        "inet",
        "table",
        "inet",
    ]
    assert "elements = { 22, 80, 443 }" in text
    # An empty set of elements would not load.
    assert "elements = {  }" not in rules(ports={}, opened=[], admin_networks=["::/0"], ssh_ports=[22])


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed here")
@pytest.mark.parametrize("networks", [[], ["192.0.2.0/24", "2001:db8::/32"]])
def test_nft_takes_it(tmp_path: Path, networks: list[str]) -> None:
    path = tmp_path / "rules.nft"
    path.write_text(rules(ports=WEB, opened=[], admin_networks=networks, ssh_ports=[22]))
    # In a network of its own.
    done = subprocess.run(
        ["unshare", "-rn", "nft", "-c", "-f", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
