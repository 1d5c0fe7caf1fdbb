"""Ansible's default output, with a failure told once and as the text that it is."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible import constants
from ansible.plugins.callback.default import CallbackModule as Default

# Ansible ships module_utils to hosts, but does not put this folder where a callback could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth import ansible_private
    from plugins.module_utils.berth.diagnosis import masking
else:
    from ansible.module_utils.berth import ansible_private
    from ansible.module_utils.berth.diagnosis import masking

DOCUMENTATION = """
    name: berth
    type: stdout
    short_description: Ansible's default output with readable failures
    description:
      - Like the default, but a failed task's message is printed once and as text, where the default prints it
        twice, the second time as the value of a key. A password inside of an address is hidden.
      - From C(-vv) on it is the default, with everything a module returned.
    extends_documentation_fragment:
      - default_callback
      - result_format_callback
    requirements:
      - set as stdout_callback in ansible.cfg
"""


def failure(result: dict[str, Any]) -> str:
    """The text of a failed result: its message, and what a command printed if the message does not say so."""
    parts = [str(result["msg"]).strip()]
    parts += [
        str(result[stream]).strip()
        for stream in ("stderr", "stdout")
        if str(result.get(stream, "")).strip() and str(result[stream]).strip() not in parts[0]
    ]
    return masking.by_place("\n".join(parts))


class CallbackModule(Default):  # type: ignore[misc] # Ansible ships no type information
    """The default callback but for failures."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "berth"

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Also: make workers begin with what all of them use."""
        ansible_private.load_plugins()
        super().v2_playbook_on_start(playbook)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print the failure of a task that is no loop as text."""
        values = result.result
        loop = result.task.loop and "results" in values
        if self._display.verbosity >= 2 or ignore_errors or loop or not isinstance(values.get("msg"), str):
            super().v2_runner_on_failed(result, ignore_errors)
            return
        ansible_private.begin_failure(self, result)
        text = f"fatal: [{self.host_label(result)}]: FAILED!\n{textwrap.indent(failure(values), '  ')}"
        self._display.display(
            text, color=constants.COLOR_ERROR, stderr=self.get_option("display_failed_stderr")
        )
