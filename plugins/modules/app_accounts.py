#!/usr/bin/python
"""Users, groups and folders of all apps, as systemd's own declarations."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_accounts
short_description: Declares users, groups and folders to systemd, and applies them
description:
  - Writes one file each for systemd-sysusers and systemd-tmpfiles, and runs the program when its file
    changed or something that it declares is missing or has another mode.
  - At boot systemd applies the same files again, which brings back what lives in C(/run).
options:
  name:
    description: Name of both files, without their ending.
    type: str
    required: true
  sysusers:
    description: Content for C(/etc/sysusers.d).
    type: str
    required: true
  tmpfiles:
    description: Content for C(/etc/tmpfiles.d).
    type: str
    required: true
  apps:
    description:
      - Names of the apps that are known. What is declared for another one that is still on the server stays
        declared, or its units would fail after a reboot.
    type: list
    elements: str
    default: []
  gone_users:
    description: Users that older versions made, and nobody needs any more.
    type: list
    elements: str
    default: []
  gone_folders:
    description: Folders of theirs.
    type: list
    elements: path
    default: []
author: Berth
"""

EXAMPLES = r"""
- name: Create users and folders
  app_accounts:
    name: 50-berth-apps
    sysusers: "{{ lookup('ansible.builtin.template', 'sysusers.conf.j2') }}"
    tmpfiles: "{{ lookup('ansible.builtin.template', 'tmpfiles.conf.j2') }}"
"""

RETURN = r"""
missing:
  description: Users, groups and folders that were missing or different.
  type: list
  returned: always
"""

import grp  # noqa: E402
import pwd  # noqa: E402
import shlex  # noqa: E402
import shutil  # noqa: E402
import stat  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.paths import Paths  # noqa: E402
from ansible.module_utils.berth.store import journal, presence  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402


def declared(text: str) -> list[list[str]]:
    """The lines of a declaration, as words."""
    return [shlex.split(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def kept(before: str, apps: list[str]) -> str:
    """The lines of a declaration that belong to these apps."""
    subjects = set()
    for paths in map(Paths, apps):
        subjects |= {paths.app, paths.build_user}
        folders = (paths.base, paths.etc, paths.state, paths.build_home, paths.git, paths.sockets, paths.run)
        subjects |= {str(folder) for folder in folders}
    bases = tuple(f"/srv/{app}/" for app in apps)
    lines = []
    for line in before.splitlines():
        for _, subject, *_ in declared(line):
            if subject in subjects or subject.startswith(bases):
                lines.append(line)
    if not lines:
        return ""
    return "\n# Still on this server, and named by no inventory any more.\n" + "".join(
        f"{line}\n" for line in lines
    )


def missing_accounts(text: str) -> list[str]:
    missing = []
    for kind, name, *_ in declared(text):
        try:
            grp.getgrnam(name) if kind == "g" else pwd.getpwnam(name)
        except KeyError:
            missing.append(name)
    return missing


def wrong_folders(text: str) -> list[str]:
    """Folders that are not there or not as declared, and files that are not."""
    wrong = []
    for kind, pattern, mode, user, group, *_ in declared(text):
        # `z` is about what matches now, `d` about a folder that has to be there.
        found = map(str, Path("/").glob(pattern[1:])) if kind == "z" else [pattern]
        for path in found:
            try:
                state = Path(path).lstat()
                wanted = (int(mode, 8), pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
            except (OSError, KeyError):
                wrong.append(path)
                continue
            right = kind == "z" or stat.S_ISDIR(state.st_mode)
            if not right or (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid) != wanted:
                wrong.append(path)
    return wrong


def remove(module: AnsibleModule, users: list[str], folders: list[str]) -> list[str]:
    """Take away what is there of them, folders first: a user that owns something is not gone."""
    there = [folder for folder in folders if Path(folder).is_dir() and not Path(folder).is_symlink()]
    known = {entry.pw_name for entry in pwd.getpwall()}
    gone = [user for user in users if user in known]
    if not module.check_mode:
        for folder in there:
            shutil.rmtree(folder)
        for user in gone:
            code, out, err = module.run_command(["userdel", user])
            if code != 0:
                module.fail_json(
                    msg=f"The user {user} of an older version cannot be removed: {(err + out).strip()}"
                )
    return there + gone


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "sysusers": {"type": "str", "required": True},
            "tmpfiles": {"type": "str", "required": True},
            "apps": {"type": "list", "elements": "str", "default": []},
            "gone_users": {"type": "list", "elements": "str", "default": []},
            "gone_folders": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    diff, stale = [], []
    steps = (
        ("sysusers", ["systemd-sysusers"], missing_accounts),
        ("tmpfiles", ["systemd-tmpfiles", "--create"], wrong_folders),
    )
    missing: list[str] = []
    orphans = presence.unnamed(module.params["apps"])
    for kind, command, look in steps:
        text: str = module.params[kind]
        path = Path(f"/etc/{kind}.d/{module.params['name']}.conf")
        before = path.read_text() if path.is_file() else ""
        text += kept(before, orphans)
        absent = look(text)
        missing += absent
        if before == text and not absent:
            continue
        stale.append(kind)
        diff.append({"before_header": str(path), "after_header": str(path), "before": before, "after": text})
        if module.check_mode:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.replace_text(path, text, 0o644)
        code, out, err = module.run_command([*command, str(path)])
        left = look(text)
        if left:
            said = [line for line in (err + out).splitlines() if line.strip()] or [f"exit status {code}"]
            module.fail_json(msg=f"{command[0]} did not create {', '.join(left)}: {said[0]}")
    left_over = remove(module, module.params["gone_users"], module.params["gone_folders"])
    if left_over:
        diff.append(
            {"before_header": "left over", "before": "".join(f"{one}\n" for one in left_over), "after": ""}
        )
    module.exit_json(changed=bool(stale or left_over), missing=missing, diff=diff)


if __name__ == "__main__":
    # Two runs may be given all apps at once: one reads, compares and writes at a time.
    with hostwide():
        main()
