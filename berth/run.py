"""One run of ansible-playbook: as it is, or through ansible-runner with its events told as they come."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from berth import kit
from berth.progress import REFUSED as REFUSED
from berth.progress import Account

INTERRUPTED = 130

# These want the terminal for themselves or answer without running a task.
_NEEDS_TERMINAL = (
    "--ask-",
    "--step",
    "--list-",
    "--syntax-check",
    "--help",
    "--version",
    "--connection-password-prompt",
)
_SHORT_FLAGS_WITH_VALUE = "efiltuTcM"


@dataclass
class Run:
    """What to run: a playbook of the kit, its extra variables, and what the user adds."""

    playbook: str
    inventory: str
    variables: dict[str, Any] = field(default_factory=dict)
    options: Sequence[str] = ()
    passthrough: Sequence[str] = ()
    plain: bool = False
    answer: bool = False
    # Whether somebody waits for its end: then it never takes this process's place.
    returns: bool = False
    # Names of tasks whose failure is no failure of the run, but an answer, with the exit status of each.
    verdict: Mapping[str, int] = field(default_factory=dict)
    # Whether nothing is printed where there is nothing to tell.
    quiet: bool = False

    def arguments(self) -> list[str]:
        """The arguments of ansible-playbook; the user's come last, so that they win."""
        inventory = kit.find_inventory(self.inventory)
        arguments = [str(kit.playbook(self.playbook)), "-i", str(inventory), *self.options]
        password_file = kit.vault_password_file(inventory)
        if password_file and not any(
            one.startswith(("--vault", "--ask-vault", "-J")) for one in self.passthrough
        ):
            arguments += ["--vault-password-file", str(password_file)]
        if self.variables:
            # As JSON, for a number to stay a number and `true` a boolean.
            arguments += ["-e", json.dumps(self.variables)]
        return [*arguments, *self.passthrough]

    def start(self) -> int:
        """Run it and return the exit status of ansible-playbook, or that of its verdict."""
        program = kit.ansible_playbook()
        arguments = self.arguments()
        if self.plain or needs_terminal(self.passthrough):
            sys.stdout.flush()
            if self.returns:
                command = [str(program), *arguments]
                return subprocess.run(command, env=kit.environment(os.environ), check=False).returncode
            os.execve(program, [str(program), *arguments], kit.environment(os.environ))  # noqa: S606 - no shell wanted
        return self._told(arguments)

    def _told(self, arguments: Sequence[str]) -> int:
        import ansible_runner

        title = f"{self.playbook} on {self.inventory}"
        with (
            # Runner keeps its command, environment and output in files; they go with the folder.
            tempfile.TemporaryDirectory(prefix="berth-", dir=private_tmp()) as folder,
            Account(title, answer=self.answer, verdict=self.verdict, quiet=self.quiet) as account,
            Interrupts(account) as interrupts,
        ):
            runner = ansible_runner.run(
                private_data_dir=folder,
                project_dir=str(Path.cwd()),
                binary=str(kit.ansible_playbook()),
                cmdline=shlex.join(arguments),
                envvars=_runner_environment(self.answer),
                settings={"pexpect_timeout": 0.2, "suppress_output_file": True},
                quiet=True,
                event_handler=account.event,
                cancel_callback=lambda: interrupts.kill,
            )
        status = int(runner.rc) if isinstance(runner.rc, int) else 1
        # What is no answer is always told.
        account.news |= bool(status and not account.refused) or bool(interrupts.count)
        if interrupts.count:
            account.note(
                "Stopped. A release that is live already is finished by the server; what else was under way "
                "the next run picks up."
            )
            account.tell()
            return INTERRUPTED
        if account.refused and not account.broken:
            return account.refused
        account.recap(status)
        account.tell()
        return status


class Interrupts:
    """Ctrl-C asks ansible-playbook to stop, as it would in its own terminal; a second one ends it at once.

    ansible-runner puts ansible-playbook into a session of its own, where no key of the terminal reaches it.
    """

    def __init__(self, account: Account) -> None:
        self.account = account
        self.count = 0
        self.kill = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        if self.count > 1 or not self.account.pid:
            self.kill = True
            return
        if number != signal.SIGHUP:
            self.account.note("Stopping ansible-playbook (once more: kill it).")
        try:
            os.kill(self.account.pid, signal.SIGINT)
        except ProcessLookupError:
            self.kill = True


def needs_terminal(passthrough: Sequence[str]) -> bool:
    """Whether these arguments make ansible-playbook ask something or only list and leave."""
    for one in passthrough:
        if one.startswith(_NEEDS_TERMINAL):
            return True
        if one.startswith("-") and not one.startswith("--"):
            for letter in one[1:]:
                if letter in "kKJh":
                    return True
                if letter in _SHORT_FLAGS_WITH_VALUE:
                    break
    return False


def _runner_environment(answer: bool) -> dict[str, str]:
    env = kit.environment(os.environ)
    # Runner would switch host key checking off; the kit's ansible.cfg is the one that decides.
    env.setdefault("ANSIBLE_HOST_KEY_CHECKING", "True")
    # Runner sets this variable for its own callback, and so hides the folder that ansible.cfg names.
    env.setdefault("ANSIBLE_CALLBACK_PLUGINS", str(kit.ROOT / "plugins" / "callback"))
    stream = sys.stderr if answer else sys.stdout
    if not stream.isatty() or "NO_COLOR" in os.environ:
        env["ANSIBLE_NOCOLOR"] = "1"
    return env


def private_tmp() -> str | None:
    """Memory rather than disk, where the machine has such a folder."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108 - mkdtemp makes it 0700
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None
