"""What Ansible does not promise to keep: used in one file, and there in the version that is installed."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.module_utils.berth import ansible_private
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.plugins.callback.default import CallbackModule
from ansible.plugins.loader import connection_loader
from ansible.template import Templar, trust_as_template

from tests.support.tree import write

ROOT = Path(__file__).resolve().parents[2]
SHIM = Path("plugins/module_utils/berth/ansible_private.py")
FOLDERS = ("plugins", "berth", "molecule", "tests")
# Attributes that are Ansible's own. `self._task` and the like are how an action or a callback is written.
PRIVATE = {"_build_command", "_clean_results", "_handle_warnings", "_last_task_banner", "_print_task_banner"}
PRIVATE |= {"_shell", "_uuid"}


def reaches(root: Path) -> Iterator[str]:
    """Each use of what is private to Ansible, outside of the one file."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if path.relative_to(root) in (SHIM, Path(__file__).relative_to(ROOT)):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [one.name for one in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [f"{node.module}.{one.name}" for one in node.names]
                elif isinstance(node, ast.Attribute) and node.attr in PRIVATE:
                    names = [f"ansible._ {node.attr}"]
                for name in names:
                    if name.startswith("ansible.") and "._" in name:
                        yield f"{path.relative_to(root)}: {name.removeprefix('ansible._ ')}"


def test_one_file_reaches_into_ansible() -> None:
    assert list(reaches(ROOT)) == []


def test_another_one_is_noticed(tmp_path: Path) -> None:
    files = {
        "plugins/filter/a.py": "from ansible._internal._datatag import _tags\nimport ansible.errors\n",
        "berth/b.py": "import ansible.module_utils._text\nconnection._build_command('ssh')\n",
        str(SHIM): "import ansible._internal\n",
    }
    write(tmp_path, files)
    assert list(reaches(tmp_path)) == [
        "plugins/filter/a.py: ansible._internal._datatag._tags",
        "berth/b.py: ansible.module_utils._text",
        "berth/b.py: _build_command",
    ]


def test_values_say_where_they_were_read(tmp_path: Path) -> None:
    file = tmp_path / "apps.yml"
    file.write_text("---\napps:\n  - name: board\n")
    (app,) = DataLoader().load_from_file(str(file))["apps"]
    assert ansible_private.origin(app["name"]) == (str(file), 3)
    assert ansible_private.origin(next(iter(app))) == (str(file), 3)
    assert ansible_private.origin("written here") == ("", 0)


def test_a_template_that_failed_says_so_when_it_is_asked_for() -> None:
    templar = Templar(DataLoader(), {})
    markers: list[Any] = []

    def keep(value: Any) -> str:
        markers.append(value)
        return ""

    keep.accept_args_markers = True  # type: ignore[attr-defined] # as Ansible's own filters say that they take them
    templar._engine.environment.filters["keep"] = keep
    templar.template(trust_as_template("{{ nobody_said | keep }}"))
    with pytest.raises(jinja2.UndefinedError, match="'nobody_said' is undefined"):
        ansible_private.settled(markers[0])
    assert ansible_private.settled("said") == "said"


def test_the_command_line_of_ssh_is_the_connections_own() -> None:
    connection = connection_loader.get("ssh", PlayContext(), "/dev/null")
    connection.set_options(direct={"host": "board.test"})
    connection.host = "board.test"
    argv = ansible_private.ssh_argv(connection, "board.test", "true")
    assert argv[0] == "ssh"
    assert argv[-2:] == ["board.test", "true"]
    assert ansible_private.shell(connection).SHELL_FAMILY == "sh"


def test_the_default_callback_can_be_asked_for_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    callback = CallbackModule()
    callback.set_options()
    task = types.SimpleNamespace(
        _uuid="1",
        action="debug",
        no_log=False,
        args={},
        check_mode=False,
        diff=False,
        get_name=lambda: "Look",
    )
    said = {"msg": "no", "warnings": ["odd"], "invocation": {}}
    ansible_private.begin_failure(callback, types.SimpleNamespace(task=task, result=said))
    assert "TASK [Look]" in capsys.readouterr().out
    assert "invocation" not in said or said["invocation"] == {}
