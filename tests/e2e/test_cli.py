"""The command line against a real host: the same playbooks, told shortly."""

from __future__ import annotations

import json

from tests.support.kit import Kit


def test_status_is_a_table_and_json(site: Kit) -> None:
    table = site.berth("status")
    assert site.release("board") in table
    assert site.release("notes") in table
    apps = json.loads(site.berth("status", "--json"))
    assert {site.release("board"), site.release("notes")} <= {
        value
        for app in (apps if isinstance(apps, list) else apps["apps"])
        for value in map(str, app.values())
    }


def test_nothing_to_deploy_says_so(site: Kit) -> None:
    live = site.release("board")
    said = site.berth("deploy", "board")
    assert "changed" not in said.replace("changed=0", "")
    assert site.release("board") == live


def test_logs_show_what_the_app_wrote(site: Kit) -> None:
    site.curl("https://board.localhost/api/posts/999999999", "-o", "/dev/null")
    assert "999999999" in site.berth("logs", "board", "--process", "web", "--lines", "50")


def test_arguments_after_the_dashes_reach_ansible(site: Kit) -> None:
    assert "playbook: " in site.berth("up", "--plain", "--", "--list-tasks")


def test_an_unknown_app_is_refused_in_a_sentence(site: Kit) -> None:
    said = site.berth("deploy", "bord", status=2)
    assert "bord" in said
    assert "board" in said
    assert "Traceback" not in said
