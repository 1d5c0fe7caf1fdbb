"""The entry of an app as the release engine is given it: whole, as the contract makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugins.module_utils.berth.contract.spec import default_of, load_spec
from tests.support.kit import ROOT

_SPEC = load_spec(ROOT / "roles" / "contract" / "meta" / "argument_specs.yml")


def board(**more: Any) -> dict[str, Any]:
    """An app without a database; `more` adds keys or stands in for them."""
    return whole(
        {
            "name": "board",
            "domains": ["board.localhost"],
            "source": {"path": "/src"},
            "processes": [{"name": "web"}],
            "database": {"enabled": False},
            **more,
        }
    )


def whole(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with the defaults of what it leaves out, and what the contract derives."""
    app: dict[str, Any] = _filled(entry, _SPEC["apps"]["options"])
    name = app["database"]["name"] = app["database"]["name"] or app["name"].replace("-", "_")
    app["database"] = {"owner": f"{name}_owner", "user": name, **app["database"]}
    return {"packages": default_of(_SPEC["server"]["options"]["python"]), **app}


def _filled(value: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**{key: default_of(option) for key, option in options.items()}, **value}
    for key, option in options.items():
        if "options" not in option or key not in value:
            continue
        if isinstance(value[key], list):
            filled[key] = [_filled(one, option["options"]) for one in value[key]]
        else:
            filled[key] = _filled(value[key], option["options"])
    return filled
