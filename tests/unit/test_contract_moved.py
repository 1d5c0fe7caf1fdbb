"""A key that was renamed or removed says what became of it, an inventory of another version what to do."""

# ruff: noqa: E501 (a case and its message are one line, to be read as a table)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.contract import moved

from berth import reference
from plugins.filter.contract import contract_errors
from plugins.module_utils.berth.contract import moved as of_page
from tests.unit.contract_case import INVENTORY, SPEC, inventory, problems, resolved

TABLE = {
    "apps[].keep": moved.Moved(2, to="apps[].keep_releases"),
    "apps[].drain_requests": moved.Moved(2, to="apps[].drain.requests"),
    "apps[].processes[].ram": moved.Moved(3, to="apps[].processes[].memory"),
    "apps[].processes[].queue": moved.Moved(3, to="apps[].redis.enabled"),
    "server.shield": moved.Moved(3, say="is gone: the provider's is enough; remove it"),
    "sites": moved.Moved(2, to="apps"),
}
# Every key that any version of the configuration knew: lines are added here, and none is ever taken away.
EVER = Path(__file__).parent / "records" / "keys.txt"


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Berth whose configuration has changed twice."""
    for module in (moved, of_page):
        monkeypatch.setattr(module, "MOVED", TABLE)
        monkeypatch.setattr(module, "CONFIG", 3)


def keys(options: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, option in options.items():
        below = f"{path}{key}"
        yield below
        if "options" in option:
            yield from keys(option["options"], f"{below}{'[]' if option['type'] == 'list' else ''}.")


def test_no_key_goes_without_a_word() -> None:
    known = EVER.read_text().split()
    assert known == sorted(set(known))
    gone = set(known) - set(keys(SPEC))
    told = {path for path in moved.MOVED if path in known}
    # What went with its parent is told there.
    lost = {path for path in gone - told if not any(path.startswith((f"{one}.", f"{one}[")) for one in told)}
    assert not lost, "say in contract/moved.py what became of them"
    assert set(keys(SPEC)) <= set(known), f"add the new keys to {EVER.name}"


def test_what_became_of_a_key_is_true() -> None:
    for path, one in moved.MOVED.items():
        assert path not in keys(SPEC), f"{path} is in the schema"
        assert bool(one.to) != bool(one.say), path
        assert not one.to or one.to in keys(SPEC), f"{one.to} is not in the schema"
        assert 1 < one.since <= moved.CONFIG, path


def test_the_schema_has_the_version_of_today_as_its_default() -> None:
    assert SPEC["server"]["options"]["config"]["default"] == moved.CONFIG
    assert resolved()["server"]["config"] == moved.CONFIG


@pytest.mark.usefixtures("third")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"apps[1].keep": 4}, 'apps[1].keep: is called "keep_releases" since configuration 2; write it under that name'),
        ({"apps[1].drain_requests": 4}, 'apps[1].drain_requests: is called "apps[1].drain.requests" since configuration 2; write it under that name'),
        ({"apps[0].processes": [{"name": "web"}, {"name": "w", "command": "w", "ram": "1G"}]}, 'apps[0].processes[1].ram: is called "memory" since configuration 3; write it under that name'),
        ({"apps[0].processes": [{"name": "web", "queue": True}]}, 'apps[0].processes[0].queue: is called "apps[0].redis.enabled" since configuration 3; write it under that name'),
        ({"server.shield": {"ports": [80]}}, "server.shield: is gone: the provider's is enough; remove it (since configuration 3)"),
        ({"sites": []}, 'sites: is called "apps" since configuration 2; write it under that name'),
        # What was never known is told as ever.
        ({"apps[0].kep_releases": 4}, 'apps[0].kep_releases: unknown key; did you mean "keep_releases"?'),
    ],
)  # fmt: skip
def test_a_key_of_before_says_what_it_is_called_now(change: dict[str, Any], message: str) -> None:
    assert contract_errors(inventory({"server.config": 3, **change}), INVENTORY) == [message]


@pytest.mark.usefixtures("third")
def test_an_inventory_of_an_older_version_is_told_all_that_changed_since() -> None:
    (said,) = problems({"server.config": 2})
    assert said.startswith(
        "server.config: 2 is of an older Berth; this one reads configuration 3. Go through what changed, then "
        'write "config: 3": apps[].processes[].ram is called "memory" since configuration 3'
    )
    assert "server.shield is gone" in said
    assert "keep" not in said
    assert problems({"server.config": 3}) == problems({"server.config": "3"}) == []


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            99,
            "server.config: 99 is of a newer Berth; this one reads configuration 1. Use the Berth that this "
            "inventory was written for (git pull in its folder)",
        ),
        (0, 'server.config: 0 is no version; write "config: 1"'),
        ("new", 'server.config: "new" is not a whole number; write a number, e.g. 1'),
    ],
)
def test_an_inventory_of_no_version_that_is_known_is_refused(written: Any, message: str) -> None:
    assert problems({"server.config": written}) == [message]


@pytest.mark.usefixtures("third")
def test_the_reference_page_lists_what_changed() -> None:
    page = reference.render(reference.load())
    assert "This Berth reads configuration 3." in page
    row = '| `apps[].drain_requests` | is called "apps[].drain.requests" since configuration 2; '
    assert row in page
