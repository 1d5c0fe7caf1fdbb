#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Make a running PostgreSQL cluster use its configuration files, and survive bad ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_apply
short_description: Run a PostgreSQL cluster with the configuration on disk, and undo what it refuses
description:
  - Starts the server where it is down. Where a file is newer than what the server has loaded, whoever changed
    it, asks the server what it thinks of the files before they count, reloads, and restarts only when
    C(pg_settings.pending_restart) names a setting. No module of a collection does that, and a handler would
    be forgotten by a run that is interrupted.
  - Where the server refuses the files or does not come up again, the former files are put back, it runs with
    them again, and the task fails with the cause.
author: Berth (@berth)
options:
  version:
    description: Major version of the cluster C(main).
    type: int
    required: true
  files:
    description: Files that this run changed, each with a backup of its former content, empty if it had none.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file.
        type: path
        required: true
      backup:
        description: Its former content; removed when all is well.
        type: str
        default: ""
attributes:
  check_mode:
    support: full
    description: Tells what would be done, except which settings need a restart.
"""

EXAMPLES = r"""
- name: Apply the configuration of PostgreSQL
  postgresql_apply:
    version: 17
"""

RETURN = r"""
actions:
  description: What was, or would be, done, in plain words.
  type: list
  elements: str
  returned: always
restarted_for:
  description: The settings for which the server was restarted.
  type: list
  elements: str
  returned: always
"""

import shutil  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.services.superuser import UnreachableError, connect, one_line, rows  # noqa: E402

WAIT = 30.0
CONF = "50-berth.conf"
HBA = "pg_hba.berth.conf"


class RefusedError(Exception):
    """The server does not take the configuration; the text says why."""


def complaints(connection: Any) -> list[str]:
    """What the server says about the files as they are now on disk."""
    # A setting that needs a restart is listed as an error too; those are left out, and so are those that need
    # it because they stand in no file any more.
    settings = rows(
        connection,
        "select f.sourcefile, f.sourceline, coalesce(f.name, ''), f.error from pg_file_settings f"
        " left join pg_settings s on lower(s.name) = lower(f.name)"
        " where f.error is not null and f.sourcefile is not null and s.context is distinct from 'postmaster'",
    )
    hba = rows(connection, "select line_number, error from pg_hba_file_rules where error is not null")
    return [f"{path} line {line}: {name} {error}" for path, line, name, error in settings] + [
        f"pg_hba line {line}: {error}" for line, error in hba
    ]


def reload(connection: Any) -> list[str]:
    """Reload, wait until it has happened, and name the settings that wait for a restart."""
    ((before,),) = rows(connection, "select pg_conf_load_time()")
    rows(connection, "select pg_reload_conf()")
    end = time.monotonic() + WAIT
    while rows(connection, "select pg_conf_load_time()")[0][0] <= before:
        if time.monotonic() > end:
            raise RefusedError("the server does not react to a reload")
        time.sleep(0.02)
    return [
        str(name)
        for (name,) in rows(connection, "select name from pg_settings where pending_restart order by 1")
    ]


class Log:
    """What the server writes from now on."""

    def __init__(self, version: int) -> None:
        self.path = Path(f"/var/log/postgresql/postgresql-{version}-main.log")
        self.start = self.path.stat().st_size if self.path.exists() else 0

    def reasons(self) -> str:
        """Why it did not start."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return f"{self.path} cannot be read"
        telling = [line.split("  ", 1)[-1] for line in lines if "FATAL:" in line or "HINT:" in line]
        return "; ".join(dict.fromkeys(telling)) or f"see {self.path}"


def systemctl(module: AnsibleModule, verb: str, version: int) -> None:
    """Start or restart, and wait for the first connection."""
    log = Log(version)
    code, _, _ = module.run_command(["systemctl", verb, f"postgresql@{version}-main.service"])
    if code != 0:
        raise RefusedError(f"the server does not start: {log.reasons()}")
    end = time.monotonic() + WAIT
    while True:
        try:
            connect("postgres").close()
        except UnreachableError as error:
            if time.monotonic() > end:
                raise RefusedError(f"the server does not answer: {error}") from error
            time.sleep(0.1)
        else:
            return


def put_back(files: list[dict[str, str]]) -> None:
    """Undo the change of the files."""
    for file in files:
        if file["backup"]:
            shutil.move(file["backup"], file["path"])
        else:
            Path(file["path"]).unlink(missing_ok=True)


def is_stale(connection: Any, version: int) -> bool:
    """Whether a file is newer than what is loaded, or one of Berth's settings still waits for a restart."""
    folder = Path(f"/etc/postgresql/{version}/main")
    ((loaded,),) = rows(connection, "select extract(epoch from pg_conf_load_time())::float8")
    files = [folder / "postgresql.conf", folder / HBA, *folder.glob("conf.d/*.conf")]
    if any(file.stat().st_mtime > loaded for file in files if file.exists()):
        return True
    # Not any pending_restart: somebody may have a reason to wait with what they set elsewhere.
    waiting = rows(
        connection,
        "select from pg_file_settings f join pg_settings s using (name)"
        " where s.pending_restart and f.sourcefile = %s",
        [str(folder / "conf.d" / CONF)],
    )
    return bool(waiting)


def apply(module: AnsibleModule, version: int) -> list[str]:
    """Reload and, if need be, restart; the settings that needed it."""
    connection = connect("postgres")
    try:
        problems = complaints(connection)
        if problems:
            raise RefusedError("; ".join(problems))
        waiting = reload(connection)
    finally:
        connection.close()
    if waiting:
        systemctl(module, "restart", version)
    return waiting


def recover(module: AnsibleModule, version: int, files: list[dict[str, str]]) -> str:
    """Put the former files back and make the server use them; what came of it."""
    put_back(files)
    try:
        try:
            apply(module, version)
        except UnreachableError:
            systemctl(module, "restart", version)
    except (RefusedError, UnreachableError) as error:
        return f"The former configuration is back, but {one_line(error)}."
    return "The former configuration is back and the server runs with it."


def converge(module: AnsibleModule, version: int, changed: bool) -> tuple[list[str], list[str]]:
    """What was or would be done, and the settings that needed a restart."""
    actions: list[str] = []
    try:
        connection = connect("postgres")
    except UnreachableError:
        actions.append("start the server")
        if module.check_mode:
            return actions, []
        systemctl(module, "start", version)
        connection = connect("postgres")
    try:
        stale = changed or is_stale(connection, version)
    finally:
        connection.close()
    if not stale:
        return actions, []
    actions.append("load the configuration")
    if module.check_mode:
        return actions, []
    waiting = apply(module, version)
    if waiting:
        actions.append(f"restart for {', '.join(waiting)}")
    return actions, waiting


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "int", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "backup": {"type": "str", "default": ""},
                },
            },
        },
        supports_check_mode=True,
    )
    version, files = module.params["version"], module.params["files"]
    try:
        actions, waiting = converge(module, version, bool(files))
    except (RefusedError, UnreachableError) as refused:
        outcome = recover(module, version, files) if files else "Nothing was changed by this run."
        module.fail_json(
            msg=f"PostgreSQL refuses its configuration: {one_line(refused)}. {outcome}"
            " Correct postgresql_settings and run again."
        )
    if module.check_mode:
        module.exit_json(changed=bool(actions), actions=actions, restarted_for=[])
    # Also those of runs whose file did not pass its check.
    for file in files:
        path = Path(file["path"])
        for backup in path.parent.glob(f"{path.name}.*~"):
            backup.unlink(missing_ok=True)
    module.exit_json(changed=bool(actions), actions=actions, restarted_for=waiting)


if __name__ == "__main__":
    main()
