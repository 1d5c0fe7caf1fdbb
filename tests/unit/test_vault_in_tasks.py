"""No task hands a secret of the vault on where Ansible would show it: in arguments, results or a diff.

What an app's deploys and programs on the server say is masked there; here nothing but `no_log` helps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.unit.contract_case import ROOT

PLAYS = sorted((ROOT / "playbooks").rglob("*.yml"))
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
# Nothing of what these are given is shown; what they call is looked at by itself.
_CALLS = {"include_role", "import_role", "include_tasks", "import_tasks", "import_playbook"}
# Keys of a task that are no module.
_KEYWORDS = frozenset(
    """
    name vars when register no_log loop loop_control tags become become_user check_mode changed_when
    failed_when delegate_to delegate_facts connection run_once notify listen until retries delay ignore_errors
    environment diff any_errors_fatal block rescue always args throttle async poll
    """.split()  # noqa: SIM905 - as one reads them
)
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_TEMPLATE = re.compile(r"template'?,\s*'([\w.-]+)'")
# Of what opens the places off the server: whether there are any, and their names.
_HARMLESS = re.compile(r"offsite\.places(?=\s*(?:%\}|!= \[\]|else\b|\)|\| map\(attribute='name'\)))")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def tasks(value: Any, hidden: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """All tasks of a file, those of plays and of blocks too, each with whether it is not to be logged."""
    for one in value if isinstance(value, list) else []:
        mine = hidden or one.get("no_log") is True
        for key in ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always"):
            yield from tasks(one.get(key), mine)
        yield one, mine


def module_of(task: dict[str, Any]) -> str:
    names = [key for key in task if key not in _KEYWORDS]
    return names[0] if len(names) == 1 and "hosts" not in task else ""


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)


class Carriers:
    """The variables and templates of a tree of roles and playbooks that hold something of the vault."""

    def __init__(self, plays: list[Path], roles: list[Path]) -> None:
        self.names = {"vault"}
        self.files = [*plays, *(path for role in roles for path in sorted(role.glob("tasks/*.yml")))]
        self.templates = {path.name: path for role in roles for path in role.glob("templates/*")}
        given = [read(role / folder / "main.yml") for role in roles for folder in ("vars", "defaults")]
        given += [one.get("vars") for file in self.files for one, _ in tasks(read(file))]
        for file in self.files:
            given += [one.get("ansible.builtin.set_fact") for one, _ in tasks(read(file))]
        pairs = [pair for one in given for pair in (one or {}).items()]
        before = 0
        while before != len(self.names):
            before = len(self.names)
            self.names |= {str(name) for name, value in pairs if self.in_(value)}

    def in_(self, value: Any) -> bool:
        return any(self._in_text(text) for text in texts(value))

    def _in_text(self, text: str) -> bool:
        for found in _EXPRESSION.findall(text):
            if any(self._in_template(name) for name in _TEMPLATE.findall(found)):
                return True
            words = set(re.findall(r"(?<![.\w])\w+", re.sub(r"'[^']*'", "", _HARMLESS.sub("", found))))
            if words & self.names:
                return True
        return False

    def _in_template(self, name: str) -> bool:
        path = self.templates.get(name)
        return path is not None and self._in_text(path.read_text())


def hides(module: str) -> set[str]:
    """The options of a module of Berth's whose values Ansible never shows."""
    path = ROOT / f"plugins/modules/{module}.py"
    text = path.read_text() if path.is_file() else ""
    return set(re.findall(r'"(\w+)": \{.*"no_log": True', text))


def shown(carriers: Carriers) -> list[str]:
    """What is told of each task that would show something."""
    found = []
    for file in carriers.files:
        for task, hidden in tasks(read(file)):
            module = module_of(task)
            if hidden or not module or module.rpartition(".")[2] in _CALLS:
                continue
            given = task[module] if isinstance(task[module], dict) else {"": task[module]}
            given = {**given, **(task.get("args") or {}), "loop": task.get("loop")}
            found += [
                f"{file.relative_to(ROOT)}: {task.get('name')}: {name}"
                for name, value in given.items()
                if name not in hides(module) and carriers.in_(value)
            ]
    return found


CARRIERS = Carriers(PLAYS, ROLES)


def test_no_task_shows_what_is_in_the_vault() -> None:
    assert {"vault", "app_vault", "release_vault", "backup_offsite", "__backup_secrets"} <= CARRIERS.names
    assert shown(CARRIERS) == []


def test_no_role_shows_what_it_is_given_of_the_vault() -> None:
    options = {
        name: option
        for role in ROLES
        for entry in read(role / "meta/argument_specs.yml")["argument_specs"].values()
        for name, option in (entry.get("options") or {}).items()
    }
    carrying = sorted(set(options) & CARRIERS.names)
    assert carrying
    assert [name for name in carrying if options[name].get("no_log") is not True] == []
