"""The variables of an inventory: three, and nothing that looks like a fourth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from .moved import what_became_of
from .problem import Report, did_you_mean, words

OWN = ("server", "apps", "vault")
# Extra variables (-e) that playbooks document.
VERBS = (
    "app",
    "to",
    "version",
    "confirm",
    "purge",
    "json",
    "wait",
    "force",
    "lines",
    "process",
    "check",
    "full",
    "to_time",
    "to_release",
    "offsite",
    "drop",
    "undo",
    "drop_old",
    "onto",
    "mode",
)
_FREE = ("ansible_", "x_", "molecule_")
# What Ansible itself puts among a host's variables.
_MAGIC = words(
    """
    environment group_names groups hostvars inventory_dir inventory_file inventory_hostname
    inventory_hostname_short omit play_hosts playbook_dir role_name role_names role_path role_uuid vars
    """
)


def is_free(name: str) -> bool:
    """Whether the contract has no opinion about a variable of this name."""
    return name.startswith(_FREE) or name in _MAGIC


def check_names(
    report: Report,
    inventory: Mapping[str, str],
    extra: Collection[str],
    inputs: Callable[[], Mapping[str, str]],
) -> None:
    """Refuse unknown variables.

    `inventory`: name → file and line. `extra`: names given with -e. `inputs()`: input of a role → the role.
    With -e an input does what it says, while in the inventory the playbook's own value would silently win.
    """
    for name, place in inventory.items():
        if is_free(name) or name in OWN or name in VERBS or name in extra:
            continue
        if place:
            report.places[name] = place
        report.add(name, what_became_of(name) or _unknown(name, [*OWN, *VERBS], inputs()))
    for name in extra:
        if not (is_free(name) or name in OWN or name in VERBS or name in inputs()):
            report.add(name, f"unknown extra variable (-e){did_you_mean(name, [*OWN, *VERBS])}")


def _unknown(name: str, known: list[str], inputs: Mapping[str, str]) -> str:
    text = f"unknown variable{did_you_mean(name, known)}"
    if "did you mean" in text:
        return text
    if name in inputs:
        return (
            f"is an input of role {inputs[name]}, and an inventory has server, apps and vault; "
            "write it there if they have a key for it (docs/inventory.md), else give it with -e"
        )
    return 'unknown variable; an inventory has server, apps and vault. Name your own variables "x_…"'
