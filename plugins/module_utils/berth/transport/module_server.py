"""Runs Ansible's modules on the server, each in a child of one Python that has Ansible's library in memory.

Ansible itself starts a Python for each task, sends it the module with all that it imports, and has that
compiled anew: most of what a task costs that finds nothing to do. Here a task costs a fork.

A request is a line of JSON {step: the module's full name, args: {runner, profile, params}}; an empty line is
a sign of life. An answer is a line {done, rc, stdout, stderr}, as of a command. A child changes nothing in
here: what it imports, sets or opens ends with it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.util
import io
import json
import os
import re
import select
import sys
import traceback
from pathlib import Path
from typing import Any

from .bytecode import Bytecode

# Seconds without a sign of life (the keeper gives one every ten) after which nobody is there any more.
SILENCE = 90.0
_IMPORTS = re.compile(r"(?m)^(?:from|import) (ansible\.module_utils[\w.]*)")


@functools.cache
def warm(module: str) -> None:
    """Import what a module imports of Ansible's, once for all children; its own code is theirs."""
    with contextlib.suppress(Exception):  # the child meets it, too, and tells
        spec = importlib.util.find_spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else ""  # type: ignore[attr-defined]
        for name in _IMPORTS.findall(source or ""):
            importlib.import_module(name)


def run(module: str, args: dict[str, Any], library: str) -> dict[str, Any]:
    """How a module ended, and what it printed."""
    warm(module)
    # Files, since something that a module starts may hold a pipe open for as long as it lives.
    out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _child(module, args, library, out, err)
        _, status = os.waitpid(child, 0)
        said = []
        for descriptor in (out, err):
            os.lseek(descriptor, 0, os.SEEK_SET)
            with os.fdopen(os.dup(descriptor), "rb") as file:
                said.append(file.read().decode(errors="surrogateescape"))
    finally:
        os.close(out)
        os.close(err)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        said[1] += f"the module was ended by signal {-code}\n"
    return {"rc": code, "stdout": said[0], "stderr": said[1]}


def _child(module: str, args: dict[str, Any], library: str, out: int, err: int) -> None:
    """Never returns."""
    code = 1
    try:
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
            os.dup2(descriptor, number)
        sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False))  # noqa: SIM115 - for the child's life
        sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), write_through=True)  # noqa: SIM115
        sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), write_through=True)  # noqa: SIM115
        sys.argv = [f"AnsiballZ_{module.rpartition('.')[2]}.py"]
        try:
            importlib.import_module(args["runner"]).run_module(
                json_params=args["params"].encode(),
                profile=args["profile"],
                module_fqn=module,
                modlib_path=library,
                extensions={},
            )
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - the one place where nothing may escape
            traceback.print_exc()
        # Folders that a module made for itself are removed there.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main(bytecode: Bytecode) -> None:
    # A module that prints where it should not must not talk into the protocol.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    library = str(bytecode.engine)
    # As Ansible makes it before most tasks; a module that has to do so itself warns of it.
    with contextlib.suppress(OSError, RuntimeError):
        Path("~/.ansible/tmp").expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
    importlib.import_module("ansible.module_utils.basic")

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    with contextlib.suppress(OSError):  # who asked is gone
        send({"hello": os.getpid()})
        waiting = b""
        while select.select([0], [], [], SILENCE)[0]:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                break
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in filter(bytes.strip, lines):
                request = json.loads(line)
                send({"done": True, **run(request["step"], request["args"], library)})
    bytecode.keep()
