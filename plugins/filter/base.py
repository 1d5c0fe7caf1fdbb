"""Filters of the role base: what Ansible saw of a host, or was told, as sentences that say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils

# Ansible ships module_utils to hosts, but does not put this folder where filters could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth.contract import names
else:
    from ansible.module_utils.berth.contract import names


def _login(connection: Mapping[str, Any]) -> str:
    """`user@address` as ssh takes it, with the options that Ansible would give it."""
    parts = ["ssh"]
    if connection.get("key"):
        parts.append(f"-i {connection['key']}")
    if str(connection.get("port") or 22) != "22":
        parts.append(f"-p {connection['port']}")
    user = f"{connection['user']}@" if connection.get("user") else ""
    return " ".join([*parts, f"{user}{connection['address']}"])


def base_login_problem(probe: Mapping[str, Any], connection: Mapping[str, Any]) -> str:
    """Why a host cannot be reached, or its root; empty when nothing is wrong.

    `connection` holds host, address, port, user and key as the inventory has them, and the admin's name.
    """
    if probe.get("unreachable"):
        return _connection_problem(probe, connection)
    return _become_problem(probe, connection)


def _connection_problem(probe: Mapping[str, Any], connection: Mapping[str, Any]) -> str:
    """Why a host cannot be reached, and what to try."""
    said = " ".join(str(probe.get("msg", "")).split())
    login = _login(connection)
    who = connection.get("user") or "the user of your ssh configuration"
    if "HOST IDENTIFICATION HAS CHANGED" in said or "Host key verification failed" in said:
        cause = "its host key is not the one that this machine knows"
        advice = (
            f"if the server was reinstalled, or is new and you have compared its key, run "
            f"`ssh-keygen -R {connection['address']}` and log in once with `{login}`"
        )
    elif "Too many authentication failures" in said:
        cause = "this machine's ssh agent offers more keys than the server lets it try before the right one"
        advice = (
            "name the key in ansible_ssh_private_key_file, and write `-o IdentitiesOnly=yes` into "
            "ansible_ssh_common_args"
        )
    elif "Permission denied" in said:
        cause = f"it refuses the key for user {who}"
        advice = (
            f"try `{login}`, correct ansible_user or ansible_ssh_private_key_file in the inventory, "
            "or put the public key into that user's ~/.ssh/authorized_keys"
        )
        if connection.get("admin") not in ("", None, connection.get("user")):
            advice += (
                f"; if an earlier run logged in as {connection['admin']}, it has ended other logins: "
                f"write ansible_user: {connection['admin']}"
            )
    elif "Could not resolve" in said or "Name or service not known" in said:
        cause = f"the name {connection['address']} does not exist"
        advice = "correct ansible_host in the inventory, or the DNS record"
    elif "waiting for privilege escalation prompt" in said:
        return (
            f"Host {connection['host']}: user {who} cannot become root: sudo asks for the password in other "
            "words than Ansible waits for, as sudo in Rust does (Ubuntu 25.10 and later). What to do: write "
            "`ansible_become_exe: sudo.ws`, the other one there, into the inventory, or as root on the "
            f"server `{who} ALL=(ALL:ALL) NOPASSWD: ALL` to /etc/sudoers.d/{who}, or log in as root."
        )
    elif re.search(r"timed out|refused|No route|unreachable|closed by|reset by", said):
        cause = f"no SSH server answers on port {connection.get('port') or 22}"
        advice = "is it on, is the address right, does a firewall let this machine in"
    else:
        cause = "the connection fails"
        advice = f"try `{login}`"
    detail = said[-300:].removeprefix("Task failed: ")
    return f"Host {connection['host']} cannot be reached: {cause}. What to do: {advice}. SSH said: {detail}"


def _become_problem(probe: Mapping[str, Any], connection: Mapping[str, Any]) -> str:
    """Why the login cannot act as root, and what to write; empty when it can."""
    said = " ".join(f"{probe.get('msg', '')} {probe.get('stderr', '')} {probe.get('stdout', '')}".split())
    if "berth-probe uid=0" in said:
        return ""
    user = connection.get("user") or "the login"
    if "berth-probe uid=" in said:
        cause = "the play does not ask for it (become: true)"
        advice = "set `ansible_become: true` for the host, or log in as root"
    else:
        if "password" in said.lower():
            cause = "sudo asks for a password"
        elif "not in the sudoers" in said or "not allowed" in said:
            cause = "sudo does not allow it"
        elif "not found" in said:
            cause = "sudo is not installed"
        else:
            # In the host's language, or a cause that nobody thought of: sudo's own words.
            said = re.sub(r"non-zero return code|Shared connection to \S+ closed\.|Task failed:", "", said)
            cause = " ".join(said.split())[-200:] or "sudo fails without a word"
        advice = (
            f"as root on the server write `{user} ALL=(ALL:ALL) NOPASSWD: ALL` to /etc/sudoers.d/{user} "
            "(and install sudo), or pass --ask-become-pass, or log in as root (ansible_user: root)"
        )
    return f"Host {connection['host']}: user {user} cannot become root: {cause}. What to do: {advice}."


def base_input_problems(inputs: Mapping[str, Any]) -> list[str]:
    """What no tool on the server would refuse by itself, as sentences.

    `inputs` holds the role's inputs without their prefix.
    """
    found = []

    def check(name: str, value: str, good: Callable[[str], object], wanted: str) -> None:
        if value and not good(value):
            found.append(f"{name}: {value!r} is not {wanted}.")

    check(
        "base_journal_max",
        str(inputs["journal_max"]),
        names.SYSTEMD_SIZE.fullmatch,
        "a size such as 500M or 2G",
    )
    check(
        "base_locale",
        str(inputs["locale"]),
        names.LOCALE.fullmatch,
        "a locale of UTF-8 such as C.UTF-8 or de_DE.UTF-8",
    )
    check(
        "base_updates.reboot_at",
        str(inputs["updates"].get("reboot_at", "")),
        names.CLOCK.fullmatch,
        'a time such as "04:30"',
    )
    check(
        "base_hostname",
        str(inputs["hostname"]),
        names.is_hostname,
        "a host name such as web1 or web1.example.com",
    )
    admin = inputs["admin"]
    name = str(admin.get("name", ""))
    check("base_admin.name", name, names.USER.fullmatch, "a user name: small letters, digits, - and _")
    if name == "root":
        found.append("base_admin.name: root is there already; name another user, or leave it empty.")
    keys = [str(key).strip() for key in admin.get("authorized_keys", [])]
    if name and not keys:
        found.append(f"base_admin.authorized_keys: empty, so {name} could not log in: give a public key.")
    for number, key in enumerate(keys):
        if "PRIVATE KEY" in key:
            found.append(
                f"base_admin.authorized_keys[{number}]: a private key; give the line of the .pub file."
            )
        elif not names.is_public_key(key):
            found.append(
                f"base_admin.authorized_keys[{number}]: not a public key: give the one line of a .pub file, "
                "such as `ssh-ed25519 AAAA… name`."
            )
    for number, path in enumerate(inputs["extra_ca_certificates"]):
        if not os.path.isfile(path):  # noqa: PTH113  (a path of the controller, as text)
            found.append(f"base_extra_ca_certificates[{number}]: there is no file {path} on this machine.")
    return found


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {
            "base_input_problems": base_input_problems,
            "base_login_problem": base_login_problem,
        }
