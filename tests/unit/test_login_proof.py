"""The proof of a login: a connection of its own, before Ansible's options, and a sentence where it fails."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth.transport import login


def connection(ssh: Path, become: str = "sudo", kind: str = "ssh") -> Any:
    def build(binary: str, _subsystem: str, *words: str) -> list[bytes]:
        line = [binary, "-o", "ControlMaster=auto", "-o", 'User="root"', *words]
        return [word.encode() for word in ["sshpass", "-d9", *line]]

    return SimpleNamespace(
        transport=kind, host="192.0.2.1", become=SimpleNamespace(name=become), _build_command=build,
        get_option=lambda name: {"ssh_executable": str(ssh)}[name],
    )  # fmt: skip


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that notes what it is called with, and runs the command here as root would answer."""
    path = tmp_path / "ssh"
    path.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\ncat > {tmp_path}/read\n'
        f"for last; do :; done\ntest -f {tmp_path}/says && {{ cat {tmp_path}/says >&2; exit 255; }}\n"
        'id() { echo 0; }\neval "$last"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(login, "PAUSE", 0)
    return path


def test_it_is_a_connection_of_its_own_by_key(ssh: Path, tmp_path: Path) -> None:
    assert login.proof(connection(ssh), "anna", "anna") == ""
    said = (tmp_path / "said").read_text().splitlines()
    for option in ("ControlMaster=no", "ControlPath=none", "BatchMode=yes", "User=anna"):
        assert said.index(option) < said.index("ControlMaster=auto"), option
    assert "PreferredAuthentications=publickey" in said


def test_the_same_user_is_left_as_ansible_says(ssh: Path, tmp_path: Path) -> None:
    assert login.proof(connection(ssh), "", "root") == ""
    assert [word for word in (tmp_path / "said").read_text().splitlines() if "User" in word] == [
        'User="root"'
    ]


def test_a_password_for_sudo_goes_over_standard_input(ssh: Path, tmp_path: Path) -> None:
    assert login.proof(connection(ssh), "", "anna", "a secret") == ""
    assert "a secret" not in (tmp_path / "said").read_text()
    assert (tmp_path / "read").read_text() == "a secret\n"
    assert "sudo -k -S" in (tmp_path / "said").read_text()


def test_an_answer_without_the_word_is_none(ssh: Path) -> None:
    ssh.write_text("#!/bin/sh\necho This account is currently not available.\n")
    assert "not available" in login.proof(connection(ssh), "", "anna")


def test_no_login_can_be_proved_where_there_is_none(ssh: Path) -> None:
    for kind in ("community.docker.docker", "local"):
        with pytest.raises(ValueError, match="nothing can be proved"):
            login.proof(connection(ssh, kind=kind), "", "root")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "Received disconnect from ::1 port 22:2: Too many authentication failures",
            "offers more keys",
        ),
        ("anna@192.0.2.1: Permission denied (publickey).", "refuses this machine's key for anna"),
        ("Unable to negotiate: no matching key exchange method found.", "no algorithm in common"),
        ("sudo: a password is required", "sudo asks anna for a password"),
        ("sudo: interactive authentication is required", "sudo asks anna for a password"),
        ("anna is not in the sudoers file.", "sudo does not let anna become root"),
        ("bash: line 1: sudo: command not found", "sudo is not installed"),
        ("ssh: connect to host 192.0.2.1 port 22: Connection timed out", "nothing answers a new connection"),
        ("something new", "ssh said: something new"),
    ],
)
def test_each_failure_has_its_sentence(ssh: Path, tmp_path: Path, said: str, sentence: str) -> None:
    (tmp_path / "says").write_text(said + "\n")
    assert sentence in login.proof(connection(ssh), "", "anna")
