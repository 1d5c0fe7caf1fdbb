#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""The people who look after a server: their account, their keys, and the end of both."""

from __future__ import annotations

import grp
import json
import pwd
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.berth.host import admins
from ansible.module_utils.berth.store import journal

DOCUMENTATION = r"""
module: admin_accounts
short_description: Let an admin in with exactly the keys given, and former ones out
description:
  - Makes the account, and writes its keys. A key that an earlier run put there and that is not given any more
    is taken away; keys that others put there stay, and are named in C(notes).
  - An admin whom an earlier run set up and who is not named any more loses the keys that Berth put there. An
    account that Berth made is locked as well (it expires), and leaves its groups; nothing of it is deleted.
  - Whoever this very run logs in as keeps the access, and is named in C(notes); another login ends it.
  - What was applied is kept in C(/var/lib/berth/admins.json). Home folders are their users', so what is in
    them is read and written as these.
author: Berth (@berth)
options:
  name:
    description: The admin; empty for none.
    type: str
    required: true
  keys:
    description: The public keys, a line each.
    type: list
    elements: str
    default: []
  logins:
    description: The users that this run may have logged in as.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Tells what would change.
  diff_mode:
    support: full
    description: Shows the files of keys, and accounts that are made or locked.
"""

EXAMPLES = r"""
- name: Let the admin in
  admin_accounts:
    name: anna
    keys: ["ssh-ed25519 AAAA… anna@laptop"]
    logins: [root]
"""

RETURN = r"""
sudo:
  description: Who may become root.
  type: list
  elements: str
  returned: always
notes:
  description: What is left as it is, a sentence each.
  type: list
  elements: str
  returned: always
"""

COMMENT, SHELL, GROUPS = "Berth admin", "/bin/bash", ("adm", "sudo")
# The first day there was: an account that has expired is refused, whatever the key.
EXPIRED = "1"
_WRITE = """
import os, sys, tempfile
path = sys.argv[1]
os.umask(0o077)
os.makedirs(os.path.dirname(path), exist_ok=True)
number, name = tempfile.mkstemp(dir=os.path.dirname(path))
with os.fdopen(number, "w") as file:
    file.write(sys.stdin.read())
os.replace(name, path)
"""


class Accounts:
    """What is done to accounts, or in check mode what would be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.diff: list[dict[str, str]] = []
        self.notes: list[str] = []

    def tell(self, what: str, before: str, after: str) -> None:
        self.diff.append({"before_header": what, "after_header": what, "before": before, "after": after})

    def command(self, *words: str) -> None:
        if self.module.check_mode:
            return
        code, out, err = self.module.run_command(list(words))
        if code != 0:
            self.module.fail_json(msg=f"{' '.join(words)} failed: {(err or out).strip() or code}")

    def as_user(self, entry: pwd.struct_passwd, *words: str, text: str = "") -> str:
        """A program that meets another user's files has no more rights than that user."""
        try:
            done = subprocess.run(
                words, input=text, capture_output=True, text=True, errors="surrogateescape", timeout=30,
                check=False, user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], cwd="/",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self.module.fail_json(msg=f"The keys of {entry.pw_name} ({words[-1]}) cannot be read: no file?")
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]
            self.module.fail_json(msg=f"The keys of {entry.pw_name} ({words[-1]}) cannot be changed: {said}")
        return done.stdout

    def account(self, name: str) -> None:
        """The account as an admin has it."""
        entry = account_of(name)
        if entry is None:
            self.tell(f"account {name}", "", "active\n")
            self.command("useradd", "-m", "-s", SHELL, "-c", COMMENT, "-G", ",".join(GROUPS), name)
            return
        words = []
        if entry.pw_shell != SHELL:
            words += ["-s", SHELL]
        if entry.pw_gecos != COMMENT:
            words += ["-c", COMMENT]
        if lacking := [group for group in GROUPS if name not in members(group)]:
            words += ["-a", "-G", ",".join(lacking)]
        if words:
            self.tell(f"account {name}", "as it was\n", f"usermod {' '.join(words)}\n")
            self.command("usermod", *words, name)

    def keys(self, name: str, wanted: list[str], mine: set[str]) -> None:
        """The file of a user's keys, with what is wanted and without what Berth put there before."""
        entry = account_of(name)
        home = entry.pw_dir if entry else f"/home/{name}"
        path = f"{home}/.ssh/authorized_keys"
        # Not there is empty, and so is what its user cannot read either.
        before = (
            self.as_user(entry, "sh", "-c", 'test ! -f "$0" || head -c 1048576 "$0"', path) if entry else ""
        )
        after, others = admins.edit(before, wanted, mine)
        if before != after:
            self.tell(path, before, after)
            if not self.module.check_mode and entry:
                self.as_user(entry, "/usr/bin/python3", "-I", "-c", _WRITE, path, text=after)
        if others:
            them = "a key" if len(others) == 1 else f"{len(others)} keys"
            self.notes.append(
                f"{name} has {them} that Berth did not put there: {', '.join(others)} ({path})."
            )

    def lock(self, name: str) -> None:
        """Nobody gets in as this user any more; all that is the user's stays."""
        words = []
        if expiry(name) != EXPIRED:
            self.tell(f"account {name}", "active\n", "locked\n")
            words = ["usermod", "--expiredate", EXPIRED, name]
        for group in GROUPS:
            if name in members(group):
                self.command("gpasswd", "-d", name, group)
        if words:
            self.command(*words)


def account_of(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def members(group: str) -> list[str]:
    try:
        return list(grp.getgrnam(group).gr_mem)
    except KeyError:
        return []


def expiry(name: str) -> str:
    """The day an account ends, as /etc/shadow has it; empty for never."""
    for line in Path("/etc/shadow").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 7:
            return fields[7]
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "logins": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    name, wanted = module.params["name"], module.params["keys"]
    accounts = Accounts(module)
    known = admins.recorded()
    after = {user: dict(entry) for user, entry in known.items()}
    if name:
        mine = known.get(name, {})
        made = bool(mine.get("made")) or account_of(name) is None
        after[name] = {"keys": sorted({admins.fingerprint(line) for line in wanted}), "made": made}
        # First, and with what goes: a run that is cut off must not forget what it put there.
        both = {*mine.get("keys", []), *after[name]["keys"]}
        record(module, {**known, name: {"keys": sorted(both), "made": made}})
        accounts.account(name)
        if after[name]["made"] and expiry(name) == EXPIRED:
            accounts.tell(f"account {name}", "locked\n", "active\n")
            accounts.command("usermod", "--expiredate", "", name)
        accounts.keys(name, wanted, set(mine.get("keys", [])))
    sudo = [name] if name else []
    for user in admins.present(known):
        if user == name:
            continue
        if user in module.params["logins"]:
            sudo.append(user)
            accounts.notes.append(
                f"{user} is no admin any more, but this run logs in as {user}: set ansible_user to another "
                "user and run again, which ends it."
            )
            continue
        if account_of(user):
            accounts.keys(user, [], set(known[user].get("keys", [])))
            if known[user].get("made"):
                accounts.lock(user)
        accounts.tell(f"admin {user}", "sudo\n", "")
        accounts.notes.append(f"{user} is no admin any more: {ended(known[user])}.")
        after[user] = {**known[user], "keys": [], "gone": True}
    changed = bool(accounts.diff)
    record(module, after)
    module.exit_json(changed=changed, sudo=sorted(sudo), notes=accounts.notes, diff=accounts.diff)


def ended(entry: dict[str, Any]) -> str:
    """What became of a former admin."""
    if entry.get("made"):
        return "sudo and keys are taken away, and the account is locked (usermod --expiredate '' opens it)"
    return (
        "sudo and the keys that Berth put there are taken away; the account was there before Berth, and stays"
    )


def record(module: AnsibleModule, known: dict[str, dict[str, Any]]) -> None:
    text = json.dumps(known, indent=2, sort_keys=True) + "\n"
    if module.check_mode or (admins.RECEIPT.is_file() and admins.RECEIPT.read_text() == text):
        return
    admins.RECEIPT.parent.mkdir(parents=True, exist_ok=True)
    journal.replace_text(admins.RECEIPT, text, 0o600)


if __name__ == "__main__":
    main()
