"""The controller's side of the engine: opens it on the server, asks it for steps.

One engine process per host and run. It is started over the connection that ansible would use for any task,
with the same privilege escalation, and gets its code over standard input: nothing to install, nothing in
argv.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import re
import shlex
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .. import ansible_private

# Reads its own code from standard input into memory. Lines before the magic word are skipped: a password that
# sudo turned out not to need ends there.
_BOOTSTRAP = """
import os, sys
read = sys.stdin.buffer
while True:
    line = read.readline()
    if not line:
        sys.exit("no engine came over standard input")
    if line.startswith(b"BERTH "):
        break
code = os.memfd_create("berth")
with os.fdopen(code, "wb", closefd=False) as out:
    out.write(read.read(int(line.split()[1])))
engine = "/proc/self/fd/%d" % code
sys.path.insert(0, engine)
from PACKAGE.transport.bytecode import Bytecode
bytecode = Bytecode(engine)
bytecode.use()
from PACKAGE.transport.MAIN import main
main(bytecode)
"""


def bootstrap(package: str, main: str) -> str:
    """What Python is started with on the server: in which package its code is, and which part of it runs."""
    return _BOOTSTRAP.replace("PACKAGE", package).replace("MAIN", main)


# An earlier Berth looks for other engines by these words.
BOOTSTRAP = bootstrap("berth", "agent") + "# berth.release.agent\n"


def run_pid() -> int:
    """The ansible process that this task belongs to.

    A task runs in a forked worker. Its parent is asked by the name it had when it forked: a worker whose run
    was killed has been given another parent, which would never end.
    """
    parent = multiprocessing.parent_process()
    return parent.pid if parent and parent.pid else os.getpid()


def pack_engine(folder: Path) -> bytes:
    """The `berth` package of module_utils as a zip file: what the server runs; no checks of inventories."""
    return pack({Path("berth"): folder})


def pack(folders: Mapping[Path, Path], packages: Iterable[str] = ()) -> bytes:
    """Python code as a zip file: what each folder, or file, is called in there; and packages without code."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, place in folders.items():
            for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
                inside = path.relative_to(place)
                if inside.parts[:1] != ("contract",):
                    archive.write(path, name / inside)
        for package in packages:
            archive.writestr(zipfile.ZipInfo(f"{package}/__init__.py"), "")
    return buffer.getvalue()


def ssh_argv(connection: Any, command: str, *options: str) -> list[str]:
    """The ssh command line that Ansible would use for a command on the host, without a password's helper."""
    words = ansible_private.ssh_argv(connection, *options, connection.host, command)
    if words and Path(words[0]).name == "sshpass":
        words = words[next(at for at, word in enumerate(words) if Path(word).name == "ssh") :]
    return words


def engine_argv(connection: Any, python: str, program: str = BOOTSTRAP) -> list[str]:
    """The local command whose input and output are the engine's."""
    command = f"{shlex.quote(python)} -I -c {shlex.quote(program)}"
    if connection.become:
        command = connection.become.build_become_command(command, ansible_private.shell(connection))
    return _argv(connection, command)


def way(connection: Any) -> str:
    """What is the same for all tasks that reach the same host as the same user, and for no other."""
    # Of a command that becomes somebody, a part is made anew for each task.
    return shlex.join([*_argv(connection, ""), f"become={connection.become is not None}"])


def shell_argv(connection: Any, command: str, *, terminal: bool = False) -> list[str]:
    """The local command that runs one in root's shell on the server, with a terminal of its own or without.

    A password of sudo's is asked for on that terminal; without one there must be none, since who reads the
    input first is not certain.
    """
    become = connection.become
    if become:
        become.set_option("become_pass", None)
        if terminal and become.name == "sudo":
            become.set_option("become_flags", "-H")
        command = become.build_become_command(command, ansible_private.shell(connection))
        # Ansible's own mark, which nobody reads here.
        command = command.replace(f"echo {become.success} ; ", "", 1)
    return _argv(connection, command, terminal)


def _argv(connection: Any, command: str, terminal: bool = False) -> list[str]:
    kind = str(connection.transport).rsplit(".", 1)[-1]
    if kind == "ssh":
        # A password was used for the master connection, which the first task opened.
        return ssh_argv(connection, command, *(["-tt"] if terminal else []))
    if kind == "local":
        return ["/bin/sh", "-c", command]
    if kind in ("docker", "podman"):
        user = connection.get_option("remote_user")
        host = connection.get_option("remote_addr")
        words = ["-it" if terminal else "-i", *(["-u", user] if user else [])]
        return [kind, "exec", *words, host, "/bin/sh", "-c", command]
    raise ValueError(
        f"A release needs a connection that stays open, and {kind} is not one of ssh, local, docker, podman: "
        "set ansible_connection to one of these."
    )


def reason(error: str) -> str:
    """The line of ssh's or sudo's complaint that says what to do."""
    error = re.sub(r"\[sudo via ansible[^\]]*\] password:", "", error)
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    known = re.compile(r"Permission denied|password is required|not found|refused|timed out|Host key|sudo:")
    return next((line for line in lines if known.search(line)), lines[-1] if lines else "no reason given")


class Session:
    def __init__(self, folder: str, host: str) -> None:
        name = hashlib.sha256(host.encode()).hexdigest()[:12]
        self.path = Path(folder) / f"berth-{name}.sock"

    @property
    def open(self) -> bool:
        return self.path.exists()

    def start(self, argv: list[str], engine: bytes, preamble: str, pid: int) -> None:
        setup = {"argv": argv, "socket": str(self.path), "preamble": preamble, "pid": pid}
        keeper = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("keeper.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.write(json.dumps(setup).encode() + b"\n")
        keeper.stdin.write(f"BERTH {len(engine)}\n".encode() + engine)
        keeper.stdin.close()
        line = keeper.stdout.readline()
        keeper.stdout.close()
        answer: dict[str, Any] = (
            json.loads(line) if line else {"ok": False, "error": "the connection keeper ended"}
        )
        if not answer["ok"]:
            raise ConnectionError(reason(answer["error"]))

    def call(
        self, step: str, args: dict[str, Any], body: IO[bytes] | None = None, size: int = 0
    ) -> dict[str, Any]:
        with self._connect() as channel, channel.makefile("rwb") as stream:
            stream.write(json.dumps({"step": step, "args": args, "body": size}).encode() + b"\n")
            while body and (chunk := body.read(1 << 16)):
                stream.write(chunk)
            stream.flush()
            for line in stream:
                if line.startswith(b'{"done"'):
                    answer: dict[str, Any] = json.loads(line)
                    answer.pop("done")
                    return answer
        raise ConnectionError("the connection to the server was lost")

    @contextmanager
    def _connect(self) -> Iterator[socket.socket]:
        before = Path.cwd()
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The folder may be deeper than a socket address is long.
            os.chdir(self.path.parent)
            channel.connect(self.path.name)
        finally:
            os.chdir(before)
        with channel:
            yield channel
