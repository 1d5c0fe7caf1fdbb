#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Change how people get in to a server, to be put back unless a new login proves it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guard
short_description: Change files that can lock people out, and put them back unless a new login proves it
description:
  - C(applied) keeps a picture of the files, starts a timer that brings them back, writes the new ones, checks
    them, and has them read. Then a new login has to prove the change (the action C(login_proof)), and C(kept)
    makes it stay.
  - Where the proof does not come, C(reverted) puts the old files back at once. Where nothing comes at all,
    since the run was killed or is itself locked out, the timer does; where the power goes away, the next boot
    does, before anybody can log in (C(berth-guard.service)).
  - Files that are as wanted already are left alone, and need no proof. One that an earlier run left unproved
    is put back first, and written anew.
  - The state is in C(/var/lib/berth/guard), root's alone.
author: Berth (@berth)
options:
  name:
    description: What is changed, a word. Changes of one name wait for each other.
    type: str
    required: true
  state:
    description: C(applied) first, then C(kept) or C(reverted).
    type: str
    choices: [applied, kept, reverted]
    required: true
  files:
    description: The files, for C(applied). Their folders are root's alone; missing ones are made (0755).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file is.
        type: path
        required: true
      content:
        description: The whole text; without it there shall be no such file.
        type: str
      mode:
        description: Permissions, in octal digits.
        type: str
        default: "0644"
  checks:
    description: What the new files have to stand before anything reads them.
    type: list
    elements: dict
    default: []
    suboptions:
      command:
        description: A command that fails where they are wrong.
        type: list
        elements: str
        required: true
      lines:
        description: Lines that it has to print, in any case of letters.
        type: list
        elements: str
        default: []
      hint:
        description: What to do where one is missing.
        type: str
        default: ""
  reload:
    description: Commands that make the server go by what the files say, or by their absence.
    type: list
    elements: list
    default: []
  live:
    description: A command that fails where the server goes by the files no more, which are then read again.
    type: list
    elements: str
    default: []
  seconds:
    description: After how many seconds the timer puts the old files back.
    type: int
    default: 120
  token:
    description: For C(kept) and C(reverted), what C(applied) returned.
    type: str
    default: ""
  why:
    description: For C(reverted), what the proof said.
    type: str
    default: ""
  log:
    description: For C(reverted), a command whose last lines tell what went wrong.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Says what would be written, unchecked.
  diff_mode:
    support: full
    description: Shows each file before and after.
"""

EXAMPLES = r"""
- name: Change how sshd is set up
  guard:
    name: ssh
    state: applied
    files:
      - path: /etc/ssh/sshd_config.d/00-example.conf
        content: "{{ lookup('ansible.builtin.template', 'sshd.conf.j2') }}"
    checks:
      - command: [/usr/sbin/sshd, -t]
    reload:
      - [systemctl, reload, ssh.service]
"""

RETURN = r"""
token:
  description: Names the change that has to be proved; empty where nothing was changed.
  type: str
  returned: applied
notes:
  description: What became of an earlier change, a sentence each.
  type: list
  elements: str
  returned: applied
log:
  description: The last lines of what went wrong.
  type: str
  returned: reverted
"""

import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.host.command import module_source  # noqa: E402
from ansible.module_utils.berth.payload import guard as program  # noqa: E402

UNIT = Path("/etc/systemd/system/berth-guard.service")
UNIT_TEXT = """\
# Ansible managed
[Unit]
Description=Berth: put back how people get in, where the power went away before a login had proved a change
DefaultDependencies=no
RequiresMountsFor=/etc /usr/local/lib/berth /var/lib/berth
After=local-fs.target
Before=berth-firewall.service network-pre.target ssh.service ssh.socket shutdown.target
Conflicts=shutdown.target
ConditionPathExistsGlob=/var/lib/berth/guard/*/pending

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -I /usr/local/lib/berth/guard.py boot

[Install]
WantedBy=sysinit.target
"""


def picture_of(file: dict[str, Any]) -> dict[str, Any]:
    """What is wanted, as the program has it."""
    if file["content"] is None:
        return {"path": file["path"], "content": None}
    content = program.base64.b64encode(file["content"].encode()).decode()
    return {
        "path": file["path"], "content": content, "mode": int(file["mode"], 8), "uid": os.geteuid(),
        "gid": os.getegid(),
    }  # fmt: skip


def text_of(picture: dict[str, Any]) -> str:
    """A picture's content, for people who look at a difference."""
    content: bytes = program.base64.b64decode(picture["content"] or "")
    return content.decode(errors="replace")


def problem_of(checks: list[dict[str, Any]]) -> str:
    """What is wrong with the files that are there now; empty where nothing is."""
    for check in checks:
        status, said = program.run(check["command"])
        if status != 0:
            return f"`{' '.join(check['command'])}` refuses it: {' '.join(said.split())[:400]}"
        found = {line.strip().lower() for line in said.splitlines()}
        for line in check["lines"]:
            if line.lower() not in found:
                key = line.split()[0].lower()
                instead = next((one for one in sorted(found) if one.split()[:1] == [key]), "nothing of it")
                return f"the server would go by `{instead}` and not by `{line}`. {check['hint']}".strip()
    return ""


def installed() -> bool:
    """Have the program and its boot hook on the disk; whether they were not."""
    files = ((program.PROGRAM, module_source(program)), (UNIT, UNIT_TEXT))
    stale = [(path, text) for path, text in files if not path.is_file() or path.read_text() != text]
    enabled = program.run(["systemctl", "is-enabled", UNIT.name])[0] == 0
    for path, text in stale:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        program.put(path, text.encode(), 0o644, 0, 0)
    if not stale and enabled:
        return False
    for command in (["systemctl", "daemon-reload"], ["systemctl", "enable", "--quiet", UNIT.name]):
        status, said = program.run(command)
        if status != 0:
            raise program.GuardError(f"`{' '.join(command)}` failed: {program.last_line(said)}")
    for folder in UNIT.parent.glob("*.wants"):
        program.sync(folder)
    return True


def apply(module: AnsibleModule, guard: program.Guard) -> dict[str, Any]:
    """What `applied` returns."""
    wanted = [picture_of(file) for file in module.params["files"]]
    unproved = guard.unproved()
    # Before what is unproved: that is what a change of now is compared with.
    before = {file["path"]: program.picture(Path(file["path"])) for file in wanted}
    before |= {file["path"]: file for file in (unproved or {"files": []})["files"] if file["path"] in before}
    diff = [
        {
            "before_header": file["path"],
            "after_header": file["path"],
            "before": text_of(before[file["path"]]),
            "after": text_of(file),
        }
        for file in wanted
        if before[file["path"]] != file
    ]
    live = module.params["live"]
    drifted = bool(live) and program.run(live)[0] != 0
    result: dict[str, Any] = {
        "changed": bool(diff or drifted or unproved),
        "token": "",
        "notes": [],
        "diff": diff,
    }
    if module.check_mode or not result["changed"]:
        return result
    if unproved:
        result["notes"].append(
            f"An earlier run changed {guard.name} and ended before a new login had proved it; "
            "it was put back first."
        )
    elif guard.told().get("state") == "reverted":
        result["notes"].append(f"The last change of {guard.name} was put back: {guard.told()['why']}.")
    installed()
    result["token"] = guard.apply(
        wanted,
        module.params["reload"],
        check=lambda: problem_of(module.params["checks"]),
        seconds=module.params["seconds"],
    )
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "required": True, "choices": ["applied", "kept", "reverted"]},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "mode": {"type": "str", "default": "0644"},
                },
            },
            "checks": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "command": {"type": "list", "elements": "str", "required": True},
                    "lines": {"type": "list", "elements": "str", "default": []},
                    "hint": {"type": "str", "default": ""},
                },
            },
            "reload": {"type": "list", "elements": "list", "default": []},
            "live": {"type": "list", "elements": "str", "default": []},
            "seconds": {"type": "int", "default": 120},
            "token": {"type": "str", "default": "", "no_log": False},
            "why": {"type": "str", "default": ""},
            "log": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    guard = program.Guard(module.params["name"])
    token = module.params["token"]
    try:
        if module.params["state"] == "applied":
            module.exit_json(**apply(module, guard))
        if module.check_mode:
            module.exit_json(changed=False, log="")
        if module.params["state"] == "kept":
            guard.keep(token)
            module.exit_json(changed=False)
        changed = guard.revert(token, module.params["why"])
        guard.disarm(token)
        log = module.params["log"]
        module.exit_json(changed=changed, log=program.run(log)[1] if log else "")
    except program.GuardError as error:
        module.fail_json(msg=f"How people get in ({guard.name}) is as it was: {error}.")
    except OSError as error:
        module.fail_json(msg=f"How people get in ({guard.name}) cannot be changed: {error}.")


if __name__ == "__main__":
    main()
