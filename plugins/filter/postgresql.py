# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Filters of the role postgresql: version, tuning and access rules, as plain functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

# Ansible ships module_utils to hosts, but does not put this folder where filters could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth.contract import names
    from plugins.module_utils.berth.payload.exchange import copy_of
    from plugins.module_utils.berth.services import external
else:
    from ansible.module_utils.berth.contract import names
    from ansible.module_utils.berth.payload.exchange import copy_of
    from ansible.module_utils.berth.services import external

# What each release of the distributions brings.
DISTRIBUTION = {
    "bookworm": 15,
    "trixie": 17,
    "jammy": 14,
    "noble": 16,
}
# The role depends on these being as it set them.
FIXED = {
    "config_file": "where the role writes",
    "data_directory": "where the cluster lives",
    "external_pid_file": "how the service is found",
    "hba_file": "who may connect, which follows from the databases",
    "ident_file": "who may connect, which follows from the databases",
    "listen_addresses": "that only this server can connect",
    "port": "5432, which every app is told",
    "unix_socket_directories": "where tools look for the server",
}
NUMBER = re.compile(r"-?\d+(\.\d+)?")
IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
RESERVED = re.compile(r"postgres|template[01]|pg_.*|all|public|none|sameuser|samerole|samegroup|replication")

Group = dict[str, Any]


def _between(least: int, value: float, most: int) -> int:
    return max(least, min(int(value), most))


def tuning(memory_mb: int, cores: int, version: int, share: int, max_connections: int) -> list[Group]:
    """Settings computed from the machine, in groups, each with its reason; sizes without a unit are MB.

    The formulas are pgtune's for web applications (https://github.com/le0pard/pgtune) and what
    https://www.postgresql.org/docs/current/runtime-config-resource.html advises, on the share of the
    memory that PostgreSQL gets, since the apps live on the same machine.
    """
    # In steps, so that a new kernel that sees a little less memory is no reason to restart the server.
    memory = max(256, round(memory_mb / 256) * 256) * share // 100
    shared_buffers = _between(32, memory / 4, 16384)
    # Each sort or hash of each connection may take it, three of them at once in a parallel plan.
    work_mem = _between(4, (memory - shared_buffers) / (max_connections * 3), 64)
    parallel = max(1, cores // 2)
    return [
        {
            "why": f"Memory: {memory} MB, which is {share} % of this machine's.",
            "settings": {
                "shared_buffers": f"{shared_buffers}MB",
                "effective_cache_size": f"{memory * 3 // 4}MB",
                "work_mem": f"{work_mem}MB",
                "maintenance_work_mem": f"{_between(32, memory / 16, 2048)}MB",
                "huge_pages": "try",
            },
        },
        {
            "why": "Connections: each app's pool times its workers, and twice that during a deploy.",
            "settings": {
                "max_connections": max_connections,
                # A transaction left open holds locks and keeps vacuum from cleaning up.
                "idle_in_transaction_session_timeout": "5min",
            },
        },
        {
            "why": f"Cores: {cores}. Short queries gain nothing from being compiled first.",
            "settings": {
                "max_worker_processes": max(8, cores),
                "max_parallel_workers": cores,
                "max_parallel_workers_per_gather": _between(1, parallel, 4),
                "max_parallel_maintenance_workers": _between(1, parallel, 4),
                "jit": "off",
            },
        },
        {
            "why": "Disk: solid state, where a random page costs hardly more than the next one.",
            "settings": {
                "random_page_cost": 1.1,
                "effective_io_concurrency": 200,
            },
        },
        {
            "why": "Write-ahead log: few and spread checkpoints, full pages compressed.",
            "settings": {
                "min_wal_size": "256MB",
                "max_wal_size": "2GB",
                "checkpoint_timeout": "15min",
                "checkpoint_completion_target": 0.9,
                "wal_compression": "lz4" if version >= 15 else "on",
            },
        },
    ]


FIRM: list[Group] = [
    {
        "why": "Logs: what is slow, waits or spills, without the values that people typed in.",
        "settings": {
            "log_min_duration_statement": "1s",
            "log_parameter_max_length": 0,
            "log_lock_waits": "on",
            "log_temp_files": "16MB",
            "log_autovacuum_min_duration": "10s",
            "log_checkpoints": "on",
            "log_line_prefix": "%m [%p] %q%u@%d %a ",
            "track_io_timing": "on",
        },
    },
]


def _literal(name: str, value: Any) -> str:
    """A value as postgresql.conf wants it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value)
    if any(ord(char) < 32 for char in text):
        raise AnsibleFilterError(f"postgresql_settings.{name}: has a line break; write it on one line")
    if NUMBER.fullmatch(text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def archiving(command: str, timeout: int) -> list[Group]:
    """What it takes that each second can be restored, from a command that archives a segment.

    `timeout` is after how many seconds what was written is archived in any case.
    """
    if not command:
        return []
    return [
        {
            "why": "Backups: WAL is archived when a segment is full, and at the latest after these seconds.",
            "settings": {
                "archive_mode": "on",
                "archive_command": command,
                "archive_timeout": f"{timeout}s",
                # When each row was committed: how old what was restored is, and what was written since.
                "track_commit_timestamp": "on",
            },
        }
    ]


def check_settings(settings: Mapping[str, Any], archived: bool = False) -> dict[str, Any]:
    """The user's settings, or one sentence about what cannot be set."""
    for name, value in settings.items():
        if not names.SETTING.fullmatch(str(name)):
            raise AnsibleFilterError(
                f"postgresql_settings: {name!r} is not a setting; write for example work_mem"
            )
        if archived and names.makes_backups(str(name), value):
            how = "that" if name in ("archive_mode", "wal_level") else "how"
            raise AnsibleFilterError(
                f"postgresql_settings.{name}: Berth decides {how} WAL is archived, which backups are made of;"
                " remove it, or set server.backup.enabled to false"
            )
        if name in FIXED:
            raise AnsibleFilterError(f"postgresql_settings.{name}: Berth decides {FIXED[name]}; remove it")
        if isinstance(value, (Mapping, list)):
            raise AnsibleFilterError(
                f"postgresql_settings.{name}: is not one value; write a text or a number"
            )
    return dict(settings)


def max_connections(memory_mb: int, settings: Mapping[str, Any]) -> int:
    """The user's number, else one that the memory carries."""
    given = settings.get("max_connections")
    if given is None:
        return 100 if memory_mb < 2048 else 200
    if not str(given).isdigit() or not 10 <= int(given) <= 10000:
        raise AnsibleFilterError(
            f"postgresql_settings.max_connections: {given!r} is not from 10 to 10000; write for example 200"
        )
    return int(given)


def postgresql_conf(
    settings: Mapping[str, Any],
    memory_mb: int,
    cores: int,
    version: int,
    share: int,
    hba_file: str,
    archive_command: str = "",
    archive_timeout: int = 60,
) -> list[Group]:
    """Groups of settings with quoted values; what the user set stands last and nowhere else."""
    chosen = check_settings(settings, bool(archive_command))
    connections = max_connections(memory_mb, chosen)
    firm = {
        "why": "Access: from this server alone, with scram, for whom the rules next door name.",
        "settings": {
            "listen_addresses": "127.0.0.1",
            "hba_file": hba_file,
            "password_encryption": "scram-sha-256",
            # Nothing leaves the machine.
            "ssl": "off",
        },
    }
    tuned = tuning(int(memory_mb), int(cores), int(version), int(share), connections)
    groups = [firm, *tuned, *archiving(archive_command, int(archive_timeout)), *FIRM]
    groups.append(
        {"why": "From the inventory.", "settings": {k: v for k, v in chosen.items() if v is not None}}
    )
    last = len(groups) - 1
    return [
        {
            "why": group["why"],
            "settings": {
                name: _literal(name, value)
                for name, value in group["settings"].items()
                if number == last or name not in chosen
            },
        }
        for number, group in enumerate(groups)
    ]


def connection_limit(databases: Sequence[Any], connections: int) -> int:
    """Connections that one app may hold: nearly all when it is alone, else half, so none starves the rest."""
    usable = max(1, int(connections) - 10)
    return usable if len(databases) < 2 else max(1, usable // 2)


def choose_version(wanted: str, release: str, clusters: Sequence[str]) -> int:
    """The major version to run: the one asked for, else that of the data, else the distribution's."""
    present = sorted({int(path.split("/")[-2]) for path in clusters if path.split("/")[-2].isdigit()})
    asked = str(wanted or "").strip()
    if asked and not asked.isdigit():
        raise AnsibleFilterError(
            f'postgresql_version: {wanted!r} is not a major version; write for example "17"'
        )
    if asked and present and int(asked) not in present:
        move = (
            f", or move the data first: berth upgrade-postgresql --to {asked}"
            f" (upgrade-postgresql.yml -e to={asked})"
            if int(asked) > present[-1]
            else ""
        )
        raise AnsibleFilterError(
            f"postgresql_version: this server's data is in version {present[-1]}, and {asked} would start"
            f' without it; write server.postgresql.version: "{present[-1]}"{move}'
        )
    if asked:
        return int(asked)
    if len(present) > 1:
        raise AnsibleFilterError(
            f"postgresql_version: there are clusters of {', '.join(map(str, present))}; write the one that"
            f' the apps use, for example server.postgresql.version: "{present[-1]}"'
        )
    if present:
        return present[0]
    if release not in DISTRIBUTION:
        raise AnsibleFilterError(f'postgresql_version: not known for {release}; write for example "17"')
    return DISTRIBUTION[release]


def check_databases(databases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Databases with every key, or one sentence about the first that is wrong."""
    seen: dict[str, str] = {}
    checked: list[dict[str, Any]] = []
    for number, database in enumerate(databases):
        where = f"postgresql_databases[{number}]"
        full = {
            "name": str(database.get("name", "")),
            "owner": str(database.get("owner", "")),
            "user": str(database.get("user", "")),
            "reader": str(database.get("reader", "")),
            "extensions": [str(extension) for extension in database.get("extensions") or []],
        }
        for key in ("name", "owner", "user", "reader"):
            value = str(full[key])
            if not IDENTIFIER.fullmatch(value) or RESERVED.fullmatch(value):
                raise AnsibleFilterError(
                    f"{where}.{key}: {value!r} cannot name a database or role; write lower-case letters,"
                    " digits and underscores, and none of PostgreSQL's own names"
                )
            kind = "database" if key == "name" else "role"
            if f"{kind} {value}" in seen:
                raise AnsibleFilterError(
                    f"{where}.{key}: {kind} {value} is also at {seen[f'{kind} {value}']}; rename one"
                )
            seen[f"{kind} {value}"] = where
        checked.append(full)
    return checked


def backups(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What changed and where its former content is, from the files that `config_files` tells of."""
    return [
        {"path": str(result["path"]), "backup": str(result["backup"])}
        for result in results
        if result["changed"]
    ]


def authority(host: str) -> str:
    """Where the file lies that the certificate of somebody else's server is checked by."""
    return str(external.authority(host))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in tasks and templates."""
        return {
            "postgresql_authority": authority,
            "postgresql_backups": backups,
            "postgresql_conf": postgresql_conf,
            "postgresql_connection_limit": connection_limit,
            "postgresql_copy": copy_of,
            "postgresql_databases": check_databases,
            "postgresql_max_connections": max_connections,
            "postgresql_version": choose_version,
        }
