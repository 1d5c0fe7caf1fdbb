#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Whether a PostgreSQL server is archived or backed up by somebody else already."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_takeover
short_description: Refuse to take a server over that somebody else archives or backs up
description:
  - A server has one C(archive_command). Who sets another one ends the backups that the former one fed, and no
    one notices. This fails with a sentence where there is such a one, or a configuration of pgBackRest's,
    that is not Berth's. A server that does not answer, or is not there yet, is nobody's.
  - Changes nothing, and shows of the command its program alone, since it may have secrets in it.
options:
  archive_command:
    description: Berth's. Empty asks nothing.
    type: str
    required: true
  socket:
    description: The folder of the server's socket.
    type: path
    default: /var/run/postgresql
  port:
    description: The port that names it.
    type: int
    default: 5432
author: Berth (@berth)
attributes:
  check_mode:
    support: full
    description: Reads only.
"""

EXAMPLES = r"""
- name: Refuse to take over what archives the server already
  backup_takeover:
    archive_command: pgbackrest --stanza=main archive-push "%p"
"""

RETURN = r""" # """

import re  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

MARK = "# Ansible managed"
OURS = Path("/etc/pgbackrest/pgbackrest.conf")
# Where pgBackRest looks next, and Debian's package has it; it is ignored as soon as there is ours.
DEBIANS = Path("/etc/pgbackrest.conf")
# What role postgresql writes, whichever command an earlier Berth had.
DROP_IN = "/conf.d/50-berth.conf"
KEEP = "Nothing was changed. To keep it, set server.backup.enabled to false"
QUERY = (
    "select name, coalesce(sourcefile, ''), setting from pg_settings where name in "
    "('archive_mode', 'archive_command', 'archive_library') order by name"
)


def archived_by_others(answer: str, command: str) -> str:
    """A sentence where the server archives with something that is not Berth's; else empty.

    `answer` has name, file and value of each setting, with `|` between.
    """
    found = {name: (file, value) for name, file, value in (row.split("|", 2) for row in answer.splitlines()
                                                           if row.count("|") >= 2)}  # fmt: skip
    if found.get("archive_mode", ("", "off"))[1] == "off":
        return ""
    for name in ("archive_command", "archive_library"):
        file, value = found.get(name, ("", ""))
        if value in ("", "(disabled)", command) or file.endswith(DROP_IN):
            continue
        one = next((word for word in value.split() if "=" not in word), "a program")
        where = f", in {file}" if file else ""
        auto = file.endswith("postgresql.auto.conf")
        cure = f"alter system reset {name}" if auto else f"take {name} out there"
        return (
            f"PostgreSQL archives its WAL already: {name} runs {one}{where}. "
            f"Berth's backups would take its place. {KEEP}; to have Berth's, {cure}, reload it and run "
            "again."
        )
    return ""


def configured_by_others(ours: str, debians: str) -> str:
    """A sentence where pgBackRest has a configuration of somebody's; else empty. Takes the files' content."""
    if ours:
        return "" if MARK in ours else f"{OURS} is there already and not Berth's. {KEEP}; else move it away."
    sections = re.findall(r"(?m)^\s*\[([^\]\n]+)\]", debians)
    stanzas = [one for one in sections if one.split(":")[0] != "global"]
    if not stanzas:
        return ""
    return (
        f"{DEBIANS} configures pgBackRest for {', '.join(stanzas)} already, and it is ignored where there is "
        f"{OURS}, which is Berth's. {KEEP}; else move it away."
    )


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "archive_command": {"type": "str", "required": True},
            "socket": {"type": "path", "default": "/var/run/postgresql"},
            "port": {"type": "int", "default": 5432},
        },
        supports_check_mode=True,
    )
    command, server = module.params["archive_command"], [module.params["socket"], str(module.params["port"])]
    if not command:
        module.exit_json(changed=False)
    said = configured_by_others(read(OURS), read(DEBIANS))
    if not said and Path(server[0], f".s.PGSQL.{server[1]}").exists():
        psql = ["psql", "-XAtq", "-h", server[0], "-p", server[1], "-d", "postgres", "-c", QUERY]
        variables = {"LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "3"}
        code, out, _ = module.run_command(
            ["runuser", "-u", "postgres", "--", *psql], environ_update=variables
        )
        said = archived_by_others(out, command) if code == 0 else ""
    if said:
        module.fail_json(msg=said)
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
