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
    """And with that of role backup, whose programs lie in the same folder."""
    payload = ROOT / "plugins/module_utils/berth/payload"
    written = re.findall(
        r"'(\w+)'", (ROOT / "roles/files/templates/programs.yml.j2").read_text().split("%}")[1]
    )
    for programs in (set(written), set(backup_repository.PROGRAMS)):
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
