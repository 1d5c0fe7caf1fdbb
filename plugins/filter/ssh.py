"""Filters of the role ssh: what sshd and a login said, as sentences that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Lines of sshd's log that say why it let somebody not in; the last one counts.
_CAUSES = (
    r"User \S+ from \S+ not allowed because .*",
    r".*Too many authentication failures.*",
    r"Authentication refused: .*",
    r".*[Bb]ad configuration option.*",
    r"Unable to negotiate .*",
    r"Access denied for user .*",
)


def ssh_refusal(message: str, log: str) -> str:
    """Why sshd stays as it was: what failed, and what the server itself noted of it."""
    found = [
        line.strip() for line in log.splitlines() if any(re.fullmatch(one, line.strip()) for one in _CAUSES)
    ]
    said = f" The server's sshd noted: {found[-1].rstrip('.')}." if found else ""
    back = "" if "as it was" in message else " How people get in is as it was before."
    return f"{message.rstrip('.')}.{said}{back} To go on without: server.ssh.enabled: false."


def ssh_who(
    users: Sequence[str], login: str, admin: str, proof: Mapping[str, Any], with_keys: Sequence[str]
) -> str:
    """Who gets in from now on, who does not any more, and what is left to do.

    `proof` is that of the admin's login, `with_keys` are the accounts that have keys of their own.
    """
    said = [f"By SSH, with keys alone, get in: {', '.join(users)}."]
    if out := sorted(set(with_keys) - set(users)):
        them = "has keys and gets" if len(out) == 1 else "have keys and get"
        said.append(f"{', '.join(out)} {them} in no more; server.ssh.allow_users lets them in.")
    if login == "root" and not admin:
        said.append("With server.admin and ansible_user set to that user, root's login would end.")
    elif login == "root" and proof.get("proved"):
        said.append(f"root gets in as well while this run logs in as root: write ansible_user: {admin}.")
    elif admin not in ("", login) and not proof.get("proved"):
        said.append(f"{admin} gets not in from this machine: {proof.get('reason', '')}.")
    return " ".join(said)


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"ssh_refusal": ssh_refusal, "ssh_who": ssh_who}
