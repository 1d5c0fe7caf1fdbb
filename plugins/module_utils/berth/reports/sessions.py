"""psql for people: the command that opens it on an app's database, as the role that they ask for."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..errors import UP, ReleaseError
from ..paths import Paths
from ..services import postgresql
from ..services.service import ROOT, Settings
from ..store import settings
from . import restores

ROLES = ("readonly", "runtime", "owner")
# It is postgres that runs psql, and keeps its history.
_HOME = "/var/lib/postgresql"


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
    if restored:
        made = restores.standing()
        # Its socket is open to postgres alone.
        server = [f"--host={made['socket']}", f"--port={made['port']}"]
        return f"cd / && export HOME={_HOME} && exec {shlex.join([*run, *server])}"
    password = root / postgresql.FOLDER / user
    if not password.exists():
        raise ReleaseError(f"This server has no role {user} yet; {UP} makes it.")
    host, port = postgresql.SERVICE.address({}, root, owner=True)
    ask = f"PGPASSWORD=$(cat {shlex.quote(str(password))})"
    given = f"export HOME={_HOME} PGPASSWORD PGAPPNAME=berth-psql"
    opened = shlex.join([*run, f"--host={host}", f"--port={port}"])
    return f"cd / && {ask} && {given} && exec {opened}"


def _user(database: Settings, role: str) -> str:
    if role == "readonly":
        return postgresql.reader(database)
    return postgresql.role(database, owner=role == "owner")
