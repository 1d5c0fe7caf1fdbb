"""Every module documents what it takes, as `ansible-doc` reads it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))


def literals(module: Path) -> dict[str, Any]:
    """The constants that a module assigns at its top level."""
    tree = ast.parse(module.read_text())
    return {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_documentation_is_yaml_and_names_every_option(module: Path) -> None:
    documentation = yaml.safe_load(literals(module)["DOCUMENTATION"])
    assert documentation["module"] == module.stem
    assert documentation["short_description"]
    tree = ast.parse(module.read_text())
    specs = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "argument_spec"
    ]
    assert len(specs) == 1
    names: set[str] = set()
    if isinstance(specs[0], ast.Dict):
        names = {
            key.value for key in specs[0].keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    elif isinstance(specs[0], ast.Call):
        names = {keyword.arg for keyword in specs[0].keywords if keyword.arg}
    assert names == set(documentation["options"])
