"""What Berth asks of a backing service: one class, which each service fills in as far as it has an answer.

Nothing outside this folder says a service's name: whoever needs to know something of all of them asks the
table. What a service leaves out is that of one that keeps nothing on the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..paths import Paths

App = Mapping[str, Any]
Settings = Mapping[str, Any]

ROOT = Path("/")
# Stands for a password in check mode, before the first run has made one.
PREDICTED = "predicted"


class Service:
    # Whether it keeps anything of the app's, for a purge to remove.
    keeps_data: ClassVar[bool] = True
    # Its options in an app's entry, and its settings in provisioned.json.
    key: ClassVar[str]
    # Of its parts in templates: `${db.url}`.
    prefix: ClassVar[str]
    # The role that sets it up, and leaves a receipt of what it applied.
    ansible_role: ClassVar[str]
    # What sentences call it, as a thing that an app has.
    what: ClassVar[str]
    # What it is called in a status.
    program: ClassVar[str]
    # Sets of what its options apply to (see `applies`), each with the options below its key.
    options: ClassVar[Mapping[tuple[str, ...], str]]
    # The folder of local sockets that lead past a sandbox's network.
    sockets: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """Under which key its state is in a status."""
        return self.program.lower()

    def used(self, app: App) -> bool:
        return bool(app[self.key]["enabled"])

    def settings(self, app: App) -> dict[str, Any]:
        """What it is set up from for an app; empty where the app has none, whatever else is written."""
        return dict(app[self.key]) if self.used(app) else {}

    def meant(self, options: Settings) -> Settings:
        """An app's options of it without those that mean nothing there: no digest speaks of them."""
        return options

    def variables(self, app: App) -> dict[str, str]:
        """By each part of it the name of the variable that tells the app; empty where none does."""
        return dict(app[self.key].get("variables", {}))

    def missing(self) -> str:
        """Why a template cannot refer to it."""
        return f'refers to {self.what}, which the app does not have; write "{self.key}: {{enabled: true}}"'

    def address(self, app: App, root: Path = ROOT, *, owner: bool = False) -> tuple[str, str]:
        """Host and port for the app itself; with `owner` for its migrations, which may go another way.

        An external server is another address, a pooler another one for the app alone.
        """
        raise NotImplementedError

    def parts(self, app: App, root: Path = ROOT, *, owner: bool = False) -> dict[str, str]:
        """All there is to know of it, by what its variables and templates name."""
        raise NotImplementedError

    def predicted(self, app: App, *, owner: bool = False) -> dict[str, str]:
        """The same before its role has ever been here."""
        raise NotImplementedError

    def after(self, app: App) -> list[str]:
        """The names of the units that an app's processes and jobs start after."""
        return []

    def secret_files(self, root: Path = ROOT) -> Iterable[Path]:
        """The files that hold one secret each, of all apps."""
        return ()

    def unit(self, app: str) -> str:
        """The name of the unit that is an app's alone; a service for all apps has none."""
        return ""

    def state(self, root: Path = ROOT) -> str:
        """How the one for all apps is; empty where there is none."""
        return ""

    def trouble(self, state: str) -> tuple[str, str] | None:
        """What is wrong in such a state, and where to look."""
        return None

    def explain(self, error: str, where: str) -> str:
        """What an app's last error means, if it is about this service."""
        return ""

    def elsewhere(self, app: App, root: Path = ROOT) -> str:
        """Why what an app has of it on somebody else's server cannot be used; empty where all is well."""
        return ""

    def stays(self, settings: Settings) -> str:
        """What of it even a purge leaves, in a sentence."""
        return ""

    def traces(self, paths: Paths) -> list[Path]:
        """What is here of it as long as it is not purged."""
        return []

    def purge(self, paths: Paths, settings: Settings) -> None:
        """All of it, the data included; `settings` are those that it was set up from.

        A unit of the app's own has ended, and lost what Berth added to it.
        """
