"""sshd on a real host: hardened, undone, and never in a way that shuts out who did it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from testhost import Host

from tests.support.kit import Kit, Run, environment

pytestmark = pytest.mark.e2e

DROP_IN = "/etc/ssh/sshd_config.d/00-berth.conf"
FOREIGN = "/etc/ssh/sshd_config.d/10-foreign.conf"


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    host = boot("sshd")
    # As a provider's image has it: the first value wins, and this one sorts before most people's own.
    host.sh(
        "echo 'PasswordAuthentication yes' > /etc/ssh/sshd_config.d/50-cloud-init.conf; systemctl reload ssh"
    )
    kit = Kit(tmp_path_factory.mktemp("sshd"), host)
    kit.server["ssh"] = {"enabled": True}
    return kit


def ssh(kit: Kit, *arguments: str, tags: str = "ssh", succeed: bool = True, **env: str) -> Run:
    run = kit.play("playbooks/provision.yml", "--tags", tags, *arguments, succeed=succeed, env=env)
    return Run(run.status, " ".join(run.output.split()), run.seconds)


def gets_in(kit: Kit, user: str = "root", command: str = "true") -> bool:
    """A connection of its own."""
    words = kit.host.ssh(command, user=user)
    return subprocess.run(words, capture_output=True, timeout=120, check=False).returncode == 0


def effective(kit: Kit) -> str:
    return kit.host.sh("sshd -T -C user=root,host=127.0.0.1,addr=127.0.0.1")


def test_hardened_and_proved_and_the_second_run_changes_nothing(kit: Kit) -> None:
    before = effective(kit)
    foretold = ssh(kit, "--check", "--diff")
    assert foretold.changed == 1
    assert "+PasswordAuthentication no" in foretold.output
    assert effective(kit) == before
    assert "get in: root." in ssh(kit).output
    settings = effective(kit).splitlines()
    assert {"passwordauthentication no", "permitrootlogin without-password", "allowusers root"} <= set(
        settings
    )
    assert gets_in(kit)
    assert ssh(kit).changed == 0
    assert kit.host.sh("ls /var/lib/berth/guard/ssh") == "lock\noutcome.json"
    assert kit.host.sh("systemctl list-units --no-legend 'berth-guard*.timer'") == ""


def test_what_is_wrong_on_the_disk_already_is_told_before_anything_changes(kit: Kit) -> None:
    kit.server["ssh"] = {"enabled": True, "kex": "pq"}
    try:
        for text, sentence in (
            ("Nonsense yes", "sshd refuses the settings that it has"),
            (
                "DenyUsers root",
                "would not let root in once it reads the settings on its disk: `denyusers root`",
            ),
        ):
            kit.host.sh(f"echo '{text}' > {FOREIGN}")
            run = ssh(kit, succeed=False)
            assert sentence in run.output
            assert run.changed == 0
    finally:
        kit.host.sh(f"rm -f {FOREIGN}")
    assert gets_in(kit)


@pytest.mark.long
def test_what_wins_over_it_is_told_and_it_is_put_back(kit: Kit) -> None:
    """A Match block counts for the very user and address that this run comes from."""
    kit.server["ssh"] = {"enabled": True, "kex": "pq"}
    before = kit.host.sh(f"cat {DROP_IN}")
    kit.host.sh(f"printf 'Match User root\\n  MaxSessions 3\\n' > {FOREIGN.replace('10', '000')}")
    try:
        run = ssh(kit, succeed=False)
        assert "go by `maxsessions 3` and not by `maxsessions 10`" in run.output
    finally:
        kit.host.sh(f"rm -f {FOREIGN.replace('10', '000')}")
    assert kit.host.sh(f"cat {DROP_IN}") == before
    assert gets_in(kit)


@pytest.mark.long
def test_more_keys_in_the_agent_than_may_be_tried(kit: Kit, tmp_path: Path) -> None:
    """Six are within the distribution's limit and not within this one: the proof finds out, nobody else."""
    kit.server["ssh"] = {"enabled": False}
    assert ssh(kit).changed == 1
    assert kit.host.sh(f"ls {DROP_IN} 2>/dev/null || true") == ""
    kit.server["ssh"] = {"enabled": True}
    agent, connection = tmp_path / "agent", dict(kit.connection)
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        env = environment(SSH_AUTH_SOCK=str(agent))
        for number in range(5):
            key = tmp_path / f"key{number}"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
            subprocess.run(["ssh-add", "-q", str(key)], env=env, check=True)
        right = kit.connection.pop("ansible_ssh_private_key_file")
        subprocess.run(["ssh-add", "-q", right], env=env, check=True)
        kit.connection["ansible_ssh_common_args"] = connection["ansible_ssh_common_args"].replace(
            "-o IdentitiesOnly=yes", "-o IdentityFile=none"
        )
        run = ssh(kit, succeed=False, SSH_AUTH_SOCK=str(agent))
        assert "agent here offers more keys than the server lets it try" in run.output
    finally:
        process.terminate()
        process.wait()
        kit.connection = connection
    assert kit.host.sh(f"ls {DROP_IN} 2>/dev/null || true") == ""
    assert gets_in(kit)


@pytest.mark.long
def test_with_ssh_socket_in_the_place_of_the_service(kit: Kit) -> None:
    """As Ubuntu has it since 22.10."""
    kit.server["ssh"] = {"enabled": True, "kex": "pq"}
    kit.host.sh("systemctl disable -q --now ssh.service; systemctl enable -q --now ssh.socket")
    try:
        assert ssh(kit).changed == 1
        assert gets_in(kit)
        assert "allowusers root" in effective(kit)
        assert ssh(kit).changed == 0
    finally:
        kit.host.sh("systemctl disable -q ssh.socket; systemctl enable -q ssh.service")
        kit.host.restart()


def test_where_no_login_can_be_proved_it_is_left_alone(kit: Kit) -> None:
    kit.server["ssh"] = {"enabled": False}
    ssh(kit)
    kit.server["ssh"] = {"enabled": True}
    connection = dict(kit.connection)
    kit.connection = {"ansible_connection": "docker", "ansible_host": kit.host.container}
    try:
        run = ssh(kit)
    finally:
        kit.connection = connection
    assert "sshd is left as it is: nothing can be proved" in run.output
    assert run.changed == 0


def test_root_s_login_ends_when_the_admin_s_has_taken_its_place(kit: Kit) -> None:
    public = (kit.host.folder / "id_ed25519.pub").read_text().strip()
    kit.server["admin"] = {"name": "anna", "authorized_keys": [public]}
    run = ssh(kit, tags="base")
    assert "root gets in as well while this run logs in as root: write ansible_user: anna" in run.output
    assert gets_in(kit)
    assert gets_in(kit, "anna", "sudo -n true")
    root = dict(kit.connection)
    kit.connection = {**root, "ansible_user": "anna"}
    assert "root has keys and gets in no more" in ssh(kit, tags="base").output
    assert not gets_in(kit)
    assert gets_in(kit, "anna", "sudo -n true")
    assert ssh(kit, tags="base").changed == 0
    # Whoever forgets is told, also while a connection of before is still open.
    kit.connection = root
    refused = ssh(kit, succeed=False)
    assert re.search("write ansible_user: anna|would not let root in", refused.output)
    assert refused.changed == 0
