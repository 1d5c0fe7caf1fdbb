"""Log in to the host anew, as a user, and become root: what proves a change of how people get in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Ansible ships module_utils to hosts, but does not put this folder where actions could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth.transport import login
else:
    from ansible.module_utils.berth.transport import login


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs on the controller, and changes nothing.

    `user` is who logs in; empty is whoever this run logs in as. `required` fails where that is not proved,
    else `proved` and `reason` say it. Over another connection than ssh (docker, local) nothing is proved.
    """

    TRANSFERS_FILES = False
    _requires_connection = True
    _VALID_ARGS = frozenset({"user", "required"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        user = str(self._task.args.get("user") or "")
        connection = self._connection
        who = user or str(connection.get_option("remote_user") or "the user of this run")
        become = connection.become
        # It is whoever this run logs in as whose password was given.
        password = become.get_option("become_pass") if become and not user else ""
        try:
            reason = login.proof(connection, user, who, password or "")
        except ValueError as error:
            reason = str(error)
        if reason and self._task.args.get("required"):
            raise AnsibleActionFail(f"A new login of {who} failed: {reason}.")
        return {**result, "changed": False, "proved": not reason, "reason": reason}
