"""Ubuntu's ways on a Debian host: who logs in and how, sshd by its socket, sudo in Rust, needrestart.

What only Ubuntu's archive has (its packages' versions) is not played here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from testhost import Host

from tests.support.kit import Kit, demo_apps

pytestmark = [pytest.mark.e2e, pytest.mark.long]

PASSWORD = "correct horse"

# sshd by its socket, as since 22.10; cloud-init's word on passwords; a first user whose sudo asks for one.
HOST = f"""
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y install --no-install-recommends needrestart sudo-rs unattended-upgrades
useradd -m -s /bin/bash ubuntu
echo 'ubuntu:{PASSWORD}' | chpasswd
echo 'ubuntu ALL=(ALL:ALL) ALL' > /etc/sudoers.d/90-cloud-init-users
chmod 0440 /etc/sudoers.d/90-cloud-init-users
install -d -m 0700 -o ubuntu -g ubuntu /home/ubuntu/.ssh
install -m 0600 -o ubuntu -g ubuntu /root/.ssh/authorized_keys /home/ubuntu/.ssh/authorized_keys
rm /root/.ssh/authorized_keys
echo 'PasswordAuthentication yes' > /etc/ssh/sshd_config.d/50-cloud-init.conf
systemctl disable -q --now ssh.service
systemctl enable -q --now ssh.socket
# Restarts services by itself in each run of apt.
sed -i "s/^#\\?\\$nrconf{{restart}}.*/\\$nrconf{{restart}} = 'a';/" /etc/needrestart/needrestart.conf
# As on 25.10 and later: the same names, another program.
for name in sudo visudo; do
  path=$(command -v $name)
  dpkg-divert --quiet --rename --divert $path.ws --add $path
  ln -s $(command -v $name-rs) $path
done
"""


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    host = boot("ubuntu")
    host.sh(HOST, timeout=600)
    kit = Kit(tmp_path_factory.mktemp("ubuntu"), host, apps=demo_apps()[:1])
    kit.connection = {**host.connection("ubuntu"), "ansible_become_password": PASSWORD}
    return kit


def test_a_server_is_set_up_by_its_first_user_who_stays(kit: Kit) -> None:
    assert "sudo-rs" in kit.host.sh("sudo --version 2>&1")
    refused = kit.play("site.yml", "--check", succeed=False)
    assert "sudo asks for the password in other words than Ansible waits for" in " ".join(
        refused.output.split()
    )
    kit.connection["ansible_become_exe"] = "sudo.ws"
    assert kit.play("site.yml", "--check").changed > 0
    kit.play("site.yml")
    kit.json("https://board.localhost/readyz")
    again = kit.play("site.yml")
    assert again.changed == 0, again.output
    assert "[WARNING]" not in again.output
    words = kit.host.ssh("true", user="ubuntu")
    assert subprocess.run(words, capture_output=True, timeout=120, check=False).returncode == 0
    assert kit.host.sh("sshd -T | grep -E '^(allowusers|passwordauthentication)'").split() == [
        *("passwordauthentication", "no", "allowusers", "ubuntu")
    ]
    assert kit.host.sh("systemctl is-active ssh.socket") == "active"


def test_an_admin_of_one_s_own_takes_over(kit: Kit) -> None:
    """With sudo in Rust, which knows fewer settings than the other one."""
    key = kit.host.sh("cat /home/ubuntu/.ssh/authorized_keys").splitlines()[0]
    kit.server["admin"] = {"name": "anna", "authorized_keys": [key]}
    kit.play("site.yml")
    kit.connection = kit.host.connection("anna")
    kit.play("site.yml")
    assert kit.play("site.yml").changed == 0
    words = kit.host.ssh("sudo", "-n", "id", "-u", user="anna")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "0", done
    assert subprocess.run(
        kit.host.ssh("true", user="ubuntu"), capture_output=True, timeout=120, check=False
    ).returncode


def test_what_apt_restarts_by_itself_costs_no_app(kit: Kit) -> None:
    """needrestart, in the middle of somebody's `apt upgrade`: the app's processes are left to Berth."""
    unit = f"board-web@{kit.release('board')}.service"
    before = kit.host.sh(f"systemctl show -P MainPID '{unit}'")
    kit.host.sh("apt-get -q -y install --reinstall libssl3t64 libc6", timeout=600)
    kit.host.sh("needrestart -r a -q -b || true", timeout=300)
    assert kit.host.sh("systemctl is-active caddy postgresql").split() == ["active"] * 2
    assert kit.host.sh(f"systemctl show -P MainPID '{unit}'") == before
    kit.json("https://board.localhost/readyz")
