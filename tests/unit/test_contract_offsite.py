"""Places off the server that backups go to: what is refused, and that no secret is in a message."""

# ruff: noqa: E501 (messages are to be read as they are)
from __future__ import annotations

import base64
from typing import Any

import pytest

from plugins.filter.wiring import offsite
from plugins.module_utils.berth.contract.offsite import host_keys
from tests.unit.contract_case import PRIVATE_KEY, SECRET, problems, resolved

BLOB = base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes(range(32))).decode()
HOST_KEY = f"ssh-ed25519 {BLOB}"
SFTP = {
    "name": "storage", "type": "sftp", "host": "backup.example.net", "user": "berth", "host_key": HOST_KEY,
}  # fmt: skip
S3 = {"name": "cloud", "type": "s3", "bucket": "backups", "endpoint": "s3.example.net:9000"}


def private(body: bytes) -> str:
    text = base64.b64encode(body).decode()
    return f"-----BEGIN OPENSSH {PRIVATE_KEY}-----\n{text}\n-----END OPENSSH {PRIVATE_KEY}-----\n"


OPEN = private(b"openssh-key-v1\x00\x00\x00\x00\x04none\x00\x00\x00\x04none")
LOCKED = private(b"openssh-key-v1\x00\x00\x00\x00\x0aaes256-ctr\x00\x00\x00\x06bcrypt")
SECRETS = {
    "key": SECRET,
    "offsite": {"storage": {"private_key": OPEN}, "cloud": {"access_key": "AKIA4X", "secret_key": SECRET}},
}
RIGHT = {"server.backup.offsite": [SFTP, S3], "vault.server": {"backup": SECRETS}}
SCAN = "prints, after comparing it with what the server's owner says (ssh-keygen -lf -)"
PLACE = "server.backup.offsite[0]"
VAULT = "vault.server.backup"


def with_place(**changes: Any) -> dict[str, Any]:
    place = {key: value for key, value in {**SFTP, **changes}.items() if value is not ...}
    return {**RIGHT, "server.backup.offsite": [place, S3]}


def with_secrets(**changes: Any) -> dict[str, Any]:
    backup = {key: value for key, value in {**SECRETS, **changes}.items() if value is not ...}
    return {**RIGHT, "vault.server": {"backup": backup}}


def test_two_places_and_their_secrets() -> None:
    assert problems(RIGHT) == []
    places = resolved(RIGHT)["server"]["backup"]["offsite"]
    assert [(one["name"], one["path"], one["port"]) for one in places] == [
        ("storage", "/berth", 22),
        ("cloud", "/berth", 22),
    ]
    assert SECRET not in str(resolved(RIGHT)["server"])


def test_a_key_is_no_use_and_no_mistake_without_a_place() -> None:
    assert problems({"vault.server": {"backup": {"key": SECRET}}}) == []
    assert problems({"vault.server": {}}) == problems({"vault.server": {"backup": None}}) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_place(name="off site"), f'{PLACE}.name: "off site" is not a valid name; write at most 31 letters, digits and dashes, e.g. "storage"'),
        (with_place(name="server"), f'{PLACE}.name: "server" is what the backups on the server itself are called; write another'),
        (with_place(type="ftp"), f'{PLACE}.type: "ftp" is not known; write sftp or s3'),
        (with_place(path="berth"), f'{PLACE}.path: "berth" is not a folder from the top; write letters, digits, dots, dashes and underscores between slashes, e.g. "/berth"'),
        (with_place(path="/a/../b"), f'{PLACE}.path: "/a/../b" is not a folder from the top; write letters, digits, dots, dashes and underscores between slashes, e.g. "/berth"'),
        (with_place(host=...), f'{PLACE}.host: missing; write the host name, e.g. "backup.example.net"'),
        (with_place(host="sftp://x"), f'{PLACE}.host: "sftp://x" is not a host name or an address; write it alone, e.g. "backup.example.net"'),
        (with_place(port=0), f"{PLACE}.port: 0 is out of range; write 1 to 65535"),
        (with_place(user=...), f'{PLACE}.user: missing; write the user to log in as, e.g. "berth"'),
        (with_place(user="a b"), f'{PLACE}.user: "a b" is not valid; write the user to log in as, e.g. "berth"'),
        (with_place(host_key=...), f'{PLACE}.host_key: missing, and nobody is trusted at first sight; write what "ssh-keyscan backup.example.net" {SCAN}'),
        (with_place(host_key="SHA256:abc", port=23), f'{PLACE}.host_key: is a fingerprint; write the keys themselves, which "ssh-keyscan -p 23 backup.example.net" {SCAN}'),
        (with_place(host_key="ssh-ed25519 AAAA"), f'{PLACE}.host_key: is not a server\'s public key; write what "ssh-keyscan backup.example.net" {SCAN}'),
        (with_place(bucket="x"), f'{PLACE}.bucket: has no effect with "type: sftp"; remove it'),
        (with_place(passwd=SECRET), f"{PLACE}.passwd: unknown key; known: bucket, endpoint, host, host_key, name, path, port, region, type, uri_style, user"),
        (with_place(name="Cloud") | {"vault.server": {"backup": {"key": SECRET, "offsite": {"Cloud": {"private_key": OPEN}, "cloud": SECRETS["offsite"]["cloud"]}}}}, 'server.backup.offsite[1].name: "cloud" is the name of server.backup.offsite[0] already; write another'),  # type: ignore[index]
    ],
)  # fmt: skip
def test_a_place(changes: dict[str, Any], message: str) -> None:
    # A name that is wrong leaves its secrets without a place, which is said too.
    assert message in problems(changes)
    assert SECRET not in "\n".join(problems(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bucket": ...}, 'bucket: missing; write the name of a bucket that is there, e.g. "backups"'),
        ({"bucket": "s3://x"}, 'bucket: "s3://x" is not valid; write the name of the bucket alone, e.g. "backups"'),
        ({"endpoint": ...}, 'endpoint: missing; write the storage\'s host name, e.g. "s3.eu-central-1.amazonaws.com"'),
        ({"endpoint": "https://x.net"}, 'endpoint: "https://x.net" is an address; write the host name alone, it is asked by TLS'),
        ({"endpoint": "x.net:99999"}, 'endpoint: "x.net:99999" is not a host name; write it alone or with a port, e.g. "s3.example.net:9000"'),
        ({"region": "EU west"}, 'region: "EU west" is not valid; write e.g. "eu-central-1"; where the storage knows no regions, "us-east-1"'),
        ({"uri_style": "paths"}, 'uri_style: "paths" is not known; write host or path'),
        ({"host": "x.net"}, 'host: has no effect with "type: s3"; remove it'),
    ],
)  # fmt: skip
def test_a_bucket(changes: dict[str, Any], message: str) -> None:
    place = {key: value for key, value in {**S3, **changes}.items() if value is not ...}
    assert problems({**RIGHT, "server.backup.offsite": [SFTP, place]}) == [
        f"server.backup.offsite[1].{message}"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_secrets(key=...), 'key: missing, and nothing leaves the server unencrypted; write a passphrase there (ansible-vault edit), e.g. the output of "openssl rand -base64 36", and keep a copy of the vault and its password'),
        (with_secrets(key=SECRET[:19]), 'key: is not a passphrase of 20 to 200 letters, digits and signs in one line; write the output of "openssl rand -base64 36"'),
        (with_secrets(key=f"{SECRET}\n"), 'key: is not a passphrase of 20 to 200 letters, digits and signs in one line; write the output of "openssl rand -base64 36"'),
        (with_secrets(key="changeme-changeme-changeme"), 'key: is a placeholder; write the output of "openssl rand -base64 36"'),
        (with_secrets(kye=SECRET), 'kye: unknown key; did you mean "key"?'),
        (with_secrets(offsite=SECRET), "offsite: is not a mapping; write a name, and below it its secrets"),
        (with_secrets(offsite={**SECRETS["offsite"], "strage": {}}), 'offsite.strage: there is no place of this name in server.backup.offsite; did you mean "storage"?'),  # type: ignore[dict-item]
        (with_secrets(offsite={**SECRETS["offsite"], "storage": None}), "offsite.storage.private_key: missing; write the private SSH key that the server logs in with there"),  # type: ignore[dict-item]
        (with_secrets(offsite={**SECRETS["offsite"], "storage": {"private_key": HOST_KEY}}), "offsite.storage.private_key: is a public key; write the private one (it goes with the file without .pub)"),  # type: ignore[dict-item]
        (with_secrets(offsite={**SECRETS["offsite"], "storage": {"private_key": LOCKED}}), 'offsite.storage.private_key: has a passphrase, which nobody is there to type; write a key without one (ssh-keygen -t ed25519 -N "" -f NAME)'),  # type: ignore[dict-item]
        (with_secrets(offsite={**SECRETS["offsite"], "storage": {"private_key": OPEN, "password": SECRET}}), "offsite.storage.password: unknown key; known: private_key"),  # type: ignore[dict-item]
        (with_secrets(offsite={**SECRETS["offsite"], "cloud": {"access_key": "AKIA4X"}}), "offsite.cloud.secret_key: missing; write it there (ansible-vault edit), as the storage's console shows it"),  # type: ignore[dict-item]
        (with_secrets(offsite={**SECRETS["offsite"], "cloud": {"access_key": "AKIA4X", "secret_key": f"{SECRET} "}}), "offsite.cloud.secret_key: is not text in one line without spaces; write it in quotes"),  # type: ignore[dict-item]
    ],
)  # fmt: skip
def test_a_secret(changes: dict[str, Any], message: str) -> None:
    assert problems(changes) == [f"{VAULT}.{message}"]


def test_no_app_is_called_as_the_vault_calls_the_server() -> None:
    assert problems({"apps[0].name": "server"}) == [
        'apps[0].name: "server" is what the vault calls the server itself; write another, e.g. "server-app"'
    ]


def test_host_keys_are_found_in_what_ssh_keyscan_prints() -> None:
    scanned = (
        f"# backup.example.net:22 SSH-2.0\nbackup.example.net {HOST_KEY}\n[b.net]:23 {HOST_KEY} comment\n"
    )
    assert problems(with_place(host_key=scanned)) == []
    assert host_keys(scanned) == [("ssh-ed25519", BLOB)] * 2
    assert host_keys(HOST_KEY) == [("ssh-ed25519", BLOB)]


def test_roles_get_each_place_with_its_secrets_and_none_without_backups() -> None:
    backup = resolved(RIGHT)["server"]["backup"]
    vault = {"board": {}, "server": {"backup": SECRETS}}
    given = offsite(backup, vault)
    assert given["key"] == SECRET
    assert given["places"][0]["secrets"] == {"private_key": OPEN}
    assert given["places"][1]["bucket"] == "backups"
    assert offsite({**backup, "enabled": False}, vault)["places"] == []
    assert offsite({"enabled": True, "offsite": []}, None) == {"key": "", "places": []}
