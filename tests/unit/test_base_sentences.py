"""What role base says when a host cannot be reached, or its inputs cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugins.filter.base import base_input_problems, base_login_problem

CONNECTION = {"host": "web1", "address": "192.0.2.7", "port": "2222", "user": "deploy", "key": "~/.ssh/berth"}
SSH = "Task failed: Failed to connect to the host via ssh: "
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7vvx0qkQm5CBKyZT1ZoSmnFV5yqmYkZ1nYpl4sLxqA ops@laptop"
INPUTS: dict[str, Any] = {
    "journal_max": "500M",
    "locale": "C.UTF-8",
    "hostname": "",
    "updates": {"enabled": True, "reboot_at": ""},
    "admin": {"name": "", "authorized_keys": []},
    "extra_ca_certificates": [],
}


def test_root_reached_is_no_problem() -> None:
    probe = {"stdout": "berth-probe uid=0 python=/usr/bin/python3\r\n", "stderr": "", "rc": 0}
    assert base_login_problem(probe, CONNECTION) == ""


@pytest.mark.parametrize(
    ("said", "cause", "advice"),
    [
        (
            "deploy@192.0.2.7: Permission denied (publickey).",
            "refuses the key for user deploy",
            "authorized_keys",
        ),
        ("Host key verification failed.", "its host key is not the one", "ssh-keygen -R 192.0.2.7"),
        ("ssh: Could not resolve hostname web1: Name or service not known", "does not exist", "ansible_host"),
        ("ssh: connect to host 192.0.2.7 port 2222: Connection refused", "answers on port 2222", "firewall"),
        (
            "ssh: connect to host 192.0.2.7 port 2222: Connection timed out",
            "answers on port 2222",
            "firewall",
        ),
        (
            "Received disconnect from 192.0.2.7 port 22:2: Too many authentication failures",
            "ssh agent offers more keys",
            "IdentitiesOnly=yes",
        ),
        ("kex_exchange_identification: something new", "the connection fails", "ssh -i"),
    ],
)
def test_unreachable_names_host_cause_and_cure(said: str, cause: str, advice: str) -> None:
    sentence = base_login_problem({"unreachable": True, "msg": SSH + said}, CONNECTION)
    assert sentence.startswith("Host web1 cannot be reached: ")
    assert cause in sentence
    assert advice in sentence
    assert said in sentence


def test_a_login_that_an_earlier_run_has_ended() -> None:
    refused = {"unreachable": True, "msg": SSH + "root@192.0.2.7: Permission denied (publickey)."}
    said = base_login_problem(refused, {**CONNECTION, "user": "root", "admin": "anna"})
    assert "write ansible_user: anna" in said
    assert "ended other logins" not in base_login_problem(refused, {**CONNECTION, "admin": "deploy"})


def test_sudo_that_asks_in_other_words_is_named() -> None:
    probe = {
        "unreachable": True,
        "msg": "Task failed: Timeout (22s) waiting for privilege escalation prompt:",
    }
    said = base_login_problem(probe, CONNECTION)
    assert "user deploy cannot become root: sudo asks for the password in other words" in said
    assert "ansible_become_exe: sudo.ws" in said


def test_login_command_is_the_one_ansible_uses() -> None:
    sentence = base_login_problem({"unreachable": True, "msg": SSH + "Permission denied"}, CONNECTION)
    assert "`ssh -i ~/.ssh/berth -p 2222 deploy@192.0.2.7`" in sentence


@pytest.mark.parametrize(
    ("probe", "cause"),
    [
        ({"msg": "Task failed: Missing sudo password", "rc": 1}, "sudo asks for a password"),
        ({"stderr": "deploy is not in the sudoers file.", "rc": 1}, "sudo does not allow it"),
        ({"stderr": "/bin/sh: 1: sudo: not found", "rc": 127}, "sudo is not installed"),
        (
            {"stdout": "sudo: Ein Passwort ist notwendig\r\n", "msg": "non-zero return code"},
            "Ein Passwort ist",
        ),
        ({"rc": 1}, "without a word"),
    ],
)
def test_no_sudo_says_what_to_write(probe: dict[str, Any], cause: str) -> None:
    sentence = base_login_problem(probe, CONNECTION)
    assert sentence.startswith("Host web1: user deploy cannot become root: ")
    assert cause in sentence
    assert "deploy ALL=(ALL:ALL) NOPASSWD: ALL" in sentence
    assert "non-zero return code" not in sentence


def test_play_without_become() -> None:
    sentence = base_login_problem({"stdout": "berth-probe uid=1000 python=/usr/bin/python3"}, CONNECTION)
    assert "become: true" in sentence


def test_good_inputs_are_no_problem(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----")
    assert base_input_problems(INPUTS) == []
    assert (
        base_input_problems(
            {
                "journal_max": "2G",
                "locale": "de_DE.UTF-8@euro",
                "hostname": "web-1.example.com",
                "updates": {"reboot_at": "23:59"},
                "admin": {"name": "ops", "authorized_keys": [KEY, f'from="10.0.0.0/8" {KEY}']},
                "extra_ca_certificates": [str(authority)],
            }
        )
        == []
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"journal_max": "lots"}, "base_journal_max: 'lots' is not a size"),
        ({"journal_max": "0"}, "base_journal_max"),
        ({"locale": "german"}, "base_locale: 'german' is not a locale of UTF-8"),
        ({"hostname": "web_1"}, "base_hostname: 'web_1' is not a host name"),
        ({"updates": {"reboot_at": "24:00"}}, "base_updates.reboot_at: '24:00' is not a time"),
        ({"admin": {"name": "Ops Team", "authorized_keys": [KEY]}}, "base_admin.name: 'Ops Team'"),
        ({"admin": {"name": "root", "authorized_keys": [KEY]}}, "base_admin.name: root is there already"),
        ({"admin": {"name": "ops", "authorized_keys": []}}, "could not log in"),
        ({"admin": {"name": "ops", "authorized_keys": ["ops.pub"]}}, "authorized_keys[0]: not a public key"),
        (
            {"admin": {"name": "ops", "authorized_keys": [f"{KEY}\n{KEY}"]}},
            "authorized_keys[0]: not a public",
        ),
        ({"extra_ca_certificates": ["/nowhere/ca.pem"]}, "there is no file /nowhere/ca.pem"),
    ],
)
def test_bad_inputs_are_named(change: dict[str, Any], sentence: str) -> None:
    problems = base_input_problems({**INPUTS, **change})
    assert len(problems) == 1
    assert sentence in problems[0]


def test_private_key_is_refused_and_not_repeated() -> None:
    # Put together, so that no scanner takes this line for a key.
    key = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nc2VjcmV0"
    (problem,) = base_input_problems({**INPUTS, "admin": {"name": "ops", "authorized_keys": [key]}})
    assert "a private key; give the line of the .pub file" in problem
    assert "c2VjcmV0" not in problem
