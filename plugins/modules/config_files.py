#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Write several configuration files in one round trip: all are checked, and then all are written."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Write the configuration files of a service, all checked before the first is written
description:
  - Compares content, owner and mode of each file with what is wanted, and writes what differs. A file appears
    whole or not at all, with its owner and mode, and is on disk before it has its name.
  - M(ansible.builtin.template) needs two round trips for each file, and has written the first of two when the
    second is refused. This needs one for all of them; round trips are most of a run that changes nothing.
  - It is for files below folders that only root can write.
author: Berth (@berth)
options:
  files:
    description: The files, in the order in which they are written.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where the file is. Its folder is made (0755, root) where it is missing.
        type: path
        required: true
      content:
        description: The whole text.
        type: str
        required: true
      mode:
        description: Permissions, in octal digits.
        type: str
        default: "0644"
      owner:
        description: The user whose file it is.
        type: str
        default: root
      group:
        description: The group of the file. Check mode may name one that is not there yet.
        type: str
        default: root
      follow:
        description: Write what a symbolic link points to instead of the link's place.
        type: bool
        default: false
      backup:
        description: Keep the former content beside the file; RV(files[].backup) says where.
        type: bool
        default: false
      validate:
        description: A command that refuses bad content, with C(%s) for a file that holds it.
        type: str
        default: ""
attributes:
  check_mode:
    support: full
    description: Says what would be written, unchecked, since the program that checks may not be there yet.
  diff_mode:
    support: full
    description: Shows each file before and after.
"""

EXAMPLES = r"""
- name: Limit the journal
  config_files:
    files:
      - path: /etc/systemd/journald.conf.d/50-example.conf
        content: "{{ lookup('ansible.builtin.template', 'journald.conf.j2') }}"
"""

RETURN = r"""
files:
  description: Every file as it is now, or would be; C(path), C(changed), C(sha1) of the content, C(backup).
  type: list
  elements: dict
  returned: success
"""

import grp  # noqa: E402
import hashlib  # noqa: E402
import pwd  # noqa: E402
import stat  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.store.journal import replace_text  # noqa: E402


def ids(file: dict[str, Any]) -> tuple[int, int] | None:
    """The numbers of owner and group; nothing where one of them is unknown here."""
    try:
        return pwd.getpwnam(file["owner"]).pw_uid, grp.getgrnam(file["group"]).gr_gid
    except KeyError:
        return None


def former(path: Path) -> str | None:
    """What the file holds; nothing where there is no plain file."""
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def wrong(path: Path, before: str | None, file: dict[str, Any], owners: tuple[int, int] | None) -> bool:
    """Whether content, owner or mode differ from what is wanted."""
    if before is None or before != file["content"]:
        return True
    state = path.lstat()
    found = (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid)
    return owners is None or found != (int(file["mode"], 8), *owners)


def refuse(module: AnsibleModule, file: dict[str, Any]) -> None:
    """Fails in the words of the program that checks such files, if it does not take this one."""
    with tempfile.NamedTemporaryFile("w", dir=module.tmpdir, suffix=Path(file["path"]).suffix) as candidate:
        candidate.write(file["content"])
        candidate.flush()
        code, out, err = module.run_command(file["validate"].replace("%s", candidate.name))
    if code != 0:
        module.fail_json(
            msg=f"{file['path']} would not be valid: {(err or out).strip()}", rc=code, stdout=out, stderr=err
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "follow": {"type": "bool", "default": False},
                    "backup": {"type": "bool", "default": False},
                    "validate": {"type": "str", "default": ""},
                },
            },
        },
        supports_check_mode=True,
    )
    told: list[dict[str, Any]] = []
    stale: list[tuple[dict[str, Any], Path, str | None, tuple[int, int] | None]] = []
    diff = []
    for file in module.params["files"]:
        path = Path(file["path"])
        path = path.resolve() if file["follow"] else path
        before, owners = former(path), ids(file)
        if owners is None and not module.check_mode:
            module.fail_json(
                msg=f"{file['path']}: there is no user {file['owner']} or no group {file['group']} here."
            )
        changed = wrong(path, before, file, owners)
        sha1 = hashlib.sha1(file["content"].encode(), usedforsecurity=False).hexdigest()
        told.append({"path": file["path"], "changed": changed, "sha1": sha1, "backup": ""})
        if changed:
            stale.append((file, path, before, owners))
            diff.append(
                {
                    "before_header": file["path"],
                    "after_header": file["path"],
                    "before": before or "",
                    "after": file["content"],
                }
            )
    if not module.check_mode:
        for file, _, before, _ in stale:
            if file["validate"] and before != file["content"]:
                refuse(module, file)
        for file, path, before, owners in stale:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            if file["backup"] and before is not None:
                entry = next(one for one in told if one["path"] == file["path"])
                entry["backup"] = module.backup_local(str(path))
            replace_text(path, file["content"], int(file["mode"], 8), *(owners or (0, 0)))
    module.exit_json(changed=bool(stale), files=told, diff=diff)


if __name__ == "__main__":
    main()
