"""What role files gives its program, and to whom that is shown."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import yaml

from plugins.modules import backup_repository
from tests.unit.contract_case import ROOT


def test_what_opens_the_places_is_roots_alone_shown_to_nobody_and_written_last() -> None:
    tasks: list[dict[str, Any]] = yaml.safe_load((ROOT / "roles/files/tasks/store.yml").read_text())
    (task,) = [task for task in tasks if "files_offsite" in json.dumps(task)]
    assert task["no_log"]
    opens = task["vars"]["__files_opens"]
    assert "files_offsite" in opens["content"]
    assert opens["mode"] == "0600"
    assert task["config_files"]["files"].endswith("+ [__files_opens] }}")
    assert all(earlier["config_files"] for earlier in tasks[: tasks.index(task)] if "config_files" in earlier)


def test_all_that_the_program_stands_on_comes_with_it() -> None:
    """And with those of roles backup and recovery, whose programs lie in the same folder."""
    payload = ROOT / "plugins/module_utils/berth/payload"
    written = [
        set(
            re.findall(
                r"'(\w+)'", (ROOT / f"roles/{role}/templates/programs.yml.j2").read_text().split("%}")[1]
            )
        )
        for role in ("files", "recovery")
    ]
    for programs in (*written, set(backup_repository.PROGRAMS)):
        for name in programs:
            tree = ast.parse((payload / f"{name}.py").read_text())
            froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
            needed = {node.module or one.name for node in froms for one in node.names}
            assert needed <= programs, name


def test_the_playbook_hands_over_places_certificates_and_the_inventory() -> None:
    (play,) = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
    (task,) = [
        one
        for block in play["tasks"]
        for one in block.get("block", [])
        if one["ansible.builtin.import_role"]["name"] == "files"
    ]
    assert task["vars"]["files_folders"] == "{{ [proxy_published.state] }}"
    assert "offsite(vault" in task["vars"]["files_offsite"]


def test_a_server_that_is_built_anew_gets_its_secrets_before_a_role_makes_new_ones() -> None:
    """And nothing that opens a place is left when files are stored again."""
    (play,) = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
    order = [
        task.get("ansible.builtin.import_role", {}).get("name")
        or task.get("ansible.builtin.include_tasks", "")
        for task in play["tasks"]
    ]
    assert order.index("base") < order.index("tasks/recover.yml") < order.index("postgresql")
    plays = yaml.safe_load((ROOT / "playbooks/onto.yml").read_text())
    names = [play.get("ansible.builtin.import_playbook") or play["name"] for play in plays]
    assert names == [
        "Find what there is for the host",
        "provision.yml",
        "Bring back what it held",
        "deploy.yml",
        "Forget what opened the places",
        "provision.yml",
        "Tell",
    ]
    without, with_backups = (play["vars"] for play in plays if "provision.yml" in play.values())
    assert without["provision_backups"] is False
    assert "provision_backups" not in with_backups
    assert all(play["vars"]["ansible_host"].startswith("{{ onto") for play in plays)
