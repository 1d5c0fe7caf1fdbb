"""A task whose module has no action of its own: by the module server if there can be one, else as ever."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible import constants
from ansible.errors import AnsibleConnectionFailure

# Ansible ships module_utils to hosts, but does not put this folder where actions could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth import ansible_private
    from plugins.module_utils.berth.transport import modules, session
else:
    from ansible.module_utils.berth import ansible_private
    from ansible.module_utils.berth.transport import modules, session


class ActionModule(ansible_private.own_action("normal")):  # type: ignore[misc]
    """Overrides what Ansible's own action calls to build a module and to have it run; all else is its."""

    _asked: tuple[modules.Server, str, bytes] | None = None

    def _configure_module(
        self, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]
    ) -> tuple[Any, str]:
        self._asked = None
        found = modules.find(module_name)
        python = str(task_vars.get("ansible_python_interpreter") or constants.INTERPRETER_PYTHON)
        if found and self._suits(python):
            server = modules.Server(constants.DEFAULT_LOCAL_TMP, self._connection, python)
            if server.ready(session.run_pid()):
                params = ansible_private.module_request(module_args).encode()
                self._asked = server, found.name, params
                return ansible_private.built_module(params, python), str(found.path)
        return super()._configure_module(module_name, module_args, task_vars)  # type: ignore[no-any-return]

    def _suits(self, python: str) -> bool:
        environment: dict[str, Any] = {}
        self._compute_environment_string(environment)
        return (
            python.startswith("/")
            and os.environ.get("BERTH_MODULE_SERVER") != "no"
            and not (environment or self._task.async_val or self._task.delegate_to)
            and self._is_pipelining_enabled("new")
            and modules.suits(self._connection)
            and ansible_private.runs_modules()
        )

    def _low_level_execute_command(self, cmd: str, *args: Any, **more: Any) -> dict[str, Any]:
        if not self._asked or more.get("in_data") is not self._asked[2]:
            return super()._low_level_execute_command(cmd, *args, **more)  # type: ignore[no-any-return]
        server, module, params = self._asked
        try:
            return server.run(module, params.decode())
        except (ConnectionError, OSError) as error:
            raise AnsibleConnectionFailure(str(error)) from None
