"""Whether somebody gets in from this machine: a new connection of its own, by key, that becomes root.

Ansible's own tasks prove nothing of it. They ride a connection that was opened before.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from . import session

# Before Ansible's own options: ssh takes the first value that it is given.
_NEW = (
    "ControlMaster=no",
    "ControlPath=none",
    "BatchMode=yes",
    "ConnectTimeout=10",
    "PreferredAuthentications=publickey",
)
ATTEMPTS = 3
PAUSE = 2.0
# Seconds for one login, sudo included.
PATIENCE = 15.0


def command(nonce: str, method: str, password: bool) -> str:
    """What only root answers, on the server. sudo's password comes over standard input."""
    if method not in ("", "sudo"):
        return f"echo {nonce}"
    become = f"sudo -k -S -p '' -- echo {nonce}" if password else f"sudo -n -- echo {nonce}"
    return f'if [ "$(id -u)" = 0 ]; then echo {nonce}; else {become}; fi'


def argv(words: Sequence[str], user: str) -> list[str]:
    """An ssh command line of Ansible's as a new connection of this user (empty: the same one)."""
    options = [*_NEW, *([f"User={user}"] if user else [])]
    return [words[0], *(word for option in options for word in ("-o", option)), *words[1:]]


def reason(said: str, user: str) -> str:
    """Why a login failed, from what ssh and sudo printed, as the middle of a sentence."""
    said = " ".join(said.split())
    known = (
        (
            r"Too many authentication failures",
            "the ssh agent here offers more keys than the server lets it try before the right one: name "
            "the key in ansible_ssh_private_key_file, and write -o IdentitiesOnly=yes into "
            "ansible_ssh_common_args",
        ),
        (
            r"Permission denied",
            f"the server refuses this machine's key for {user}: its public key has to be in that user's "
            "authorized_keys, and AllowUsers, DenyUsers or AllowGroups of sshd must not keep the user out",
        ),
        (
            r"no matching (key exchange|host key|cipher|MAC)|no mutual signature",
            "this machine's ssh and the server have no algorithm in common: update it, or write "
            "server.ssh.kex: compatible",
        ),
        (r"Host key verification failed|IDENTIFICATION HAS CHANGED", "the server's host key is another one"),
        (
            r"password is required|interactive authentication is required|Authentication required|"
            r"a terminal is required|incorrect password|no password was provided",
            f"sudo asks {user} for a password: write NOPASSWD: ALL for {user} into /etc/sudoers.d, or pass "
            "--ask-become-pass",
        ),
        (r"not in the sudoers|not allowed|I'm sorry", f"sudo does not let {user} become root"),
        (r"sudo: (command )?not found", "sudo is not installed on the server"),
        (
            r"timed out|refused|No route|unreachable|closed by|reset by|banner exchange",
            "nothing answers a new connection to its SSH port",
        ),
    )
    found = next((sentence for pattern, sentence in known if re.search(pattern, said)), "")
    return found or f"ssh said: {said[-200:] or 'nothing'}"


def prove(words: Sequence[str], nonce: str, user: str, who: str, password: str = "") -> str:
    """Log in anew and become root, `ATTEMPTS` times at most; why that failed, or empty.

    `words` is the ssh command line of Ansible for `command(nonce, …)`, `who` the user for the sentence.
    """
    why = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        try:
            done = subprocess.run(
                argv(words, user), input=f"{password}\n" if password else "", capture_output=True, text=True,
                errors="replace", timeout=PATIENCE, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            why = f"no login within {PATIENCE:.0f} s: nothing answers, or sudo hangs"
            continue
        if done.returncode == 0 and nonce in done.stdout.split():
            return ""
        why = reason(done.stderr + done.stdout, who)
    return why


def proof(connection: Any, user: str, who: str, password: str = "") -> str:
    """The same over Ansible's connection; ValueError where it is none over ssh."""
    if str(connection.transport).rsplit(".", 1)[-1] != "ssh":
        raise ValueError(f"nothing can be proved over a connection of kind {connection.transport}")
    nonce = secrets.token_hex(8)
    method = str(connection.become.name).rsplit(".", 1)[-1] if connection.become else ""
    line = command(nonce, method, bool(password))
    return prove(session.ssh_argv(connection, line), nonce, user, who, password)
