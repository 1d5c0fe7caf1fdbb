"""What Berth uses of Ansible beyond what Ansible promises to keep, all of it; the controller's alone.

A version of ansible-core may move any of this. `tests/unit/test_ansible_private.py` then says which, and this
is the file to correct.
"""

from __future__ import annotations

from typing import Any

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
