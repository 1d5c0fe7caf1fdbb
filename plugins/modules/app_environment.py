#!/usr/bin/python
"""Writes what apps get as environment, and keeps their secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_environment
short_description: Writes secrets.json, env and migrate.env of every app
description:
  - Generates the secrets marked C(generate) once, stores those of the vault, and reads the passwords of the
    app's database roles from C(/etc/berth/postgresql), and those of its Redis from C(/etc/berth/redis).
  - Writes C(/etc/berth/<app>/env) for the running app and C(migrate.env) with the owner role for migrations,
    in the format of systemd's C(EnvironmentFile), in which any character of any value arrives unchanged.
  - Values never appear in its result or its diff, only names.
options:
  apps:
    description: Resolved apps.
    type: list
    elements: dict
    required: true
  vault:
    description: Secrets by app name.
    type: dict
    required: true
author: Berth
"""

EXAMPLES = r"""
- name: Write environments and secrets
  app_environment:
    apps: "{{ app_apps }}"
    vault: "{{ app_vault }}"
"""

RETURN = r"""
apps:
  description: Names of the apps of which something changed.
  type: list
  returned: always
"""

import grp  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth import environment  # noqa: E402
from ansible.module_utils.berth.errors import ReleaseError  # noqa: E402
from ansible.module_utils.berth.paths import Paths  # noqa: E402
from ansible.module_utils.berth.services import table as services  # noqa: E402
from ansible.module_utils.berth.store import journal, settings  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402


def files_of(app: dict[str, Any], vault: dict[str, Any], check: bool) -> dict[str, tuple[str, int, int]]:
    """Name, text, mode and group of every file in /etc/berth/<app>."""
    paths = Paths(app["name"])
    try:
        stored = json.loads((paths.etc / "secrets.json").read_text())
    except (OSError, ValueError):
        stored = {}
    secrets, _ = environment.merge_secrets(app, vault, stored)
    try:
        group = grp.getgrnam(app["name"]).gr_gid
    except KeyError:
        if not check:
            raise ReleaseError(f"The group {app['name']} does not exist.") from None
        group = 0
    runtime = services.given(app, check=check)
    owner = services.given(app, owner=True, check=check)
    for_migrations = environment.render(environment.variables(app, secrets, *owner, migrate=True))
    texts = {
        "secrets.json": (json.dumps(secrets, indent=2, sort_keys=True, ensure_ascii=False) + "\n", 0o600, 0),
        "env": (environment.render(environment.variables(app, secrets, *runtime)), 0o640, group),
        "migrate.env": (for_migrations, 0o600, 0),
        # For an app that creates its tables itself: its own variables, and the role that may.
        "owner.env": (environment.render(environment.variables(app, secrets, *owner)), 0o600, 0),
    }
    texts["provisioned.json"] = (json.dumps(settings.provisioned(app), sort_keys=True) + "\n", 0o644, 0)
    return texts


def masked(text: str) -> str:
    """Only the names: which variables there are is no secret."""
    try:
        return "".join(f"{name}=(hidden)\n" for name in sorted(environment.parse(text)))
    except (ValueError, IndexError):
        return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "apps": {"type": "list", "elements": "dict", "required": True},
            "vault": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    changed, diff = [], []
    if not module.check_mode:
        settings.adopt(app["name"] for app in module.params["apps"])
    for app in module.params["apps"]:
        name = app["name"]
        paths = Paths(name)
        try:
            files = files_of(app, (module.params["vault"] or {}).get(name) or {}, module.check_mode)
        except ReleaseError as error:
            module.fail_json(msg=error.text())
        for file, (text, mode, group) in files.items():
            path = paths.etc / file
            try:
                before = path.read_text()
                state = path.stat()
                same = before == text and (state.st_mode & 0o7777, state.st_uid, state.st_gid) == (
                    mode,
                    0,
                    group,
                )
            except OSError:
                before, same = "", False
            if same:
                continue
            changed.append(name)
            if file.endswith("env"):
                diff.append(
                    {"before_header": str(path), "after_header": str(path), "before": masked(before),
                     "after": masked(text)}
                )  # fmt: skip
            if not module.check_mode:
                os.makedirs(paths.etc, mode=0o750, exist_ok=True)  # noqa: PTH103
                journal.replace_text(path, text, mode, 0, group)
    module.exit_json(changed=bool(changed), apps=sorted(set(changed)), diff=diff)


if __name__ == "__main__":
    # Two runs may be given all apps at once: one reads, compares and writes at a time.
    with hostwide():
        main()
