"""Secrets: present, declared, strong; and never in a message."""

# ruff: noqa: E501 (messages and lists are to be read as tables)
from __future__ import annotations

from typing import Any

import pytest

from plugins.module_utils.berth.contract.vault import is_placeholder
from tests.unit.contract_case import PRIVATE_KEY, SECRET, problems

DECLARED = {"apps[0].secrets": [{"name": "SECRET_KEY"}]}
GIT = {"apps[0].source": {"git": "git@github.com:you/board.git", "deploy_key": "DEPLOY_KEY"}}
PRIVATE = (
    f"-----BEGIN OPENSSH {PRIVATE_KEY}-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH {PRIVATE_KEY}-----\n"
)
MISSING = 'missing; write its value there (ansible-vault edit), or "generate: true" at apps[0].secrets[0]'


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (DECLARED, [f"vault.board.SECRET_KEY: {MISSING}"]),
        (DECLARED | {"vault": ...}, [f"vault.board.SECRET_KEY: {MISSING}"]),
        (DECLARED | {"vault": None}, [f"vault.board.SECRET_KEY: {MISSING}"]),
        (DECLARED | {"vault.board": {"SECRET_KEY": SECRET}}, []),
        (
            DECLARED | {"vault.board": {"SECRET_KEY": "changeme"}},
            [
                "vault.board.SECRET_KEY: is a placeholder; write a real value, e.g. the output of "
                '"openssl rand -hex 32"'
            ],
        ),
        (
            DECLARED | {"vault.board": {"SECRET_KEY": SECRET[:15]}},
            [
                "vault.board.SECRET_KEY: is too short; write at least 16 characters, e.g. the output of "
                '"openssl rand -hex 32"'
            ],
        ),
        (
            DECLARED | {"vault.board": {"SECRET_KEY": ""}},
            ["vault.board.SECRET_KEY: is empty; write its value"],
        ),
        (DECLARED | {"vault.board": {"SECRET_KEY": None}}, [f"vault.board.SECRET_KEY: {MISSING}"]),
        (
            DECLARED | {"vault.board": {"SECRET_KEY": 1234567890123456789}},
            [
                "vault.board.SECRET_KEY: is not text; write the value in quotes, so that it arrives as you "
                "wrote it"
            ],
        ),
        (
            DECLARED | {"vault.board": {"SECRET_KEY": SECRET + "\r"}},
            [
                "vault.board.SECRET_KEY: contains a carriage return (Windows line ends); save it with Unix "
                "line ends"
            ],
        ),
        (
            DECLARED | {"vault.board": {"SECRET_KEY": SECRET, "SECRET_KEI": SECRET}},
            [
                'vault.board.SECRET_KEI: is not declared; did you mean "SECRET_KEY"? write "- name: SECRET_KEI" '
                "under apps[0].secrets, or remove it"
            ],
        ),
        (
            {"vault.board": {"SMTP": SECRET}},
            ['vault.board.SMTP: is not declared; write "- name: SMTP" under apps[0].secrets, or remove it'],
        ),
        ({"vault.bord": {}}, ['vault.bord: there is no app of this name; did you mean "board"?']),
        ({"vault.zzz": {"A": SECRET}}, ["vault.zzz: there is no app of this name; known: board, notes"]),
        (
            {"vault.board": SECRET},
            ["vault.board: is not a mapping; write one line for each secret: SECRET_KEY: …"],
        ),
        (
            {"vault": [SECRET]},
            [
                "vault: is not a mapping; write the apps' names, and below each its secrets: "
                "board: {SECRET_KEY: …}"
            ],
        ),
        (
            {"vault": "$ANSIBLE_VAULT;1.1;AES256\n3132\n"},
            ["vault: is still encrypted; pass the right --vault-password-file (or --ask-vault-pass)"],
        ),
        (
            {
                "apps[0].secrets": [{"name": "SECRET_KEY", "generate": True}],
                "vault.board": {"SECRET_KEY": SECRET},
            },
            [
                'apps[0].secrets[0]: "SECRET_KEY" is to be generated, but vault.board.SECRET_KEY has a value; '
                'remove "generate: true" or that value'
            ],
        ),
        (
            GIT,
            [
                "vault.board.DEPLOY_KEY: missing; write the private SSH key there, as "
                "apps[0].source.deploy_key says"
            ],
        ),
        (GIT | {"vault.board": {"DEPLOY_KEY": PRIVATE}}, []),
        (
            GIT | {"vault.board": {"DEPLOY_KEY": "ssh-ed25519 AAAA x"}},
            [
                "vault.board.DEPLOY_KEY: is a public key; write the private one (it goes with the file "
                "without .pub)"
            ],
        ),
        (
            GIT | {"vault.board": {"DEPLOY_KEY": PRIVATE.replace("\n", " ")}},
            [
                'vault.board.DEPLOY_KEY: is not a private SSH key; write all its lines, after "|" '
                "(-----BEGIN … PRIVATE KEY-----)"
            ],
        ),
        (
            GIT | {"apps[0].source.deploy_key": SECRET + "/+"},
            [
                "apps[0].source.deploy_key: is not the name of a secret in vault.<app>; write its name, "
                'e.g. "DEPLOY_KEY"'
            ],
        ),
        (
            {
                "apps[0].source": {"git": "https://github.com/you/board.git", "deploy_key": "DEPLOY_KEY"},
                "vault.board": {"DEPLOY_KEY": PRIVATE},
            },
            ['apps[0].source.deploy_key: works with ssh alone; write "git: git@host:owner/repository"'],
        ),
    ],
)
def test_the_vault_and_the_apps_agree(changes: dict[str, Any], messages: list[str]) -> None:
    assert problems(changes) == messages


@pytest.mark.parametrize(
    ("name", "length", "good"),
    [
        ("JWT_SECRET", 15, False),
        ("JWT_SECRET", 16, True),
        ("API_TOKEN", 15, False),
        ("STRIPE_KEY", 15, False),
        ("SMTP_PASSWORD", 11, False),
        ("SMTP_PASSWORD", 12, True),
        ("AWS_ACCESS_KEY_ID", 8, True),
        ("SENTRY_DSN", 3, True),
        ("TOKEN_URL", 3, True),
    ],
)
def test_the_name_says_how_long_a_secret_must_be(name: str, length: int, good: bool) -> None:
    found = problems({"apps[0].secrets": [{"name": name}], "vault.board": {name: SECRET[:length]}})
    assert bool(found) is not good, found


@pytest.mark.parametrize(
    "value",
    [
        "changeme", "CHANGE_ME", "change-me-please", "Change this!", "secret", "password", "Password1",
        "example", "todo", "TODO", "xxx", "XXXXXXXXXXXXXXXXXXXX", "********************", "....", "123456",
        "abcdef", "qwertyuiop", "aaaaaaaaaaaaaaaaaaaa", "<your-secret-key>", "{{ secret }}", "your_secret_here",
        "replace-with-a-long-random-value", "supersecretkey", "django-insecure-abc123def456", "None", "null",
        "0000000000000000", "test", "dummy", "placeholder-value-for-key", "yourpassword", "",
    ],
)  # fmt: skip
def test_placeholders_are_known(value: str) -> None:
    assert is_placeholder(value)


@pytest.mark.parametrize(
    "value",
    [SECRET, "4c1d0f0e9b7a5238", "correct horse battery staple", "https://key@sentry.example.org/3", PRIVATE,
     "Tr0ub4dor&3xyz", "x9", "sk_live_51H8q", "passion-fruit-42-river"],
)  # fmt: skip
def test_real_values_are_no_placeholders(value: str) -> None:
    assert not is_placeholder(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"vault.board": SECRET},
        {"vault.board": [SECRET]},
        {"vault": SECRET},
        {"vault.board": {"A": {"B": SECRET}}},
        DECLARED | {"vault.board": {"SECRET_KEY": [SECRET]}},
        DECLARED | {"vault.board": {"SECRET_KEY": SECRET + "\0"}},
        {"apps[0].secrets": SECRET},
        {"apps[0].secrets": [SECRET]},
        {"apps[0].secrets": [{"name": f"A={SECRET}"}]},
        {"apps[0].secrets": [{"name": [SECRET]}]},
        {"apps[0].secrets": [{"name": "A", "generate": SECRET}]},
        {"apps[0].secrets": [{"name": "A", "length": SECRET}]},
        {"apps[0].env": SECRET},
        {"apps[0].env": {"A": [SECRET]}},
        {"apps[0].env": {"A": SECRET + "\0"}},
        {"apps[0].proxy.headers": {"Authorization": SECRET + "\n"}},
        {"apps[0].source": {"git": f"https://{SECRET}@host/o/r"}},
        {"apps[0].source": {"git": f"ftp://user:{SECRET}@host/o/r"}},
        {"apps[0].source": {"git": "git@h:o/r", "deploy_key": f"{SECRET}=="}},
        {"server.admin": {"name": "a", "authorized_keys": [f"-----BEGIN RSA {PRIVATE_KEY}-----\n{SECRET}"]}},
    ],
)
def test_no_message_contains_a_secret(changes: dict[str, Any]) -> None:
    found = problems(changes)
    assert found
    assert SECRET not in "\n".join(found)
