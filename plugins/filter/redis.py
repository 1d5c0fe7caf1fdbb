# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Filters of the role redis: its instances, checked and with their memory in bytes."""

from __future__ import annotations

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
else:
    from ansible.module_utils.berth.contract import names

MB = 1024**2
LEAST = 16 * MB


def default_memory(memory_mb: int) -> int:
    """A sixteenth of the server's, in whole steps: a kernel that counts a little less must change nothing."""
    return max(64, min(memory_mb // 16 // 16 * 16, 1024)) * MB


def size(text: str, where: str, memory_mb: int) -> int:
    """A size such as 256M in bytes."""
    if not names.SYSTEMD_SIZE.fullmatch(text):
        raise AnsibleFilterError(f"{where}: {text!r} is not a size; write for example 256M")
    count = names.systemd_bytes(text)
    if count < LEAST:
        raise AnsibleFilterError(f"{where}: {text} is too little for Redis; write at least 16M")
    if count > memory_mb * MB:
        raise AnsibleFilterError(f"{where}: {text} is more than this server has ({memory_mb} MB); write less")
    return count


def redis_instances(instances: Sequence[Mapping[str, Any]], memory_mb: int) -> list[dict[str, Any]]:
    """Instances with every key, or one sentence about the first that is wrong."""
    checked: list[dict[str, Any]] = []
    for number, instance in enumerate(instances):
        where = f"redis_instances[{number}]"
        name = str(instance.get("name", ""))
        if not names.APP.fullmatch(name):
            raise AnsibleFilterError(
                f"{where}.name: {name!r} cannot name an instance; write lower-case letters, digits and dashes"
            )
        if name in {one["name"] for one in checked}:
            raise AnsibleFilterError(f"{where}.name: there is an instance {name} already; write another")
        memory = str(instance.get("memory") or "")
        checked.append(
            {
                "name": name,
                "memory": size(memory, f"{where}.memory", int(memory_mb))
                if memory
                else default_memory(int(memory_mb)),
                "policy": str(instance.get("policy", "noeviction")),
                "persistence": bool(instance.get("persistence", True)),
            }
        )
    return checked


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in tasks and templates."""
        return {"redis_instances": redis_instances}
