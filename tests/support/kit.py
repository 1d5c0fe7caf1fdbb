"""Berth as a user has it: an inventory folder, a host, and playbooks run as commands."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from testhost import Host

from tests.support import times
from tests.support.pace import patience

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Seconds of health.timeout for what will be well. It ends what hangs: on a busy machine the import of an app
# alone has taken a minute.
WELL = 600
# What makes a bare host one that serves apps.
PROVISIONS = ("site.yml", "playbooks/provision.yml")


@dataclasses.dataclass(frozen=True)
class Run:
    """How a playbook run ended."""

    status: int
    output: str
    seconds: float

    def count(self, what: str) -> int:
        """A number of the recap, such as ``changed``, summed over the hosts."""
        return sum(int(found) for found in re.findall(rf"\b{what}=(\d+)", self.output))

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        return self.count("changed")


def environment(**more: str) -> dict[str, str]:
    """The environment of a user's shell in this repository, with nothing of pytest's in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTEST_", "BERTH_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    kept["PATH"] = f"{BIN}:{kept['PATH']}"
    return {**kept, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **more}


def execute(*command: str, timeout: float = 0, env: Mapping[str, str] | None = None) -> Run:
    """Run a command in this repository as a user would, with these variables beside a user's."""
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=timeout or patience(900),
        check=False,
    )
    return Run(done.returncode, done.stdout, time.monotonic() - started)


def demo_apps() -> list[dict[str, Any]]:
    """The two apps of the demo's inventory, with their source where it is."""
    text = (ROOT / "inventories/demo/group_vars/all/apps.yml").read_text()
    apps: list[dict[str, Any]] = yaml.safe_load(text)["apps"]
    for app in apps:
        app["source"]["path"] = str(ROOT / "app")
    return apps


def board_source(folder: Path) -> dict[str, str]:
    """A copy of the board's source in this folder, which a test may change, as an app's entry names it."""
    copied = folder / "board"
    unwanted = shutil.ignore_patterns(".venv", "__pycache__", ".*_cache")
    shutil.copytree(ROOT / "app", copied, ignore=unwanted)
    return {"path": str(copied)}


def board_copy(folder: Path) -> dict[str, Any]:
    """The demo's board, built from such a copy."""
    app = next(app for app in demo_apps() if app["name"] == "board")
    app["source"] = board_source(folder)
    return app


class Kit:
    """An inventory in a folder of its own, for one host."""

    def __init__(
        self,
        folder: Path,
        host: Host,
        *,
        apps: Sequence[Mapping[str, Any]] = (),
        server: Mapping[str, Any] | None = None,
        vault: Mapping[str, Any] | None = None,
        connection: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.temporary = folder.parent / "ansible"
        """Where runs that are killed leave what is theirs: not beside what others left in the user's home."""
        self.host = host
        self.connection: dict[str, Any] = dict(connection or host.connection())
        self.apps: list[dict[str, Any]] = copy.deepcopy([dict(app) for app in apps])
        self.server: dict[str, Any] = dict(server or {"proxy": {"tls": "internal"}})
        self.vault: dict[str, Any] = dict(vault or {})
        self.extra: dict[str, Any] = {}
        """Top-level variables beyond the three, for tests of the contract."""

    def write(self) -> None:
        """Write the inventory as it is described now."""
        group = self.folder / "group_vars" / "all"
        group.mkdir(parents=True, exist_ok=True)
        (self.folder / "hosts.yml").write_text(
            yaml.safe_dump({"all": {"hosts": {self.host.name: self.connection}}}, width=1000)
        )
        (group / "server.yml").write_text(
            yaml.safe_dump({"server": self.server, **self.extra}, sort_keys=False)
        )
        (group / "apps.yml").write_text(yaml.safe_dump({"apps": self.apps}, sort_keys=False))
        (group / "vault.yml").write_text(yaml.safe_dump({"vault": self.vault}, sort_keys=False))

    def command(self, playbook: str, *arguments: str) -> list[str]:
        """The command line of a run."""
        return [str(BIN / "ansible-playbook"), playbook, "-i", str(self.folder), *arguments]

    def play(
        self,
        playbook: str,
        *arguments: str,
        succeed: bool | None = True,
        timeout: float = 0,
        env: Mapping[str, str] | None = None,
    ) -> Run:
        """Run a playbook with the inventory as described now.

        ``succeed`` says how it must end; None takes either end.
        """
        self.write()
        run = execute(*self.command(playbook, *arguments), timeout=timeout, env=env)
        if playbook in PROVISIONS and "--check" not in arguments and run.status == 0:
            times.spent(self.host.name, "provision", run.seconds)
        if succeed is not None and (run.status == 0) is not succeed:
            raise AssertionError(
                f"{playbook} ended with {run.status} after {run.seconds:.0f} s:\n{run.output}"
            )
        return run

    def berth(self, verb: str, *arguments: str, status: int = 0, env: Mapping[str, str] | None = None) -> str:
        """Run a verb of the command line, which must end with this status; what it printed."""
        self.write()
        words = (sys.executable, "-m", "berth", verb, "-i", str(self.folder), *arguments)
        run = execute(*words, env=env)
        assert run.status == status, run.output
        return run.output

    def start(self, playbook: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a playbook in a process group of its own, to be watched or killed."""
        self.write()
        return subprocess.Popen(
            self.command(playbook, *arguments),
            cwd=ROOT,
            env=environment(ANSIBLE_LOCAL_TEMP=str(self.temporary)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def app(self, name: str) -> dict[str, Any]:
        """The description of one app, to be changed in place."""
        return next(app for app in self.apps if app["name"] == name)

    def release(self, name: str) -> str:
        """The live release of an app: what its live socket points to; empty where nothing is live."""
        target = self.host.sh(f"readlink /srv/{name}/web.sock || true")
        return Path(target).name.removesuffix(".sock") if target else ""

    def authority(self, folder: Path) -> Path:
        """The CA of the host's proxy as a file in this folder, for clients on this side to trust."""
        path = folder / "ca.crt"
        path.write_text(self.host.sh(f'cat "{AUTHORITY}"') + "\n")
        return path

    def curl(self, url: str, *options: str, check: bool = True) -> str:
        """curl on the host itself, through the proxy, trusting its internal CA alone."""
        words = " ".join(f"'{option}'" for option in options)
        domain = re.sub(r"^https?://([^/:]+).*", r"\1", url)
        return self.host.sh(
            f'curl -sS --max-time 20 --cacert "{AUTHORITY}" --resolve {domain}:443:127.0.0.1 '
            f"--resolve {domain}:80:127.0.0.1 {words} '{url}'",
            check=check,
        )

    def json(self, url: str, *options: str) -> Any:
        """The decoded JSON answer of the proxy."""
        return json.loads(self.curl(url, *options))


INTERNAL_CA = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
# As the proxy that is there says, in a shell on the host; where none has said anything yet, as before.
_RECEIPT = "/var/lib/berth/proxy.json"
_ROOT = f'import json; print(json.load(open("{_RECEIPT}"))["published"]["authority"]["root"])'
AUTHORITY = f"$(python3 -c '{_ROOT}' 2>/dev/null || echo {INTERNAL_CA})"


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 a run and everything it started on this side."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    if process.stdout:
        process.stdout.close()
