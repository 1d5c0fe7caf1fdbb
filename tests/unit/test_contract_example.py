"""The example inventory shows the whole schema, as it is, and is right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from berth.reference import PAGE, load, main, render
from plugins.filter.contract import contract_errors, contract_resolve
from tests.unit.contract_case import INVENTORY, ROOT, SPEC

FILES = ("server", "apps", "vault")
# A key in a comment; sentences begin with a capital letter or have no colon at this place.
COMMENTED = re.compile(r"^(\s*)# ((?:- )?[a-z_]+:(?: .*)?)$", re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / "inventories" / "example" / "group_vars" / "all" / f"{name}.yml").read_text()


def written() -> dict[str, Any]:
    """What the example says."""
    return {key: value for name in FILES for key, value in yaml.safe_load(text(name)).items()}


def uncommented() -> dict[str, Any]:
    """What it says when every commented key is switched on."""
    whole: dict[str, Any] = {}
    for name in FILES:
        whole |= yaml.safe_load(COMMENTED.sub(r"\1\2", text(name)))
    return whole


def leaves(options: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, option in options.items():
        if option.get("options"):
            yield from leaves(option["options"], f"{path}{key}.")
        else:
            yield f"{path}{key}", option


def used(value: Any, options: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Path (as in `leaves`) and value of everything in the example."""
    for key, item in value.items():
        assert key in options, f"{path}{key} is not in the schema"
        option = options[key]
        if option.get("options"):
            for entry in item if isinstance(item, list) else [item or {}]:
                yield from used(entry, option["options"], f"{path}{key}.")
        else:
            yield f"{path}{key}", item


def test_the_example_is_right() -> None:
    assert contract_errors(written(), INVENTORY) == []
    apps = contract_resolve(written(), INVENTORY)["apps"]
    assert [app["name"] for app in apps] == ["board", "notes"]
    assert apps[0]["source"]["path"] == str(ROOT / "app")


def test_every_key_of_the_schema_is_in_the_example_and_no_other() -> None:
    shown = {path for path, _value in used(uncommented(), SPEC)}
    assert shown == {path for path, _option in leaves(SPEC)}


def test_a_key_in_a_comment_shows_its_default() -> None:
    options = dict(leaves(SPEC))
    live = set(map(repr, used(written(), SPEC)))
    shown = [item for item in used(uncommented(), SPEC) if repr(item) not in live]
    assert len(shown) > 40
    for path, value in shown:
        if "default" in options[path]:
            assert value == options[path]["default"], path


def test_switching_all_defaults_on_changes_nothing() -> None:
    values = uncommented()
    del values["apps"][0]["source"]["git"]
    del values["apps"][0]["source"]["version"]
    del values["apps"][0]["source"]["deploy_key"]
    del values["apps"][0]["source"]["host_keys"]
    # A place has no default, and the keys of each kind.
    del values["server"]["backup"]["offsite"]
    # No more has a question.
    del values["server"]["backup"]["checks"]
    assert contract_errors(values, INVENTORY) == []
    assert contract_resolve(values, INVENTORY) == contract_resolve(written(), INVENTORY)


def test_ansible_reads_the_schema_and_accepts_the_example() -> None:
    result = ArgumentSpecValidator(SPEC).validate(written())
    assert result.error_messages == []


def test_every_key_of_the_schema_is_described() -> None:
    def described(options: dict[str, Any], path: str = "") -> None:
        for key, option in options.items():
            assert option["description"], f"{path}{key}"
            assert option["type"], f"{path}{key}"
            assert ("default" in option) + bool(option.get("required")) <= 1, f"{path}{key}"
            described(option.get("options", {}), f"{path}{key}.")

    described(SPEC)


def test_the_examples_of_the_schema_fit_the_schema() -> None:
    for path, option in leaves(SPEC):
        if "example" in option:
            result = ArgumentSpecValidator({"it": option}).validate({"it": option["example"]})
            assert result.error_messages == [], path


def test_the_reference_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_the_reference_page_names_every_key_with_its_default() -> None:
    page = PAGE.read_text()
    assert page == render(load())
    for path, option in leaves(load()):
        key = path.rsplit(".", 1)[-1]
        assert re.search(rf"^\| `{key}` \| ", page, re.MULTILINE) or key == "vault", path
        assert "C(" not in page
        if option.get("choices"):
            assert all(f"`{choice}`" in page for choice in option["choices"] if choice)


def test_an_outdated_page_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    page = tmp_path / "docs" / "inventory.md"
    monkeypatch.setattr("berth.reference.ROOT", tmp_path)
    monkeypatch.setattr("berth.reference.PAGE", page)
    assert main(["--check"]) == 1
    assert capsys.readouterr().err == "docs/inventory.md is out of date; run: python -m berth.reference\n"
    assert main([]) == 0
    assert main(["--check"]) == 0
