"""The packet filter on a real host, as another host sees it; and who is not shut out by it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from testhost import Host

from tests.support import knocking
from tests.support.kit import Kit, Run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    host = boot("walled")
    host.sh("systemd-run -q python3 -m http.server 5432")
    kit = Kit(tmp_path_factory.mktemp("walled"), host)
    kit.server["firewall"] = {"enabled": True}
    return kit


@pytest.fixture(scope="module")
def other(boot: Callable[..., Host]) -> Host:
    """A second host on the same network, that knocks."""
    return knocking.knocker(boot("knocker"))


def provision(kit: Kit, *arguments: str, succeed: bool = True) -> Run:
    run = kit.play("playbooks/provision.yml", "--tags", "firewall", *arguments, succeed=succeed)
    return Run(run.status, " ".join(run.output.split()), run.seconds)


def reached(kit: Kit, other: Host) -> set[int]:
    return knocking.reached(other, knocking.address(kit.host), (22, 80, 443, 5432, 9100, 9999))


def gets_in(kit: Kit) -> bool:
    return subprocess.run(kit.host.ssh("true"), capture_output=True, timeout=120, check=False).returncode == 0


def test_nothing_but_ssh_and_the_proxy_s_ports_comes_in(kit: Kit, other: Host) -> None:
    assert reached(kit, other) == {22, 80, 443, 5432, 9100, 9999}
    assert provision(kit, "--check", "--diff").changed > 0
    assert 9999 in reached(kit, other)
    kit.host.sh("apt-get -q update; apt-get -q -y install nftables; nft add table inet somebody")
    said = provision(kit).output
    assert "Closed to other machines from now on: tcp 5432 (python3). What is to be reached belongs" in said
    assert reached(kit, other) == {22, 80, 443}
    assert gets_in(kit)
    assert provision(kit).changed == 0
    # Somebody's `flush ruleset` is noticed; a boot needs nobody.
    assert "table inet somebody" in kit.host.sh("nft list tables")
    kit.host.sh("nft delete table inet berth")
    assert provision(kit).changed == 1
    kit.host.restart()
    assert reached(kit, other) == {22, 80, 443}


def test_what_is_opened_is_open_to_whom_it_says(kit: Kit, other: Host) -> None:
    kit.server["firewall"] = {
        "enabled": True,
        "open": [
            {"port": 9999},
            {"port": 9100, "from": [knocking.address(other)]},
            {"port": 5432, "from": ["::/0"]},
        ],
    }
    provision(kit)
    assert reached(kit, other) == {22, 80, 443, 9100, 9999}


def test_rules_that_shut_this_machine_out_are_put_back(kit: Kit, other: Host) -> None:
    before = kit.host.sh("nft list table inet berth | grep -v counter")
    kit.server["firewall"] = {"enabled": True, "admin_networks": ["192.0.2.0/24"]}
    said = provision(kit, succeed=False).output
    assert "A new login of root failed: nothing answers a new connection to its SSH port" in said
    assert "This run comes from " in said
    assert kit.host.sh("nft list table inet berth | grep -v counter") == before
    assert gets_in(kit)
    assert 22 in reached(kit, other)


def test_another_firewall_is_refused_by_its_name(kit: Kit) -> None:
    kit.server["firewall"] = {"enabled": True}
    kit.host.sh("mkdir -p /etc/ufw; echo ENABLED=yes > /etc/ufw/ufw.conf")
    refused = provision(kit, succeed=False)
    assert "ufw filters this server's packets already" in refused.output
    assert refused.changed == 0
    kit.host.sh("rm -r /etc/ufw")


def test_switched_off_nothing_of_it_is_left(kit: Kit, other: Host) -> None:
    kit.server["firewall"] = {"enabled": False}
    provision(kit)
    assert 9999 in reached(kit, other)
    left = kit.host.sh("ls /etc/systemd/system/*/berth-firewall* /etc/berth/firewall.nft 2>/dev/null || true")
    assert left == ""
    assert provision(kit).changed == 0
