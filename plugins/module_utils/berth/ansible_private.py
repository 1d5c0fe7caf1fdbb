"""What Berth uses of Ansible beyond what Ansible promises to keep, all of it; the controller's alone.

A version of ansible-core may move any of this. `tests/unit/test_ansible_private.py` then says which, and this
is the file to correct.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible.plugins.action
from ansible.release import __version__

try:
    from ansible._internal._datatag._tags import Origin
    from ansible._internal._templating._jinja_common import Marker
except ImportError as moved:
    raise ImportError(
        f"ansible-core {__version__} is none that Berth knows: install its requirements.txt ({moved})"
    ) from moved


def origin(value: object) -> tuple[str, int]:
    """File and line where Ansible read a value or key; empty where it did not read it from a file."""
    found = Origin.get_tag(value)
    if found is None or not found.path:
        return "", 0
    return str(found.path), int(found.line_num or 0)


def settled(value: Any) -> Any:
    """A variable's value; raises what its template failed with, where it stands for such a failure."""
    if isinstance(value, Marker):
        value.trip()
    return value


def shell(connection: Any) -> Any:
    """The shell plugin of a connection, as privilege escalation wants it; None where it has none."""
    return getattr(connection, "_shell", None)


def ssh_argv(connection: Any, *words: str) -> list[str]:
    """The local command line by which the ssh connection would run ssh with these arguments."""
    argv = connection._build_command(connection.get_option("ssh_executable"), "ssh", *words)
    return [part.decode() if isinstance(part, bytes) else str(part) for part in argv]


def begin_failure(callback: Any, result: Any) -> None:
    """What the default callback does about a failed task before it prints how it failed."""
    if callback._last_task_banner != result.task._uuid:
        callback._print_task_banner(result.task)
    callback._handle_warnings(result.result)
    callback._clean_results(result.result, result.task.action)


# What runs a module inside of a Python that has Ansible's library; it is there on the server, too.
MODULE_RUNNER = "ansible.module_utils._internal._ansiballz._loader"
_RUNNER_TAKES = {"json_params", "profile", "module_fqn", "modlib_path", "extensions"}
_BUILT_OF = {"b_module_data", "module_style", "shebang", "serialization_profile"}
MODULE_PROFILE = "legacy"


def load_plugins() -> None:
    """Load what every task uses of plugins, once, before workers are forked that would each do it again.

    A task that is skipped took three times as long without. What cannot be loaded is left to the tasks.
    """
    from ansible.module_utils.common.json import Direction, get_module_encoder
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins import loader
    from ansible.template import Templar, trust_as_template

    for plugins in (loader.filter_loader, loader.test_loader):
        with contextlib.suppress(Exception):
            list(plugins.all())
    for plugins, names in (
        (loader.connection_loader, ("ssh",)),
        (loader.become_loader, ("sudo",)),
        (loader.shell_loader, ("sh",)),
        (loader.lookup_loader, ("ansible.builtin.file", "ansible.builtin.template")),
        (loader.action_loader, ("normal", "release", "debug", "fail", "set_fact", "assert")),
    ):
        for name in names:
            with contextlib.suppress(Exception):
                plugins.get(name, class_only=True)
    for direction in (Direction.CONTROLLER_TO_MODULE, Direction.MODULE_TO_CONTROLLER):
        with contextlib.suppress(Exception):
            get_module_encoder(MODULE_PROFILE, direction)
    with contextlib.suppress(Exception):
        templar = Templar(loader=DataLoader(), variables={})
        templar.template(trust_as_template("{{ [] | map('regex_replace', 'a', 'b') | list is match('a') }}"))


def own_action(name: str) -> Any:
    """Ansible's own action of a name that a plugin here has taken: by that name, the plugin is imported."""
    file = Path(ansible.plugins.action.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"berth_ansible_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ActionModule


def runs_modules() -> bool:
    """Whether this version of Ansible runs modules as `MODULE_RUNNER` is asked to here."""
    try:
        runner = importlib.import_module(MODULE_RUNNER)
        from ansible.executor.module_common import _BuiltModule

        built = {one.name for one in dataclasses.fields(_BuiltModule)}
        required = {
            name
            for name, one in inspect.signature(runner.run_module).parameters.items()
            if one.default is inspect.Parameter.empty
        }
    except (ImportError, AttributeError, TypeError):
        return False
    return required == _RUNNER_TAKES and built == _BUILT_OF


def module_request(arguments: Mapping[str, Any]) -> str:
    """A module's arguments as it reads them."""
    from ansible.module_utils.common.json import Direction, get_module_encoder

    encoder = get_module_encoder(MODULE_PROFILE, Direction.CONTROLLER_TO_MODULE)
    return json.dumps({"ANSIBLE_MODULE_ARGS": arguments}, cls=encoder)


def built_module(data: bytes, python: str) -> Any:
    """What an action's `_configure_module` returns of a module that is to be run by this Python."""
    from ansible.executor.module_common import _BuiltModule

    return _BuiltModule(
        b_module_data=data, module_style="new", shebang=f"#!{python}", serialization_profile=MODULE_PROFILE
    )
