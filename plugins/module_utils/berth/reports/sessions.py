"""Sessions for people, as commands for root's shell: psql, a command of an app, its log, its secrets.

They go over a connection of their own. So what is typed and shown there passes neither Ansible nor its logs.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import UP, ReleaseError, run_of
from ..packaging import once
from ..packaging.tree import Tree
from ..paths import Paths
from ..runtime import by_hand, naming, transient
from ..services import external, postgresql
from ..services.service import ROOT, Settings
from ..store import journal, releases, settings
from . import restores

ROLES = ("readonly", "runtime", "owner")
# It is postgres that runs psql, and keeps its history.
_HOME = "/var/lib/postgresql"
# Seconds that a command or a shell of an app may take: a forgotten one ends with the day.
_DAY = 86400.0
# All of it before the first program in it, which could else read on from there.
_SCRIPT = 'eval "$(cat)"'
_SHOW = "import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])"


def psql(app: str, role: str, restored: bool, terminal: bool, root: Path = ROOT) -> str:
    """A command for root's shell on the server; ReleaseError where there is no such database.

    It logs in as the role itself. As the superuser, one function of an app's in a view would act as that.
    """
    known = settings.recorded(Paths(app, root))["database"]
    if not known:
        raise ReleaseError(f"There is no app {app} on this server; berth status (status.yml) names those.")
    if not known.get("enabled"):
        raise ReleaseError(f"{app} has no database: database.enabled is false.")
    if role not in ROLES:
        raise ReleaseError(f"role: {role} is none of {', '.join(ROLES)}.")
    user = _user(known, role)
    said = "read-only" if role == "readonly" else role
    words = ["psql", "--set=ON_ERROR_STOP=1", f"--username={user}", f"--dbname={known['name']}"]
    if terminal:
        shown = f"restored, {said}" if restored else said
        words.append(f"--set=PROMPT1=%/ ({shown})%R%x%# ")
    else:
        # What a script prints is not to depend on somebody's settings.
        words.append("--no-psqlrc")
    run = [*postgresql.AS_SUPERUSER, *words]
    if restored and external.used(known):
        raise ReleaseError(
            f"The database of {app} is at {external.where(known)}, so it is in nothing that was restored."
        )
    if restored:
        made = restores.standing()
        # Its socket is open to postgres alone.
        server = [f"--host={made['socket']}", f"--port={made['port']}"]
        return f"cd / && export HOME={_HOME} && exec {shlex.join([*run, *server])}"
    password = root / postgresql.FOLDER / user
    if not password.exists():
        raise ReleaseError(f"This server has no role {user} yet; {UP} makes it.")
    found = postgresql.SERVICE.client({"database": known}, root)
    ask = f"PGPASSWORD=$(cat {shlex.quote(str(password))})"
    tls = "".join(f" {name}={shlex.quote(value)}" for name, value in external.environment(known).items())
    given = f"export HOME={_HOME} PGPASSWORD PGAPPNAME=berth-psql{tls}"
    opened = shlex.join([*run, f"--host={found['PGHOST']}", f"--port={found['PGPORT']}"])
    return f"cd / && {ask} && {given} && exec {opened}"


def _user(database: Settings, role: str) -> str:
    if role == "readonly":
        return postgresql.reader(database)
    return postgresql.role(database, owner=role == "owner")


def command(app: str, job: str, terminal: bool, root: Path = ROOT) -> str:
    """Run what comes over the input in an app's live release: as its processes run, and beside them.

    With a terminal it is a shell. `job` is one of its jobs instead, run now by its own unit.
    """
    paths = Paths(app, root)
    live = releases.live(paths)
    described = journal.read_record(paths.release(live)).get("app") if live else None
    if not described:
        raise ReleaseError(
            f"{app} has no live release on this server, so there is nothing to run a command in.",
            advice=run_of("deploy", app),
        )
    if job:
        known = [str(one["name"]) for one in described["jobs"]]
        if job not in known:
            raise ReleaseError(f"{app} has no job {job}; there is: {', '.join(known) or 'none'}.")
        return by_hand.now(naming.service(naming.process_stem(app, job, 1), live))
    tree = Tree(paths, described, live)
    work = once.of_app(
        tree.code(),
        f"{naming.transient('run', app)}-{secrets.token_hex(3)}",
        ["/bin/bash", "--norc", "-i"] if terminal else ["/bin/sh", "-c", _SCRIPT],
        cwd=tree.work,
        settings=paths.env(live),
        timeout=_DAY,
        writable=[paths.data, paths.home, *tree.scratch()],
        more={"PS1": f"{app} ({live}) \\w$ "} if terminal else None,
        properties=["UMask=0077"],
    )
    return shlex.join(transient.in_unit(work, terminal=terminal))


def follow(stems: Sequence[str], lines: int) -> str:
    """The log of processes and jobs, on and on."""
    return by_hand.follow(stems, lines)


def secret(app: str, name: str, root: Path = ROOT) -> str:
    """Show one value, which was given or born on the server; the command itself does not have it."""
    path = Paths(app, root).etc / "secrets.json"
    try:
        known = sorted(json.loads(path.read_text()))
    except (OSError, ValueError):
        raise ReleaseError(
            f"There is no app {app} on this server; berth status (status.yml) names those."
        ) from None
    if name not in known:
        there = f"there is: {', '.join(known)}" if known else "it has none"
        raise ReleaseError(f"{app} has no secret {name} on this server; {there}.")
    return shlex.join(["/usr/bin/python3", "-I", "-c", _SHOW, str(path), name])
