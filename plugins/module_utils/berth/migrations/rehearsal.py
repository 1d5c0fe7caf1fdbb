"""A copy of the live rows beside the live server, to run migrations on: it is there as long as it is held."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UP, ReleaseError
from ..host import sandbox
from ..paths import Paths
from ..payload import backup, side
from ..runtime import naming, units
from ..runtime.transient import Session, Work, in_unit
from ..services import postgresql
from ..services import table as services
from . import migrate
from .database import Database

Facts = dict[str, Any]

PROGRAM = Path("/usr/local/lib/berth/rehearsal.py")
# Seconds for another backup to end that is at work already, at least; and for the copy to tell what was done,
# and to be removed.
_WAIT = 120
_PATIENCE = 300
_NOTHING = "Nothing was changed."
# Of this process, which holds on to the network of the copy.
_DESCRIPTOR = "/proc/{pid}/fd/{number}"
_OWN = Path("/proc/self/ns/net")
_NETWORK = "/proc/{pid}/ns/net"


def refuse() -> None:
    """The sentence where there is nothing to copy from."""
    if not backup.SETTINGS.exists():
        raise ReleaseError(
            "There are no backups on this server, so there is no copy to rehearse on: set "
            f"server.backup.enabled to true, and {UP}. {_NOTHING}"
        )
    if not PROGRAM.exists():
        raise ReleaseError(
            f"An earlier Berth set this server up, which rehearses nothing; {UP} first. {_NOTHING}"
        )


class Copy:
    """The newest backup and all WAL, in a server of its own that answers at the live one's address, in a
    network that it shares with nobody but what is run `beside` it."""

    def __init__(self, paths: Paths, app: dict[str, Any], wait: float = 0) -> None:
        self.paths, self.app, self.wait = paths, app, wait
        self.unit = naming.transient("copy", paths.app)
        self.facts: Facts = {}
        self.network = -1
        self.session: Session | None = None

    def __enter__(self) -> Copy:
        settings = json.loads(backup.SETTINGS.read_text())
        log = Path("/var/log/pgbackrest")
        folders = [Path(settings["state"]), Path(settings["drill"]), *([log] if log.exists() else [])]
        argv = ["/usr/bin/python3", "-I", str(PROGRAM)]
        work = Work(
            self.unit, argv, user="postgres", sandbox=sandbox.restoring(), writable=folders,
            timeout=side.REPLAY, cwd=Path("/"),
        )  # fmt: skip
        self.session = Session(self.unit, in_unit(work))
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _begin(self) -> None:
        database = self.app["database"]
        roles = [postgresql.role(database, owner=owner) for owner in (False, True)]
        wait = max(self.wait, _WAIT)
        asked = {"database": database["name"], "owner": roles[1], "roles": roles, "wait": wait}
        self.facts = self._ask(asked, side.REPLAY)
        self.network = self._hold_network()

    def _hold_network(self) -> int:
        """By a descriptor: a number of a process may be another one's by the time that it is looked at."""
        pid = units.main_pid(naming.distributions(self.unit))
        try:
            found = os.open(_NETWORK.format(pid=pid), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise ReleaseError(f"The copy of the live rows ended. {_NOTHING}") from None
        own = os.fstat(found).st_ino == _OWN.stat().st_ino
        if own or units.main_pid(naming.distributions(self.unit)) != pid:
            os.close(found)
            raise ReleaseError(f"The copy of the live rows has no network of its own. {_NOTHING}")
        return found

    def _ask(self, question: Facts, patience: float) -> Facts:
        assert self.session is not None
        found = self.session.ask(question, patience)
        if found.get("problem"):
            raise ReleaseError(f"There is no copy to rehearse on: {found['problem']}. {_NOTHING}")
        return found

    def _end(self) -> None:
        if self.network >= 0:
            os.close(self.network)
            self.network = -1
        if self.session:
            self.session.end(_PATIENCE)

    @property
    def beside(self) -> migrate.Beside:
        """For what is run on it."""
        network = _DESCRIPTOR.format(pid=os.getpid(), number=self.network)
        server = ["-h", self.facts["socket"], "-p", str(self.facts["port"])]
        return migrate.Beside(
            (*migrate.AS_PSQL, *server), sandbox.beside(network, self.paths.home, services.sockets())
        )

    def database(self) -> Database:
        return Database(self.app, self.paths.root, server=(self.facts["socket"], str(self.facts["port"])))

    def told(self) -> Facts:
        """What was done to it."""
        return self._ask({}, _PATIENCE)
