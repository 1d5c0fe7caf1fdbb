"""The controller's side of the module server: which modules it runs, and how it is asked.

One per run, host and user there. Where there is none (no Python on the host yet, a connection that does not
stay open), Ansible runs the module as it does anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible.module_utils
import ansible.modules

from .. import ansible_private
from . import session

_PACKAGE = "ansible.module_utils.berth"
PROGRAM = session.bootstrap(_PACKAGE, "module_server")
_BERTH = Path(__file__).resolve().parents[1]
_OURS = _BERTH.parents[1] / "modules"
_ANSIBLE = Path(ansible.modules.__file__).parent
# Of Ansible's own those that tasks here use, and that have no action of their own.
_BUILTIN = ("file", "stat", "systemd_service")
_KINDS = ("ssh", "docker", "podman")


@dataclass(frozen=True)
class Found:
    """A module that it runs: its name on the server, and its file here."""

    name: str
    path: Path


def find(module: str) -> Found | None:
    """By the name that a task calls it by; None for what the server is not sent."""
    name = module.removeprefix("ansible.builtin.").removeprefix("ansible.legacy.")
    path = _OURS / f"{name}.py" if module == name else _ANSIBLE / f"{name}.py"
    known = name.isidentifier() and (path.is_file() if module == name else name in _BUILTIN)
    return Found(f"ansible.modules.{name}", path) if known else None


def suits(connection: Any) -> bool:
    """Whether a process can stay at the other end of this connection, as root or as who logs in."""
    become = connection.become
    return str(connection.transport).rpartition(".")[2] in _KINDS and (
        become is None or become.get_option("become_user") in (None, "root")
    )


def pack() -> bytes:
    """Ansible's library and all modules that it runs, as a zip file: what the server has in memory."""
    library = Path(ansible.module_utils.__file__).parent
    return session.pack(
        {
            Path("ansible/module_utils"): library,
            Path("ansible/module_utils/berth"): _BERTH,
            Path("ansible/modules"): _OURS,
            **{Path(f"ansible/modules/{name}.py"): _ANSIBLE / f"{name}.py" for name in _BUILTIN},
        },
        # Else an Ansible that is installed there would be taken for it.
        packages=("ansible", "ansible/modules"),
    )


class Server:
    """The module server at the other end of a connection."""

    def __init__(self, folder: str, connection: Any, python: str) -> None:
        self.connection = connection
        self.argv = session.engine_argv(connection, python, PROGRAM)
        self.session = session.Session(folder, f"{PROGRAM} {python} {session.way(connection)}")
        # By it the tasks that follow know that it cannot be had.
        self.refused = self.session.path.with_suffix(".none")

    def ready(self, pid: int) -> bool:
        """Whether it can be asked; it is started where that was not tried yet, for as long as `pid` lives."""
        # First: the socket of one that could not be started is there for a moment yet.
        if self.refused.exists():
            return False
        if self.session.open:
            return True
        become = self.connection.become
        password = become.get_option("become_pass") if become else None
        try:
            self.session.start(self.argv, pack(), f"{password}\n" if password else "", pid)
        except (ConnectionError, OSError):
            self.refused.touch()
            return False
        return True

    def run(self, module: str, params: str) -> dict[str, Any]:
        """How the module ended and what it printed; ConnectionError where that is not known."""
        args = {
            "runner": ansible_private.MODULE_RUNNER,
            "profile": ansible_private.MODULE_PROFILE,
            "params": params,
        }
        answer = self.session.call(module, args)
        if "rc" not in answer:
            raise ConnectionError(answer.get("msg") or "the connection to the server was lost")
        return {
            **answer,
            "stdout_lines": answer["stdout"].splitlines(),
            "stderr_lines": answer["stderr"].splitlines(),
        }
