"""Filling one environment: what the project's lock or its lists name, and a server where they name none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import venv
from ..errors import ReleaseError
from ..host import untrusted
from ..paths import ids
from ..reading import dependencies, packages
from ..reading.dependencies import Installer
from ..reading.toml import LOCK
from . import index, once
from .pins import IMPLIED, POETRY, SERVER
from .tree import Tree
from .uv import INSTALLING, Uv


@dataclass
class Installing:
    """What is installed into the environment `target`, by what, for which Python."""

    tree: Tree
    uv: Uv
    installer: Installer
    interpreter: str
    choice: dict[str, Any]
    target: Path
    lists: Path
    committed: str  # when the source was, where that is known
    notes: list[str]  # which it adds to

    def run(self) -> None:
        target = self.target
        self.uv.run(
            [
                "venv",
                "--quiet",
                "--python",
                self.interpreter,
                "--no-project",
                "--allow-existing",
                str(target),
            ],
            target,
        )
        self._packages(target, self.installer, self.choice)
        self._server(target)

    def _packages(self, target: Path, installer: Installer, choice: dict[str, Any]) -> None:
        extras = [word for extra in choice["extras"] for word in ("--extra", extra)]
        groups = [word for group in choice["groups"] for word in ("--group", group)]
        folder = installer.folder or self.tree.project
        if installer.kind == "uv":
            which = ["--package", installer.package] if installer.package else []
            # The members of a workspace are folders of this release, and an environment outlives it.
            members = ["--no-install-workspace"] if installer.package else ["--no-install-project"]
            if packages.is_workspace(folder):
                members = ["--no-install-workspace"]
            options = ["--no-dev", *members, *which, *extras, *groups]
            if self.uv.foreign:
                self._from_allowed_index(folder, options, target)
            else:
                self.uv.run(["sync", "--frozen", "--project", str(folder), *options], target)
        elif installer.kind == "poetry":
            exported = self._export(target, installer, choice)
            self.uv.run(["pip", "install", "-r", str(exported)], target)
        elif installer.kind == "pdm":
            listed = self._listed("pdm.txt", dependencies.pdm_requirements(installer.path, choice))
            self.uv.run(["pip", "install", "--no-deps", "-r", str(listed)], target)
        elif installer.kind == "requirements":
            others, itself = dependencies.split_itself(installer)
            if itself is None:
                self._loose(["pip", "install", "-r", str(installer.path)], target)
            else:  # an environment outlives the release: it gets what the project needs, not the project
                files = ["-r", str(self._listed("others.txt", others)), "-r", str(folder / "pyproject.toml")]
                extras += [word for extra in itself for word in ("--extra", extra)]
                self._loose(["pip", "install", *files, *extras, *groups], target)
        elif installer.kind == "pyproject":
            self._loose(["pip", "install", "-r", str(installer.path), *extras, *groups], target)
        elif installer.kind == "setup.cfg":
            lines = dependencies.setup_requirements(folder, choice["extras"]) or []
            listed = self._listed("setup.txt", lines)
            self._loose(["pip", "install", "-r", str(listed)], target)

    def _server(self, target: Path) -> None:
        brought = installed(target)
        missing = [f"{name}=={version}" for name, version in SERVER.items() if name not in brought]
        if "setuptools" not in brought and (needs_it := self._imports_pkg_resources(target)):
            missing += [f"{name}=={version}" for name, version in IMPLIED.items()]
            self.notes.append(
                f"Added setuptools, since {needs_it} imports pkg_resources and does not ask for it."
            )
        if missing:
            # Constraints, so that adding the server moves nothing that the app brought.
            pins = (f"{name}=={version}" for name, version in sorted(brought.items()))
            constraints = self._listed("constraints.txt", pins)
            words = ["pip", "install", "--constraint", str(constraints)]
            try:
                self.uv.run([*words, *missing], target, cwd=self.uv.beside(target))
            except ReleaseError:
                # The pinned server does not fit beside an older dependency of the app: take one that does.
                loose = [name.split("==")[0] for name in missing]
                self.uv.run([*words, *loose], target, cwd=self.uv.beside(target))

    def _imports_pkg_resources(self, env: Path) -> str:
        """The first package of an environment that does; empty where none does."""
        for site in venv.libraries(env):
            words = ["-rlE", "--include=*.py", r"^\s*(import|from) pkg_resources\b", str(site)]
            if found := once.as_builder(
                self.tree.paths, self.tree.app, ["grep", *words], 120
            ).out.splitlines():
                return Path(min(found)).relative_to(site).parts[0].removesuffix(".py")
        return ""

    def _from_allowed_index(self, folder: Path, options: list[str], target: Path) -> None:
        """The lock's versions and hashes, and not the addresses in it, which this server shall not ask."""
        # The same words for what to leave out, but for their verb.
        words = [word.replace("--no-install-", "--no-emit-") for word in options]
        export = ["export", "--frozen", "--no-header", "--no-annotate", "--project", str(folder)]
        text = self.uv.run([*export, *words], target).out
        hashed = ["--require-hashes"] if index.all_hashed(text) else []
        listed = self._listed("uv.txt", text.splitlines())
        self.uv.run(["pip", "install", "--no-deps", *hashed, "-r", str(listed)], target, cwd=target)
        allowed = self.uv.index
        self.notes.append(
            f"uv.lock names the index {index.public(self.uv.foreign)}: its packages came from "
            f"{allowed.public if allowed else ''} instead, checked by the lock's hashes."
        )

    def _loose(self, words: list[str], target: Path) -> None:
        """Without a lock, what there was when the source was committed: the same then as now."""
        moment = self.committed
        if moment:
            try:
                self.uv.run([*words, "--exclude-newer", moment], target)
                return
            except ReleaseError as error:
                # An index that does not say when a file came, or a commit older than what it asks for.
                why = error.sentence.removeprefix(f"{INSTALLING} failed: ").rstrip(".")
        self.uv.run(words, target)
        if moment:
            self.notes.append(
                f"The dependencies are not pinned: as of {moment[:10]}, the day of the commit, they could "
                f"not be installed ({why}), so the newest were taken. A lock file makes them exact."
            )

    def _export(self, target: Path, installer: Installer, choice: dict[str, Any]) -> Path:
        """The lock of Poetry as requirements with hashes, made by Poetry itself from a copy."""
        work = self.lists / "export"
        work.mkdir()
        for name in ("pyproject.toml", installer.file):
            untrusted.write_new(work / name, untrusted.read_text(installer.path.parent / name, LOCK))
        untrusted.give(work, *ids(self.tree.paths.build_user))
        listed = work / "requirements.txt"
        tool = ["tool", "run", "--python", self.interpreter, *POETRY]
        words = ["export", "--format=requirements.txt", "--output=requirements.txt", "--no-interaction"]
        words += ["--without-urls"] if self.uv.index else []
        words += [f"--extras={extra}" for extra in choice["extras"]]
        words += [f"--with={group}" for group in choice["groups"]]
        self.uv.run([*tool, *words], target, [work], cwd=work)
        return listed

    def _listed(self, name: str, lines: Iterable[str]) -> Path:
        path = self.lists / name
        untrusted.write_new(path, "".join(f"{line}\n" for line in lines))
        return path


def installed(env: Path) -> dict[str, str]:
    """Distributions of an environment with their versions, read from its metadata folders."""
    found = {}
    for path in (one for folder in venv.libraries(env) for one in folder.glob("*.dist-info")):
        name, _, version = path.name[: -len(".dist-info")].rpartition("-")
        found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return found
