"""The folder of one release: where its code is, whose it becomes, and what reads and writes in it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import venv
from ..diagnosis import cause
from ..host import untrusted
from ..host.command import Result
from ..host.untrusted import Owner
from ..paths import Paths, ids
from ..reading import dependencies, packages, places, project, tables
from ..reading.dependencies import Installer
from ..store import public
from . import folders, once
from .once import Code


class Tree:
    """One app's code from the moment it is laid out until it is sealed, and what was read of it."""

    def __init__(self, paths: Paths, app: dict[str, Any], release: str, folder: Path | None = None) -> None:
        """`folder`: where the code is that passes for the release's."""
        self.paths = paths
        self.app = app
        self.release = release
        self.folder = folder or paths.release(release)

    @cached_property
    def project(self) -> Path:
        return places.locate(self.folder, self.app).folder

    @cached_property
    def work(self) -> Path:
        """Where the app runs, and its imports start from."""
        return places.work(self.folder, self.app, self.project).folder

    def installer(self) -> Installer:
        directory = self.app["python"]["directory"]
        return dependencies.find_installer(self.project, self.folder, directory)

    def packages(self) -> list[Path]:
        """The folders to install as packages: the project, and members of its workspace that it asks for."""
        installer = self.installer()
        result = [self.project] if packages.is_package(self.project, installer) else []
        if installer.kind == "uv" and installer.folder:
            result += [one for one in packages.workspace_members(installer) if one != self.project]
        for one in result:
            untrusted.resolve(self.folder, one, f"{installer.file}: {one}")
        return result

    def python_path(self, work: Path | None = None) -> list[Path]:
        site = self.folder / ".berth/site"
        return project.python_path(work or self.work) + ([site] if site.is_dir() else [])

    def code(self, work: Path | None = None, env: Path | None = None) -> Code:
        """The release as one command of it runs; `env` where no link leads to it yet."""
        return Code(self.paths, self.release, env or venv.of(self.folder), self.python_path(work))

    def as_builder(self, argv: Sequence[str], limit: float, *writable: Path) -> Result:
        """A command of this server's, on what others wrote."""
        return once.as_builder(self.paths, self.app, argv, limit, writable)

    def about(self) -> cause.About:
        """For the explanation of what goes wrong before the release runs."""
        return cause.About(str(self.folder), project=str(self.project), app=self.paths.app)

    def refuse_code(self, target: str) -> None:
        """Before anything is built: no folder that the app may write holds what a release consists of."""
        parts = places.code_parts(self.app, self.folder, self.project, self.work, target)
        places.refuse_code(self.app, self.project, parts)

    def scratch(self) -> list[Path]:
        return [self.project / name for name in self.app["scratch"]]

    @property
    def while_built(self) -> Owner:
        """Root's, and the build user reads it."""
        return Owner(0, ids(self.paths.build_user)[1])

    @property
    def sealed(self) -> Owner:
        """Root's, and the app reads it."""
        return Owner(0, ids(self.paths.app)[1])

    def role(self) -> tuple[str, str]:
        return tables.role(self.app, self.project, self.folder)

    def share(self) -> None:
        """Root owns a copy that nobody releases, the app's group reads it."""
        untrusted.take(self.folder, self.sealed)

    def seal(self, interpreter: str) -> None:
        """Bytecode beside the code, then all is root's and read-only; the world may pass to static folders.

        A file that does not compile stays as it is. What the app owns later holds no bytecode.
        """
        own = [str(self.project / name) for name in self.app["persistent"]]
        skipped = "|".join(
            [rf"/({re.escape(venv.LINK)}|node_modules|\.git)/", *(f"^{re.escape(path)}/" for path in own)]
        )
        untrusted.give(self.folder, *ids(self.paths.build_user))
        self.as_builder(
            [interpreter, "-I", "-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
             "-x", skipped, str(self.folder)],
            120, self.folder,
        )  # fmt: skip
        env = venv.of(self.folder).readlink()
        untrusted.take(self.folder, self.sealed, "the release", lambda path: path == venv.LINK)
        venv.of(self.folder).symlink_to(env)
        os.chown(venv.of(self.folder), 0, self.sealed.gid, follow_symlinks=False)
        self.folder.chmod(0o751)
        folders.link_persistent(self.paths, self.app, self.folder, self.project)
        folders.open_scratch(self.paths, self.app, self.folder, self.project)

    def publish(self) -> None:
        """For the proxy what it serves, and for units where the app is."""
        folders.serve(self.app, self.folder, self.project, self.paths.public(self.release))
        lasting = not project.web(self.app)["command"]
        public.mark(self.folder, public.asked_as(self.app), keepalive=lasting)
        places.remember(self.folder, self.project, self.work)
