"""Places off the server that backups go to, and their secrets: `server.backup.offsite`, `vault.server`.

No message of this file contains a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from typing import Any

from . import names as names
from .external import check_administrators
from .problem import Report, did_you_mean, show
from .spec import ABSENT, Walker
from .vault import SERVER, below, check_private_key, is_placeholder

# It names a unit, a file and a column.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,30}")
# Who looks at backups calls the ones on the server so.
_TAKEN = ("local", "server")
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ENDPOINT = re.compile(r"([^\s:/@]+)(?::([0-9]{1,5}))?")
# What a file, an option and a program's environment all carry as it is.
_SECRET = re.compile(r"[!-~]{1,200}")
_KEY = re.compile(r"[!-~]{20,200}")
_MAKES_A_KEY = 'the output of "openssl rand -base64 36"'
# What each kind of place is reached by; the others' keys mean nothing there.
_OF = {
    "sftp": ("host", "port", "user", "host_key"),
    "s3": ("bucket", "endpoint", "region", "uri_style"),
}
_SECRETS = {"sftp": ("private_key",), "s3": ("access_key", "secret_key")}


def check_offsite(report: Report, places: list[dict[str, Any]], given: Collection[str], path: str) -> None:
    """Check `server.backup.offsite`."""
    first: dict[str, int] = {}
    for index, place in enumerate(places):
        below = f"{path}[{index}]"
        _name(report, place["name"], f"{below}.name", first, index, path)
        if not _PATH.fullmatch(place["path"]) or {".", ".."} & set(place["path"].split("/")):
            report.add(
                f"{below}.path",
                f"{show('', place['path'])} is not a folder from the top; write letters, digits, dots, "
                'dashes and underscores between slashes, e.g. "/berth"',
            )
        kind = place["type"]
        for other in _OF:
            for key in _OF[other] if kind in _OF and kind != other else ():
                if f"{below}.{key}" in given:
                    report.add(f"{below}.{key}", f'has no effect with "type: {kind}"; remove it')
        if kind == "sftp":
            _sftp(report, place, below)
        elif kind == "s3":
            _s3(report, place, below)


def _name(report: Report, name: str, path: str, first: dict[str, int], index: int, top: str) -> None:
    if report.touches(path):
        return
    if not _NAME.fullmatch(name):
        report.add(
            path,
            f"{show('', name)} is not a valid name; write at most 31 letters, digits and dashes, e.g. "
            '"storage"',
        )
    elif name.lower() in _TAKEN:
        report.add(path, f'"{name}" is what the backups on the server itself are called; write another')
    elif name.lower() in first:
        report.add(path, f'"{name}" is the name of {top}[{first[name.lower()]}] already; write another')
    first.setdefault(name.lower(), index)


def _sftp(report: Report, place: dict[str, Any], path: str) -> None:
    _host(report, place["host"], f"{path}.host", "backup.example.net")
    names.check_range(report, f"{path}.port", place["port"], 1, 65535, "")
    if not place["user"] and not report.touches(f"{path}.user"):
        report.add(f"{path}.user", 'missing; write the user to log in as, e.g. "berth"')
    elif place["user"]:
        rule = 'write the user to log in as, e.g. "berth"'
        names.check_pattern(report, f"{path}.user", place["user"], _USER, rule)
    _host_key(report, place, f"{path}.host_key")


def _host(report: Report, host: str, path: str, example: str) -> None:
    if report.touches(path):
        return
    if not host:
        report.add(path, f'missing; write the host name, e.g. "{example}"')
    elif not _is_server(host):
        report.add(
            path, f'{show("", host)} is not a host name or an address; write it alone, e.g. "{example}"'
        )


def _host_key(report: Report, place: dict[str, Any], path: str) -> None:
    """Lines of ssh-keyscan, or of the server's .pub files; a client compares with `host_keys` of them."""
    if report.touches(path):
        return
    port = f"-p {place['port']} " if place["port"] != 22 else ""
    scan = f"ssh-keyscan {port}{place['host']}" if _USER.fullmatch(place["host"]) else "ssh-keyscan HOST"
    lines = _lines(place["host_key"])
    if not lines:
        text = "missing, and nobody is trusted at first sight; write what"
    elif re.match(r"(SHA256|MD5):", lines[0]):
        text = "is a fingerprint; write the keys themselves, which"
    elif not all(map(_public_part, lines)):
        text = "is not a server's public key; write what"
    else:
        return
    compare = "after comparing it with what the server's owner says (ssh-keygen -lf -)"
    report.add(path, f'{text} "{scan}" prints, {compare}')


def _public_part(line: str) -> tuple[str, str] | None:
    """Kind and key of a line of ssh-keyscan or of a .pub file; None where it is neither."""
    for words in (line.split()[:2], line.split()[1:3]):
        if len(words) == 2 and names.is_public_key(" ".join(words)):
            return words[0], words[1]
    return None


def host_keys(written: str) -> list[tuple[str, str]]:
    """The keys of a server, each with its kind, of what was written as its `host_key`."""
    return [found for line in _lines(written) if (found := _public_part(line))]


def _lines(written: str) -> list[str]:
    return [one for one in written.splitlines() if one.strip() and not one.startswith("#")]


def _s3(report: Report, place: dict[str, Any], path: str) -> None:
    if not place["bucket"] and not report.touches(f"{path}.bucket"):
        report.add(f"{path}.bucket", 'missing; write the name of a bucket that is there, e.g. "backups"')
    elif place["bucket"]:
        rule = 'write the name of the bucket alone, e.g. "backups"'
        names.check_pattern(report, f"{path}.bucket", place["bucket"], _BUCKET, rule)
    rule = 'write e.g. "eu-central-1"; where the storage knows no regions, "us-east-1"'
    names.check_pattern(report, f"{path}.region", place["region"], _REGION, rule)
    endpoint, below = place["endpoint"], f"{path}.endpoint"
    if report.touches(below):
        return
    found = _ENDPOINT.fullmatch(endpoint)
    if not endpoint:
        report.add(below, 'missing; write the storage\'s host name, e.g. "s3.eu-central-1.amazonaws.com"')
    elif "://" in endpoint:
        said = "is an address; write the host name alone, it is asked by TLS"
        report.add(below, f"{show('', endpoint)} {said}")
    elif not found or not 0 < int(found[2] or 443) < 65536 or not _is_server(found[1]):
        report.add(
            below,
            f"{show('', endpoint)} is not a host name; write it alone or with a port, "
            'e.g. "s3.example.net:9000"',
        )


def _is_server(host: str) -> bool:
    return names.is_host(host.lower()) or names.is_address(host)


def check_server_secrets(
    report: Report,
    vault: object,
    places: list[dict[str, Any]],
    hosts: Mapping[str, str],
    walker: Walker,
) -> None:
    """Check `vault.server`: the key of what lies off the server, and how each place is opened.

    And what opens each of `hosts`, which says by host the entry of an app's database that names it.
    """
    known = isinstance(vault, Mapping) and SERVER in vault
    values = walker.get(vault, SERVER, "vault.server") if known else ABSENT
    server = below(report, values, "vault.server", ("backup", "postgresql"), walker)
    check_administrators(report, server.get("postgresql", {}), hosts, walker)
    found = below(report, server.get("backup", {}), "vault.server.backup", ("key", "offsite"), walker)
    _passphrase(report, found.get("key", ABSENT), needed=bool(places))
    by_name = {place["name"]: place for place in places if place["name"]}
    path = "vault.server.backup.offsite"
    offsite = below(report, found.get("offsite", {}), path, None, walker)
    for name in offsite:
        if name not in by_name:
            hint = did_you_mean(name, by_name)
            report.add(f"{path}.{name}", f"there is no place of this name in server.backup.offsite{hint}")
    for name, place in by_name.items():
        wanted = _SECRETS.get(place["type"], ())
        secrets = below(report, offsite.get(name, {}), f"{path}.{name}", wanted, walker) if wanted else {}
        for key in wanted:
            _secret(report, key, secrets.get(key, ABSENT), f"{path}.{name}.{key}")


def _passphrase(report: Report, value: object, *, needed: bool) -> None:
    path = "vault.server.backup.key"
    if report.touches(path):
        return
    if value is ABSENT:
        if needed:
            report.add(
                path,
                "missing, and nothing leaves the server unencrypted; write a passphrase there "
                f"(ansible-vault edit), e.g. {_MAKES_A_KEY}, and keep a copy of the vault and its password",
            )
    elif not isinstance(value, str) or not _KEY.fullmatch(value):
        report.add(
            path,
            f"is not a passphrase of 20 to 200 letters, digits and signs in one line; write {_MAKES_A_KEY}",
        )
    elif is_placeholder(value):
        report.add(path, f"is a placeholder; write {_MAKES_A_KEY}")


def _secret(report: Report, key: str, value: object, path: str) -> None:
    if report.touches(path):
        return
    if key == "private_key":
        wanted = "the private SSH key that the server logs in with there"
        if check_private_key(report, path, value, wanted) and _has_passphrase(str(value)):
            report.add(
                path,
                "has a passphrase, which nobody is there to type; write a key without one "
                '(ssh-keygen -t ed25519 -N "" -f NAME)',
            )
    elif value is ABSENT:
        report.add(path, "missing; write it there (ansible-vault edit), as the storage's console shows it")
    elif not isinstance(value, str) or not _SECRET.fullmatch(value):
        report.add(path, "is not text in one line without spaces; write it in quotes")
    elif is_placeholder(value):
        report.add(path, "is a placeholder; write it as the storage's console shows it")


def _has_passphrase(key: str) -> bool:
    """Whether a private key is encrypted, in the format of OpenSSH or in an older one."""
    if "ENCRYPTED" in key:
        return True
    body = "".join(line for line in key.split("\n") if "-----" not in line)
    try:
        return b"bcrypt" in base64.b64decode(body)[:64]
    except (binascii.Error, ValueError):
        return False
