"""Whoever tries to get in is banned on a real host, by its own journal; whoever got in before is not."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest
import testhost
from testhost import Host

from tests.support.kit import Kit, demo_apps
from tests.support.knocking import address
from tests.support.pace import patience

TRY = (
    "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o ConnectTimeout=3 -i /root/wrong"
    " {user}@{to} true 2>&1 || true"
)


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    host = boot("banning", provisioned=True)
    kit = Kit(tmp_path_factory.mktemp("banning"), host, apps=demo_apps()[:1])
    kit.server["fail2ban"] = {"proxy": True}
    return kit


@pytest.fixture(scope="module")
def other(boot: Callable[..., Host]) -> Host:
    host = boot("robber")
    host.sh("ssh-keygen -q -t ed25519 -N '' -f /root/wrong")
    return host


def provision(kit: Kit) -> int:
    return kit.play("playbooks/provision.yml", "--tags", "proxy,fail2ban").changed


def banned(kit: Kit, jail: str) -> list[str]:
    return kit.host.sh(f"fail2ban-client get {jail} banip").split()


def until_banned(kit: Kit, jail: str, who: str) -> None:
    deadline = time.monotonic() + patience(30)
    while who not in banned(kit, jail):
        assert time.monotonic() < deadline, kit.host.sh("journalctl -q --no-pager -u fail2ban -n 30")
        time.sleep(0.5)


def test_who_tries_keys_is_banned_and_what_is_open_goes_on(kit: Kit, other: Host) -> None:
    assert provision(kit) > 0
    assert provision(kit) == 0
    own, robber = address(kit.host), address(other)
    assert "Permission denied" in other.sh(TRY.format(user="root", to=own))
    # A session that is open when its address is banned.
    words = kit.host.ssh("cat")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        for number in range(6):
            other.sh(TRY.format(user=("root", "admin", "deploy")[number % 3], to=own))
        until_banned(kit, "sshd", robber)
        assert "timed out" in other.sh(TRY.format(user="root", to=own))
        # This side may fail as often: it got in by key before.
        wrong = kit.host.ssh("true", user="nobody-here")
        for _ in range(7):
            subprocess.run(wrong, capture_output=True, timeout=60, check=False)
        assert banned(kit, "sshd") == [robber]
        # An address that is banned loses nothing that it has open.
        asked = kit.host.ssh("echo $SSH_CONNECTION")
        here = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
        try:
            kit.host.sh(f"fail2ban-client set sshd banip {here}")
            assert session.stdin
            assert session.stdout
            session.stdin.write("still here\n")
            session.stdin.flush()
            assert session.stdout.readline() == "still here\n"
        finally:
            kit.host.sh(f"fail2ban-client unban {here}")
            session.kill()
    # Role firewall loads its rules anew and leaves the bans alone.
    kit.host.sh("systemctl reload berth-firewall")
    assert "timed out" in other.sh(TRY.format(user="root", to=own))


def test_who_gets_errors_of_an_app_over_and_over_is_banned(kit: Kit) -> None:
    """Lines as Caddy writes them, and in each a client's attempt to have another address banned."""
    line = {
        "level": "info", "ts": 0.0, "logger": "http.log.access.log0", "msg": "handled request",
        "request": {
            "remote_ip": "192.0.2.66", "remote_port": "4711", "proto": "HTTP/2.0", "method": "GET",
            "host": "board.localhost", "uri": '/"remote_ip":"192.0.2.77","status":404', "headers": {},
        },
        "bytes_read": 0, "user_id": "", "duration": 0.001, "size": 0, "status": 404, "resp_headers": {},
    }  # fmt: skip
    now = float(kit.host.sh("date +%s.%N"))
    lines = [
        json.dumps(
            {**line, "ts": now + number / 100, "status": 404 if number else 200}, separators=(",", ":")
        )
        for number in range(70)
    ]
    kit.host.sh("cat >> /var/log/caddy/board.log", stdin="\n".join(lines) + "\n")
    kit.host.sh("fail2ban-client reload berth-proxy")
    until_banned(kit, "berth-proxy", "192.0.2.66")
    assert banned(kit, "berth-proxy") == ["192.0.2.66"]


def test_switched_off_nothing_of_it_is_left(kit: Kit, other: Host) -> None:
    kit.server["fail2ban"] = {"enabled": False}
    assert provision(kit) > 0
    assert provision(kit) == 0
    assert "Permission denied" in other.sh(TRY.format(user="root", to=address(kit.host)))
    assert kit.host.sh("find /etc/fail2ban -name '*berth*'") == ""
    assert "f2b" not in kit.host.sh("nft list tables")
    assert testhost.run("docker", "inspect", "-f", "{{.State.Running}}", kit.host.container).strip() == "true"
