"""What role ssh learns of a server, and what it says of a login."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
import yaml
from ansible.module_utils.berth.host import sshd
from ansible.module_utils.berth.host.command import over_ssh

from plugins.filter.ssh import ssh_refusal, ssh_who
from plugins.modules import ssh_server as module
from tests.unit.contract_case import ROOT


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("OpenSSH_10.0p2 Debian-7+deb13u4, OpenSSL 3.5.9", "10.0"),
        ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL", "9.2"),
        ("OpenSSH_8.9p1 Ubuntu-3ubuntu0.13, OpenSSL", "8.9"),
        ("Sun_SSH_1.1", ""),
    ],
)
def test_the_version_is_openssh_s(text: str, version: str) -> None:
    assert module.version_of(text) == version


def test_drop_ins_have_to_be_read() -> None:
    assert module.includes("# a comment\nInclude /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
    assert not module.includes("#Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
    assert not module.includes("Include /etc/ssh/more.conf\n")


def test_the_client_is_found_behind_sudo(tmp_path: Path) -> None:
    for pid, parent, variables in (
        (30, 20, b"SUDO_USER=anna\0PATH=/bin"),
        (20, 10, b"SSH_CONNECTION=192.0.2.7 50022 192.0.2.1 22\0PATH=/bin"),
        (10, 1, b""),
    ):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "environ").write_bytes(variables)
        (folder / "stat").write_text(f"{pid} (a (strange) name) S {parent} 1 1")
    assert over_ssh(30, tmp_path) == ["192.0.2.7", "50022", "192.0.2.1", "22"]
    assert over_ssh(10, tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ("port 22\n", ""),
        ("allowusers root\nallowusers anna\n", ""),
        ("allowusers anna@192.0.2.*\n", ""),
        ("allowusers bob\nallowusers ben\n", "allowusers bob ben"),
        ("denyusers a*\n", "denyusers a*"),
        ("denygroups adm\n", "denygroups adm"),
        ("allowgroups adm\n", ""),
        ("allowgroups wheel\n", "allowgroups wheel"),
    ],
)
def test_settings_on_the_disk_that_would_shut_this_run_out(settings: str, setting: str) -> None:
    assert sshd.shut_out(settings, "anna", ["anna", "adm"]) == setting


def test_a_refusal_tells_what_sshd_noted_and_what_to_do() -> None:
    log = (
        "Server listening on :: port 22.\n"
        "User root from 192.0.2.7 not allowed because not listed in AllowUsers\n"
        "Received SIGHUP; restarting.\n"
    )
    said = ssh_refusal("A new login of root failed: the server refuses it.", log)
    assert "not allowed because not listed in AllowUsers." in said
    assert "as it was before" in said
    assert said.endswith("server.ssh.enabled: false.")
    said = ssh_refusal("How people get in (ssh) is as it was: sshd says no.", "")
    assert said.count("as it was") == 1
    assert "noted" not in said


def test_who_gets_in_and_what_is_left_to_do() -> None:
    assert "root's login would end" in ssh_who(["root"], "root", "", {"skipped": True}, ["root"])
    said = ssh_who(["root", "anna"], "root", "anna", {"proved": True}, ["anna", "debian", "root"])
    assert "write ansible_user: anna" in said
    assert "debian has keys and gets in no more; server.ssh.allow_users" in said
    said = ssh_who(["root", "anna"], "root", "anna", {"proved": False, "reason": "no key"}, [])
    assert "anna gets not in from this machine: no key" in said
    assert ssh_who(["anna"], "anna", "anna", {}, ["anna"]) == "By SSH, with keys alone, get in: anna."


def drop_in(**inputs: object) -> str:
    """The template with what the role's variables would be."""
    text = (ROOT / "roles/ssh/templates/sshd.conf.j2").read_text()
    values = {
        "ansible_managed": "Ansible managed", "ssh_kex": "strong", "ssh_forwarding": True,
        "__ssh_kex": "-x", "__ssh_root": "no", "__ssh_users": ["anna", "ben"], **inputs,
    }  # fmt: skip
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701
    environment.filters["comment"] = lambda one: f"# {one}"
    return environment.from_string(text).render(values)


def test_the_drop_in_sorts_before_cloud_inits() -> None:
    path = yaml.safe_load((ROOT / "roles/ssh/vars/main.yml").read_text())["__ssh_drop_in"]
    assert path == str(module.DROP_IN)
    assert module.DROP_IN.name < "01-permitrootlogin.conf" < "50-cloud-init.conf"


def test_switches_of_the_drop_in() -> None:
    assert "AllowUsers anna\nAllowUsers ben\n" in drop_in()
    assert "KexAlgorithms -x\n" in drop_in()
    assert "Algorithms" not in drop_in(ssh_kex="compatible")
    assert "AllowTcpForwarding local\n" in drop_in()
    assert "DisableForwarding yes\n" in drop_in(ssh_forwarding=False)
    # The engine's session and a task's share one connection.
    assert "MaxSessions 10\n" in drop_in()
