"""Filters of the contract: what is wrong with an inventory, and what it says.

``hostvars[inventory_hostname] | contract_errors(inventory_dir)`` → list of messages
``hostvars[inventory_hostname] | contract_resolve(inventory_dir)`` → {"server": …, "apps": […], "absent": […]}
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError
from ansible.utils.vars import load_extra_vars

ROOT = Path(__file__).resolve().parents[2]

# Ansible ships module_utils to hosts, but does not put this folder where filters could import from it.
if (_utils := str(ROOT / "plugins" / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth import ansible_private
    from plugins.module_utils.berth.contract import resolve as contract
    from plugins.module_utils.berth.contract import spec as contract_spec
    from plugins.module_utils.berth.contract import top as contract_top
else:
    from ansible.module_utils.berth import ansible_private
    from ansible.module_utils.berth.contract import resolve as contract
    from ansible.module_utils.berth.contract import spec as contract_spec
    from ansible.module_utils.berth.contract import top as contract_top


@functools.cache
def _spec() -> dict[str, Any]:
    return contract_spec.load_spec(ROOT / "roles" / "contract" / "meta" / "argument_specs.yml")


def _role_inputs() -> dict[str, str]:
    """Every input of every role → the role."""
    inputs = {}
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        for name in contract_spec.load_spec(path, "main"):
            inputs[name] = path.parts[-3]
    return inputs


def _place(base: str) -> Callable[[object], str]:
    """Names places as a reader of the inventory does."""
    # Ansible resolves symlinks in some of its paths.
    folders = {base, os.path.realpath(base)} if base else set()

    def place(value: object) -> str:
        path, line = ansible_private.origin(value)
        if not path:
            return ""
        for folder in folders:
            if path.startswith(f"{folder}/"):
                path = path[len(folder) + 1 :]
        return f"{path}:{line}" if line else path

    return place


class _Values(Mapping[str, Any]):
    """A host's variables, where one whose template fails raises as soon as it is asked for."""

    def __init__(self, hostvars: Mapping[str, Any]) -> None:
        self._hostvars = hostvars

    def __getitem__(self, name: str) -> Any:
        return ansible_private.settled(self._hostvars[name])

    def __contains__(self, name: object) -> bool:
        return name in self._hostvars  # the inherited one asks for the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._hostvars)

    def __len__(self) -> int:
        return len(self._hostvars)


def _names(hostvars: Mapping[str, Any], inventory_dir: str) -> contract.Names:
    """Which variables come from the inventory, and which from -e.

    A host's variables also hold facts and what tasks registered. Those were named in a task's file, or in
    none, while one of the inventory was named in the inventory or in a group_vars or host_vars folder.
    """
    extra = frozenset(name for name in load_extra_vars(None) if name in hostvars)
    sources = [str(source) for source in hostvars.get("ansible_inventory_sources") or []]
    place = _place(inventory_dir)
    inventory = {}
    for name in hostvars:
        if name in extra or contract_top.is_free(name):
            continue
        path, _line = ansible_private.origin(name)
        if path and _of_inventory(path, sources):
            inventory[contract_spec.plain(name)] = place(name)
    return contract.Names(inventory, extra, _role_inputs)


def _of_inventory(path: str, sources: list[str]) -> bool:
    if path in sources or {"group_vars", "host_vars"} & set(Path(path).parts):
        return True
    # A folder as the inventory may hold anything, even this repository.
    tasks = tuple(f"{ROOT / folder}/" for folder in ("playbooks", "roles"))
    return path.startswith(tuple(f"{source.rstrip('/')}/" for source in sources)) and not path.startswith(
        tasks
    )


def _contract(hostvars: Mapping[str, Any], inventory_dir: str) -> contract.Contract:
    if not isinstance(hostvars, Mapping):
        raise AnsibleFilterError(
            "contract: write {{ hostvars[inventory_hostname] | contract_errors(inventory_dir) }}"
        )
    base = contract_spec.plain(inventory_dir or "")
    # A plain dictionary holds what the caller means to be checked, all of it.
    names = None if type(hostvars) is dict else _names(hostvars, base)
    return contract.resolve(_spec(), _Values(hostvars), base, names, _place(base))


def contract_errors(hostvars: Mapping[str, Any], inventory_dir: str = "") -> list[str]:
    """Everything that is wrong with an inventory: "path: what is wrong; what to write [file:line]"."""
    return _contract(hostvars, inventory_dir).problems


def contract_resolve(hostvars: Mapping[str, Any], inventory_dir: str = "") -> dict[str, Any]:
    """`server` and `apps`, complete and typed, as plain data that no template engine touches again.

    `absent` are the names of the apps that shall not be on the server; `apps` does not hold them.
    """
    result = _contract(hostvars, inventory_dir)
    if result.problems:
        raise AnsibleFilterError(contract_report(result.problems))
    return {"server": result.server, "apps": result.apps, "absent": result.absent}


def contract_report(problems: list[str]) -> str:
    """The messages as people read them."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"The inventory has {count}. Nothing was changed.\n\n{lines}"


class FilterModule:
    """Ansible looks for this class."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "contract_errors": contract_errors,
            "contract_report": contract_report,
            "contract_resolve": contract_resolve,
        }
