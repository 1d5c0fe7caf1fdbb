"""The state of one run for one app, and what all its steps share."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from .. import venv
from ..diagnosis import cause
from ..errors import run_of
from ..host import untrusted
from ..packaging import pythons
from ..paths import Paths
from ..reading import places
from ..runtime import health, naming, units
from ..sources import source
from ..store import journal, settings
from ..store.lock import Lock
from .plan import Action

Answer = dict[str, Any]
# Who has a deploy run that the server began by itself.
TIMER = "timer"
# Seconds of waiting for what is old that a run does not mention.
SAID = 5


class Kind(str, Enum):
    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    # A release that is built and never started.
    REHEARSAL = "rehearsal"

    @property
    def verb(self) -> str:
        """What to run once more where its release could not be made."""
        return "rehearse" if self == Kind.REHEARSAL else "deploy"


class Deploy:
    """One app on its way from the live release to another one; a rollback goes the same way, and a rehearsal
    as far as its migrations."""

    def __init__(self, paths: Paths, holder: dict[str, Any]) -> None:
        self.paths = paths
        self.holder = holder
        self.lock = Lock(paths)
        self.began = time.monotonic()
        self.action = Action.NOTHING
        self.kind = Kind.DEPLOY
        self.app: dict[str, Any] = {}
        # What was live before this run's release, and what a failure goes back to. It is that release itself
        # where nothing replaces it.
        self.previous = ""
        self.release = ""
        self.record: dict[str, Any] = {}
        self.commit = ""
        # Open from the plan until the source is laid out.
        self.repository: source.Repository | None = None
        self.committed = ""
        # The version that was asked for instead of the inventory's.
        self.asked = ""
        self.identity = ""
        self.fingerprint = ""
        # On the far side of the rename, until the last step has ended or all is put back.
        self.switched = False
        # Nothing takes a release back that has proved itself.
        self.proved = False
        self.undone = False
        self.abandoned = False
        self.renaming = threading.Lock()
        self.left: list[str] = []
        self.alone = False
        self.notes: list[str] = []
        self.times: dict[str, float] = {}
        # What there is to migrate; None until somebody has looked.
        self.looked: Any = None
        # What the units that are watched did before this run started them.
        self.past = units.Past()
        self.since = 0.0  # when the web was asked to start
        # What is wrong with the settings, told by the plan.
        self.problem = ""
        self.switch_ms = 0.0
        self.writing: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.paths.release(self.release)

    @property
    def web(self) -> str:
        return naming.web(self.paths.app, self.release)

    @property
    def domain(self) -> str:
        return str(self.app["domains"][0])

    def previous_app(self) -> dict[str, Any]:
        """That release's own description: its process list may differ from today's."""
        app = journal.read_record(self.paths.release(self.previous)).get("app") if self.previous else None
        return app or self.app

    def about(self, process: str = "web") -> cause.About:
        """What a sentence about one of the release's processes has to know."""
        entry: Answer = next((one for one in self.app["processes"] if one["name"] == process), {})
        return cause.About(
            inside=str(self.folder),
            target=self.record.get("target", "") if process == "web" else "",
            found=self.record.get("target_found", ""),
            process=process,
            memory=str(entry.get("memory") or ""),
            project=str(places.locate(self.folder, self.app).folder),
            app=self.paths.app,
            lost=pythons.gone(venv.of(self.folder)),
            called="The live release" if self.action == Action.RESTART else "The new release",
        )

    def save(self) -> None:
        journal.write_record(self.folder, self.record)

    @contextlib.contextmanager
    def spare(self, what: str) -> Iterator[None]:
        """What a full disk must not stop where people wait for a way back, or when the switch is done."""
        try:
            yield
        except OSError as problem:
            if self.kind != Kind.ROLLBACK and not self.switched:
                raise
            self.leave(f"{what} could not be written ({problem.strerror or problem})")

    def leave(self, what: str) -> None:
        """Told at the end, and once: the run has done what it was for, and this is left to do."""
        if what not in self.left:
            self.left.append(what)

    def note(self, step: str, state: str, **more: Any) -> None:
        """Every line tells enough to go on from it: which release, instead of which, and what kind of run."""
        with self.spare("The journal of this run"):
            journal.note(
                self.paths, self.release, step, state, old=self.previous, kind=self.kind.value, **more
            )

    def probe(self) -> health.Probe:
        path = self.app["health"].get("path") or self.record.get("health_path", "")
        return health.probe(naming.socket(self.paths, self.release), self.app, path)

    def ask_previous(self) -> tuple[health.Probe, int]:
        """What that release answers on its own socket, asked once."""
        record = journal.read_record(self.paths.release(self.previous))
        served = settings.served(self.paths, self.previous_app(), self.previous)
        socket = naming.socket(self.paths, self.previous)
        probe = health.probe(socket, served, str(record.get("health_path") or ""))
        return probe, probe.ask(5)

    def open_repository(self, check: bool = False) -> source.Repository:
        """One for all that this run asks of git."""
        if not self.repository:
            target = None if check else self.paths.stage
            self.repository = source.Repository(self.paths, self.app, target=target, write=not check)
        return self.repository

    def close_repository(self) -> None:
        if self.repository:
            self.repository.close()
            self.repository = None
            untrusted.remove(self.paths.stage)

    @property
    def unattended(self) -> bool:
        """Nobody looks on, so what needs somebody's word is left to somebody."""
        return bool(self.holder.get("unattended"))

    def by(self) -> str:
        if self.holder.get("user") == TIMER:
            return TIMER
        return f"{self.holder.get('user', '?')}@{self.holder.get('host', '?')}"

    def again(self) -> str:
        return run_of(self.kind.verb, self.paths.app)

    def audit(self, result: str, seconds: float, **more: Any) -> dict[str, Any]:
        schema = self.record.get("schema") or {}
        return {
            "what": (self.action if self.action in (Action.RESTART, Action.RESUME) else self.kind).value,
            "by": self.by(),
            "from": self.previous,
            "to": self.release,
            "schema_from": schema.get("from", ""),
            "schema_to": schema.get("to", ""),
            **({"restore_point": point["name"]} if (point := self.record.get("restore_point")) else {}),
            "seconds": seconds,
            "switch_ms": self.switch_ms,
            "result": result,
            **({"alone": True} if self.alone else {}),
            **more,
        }
