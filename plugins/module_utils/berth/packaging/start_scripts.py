"""What the units of a release run: a script for each process and job, and the settings of the web server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import venv
from ..host import untrusted
from ..host.command import module_source
from ..payload import gunicorn_conf
from ..reading import project
from ..runtime import jobs, shell, units
from ..store import journal
from .tree import Tree

# The first file descriptor that systemd hands over, here the only one.
_LISTENER = "3"


def write(tree: Tree, target: str, first: bool = False) -> None:
    """What the units run: one script a process, and the web server's settings and hook."""
    own = tree.folder / ".berth"
    (own / "run").mkdir(parents=True, exist_ok=True)
    web = project.web(tree.app)
    settings: dict[str, Any] = {
        "target": target,
        "workers": web["workers"],
        # Several workers that meet an empty database would all create its tables.
        "first": first,
        "project": str(tree.work),
        "socket": str(tree.paths.root_socket(tree.release)),
        "link": str(tree.paths.web_sock),
        "graceful": int(tree.app["drain"]["requests"]),
    }
    (own / "serve.json").write_text(json.dumps(settings, indent=2) + "\n")
    (own / "gunicorn.conf.py").write_text(module_source(gunicorn_conf))
    python = venv.python(venv.of(tree.folder))
    for process in tree.app["processes"]:
        if process["name"] != "web":
            _script(tree, process["name"], process["command"])
        elif process["command"]:
            socket = str(tree.paths.own_socket(tree.release))
            command = process["command"].replace("{socket}", socket).replace("{fd}", _LISTENER)
            _script(tree, "web", command, socket if "{socket}" in process["command"] else "")
        else:  # quoted, since a factory's name ends in parentheses
            _script(tree, "web", f"{python} -m gunicorn -c {own}/gunicorn.conf.py {shlex.quote(target)}")
    jobs.make_locks(tree.paths, tree.app, tree.sealed.gid)
    for job in tree.app["jobs"]:
        _script(tree, job["name"], job["command"], first=jobs.once(tree.paths, job["name"]))
    untrusted.take(own, tree.sealed, "the release")


def _script(tree: Tree, name: str, command: str, socket: str = "", first: Sequence[str] = ()) -> None:
    lines = ["#!/bin/sh", "# Ansible managed", f"cd {shlex.quote(str(tree.work))} || exit 1"]
    paths = ":".join(shlex.quote(str(path)) for path in tree.python_path())
    lines.append(f'export PYTHONPATH={paths}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    if (tree.folder / ".berth/site/bin").is_dir():
        lines.append(f'export PATH={shlex.quote(str(tree.folder / ".berth/site/bin"))}":$PATH"')
    if socket:
        lines.append(f"rm -f {shlex.quote(socket)}")
    lines += first
    # The unit's main process is the command itself where that is possible: a shell passes no signal on.
    lines.append(shell.as_main(command) or command)
    path = tree.folder / ".berth/run" / name
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)


def crew(folder: Path) -> int:
    """How many workers the server of a release begins with."""
    settings = json.loads((folder / ".berth/serve.json").read_text())
    return 1 if settings.get("first") else int(settings["workers"])


def grow(folder: Path, unit: str) -> None:
    """A first release began with one worker; once it is well the others join, and a restart has them all."""
    path = folder / ".berth/serve.json"
    settings = json.loads(path.read_text())
    if not settings.get("first"):
        return
    settings["first"] = False
    known = path.stat()
    journal.replace_text(
        path, json.dumps(settings, indent=2) + "\n", known.st_mode & 0o777, known.st_uid, known.st_gid
    )
    main = units.main_pid(unit)
    for _ in range(settings["workers"] - 1 if main else 0):
        os.kill(main, signal.SIGTTIN)
        time.sleep(0.1)  # signals of one kind that are pending together count once
