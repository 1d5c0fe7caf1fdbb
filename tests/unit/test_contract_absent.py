"""An app with `state: absent`: nothing but its name counts, and no role is given it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.contract_case import problems, resolved

GOES: dict[str, Any] = {"name": "old", "state": "absent"}


def test_name_and_state_are_enough() -> None:
    said = resolved({"apps.2": GOES})
    assert [app["name"] for app in said["apps"]] == ["board", "notes"]
    assert said["absent"] == ["old"]
    assert resolved()["absent"] == []
    assert resolved({"apps.0.state": "present"})["apps"][0]["state"] == "present"


def test_what_is_left_of_its_entry_disturbs_nobody() -> None:
    """Its folder may be gone, its domain another app's, its secrets still in the vault or not any more."""
    left = {**GOES, "domains": ["board.example.com"], "source": {"path": "no-such-folder"}}
    left |= {"secrets": [{"name": "TOKEN"}], "processes": [{"name": "web", "app": "nonsense"}]}
    assert problems({"apps.2": left}) == []
    assert problems({"apps.2": left, "vault": {"old": {"OTHER": "x"}}}) == []
    assert problems({"apps.2": left, "app": "old"}) == []


def test_versions_are_for_one_app_of_those_that_are_deployed() -> None:
    assert problems({"apps.1.state": "absent", "force": "true"}) == []
    assert problems({"force": "true"}) != []


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ({**GOES, "name": "board"}, 'apps[2].name: "board" is the name of apps[0] already'),
        ({**GOES, "name": "Old"}, 'apps[2].name: "Old" is not a valid name'),
        ({**GOES, "stat": 1}, "apps[2].stat: unknown key"),
        ({"name": "old", "state": "gone"}, 'apps[2].state: "gone" is not known; write present or absent'),
        # Its data stays in that database.
        ({**GOES, "database": {"name": "notes"}}, 'database "notes" is the database of apps[1] already'),
    ],
)
def test_what_is_wrong_is_still_said(app: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems({"apps.2": app})), problems({"apps.2": app})
