# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Filters of the role redis: its instances, checked and with their memory in bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
SIZE = re.compile(r"([1-9][0-9]*(?:\.[0-9]+)?)([KMGT])")
MB = 1024**2
LEAST = 16 * MB


def default_memory(memory_mb: int) -> int:
    """A sixteenth of the server's, in whole steps: a kernel that counts a little less must change nothing."""
    return max(64, min(memory_mb // 16 // 16 * 16, 1024)) * MB


def size(text: str, where: str, memory_mb: int) -> int:
    """A size such as 256M in bytes."""
    found = SIZE.fullmatch(text)
    if not found:
        raise AnsibleFilterError(f"{where}: {text!r} is not a size; write for example 256M")
    count = int(float(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1))
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
        if not NAME.fullmatch(name):
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
