"""Docker Engine on a real host: what another host reaches of containers, and what goes on over restarts."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from testhost import Host

from tests.support import knocking
from tests.support.kit import Kit, Run

pytestmark = pytest.mark.e2e

# Published by containers to everybody, to IPv6, to this server alone; by one on the host's own network.
PORTS = (8001, 8002, 8003, 8004, 5432)
CONFIG = "/etc/docker/daemon.json"
# Requests to a container for as long as the file is there; prints how many were answered, and how many not.
LOAD = """
import os, time, urllib.request
done = [0, 0]
while os.path.exists("/run/load"):
    try:
        urllib.request.urlopen("http://127.0.0.1:8003/", timeout=5).read()
        done[0] += 1
    except OSError:
        done[1] += 1
    time.sleep(0.02)
print(*done)
"""


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("docked"), boot("docked"))


@pytest.fixture(scope="module")
def other(boot: Callable[..., Host]) -> Host:
    return knocking.knocker(boot("docker-knocker"))


def provision(kit: Kit, *arguments: str, succeed: bool = True) -> Run:
    run = kit.play("playbooks/provision.yml", "--tags", "firewall,docker", *arguments, succeed=succeed)
    return Run(run.status, " ".join(run.output.split()), run.seconds)


def container(kit: Kit, name: str, *options: str, port: int = 80) -> None:
    """One that answers on a port, of an image that is made of this host's own busybox."""
    kit.host.sh(
        f"docker run -q -d --name {name} --init {' '.join(options)}"
        f" box /bin/busybox httpd -f -p {port} -h /www"
    )


def image(kit: Kit) -> None:
    kit.host.sh(
        "apt-get -q -y install --no-install-recommends busybox-static; mkdir -p /tmp/box/bin /tmp/box/www;"
        "cp /bin/busybox /tmp/box/bin; ln -sf busybox /tmp/box/bin/sh; echo here > /tmp/box/www/index.html;"
        "tar -C /tmp/box -c . | docker import - box"
    )


def info(kit: Kit) -> dict[str, object]:
    found: dict[str, object] = json.loads(kit.host.sh("docker info -f '{{json .}}'"))
    return found


def test_an_engine_is_set_up_and_is_root_s_alone(kit: Kit) -> None:
    kit.server["docker"] = {"enabled": True}
    assert provision(kit, "--check", "--diff").changed > 0
    assert kit.host.sh("ls -d /etc/docker /run/docker.sock 2>/dev/null || true") == ""
    provision(kit)
    assert (info(kit)["LiveRestoreEnabled"], info(kit)["LoggingDriver"]) == (True, "local")
    assert kit.host.sh("stat -c '%U %G %a' /run/docker.sock") == "root root 600"
    # In the group, and still nobody.
    kit.host.sh("useradd -G docker hopeful")
    assert "denied" in kit.host.sh("runuser -u hopeful -- docker ps 2>&1 || true")
    assert provision(kit).changed == 0


def test_what_containers_publish_is_closed_until_it_is_named(kit: Kit, other: Host) -> None:
    image(kit)
    container(kit, "everybody", "-p 8001:80")
    container(kit, "sixth", "-p '[::]:8002:80'")
    container(kit, "here", "-p 127.0.0.1:8003:80")
    container(kit, "host", "--network host", port=8004)
    kit.host.sh("docker network create own")
    container(kit, "database", "--network own -p 5432:80")
    addresses = knocking.address(kit.host), knocking.address6(kit.host, 1)
    knocking.address6(other, 2)
    assert kit.host.sh("curl -s -m 5 http://127.0.0.1:8001") == "here"
    for where in addresses:
        assert knocking.reached(other, where, (22, *PORTS)) == {22}
    # Not by a route to them, either.
    inside = kit.host.sh("docker inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' everybody")
    other.sh(f"ip route replace {inside}/32 via {addresses[0]}")
    assert knocking.reached(other, inside, (80,)) == set()
    kit.server["firewall"] = {"enabled": True, "open": [{"port": 8001}, {"port": 8004}]}
    provision(kit)
    assert knocking.reached(other, addresses[0], (22, *PORTS)) == {22, 8001, 8004}
    # What containers ask gets out, but for the cloud's credentials.
    asked = "docker exec everybody /bin/busybox wget -q -T 5 -O - http://{}/ 2>&1 || true"
    other.sh("cd /etc; systemd-run -q -p WorkingDirectory=/etc python3 -m http.server 8080")
    assert "hostname" in kit.host.sh(asked.format(f"{knocking.address(other)}:8080"))
    assert "refused" in kit.host.sh(asked.format("169.254.169.254"))


@pytest.mark.long
def test_containers_go_on_over_restarts_and_upgrades(kit: Kit, other: Host) -> None:
    started = kit.host.sh("docker inspect -f '{{.State.StartedAt}}' here")
    kit.host.sh("cat > /run/load.py", stdin=LOAD)
    kit.host.sh(
        "touch /run/load; systemd-run -q --unit=load -p StandardOutput=file:/run/said python3 /run/load.py"
    )
    # What the engine can read as it runs it has at once; the rest waits.
    kit.server["docker"] = {"enabled": True, "settings": {"debug": True}}
    assert "systemctl restart docker" not in provision(kit).output
    assert info(kit)["Debug"] is True
    kit.server["docker"]["settings"] = {"log-driver": "json-file"}
    waits = "5 containers run, so Docker Engine was not restarted"
    assert waits in provision(kit).output
    again = provision(kit)
    assert (again.changed, waits in again.output) == (0, True)
    kit.host.sh("apt-get -q -y install --reinstall docker.io containerd runc", timeout=300)
    kit.host.sh("rm /run/load; while systemctl is-active -q load; do sleep 0.1; done")
    answered, failed = map(int, kit.host.sh("cat /run/said").split())
    assert (failed, answered > 20) == (0, True)
    kit.host.sh("systemctl restart docker; systemctl kill -s KILL docker; sleep 1")
    kit.host.sh("until docker info > /dev/null 2>&1; do sleep 0.2; done", timeout=60)
    assert waits not in provision(kit).output
    assert info(kit)["LoggingDriver"] == "json-file"
    assert kit.host.sh("docker inspect -f '{{.State.StartedAt}}' here") == started
    assert kit.host.sh("curl -s -m 5 http://127.0.0.1:8003") == "here"
    assert knocking.reached(other, knocking.address(kit.host), (22, *PORTS)) == {22, 8001, 8004}


@pytest.mark.long
def test_settings_that_cannot_be_are_refused(kit: Kit) -> None:
    before = kit.host.sh(f"cat {CONFIG}")
    kit.server["docker"] = {"enabled": True, "settings": {"log-diver": "local"}}
    refused = provision(kit, succeed=False)
    assert "Docker Engine would not start with these settings" in refused.output
    assert "log-diver" in refused.output
    assert kit.host.sh(f"cat {CONFIG}") == before
    kit.host.sh("docker rm -f $(docker ps -q)")
    # Checked alone it is right, and it fails beside what the unit says.
    kit.server["docker"] = {"enabled": True, "settings": {"hosts": ["unix:///run/other.sock"]}}
    refused = provision(kit, succeed=False)
    assert "did not come up with its new settings" in refused.output
    assert "is what it was before, and it runs" in refused.output
    assert kit.host.sh(f"cat {CONFIG}") == before
    assert info(kit)["LiveRestoreEnabled"] is True


@pytest.mark.long
def test_switched_off_it_ends_and_what_others_wrote_is_left_alone(kit: Kit) -> None:
    kit.server["docker"] = {"enabled": False}
    provision(kit)
    written = f"{CONFIG} /etc/systemd/system/docker.socket.d/* /etc/sysctl.d/*docker*"
    assert kit.host.sh(f"ls {written} 2>/dev/null || true") == ""
    assert kit.host.sh("systemctl is-active docker docker.socket || true").split() == ["inactive"] * 2
    assert provision(kit).changed == 0
    kit.host.sh(f"""echo '{{"dns": ["192.0.2.1"]}}' > {CONFIG}; systemctl enable -q --now docker""")
    assert provision(kit).changed == 0
    kit.server["docker"] = {"enabled": True}
    refused = provision(kit, succeed=False)
    assert "was not written by Berth, and what it says of dns would be lost" in refused.output
    assert refused.changed == 0
    kit.server["docker"]["settings"] = {"dns": ["192.0.2.1"]}
    provision(kit)
    assert info(kit)["LiveRestoreEnabled"] is True
