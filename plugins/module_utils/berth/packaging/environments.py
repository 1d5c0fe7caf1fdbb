"""Environments of an app: which one a release needs, and making it where there is none yet."""

from __future__ import annotations

import contextlib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from ..diagnosis import cause
from ..errors import ReleaseError, run_of
from ..host import untrusted
from ..host.command import run
from ..host.untrusted import Owner
from ..paths import ids
from ..reading import interpreters, wheels
from ..reading.dependencies import Installer
from ..reading.interpreters import PythonWish
from ..sources import origins
from . import pythons
from .installing import Installing
from .keys import alike, env_key
from .tree import Tree
from .uv import Uv

# An environment belongs to root and is read by all: it holds public packages only.
PUBLIC = Owner(0, 0, 0o755, 0o644)


class Environments:
    """Of one app, for the code in one tree; `notes` are for whoever deploys it."""

    def __init__(self, tree: Tree, committed: str = "") -> None:
        """`committed`: when the source was, where that is known, as git writes it."""
        self.tree = tree
        self.paths, self.app = tree.paths, tree.app
        self.committed = committed
        self.notes: list[str] = []

    @cached_property
    def uv(self) -> Uv:
        return Uv(self.paths, self.app, self.tree.project, self.tree.installer())

    def choose(self, bring: bool = True) -> tuple[str, str, Installer]:
        """Python and installer; refuses before anything is installed. `bring`: whether uv may download."""
        wish = interpreters.wanted_python(self.tree.project, self.tree.folder, self.app["python"]["version"])
        installer = self.tree.installer()
        origins.check(self.tree.folder, self.tree.project, installer)
        try:
            version, interpreter = interpreters.pick_python(wish, interpreters.host_pythons())
        except ReleaseError:
            if not self.app["python"]["install"]:
                raise
            if bring:
                version, interpreter = self._bring_python(wish)
            else:
                version, interpreter = interpreters.pick_python(wish, pythons.managed())
        return version, interpreter, installer

    def _bring_python(self, wish: PythonWish) -> tuple[str, str]:
        """One that was brought before, or what uv downloads now; it stays, and belongs to root."""
        with pythons.locked():
            try:
                return interpreters.pick_python(wish, pythons.managed())
            except ReleaseError:
                pass
            cache, doing = self.paths.uv_cache, "Bringing a Python"
            listed = self.uv.run(
                ["python", "list", "--only-downloads", "--output-format=json"], cache, doing=doing
            )
            minor, exact = pythons.choose(wish, listed.out)
            version = ".".join(map(str, minor))
            # Installed where it stays: uv writes the path into it.
            place = pythons.FOLDER / version
            untrusted.remove(place)
            place.mkdir(mode=0o755)
            try:
                os.chown(place, *ids(self.paths.build_user))
                words = ["python", "install", "--no-bin", "--compile-bytecode", exact]
                self.uv.run(words, place, cwd=place, doing=doing)
                interpreter = pythons.newest(place, minor)
                probed = self.tree.as_builder([str(interpreter), "-I", "-c", pythons.PROBE], 60, place)
                pythons.check(exact, probed)
                untrusted.take(place, PUBLIC, "what uv downloaded", lambda path: path == pythons.COMPLETE)
            except ReleaseError:
                untrusted.remove(place)
                raise
            # After a power cut the mark must not stand for files that never reached the disk.
            run(["sync", "--file-system", str(place)], timeout=120)
            untrusted.write_new(place / pythons.COMPLETE, "")
        self.notes.append(f"uv brought Python {exact}, which updates of the system do not reach.")
        return version, str(interpreter)

    def choice(self) -> dict[str, Any]:
        return {key: self.app["python"][key] for key in ("extras", "groups")}

    def key(self, interpreter: str, installer: Installer) -> str:
        words = [interpreter, "-I", "-c", "import sys; print(sys.version)"]
        # Root runs the distribution's Pythons alone, and on nothing that others wrote.
        asked = self.tree.as_builder(words, 20) if pythons.is_managed(interpreter) else run(words, timeout=20)
        full = asked.out.strip()
        return env_key(f"{interpreter} {full}", installer, self.tree.project, self.choice())

    def get(self, interpreter: str, installer: Installer) -> tuple[str, bool]:
        """The environment's key, and whether it had to be built. A killed build has no mark and is redone."""
        key = self.key(interpreter, installer)
        target, mark = self.paths.envs / key, self.paths.env_mark(key)
        if mark.exists() and target.is_dir():
            return key, False
        but_for_patch = env_key(interpreter, installer, self.tree.project, self.choice())
        like = alike(self.paths, but_for_patch)
        self.paths.envs.mkdir(parents=True, exist_ok=True)
        mark.parent.mkdir(mode=0o700, exist_ok=True)
        for path in (mark, target, self.lists):
            untrusted.remove(path)
        for path in (target, self.lists):
            path.mkdir()
            path.chmod(0o755)
        os.chown(target, *ids(self.paths.build_user))
        try:
            self._install(target, interpreter, installer)
            # -I -S: the environment's own start-up hooks are not run. Files of other Pythons may not compile.
            self.tree.as_builder(
                [interpreter, "-I", "-S", "-m", "compileall", "-q", "-j", "0",
                 "--invalidation-mode", "unchecked-hash", str(target / "lib")],
                300, target,
            )  # fmt: skip
            untrusted.take(target, PUBLIC, "the environment")
        except ReleaseError as error:
            untrusted.remove(target)
            if not like:
                self._name_better_python(error, interpreter, installer)
                raise
            self.notes.append(
                f"Python was updated since the last release, and a new environment for it could not be made "
                f"({error.sentence.rstrip('.')}): the one of before serves on, it has the same packages."
            )
            return like, False
        finally:
            untrusted.remove(self.lists)
        if like:
            self.notes.append(
                "Python was updated since the last release, so the packages were installed anew."
            )
        untrusted.write_new(mark, but_for_patch)
        return key, True

    def _install(self, target: Path, interpreter: str, installer: Installer) -> None:
        choice, notes = self.choice(), self.notes
        Installing(
            self.tree, self.uv, installer, interpreter, choice, target, self.lists, self.committed, notes
        ).run()

    def _name_better_python(self, error: ReleaseError, interpreter: str, installer: Installer) -> None:
        """Where a source could not be built that has wheels for another Python, that one is the way out."""
        found = re.search(r"python3\.(\d+)$", interpreter)
        if not (found and self.uv.unbuilt) or cause.is_full(error.sentence):
            return
        minor, (name, version) = int(found[1]), self.uv.unbuilt
        known = wheels.locked(installer)
        mine = [one for one in known if one.name == name and one.version == version]
        if not mine:
            with contextlib.suppress(ReleaseError):
                mine = [wheels.ask(name, version, minor, self._has_wheel)]
        old = [*mine, *(one for one in wheels.lacking(known, minor) if one not in mine)]
        wish = interpreters.wanted_python(self.tree.project, self.tree.folder, "")
        better = wheels.better(old, minor, wish) if mine and minor not in mine[0].minors else ""
        if better:
            error.sentence = f"{wheels.told(old, minor)}, and building it failed. {error.sentence}"
            error.advice = (
                f"write {wheels.key(better)}, then: {run_of('deploy', self.paths.app)}. "
                f"Or, to build it here: {error.advice or 'correct the dependency files'}"
            )

    def _has_wheel(self, name: str, version: str, minor: int) -> bool:
        """Whether the index has one for that Python; nothing is installed."""
        words = ["pip", "install", "--dry-run", "--no-deps", "--only-binary", name]
        words += ["--python-version", f"3.{minor}", "--target", "/tmp/none", f"{name}=={version}"]  # noqa: S108
        try:
            self.uv.run(words, self.lists, cwd=self.uv.beside(self.lists))
        except ReleaseError:
            return False
        return True

    @property
    def lists(self) -> Path:
        """What installers are told to install: the build user reads it, and cannot put anything there."""
        return self.paths.envs / "lists"
