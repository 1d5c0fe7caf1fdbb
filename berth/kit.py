"""Where things are: the kit's own files, an inventory, the ansible-playbook that belongs to this Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_INVENTORY = "inventories/prod"
VAULT_PASSWORD_FILE = ".vault-password"  # noqa: S105 - a file's name


class BerthError(Exception):
    """What the user can put right; the text says what is wrong and what to do."""


def playbook(name: str) -> Path:
    """The kit's playbook of that name: `site.yml` at the root, the verbs below `playbooks/`."""
    for path in (ROOT / name, ROOT / "playbooks" / name):
        if path.is_file():
            return path
    raise BerthError(f"{ROOT} holds no playbook {name}. Run berth from a checkout of the kit.")


def find_inventory(given: str) -> Path:
    """An inventory by its path, or by its bare name below the kit's `inventories/`."""
    candidates = (Path(given), ROOT / given, ROOT / "inventories" / given)
    for path in candidates:
        if path.is_dir() or path.is_file():
            return path.absolute()
    known = sorted(path.name for path in (ROOT / "inventories").glob("*/") if (path / "hosts.yml").is_file())
    have = f"There is: {', '.join(known)}. " if known else ""
    raise BerthError(
        f"There is no inventory {given}. {have}Write one with: berth init {Path(given).name or 'prod'}, "
        "or name another with -i."
    )


def vault_password_file(inventory: Path) -> Path | None:
    """The inventory's vault password, where `berth init` put it."""
    path = (inventory if inventory.is_dir() else inventory.parent) / VAULT_PASSWORD_FILE
    return path if path.is_file() else None


def ansible_playbook() -> Path:
    """The ansible-playbook installed next to the Python that runs this."""
    path = Path(sys.executable).parent / "ansible-playbook"
    if not path.is_file():
        raise BerthError(f"ansible-playbook is not installed beside {sys.executable}. Run: make setup")
    return path


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """The environment that makes ansible-playbook use this kit, wherever it is called from."""
    env = dict(base)
    env["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    env["PATH"] = os.pathsep.join(
        filter(None, [str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    )
    # Compiled bytecode is what makes ansible start in a third of the time.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def app_names(inventory: Path) -> list[str]:
    """The apps of an inventory as far as plain reading tells; for shell completion only."""
    import yaml

    path = inventory / "group_vars" / "all" / "apps.yml"
    try:
        apps = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("apps") or []
        return [str(app["name"]) for app in apps]
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return []
