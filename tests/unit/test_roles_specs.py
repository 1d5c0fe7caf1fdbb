"""Every role is documented by its argument spec, and its defaults say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.contract_case import ROOT

ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
# What the contract checks is the inventory, under an entry point of that name; it has no inputs.
WITHOUT_INPUTS = {"contract"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def options(role: Path) -> dict[str, Any]:
    """The inputs of all its entry points, which share one defaults/main.yml."""
    spec = read(role / "meta" / "argument_specs.yml")
    assert spec, f"{role.name} has no meta/argument_specs.yml"
    if role.name in WITHOUT_INPUTS:
        return {}
    found: dict[str, Any] = {}
    for entry_point in spec["argument_specs"].values():
        for name, option in entry_point.get("options", {}).items():
            assert found.setdefault(name, option).get("default") == option.get("default"), name
    return found


@pytest.fixture(params=ROLES, ids=lambda role: role.name)
def role(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_defaults_are_what_the_spec_says(role: Path) -> None:
    spec = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert (read(role / "defaults" / "main.yml") or {}) == spec


def test_every_role_says_what_it_is_for(role: Path) -> None:
    for name, entry_point in read(role / "meta" / "argument_specs.yml")["argument_specs"].items():
        assert entry_point.get("short_description"), name


def test_every_input_is_required_or_has_a_default(role: Path) -> None:
    for name, option in options(role).items():
        assert ("default" in option) != bool(option.get("required")), name


def test_every_input_is_described_and_named_after_its_role(role: Path) -> None:
    def described(nested: dict[str, Any], path: str) -> None:
        for name, option in nested.items():
            assert option.get("description"), f"{path}{name}"
            assert option.get("type"), f"{path}{name}"
            described(option.get("options", {}), f"{path}{name}.")

    described(options(role), "")
    for name in options(role):
        assert name.startswith(f"{role.name}_"), name


def test_defaults_are_of_the_type_the_spec_says(role: Path) -> None:
    types: dict[str, type | tuple[type, ...]] = {
        "str": str,
        "path": str,
        "int": int,
        "bool": bool,
        "list": list,
        "dict": dict,
        "float": (int, float),
    }
    for name, option in options(role).items():
        if option.get("default") is not None and option["type"] in types:
            assert isinstance(option["default"], types[option["type"]]), name
            assert option["type"] != "int" or not isinstance(option["default"], bool), name


def test_every_role_has_a_readme_of_one_screen_and_its_metadata(role: Path) -> None:
    readme = role / "README.md"
    assert readme.is_file()
    assert len(readme.read_text().splitlines()) <= 60
    info = read(role / "meta" / "main.yml")
    assert info["galaxy_info"]["role_name"] == role.name
    assert info["galaxy_info"]["license"] == "MIT"
    assert info["dependencies"] == []
