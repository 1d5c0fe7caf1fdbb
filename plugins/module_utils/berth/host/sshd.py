"""Whom sshd lets in, by the settings on its disk."""

from __future__ import annotations

import fnmatch
import grp
import os
import pwd
import subprocess

PROGRAM = "/usr/sbin/sshd"


def shut_out(settings: str, login: str, groups: list[str]) -> str:
    """The setting of `sshd -T` that does not let a user in; empty where none keeps the user out."""
    found: dict[str, list[str]] = {}
    for line in settings.splitlines():
        key, _, value = line.strip().partition(" ")
        found.setdefault(key, []).append(value)

    def named(key: str, mine: list[str]) -> bool:
        patterns = [value.partition("@")[0] for value in found.get(key, [])]
        return any(fnmatch.fnmatchcase(one, pattern) for pattern in patterns for one in mine)

    for key, mine in (("denyusers", [login]), ("denygroups", groups)):
        if named(key, mine):
            return f"{key} {' '.join(found[key])}"
    for key, mine in (("allowusers", [login]), ("allowgroups", groups)):
        if key in found and not named(key, mine):
            return f"{key} {' '.join(found[key])}"
    return ""


def groups_of(login: str) -> list[str]:
    try:
        entry = pwd.getpwnam(login)
    except KeyError:
        return []
    return [grp.getgrgid(number).gr_name for number in os.getgrouplist(login, entry.pw_gid)]


def keeps_out(login: str, client: str) -> str:
    """The setting on the disk that would not let a user in who comes from this address; empty for none.

    sshd may not have read it yet, and a connection of before goes on beside it.
    """
    words = [PROGRAM, "-T", "-C", f"user={login},host={client},addr={client}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shut_out(done.stdout, login, groups_of(login))
