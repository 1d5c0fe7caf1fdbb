"""Building a release: its environment, which releases share, its folder and its scripts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import venv
from ..diagnosis import cause
from ..errors import ReleaseError, cut, run_of
from ..host import sandbox, untrusted
from ..host.command import Result, module_source, run
from ..host.untrusted import Owner
from ..paths import CA_BUNDLE, Paths, ids, text_digest
from ..payload import gunicorn_conf
from ..reading import alembic, places, project, tables, wheels
from ..reading.project import Installer, PythonWish
from ..reading.toml import LOCK, load_toml
from ..runtime import jobs, naming, shell, units
from ..sources import origins, source
from ..store import journal, public
from . import folders, index, once, pythons
from .once import Code
from .uv import INSTALLING, LIMIT, Uv

# What the kit's own server brings where the app does not: the newest that were tested with the hook.
SERVER = {
    "gunicorn": "27.0.1",
    "uvicorn": "0.54.0",
    "uvicorn-worker": "0.4.0",
    "httptools": "0.9.0",
    "uvloop": "0.23.0",
    "websockets": "17.4",
}
# The last one with pkg_resources. Virtual environments brought a setuptools until Python 3.12, and images of
# Python do, so older packages import it without asking for it.
IMPLIED = {"setuptools": "81.0.0"}
# Poetry reads its lock itself, run by uv in an environment of its own.
POETRY = ["--from", "poetry==2.2.1", "--with", "poetry-plugin-export==1.9.0", "poetry"]
# The first file descriptor that systemd hands over, here the only one.
_LISTENER = "3"
# Part of every environment's name: a newer way of making them makes new ones.
_MADE = "2"
_NODE = "package.json"
# An environment belongs to root and is read by all: it holds public packages only.
PUBLIC = Owner(0, 0, 0o755, 0o644)


def env_key(python: str, installer: Installer, folder: Path, choice: dict[str, Any]) -> str:
    """The name of an environment: whatever can change what is installed is part of it."""
    texts = [
        _MADE,
        python,
        installer.kind,
        json.dumps(choice, sort_keys=True),
        json.dumps({**SERVER, **IMPLIED}, sort_keys=True),
    ]
    texts.append(installer.package)
    folder = installer.folder or folder
    if installer.kind == "requirements":
        texts += requirement_texts(folder / installer.file)
        if project.split_itself(installer)[1] is not None:
            texts.append(json.dumps(_dependencies(folder), sort_keys=True, default=str))
    elif installer.kind == "setup.cfg":
        texts += project.setup_requirements(folder, choice["extras"]) or []
    elif installer.kind != "none":
        lock = installer.kind != "pyproject"
        texts.append(untrusted.read_text(folder / installer.file, LOCK) if lock else "")
        texts.append(json.dumps(_dependencies(folder), sort_keys=True, default=str))
    return text_digest(*texts)[:16]


def alike(paths: Paths, but_for_patch: str) -> str:
    """An environment of the same packages and Python, its patch version left out, that still runs."""
    marks = [path for path in paths.marks.glob("*") if path.read_text() == but_for_patch]
    for mark in sorted(marks, key=lambda path: path.stat().st_mtime, reverse=True):
        env = paths.envs / mark.name
        if env.is_dir() and not pythons.gone(env):
            return mark.name
    return ""


def _dependencies(folder: Path) -> dict[str, Any]:
    """The parts of pyproject.toml that say what to install; the rest may change without a new environment."""
    toml = load_toml(folder / "pyproject.toml")
    table = toml.get("project", {})
    keys = ("name", "dependencies", "optional-dependencies", "requires-python", "dynamic")
    return {
        "project": {key: table.get(key) for key in keys},
        "groups": toml.get("dependency-groups"),
        **{tool: toml.get("tool", {}).get(tool) for tool in ("uv", "poetry", "pdm")},
    }


def is_package(folder: Path, installer: Installer) -> bool:
    """Whether the project has to be installed: never blindly, only where its own files say so.

    A project whose modules lie in its folder runs from there, unless it asks for its own metadata.
    """
    toml = load_toml(folder / "pyproject.toml")
    table, poetry = toml.get("project", {}), toml.get("tool", {}).get("poetry", {})
    if "build-system" not in toml or not (table or poetry):
        return False
    if toml.get("tool", {}).get("uv", {}).get("package") is False or poetry.get("package-mode") is False:
        return False
    if toml.get("tool", {}).get("pdm", {}).get("distribution") is False:
        return False
    if installer.kind == "uv" and _lock_says_virtual(installer, folder):
        return False
    if installer.kind == "requirements" and project.split_itself(installer)[1] is not None:
        return True
    if (folder / "src").is_dir():
        return True
    if table.get("scripts") or table.get("entry-points") or poetry.get("scripts"):
        return True
    names = ("importlib.metadata", "importlib_metadata")
    return any(name in text for _, text in project.texts(folder) for name in names)


def _lock_says_virtual(installer: Installer, folder: Path) -> bool:
    there = os.path.relpath(folder, installer.folder or folder)
    packages = load_toml(installer.path).get("package", [])
    return any(package.get("source", {}).get("virtual") == there for package in packages)


def _is_workspace(folder: Path) -> bool:
    return "workspace" in load_toml(folder / "pyproject.toml").get("tool", {}).get("uv", {})


def workspace_members(installer: Installer) -> list[Path]:
    """The workspace's packages that the locked one needs, itself left out."""
    packages = {str(one["name"]): one for one in load_toml(installer.path).get("package", [])}
    folder = installer.folder or Path()
    start = installer.package or next(
        (name for name, one in packages.items() if "." in one.get("source", {}).values()), ""
    )
    todo, seen, result = [start], {start}, []
    while todo:
        current = packages.get(todo.pop(), {})
        for need in current.get("dependencies", []):
            name = str(need["name"])
            place = packages.get(name, {}).get("source", {})
            there = place.get("editable") or place.get("directory")
            if name not in seen and there:
                seen.add(name)
                todo.append(name)
                result.append(folder / there)
    return result


def requirement_texts(path: Path) -> list[str]:
    """A requirements file and those it includes."""
    texts, todo, seen = [], [path], set()
    while todo:
        current = todo.pop()
        if current in seen or not current.is_file():
            continue
        seen.add(current)
        text = untrusted.read_text(current, errors="replace")
        texts.append(text)
        for match in re.finditer(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]?(\S+)", text, re.MULTILINE):
            todo.append(current.parent / match.group(1))
    return texts


class Builder:
    def __init__(self, paths: Paths, app: dict[str, Any], release: str, committed: str = "") -> None:
        """`committed`: when the source was, where that is known, as git writes it."""
        self.committed = committed
        self.paths = paths
        self.app = app
        self.release = release
        self.folder = paths.release(release)
        self.notes: list[str] = []

    @cached_property
    def project(self) -> Path:
        return places.locate(self.folder, self.app).folder

    @cached_property
    def work(self) -> Path:
        """Where the app runs, and its imports start from."""
        return places.work(self.folder, self.app, self.project).folder

    # The environment ----------------------------------------------------------------------------------------

    def choose(self, bring: bool = True) -> tuple[str, str, Installer]:
        """Python and installer; refuses before anything is installed. `bring`: whether uv may download."""
        wish = project.wanted_python(self.project, self.folder, self.app["python"]["version"])
        installer = self.installer()
        origins.check(self.folder, self.project, installer)
        try:
            version, interpreter = project.pick_python(wish, project.host_pythons())
        except ReleaseError:
            if not self.app["python"]["install"]:
                raise
            if bring:
                version, interpreter = self._bring_python(wish)
            else:
                version, interpreter = project.pick_python(wish, pythons.managed())
        return version, interpreter, installer

    def _bring_python(self, wish: PythonWish) -> tuple[str, str]:
        """One that was brought before, or what uv downloads now; it stays, and belongs to root."""
        with pythons.locked():
            try:
                return project.pick_python(wish, pythons.managed())
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
                probed = self._sandboxed([str(interpreter), "-I", "-c", pythons.PROBE], 60, place)
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

    def about(self) -> cause.About:
        """For the explanation of what goes wrong before the release runs."""
        return cause.About(str(self.folder), project=str(self.project), app=self.paths.app)

    @cached_property
    def uv(self) -> Uv:
        return Uv(self.paths, self.app, self.project)

    @cached_property
    def foreign(self) -> str:
        """The index that uv.lock names instead of the one that this server is told to use."""
        installer = self.installer()
        return index.other(installer.path, self.uv.index) if installer.kind == "uv" else ""

    def installer(self) -> Installer:
        directory = self.app["python"]["directory"]
        return project.find_installer(self.project, self.folder, directory)

    def choice(self) -> dict[str, Any]:
        return {key: self.app["python"][key] for key in ("extras", "groups")}

    def key(self, interpreter: str, installer: Installer) -> str:
        words = [interpreter, "-I", "-c", "import sys; print(sys.version)"]
        # Root runs the distribution's Pythons alone, and on nothing that others wrote.
        asked = self._sandboxed(words, 20) if pythons.is_managed(interpreter) else run(words, timeout=20)
        full = asked.out.strip()
        return env_key(f"{interpreter} {full}", installer, self.project, self.choice())

    def environment(self, interpreter: str, installer: Installer) -> tuple[str, bool]:
        """The environment's key, and whether it had to be built. A killed build has no mark and is redone."""
        key = self.key(interpreter, installer)
        target, mark = self.paths.envs / key, self.paths.env_mark(key)
        if mark.exists() and target.is_dir():
            return key, False
        but_for_patch = env_key(interpreter, installer, self.project, self.choice())
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
            self._install(target, interpreter, installer, self.choice())
            # -I -S: the environment's own start-up hooks are not run. Files of other Pythons may not compile.
            self._sandboxed(
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
        wish = project.wanted_python(self.project, self.folder, "")
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
            self.uv.run(words, self.lists, cwd=self._beside(self.lists))
        except ReleaseError:
            return False
        return True

    @property
    def lists(self) -> Path:
        """What installers are told to install: the build user reads it, and cannot put anything there."""
        return self.paths.envs / "lists"

    def _listed(self, name: str, lines: Iterable[str]) -> Path:
        path = self.lists / name
        untrusted.write_new(path, "".join(f"{line}\n" for line in lines))
        return path

    def _sandboxed(self, words: list[str], limit: float, *writable: Path) -> Result:
        """A command of this server's, on what others wrote: as the build user, who sees no secret."""
        return once.as_builder(self.paths, self.app, words, limit, writable)

    def _install(self, target: Path, interpreter: str, installer: Installer, choice: dict[str, Any]) -> None:
        self.uv.run(
            ["venv", "--quiet", "--python", interpreter, "--no-project", "--allow-existing", str(target)],
            target,
        )
        extras = [word for extra in choice["extras"] for word in ("--extra", extra)]
        groups = [word for group in choice["groups"] for word in ("--group", group)]
        folder = installer.folder or self.project
        if installer.kind == "uv":
            which = ["--package", installer.package] if installer.package else []
            # The members of a workspace are folders of this release, and an environment outlives it.
            members = ["--no-install-workspace"] if installer.package else ["--no-install-project"]
            if _is_workspace(folder):
                members = ["--no-install-workspace"]
            options = ["--no-dev", *members, *which, *extras, *groups]
            if self.foreign:
                self._from_allowed_index(folder, options, target)
            else:
                self.uv.run(["sync", "--frozen", "--project", str(folder), *options], target)
        elif installer.kind == "poetry":
            exported = self._export(installer, interpreter, choice, target)
            self.uv.run(["pip", "install", "-r", str(exported)], target)
        elif installer.kind == "pdm":
            listed = self._listed("pdm.txt", project.pdm_requirements(installer.path, choice))
            self.uv.run(["pip", "install", "--no-deps", "-r", str(listed)], target)
        elif installer.kind == "requirements":
            others, itself = project.split_itself(installer)
            if itself is None:
                self._loose(["pip", "install", "-r", str(installer.path)], target)
            else:  # an environment outlives the release: it gets what the project needs, not the project
                files = ["-r", str(self._listed("others.txt", others)), "-r", str(folder / "pyproject.toml")]
                extras += [word for extra in itself for word in ("--extra", extra)]
                self._loose(["pip", "install", *files, *extras, *groups], target)
        elif installer.kind == "pyproject":
            self._loose(["pip", "install", "-r", str(installer.path), *extras, *groups], target)
        elif installer.kind == "setup.cfg":
            lines = project.setup_requirements(folder, choice["extras"]) or []
            listed = self._listed("setup.txt", lines)
            self._loose(["pip", "install", "-r", str(listed)], target)
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
                self.uv.run([*words, *missing], target, cwd=self._beside(target))
            except ReleaseError:
                # The pinned server does not fit beside an older dependency of the app: take one that does.
                loose = [name.split("==")[0] for name in missing]
                self.uv.run([*words, *loose], target, cwd=self._beside(target))

    def _imports_pkg_resources(self, env: Path) -> str:
        """The first package of an environment that does; empty where none does."""
        for site in venv.libraries(env):
            words = ["-rlE", "--include=*.py", r"^\s*(import|from) pkg_resources\b", str(site)]
            if found := self._sandboxed(["grep", *words], 120).out.splitlines():
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
            f"uv.lock names the index {index.public(self.foreign)}: its packages came from "
            f"{allowed.public if allowed else ''} instead, checked by the lock's hashes."
        )

    def _beside(self, target: Path) -> Path | None:
        """Where uv finds no settings of the project, which may name the index that it shall not ask."""
        return target if self.foreign else None

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

    def _export(self, installer: Installer, interpreter: str, choice: dict[str, Any], target: Path) -> Path:
        """The lock of Poetry as requirements with hashes, made by Poetry itself from a copy."""
        work = self.lists / "export"
        work.mkdir()
        for name in ("pyproject.toml", installer.file):
            untrusted.write_new(work / name, untrusted.read_text(installer.path.parent / name, LOCK))
        untrusted.give(work, *ids(self.paths.build_user))
        listed = work / "requirements.txt"
        tool = ["tool", "run", "--python", interpreter, *POETRY]
        words = ["export", "--format=requirements.txt", "--output=requirements.txt", "--no-interaction"]
        words += ["--without-urls"] if self.uv.index else []
        words += [f"--extras={extra}" for extra in choice["extras"]]
        words += [f"--with={group}" for group in choice["groups"]]
        self.uv.run([*tool, *words], target, [work], cwd=work)
        return listed

    def run_build(self, env: Path) -> list[str]:
        """The commands the user names, as the build user, who owns the folder meanwhile."""
        lines = self.app["build"]
        if not lines:
            return missing_front_end(self.folder, self.project)
        untrusted.give(self.folder, *ids(self.paths.build_user))
        for line in lines:
            result = once.as_builder(
                self.paths,
                self.app,
                ["/bin/sh", "-ec", line],
                LIMIT,
                [self.folder],
                cwd=self.project,
                env={
                    **self.code(env=env).variables(),
                    "HOME": "/tmp",  # noqa: S108 - private to the sandbox
                    "LC_ALL": "C.UTF-8",
                    "CI": "true",
                    "SSL_CERT_FILE": CA_BUNDLE,
                    "NODE_EXTRA_CA_CERTS": CA_BUNDLE,
                },
            )
            if result.code != 0:
                last = result.lines[-1] if result.lines else "it said nothing"
                if starved := sandbox.out_of_memory(result, self.app):
                    raise ReleaseError(
                        f"The build command `{line}` failed: {starved}.", log=result.lines[-20:]
                    )
                raise ReleaseError(
                    f"The build command `{line}` failed with exit status {result.code}: {cut(last, 300)}",
                    log=result.lines[-20:],
                    advice=f"correct it under build, then: {run_of('deploy', self.paths.app)}",
                )
        source.tidy(self.folder, self.while_built, "what was built")
        venv.of(self.folder).symlink_to(env)
        return []

    # The release's folder -----------------------------------------------------------------------------------

    def install_project(self) -> list[str]:
        """Put the project itself into the release, where it has to be a package; what was installed."""
        found: list[str] = []
        for folder in self.packages():
            found += self._install_package(folder)
        return found

    def packages(self) -> list[Path]:
        """The folders to install as packages: the project, and members of its workspace that it asks for."""
        installer = self.installer()
        result = [self.project] if is_package(self.project, installer) else []
        if installer.kind == "uv" and installer.folder:
            result += [one for one in workspace_members(installer) if one != self.project]
        for one in result:
            untrusted.resolve(self.folder, one, f"{installer.file}: {one}")
        return result

    def _install_package(self, folder: Path) -> list[str]:
        toml = load_toml(folder / "pyproject.toml")
        site, work = self.folder / ".berth/site", self.folder / ".berth/build"
        site.mkdir(parents=True, exist_ok=True)
        # Build backends write beside the sources, so they get a copy.
        shutil.copytree(folder, work, symlinks=True, ignore=shutil.ignore_patterns(".berth", venv.LINK))
        builder = ids(self.paths.build_user)
        untrusted.give(work, *builder)
        untrusted.give(site, *builder)
        env = venv.of(self.folder).resolve()
        words = ["pip", "install", "--no-deps", "--target", str(site), str(work)]
        self.uv.run(words, env, [site, work], cwd=self._beside(site))
        untrusted.remove(work)
        untrusted.take(site, self.while_built, "the installed project")
        return [str(toml.get("project", {}).get("name", ""))]

    def python_path(self, work: Path | None = None) -> list[Path]:
        site = self.folder / ".berth/site"
        return project.python_path(work or self.work) + ([site] if site.is_dir() else [])

    def code(self, work: Path | None = None, env: Path | None = None) -> Code:
        """The release as one command of it runs; `env` where no link leads to it yet."""
        return Code(self.paths, self.release, env or venv.of(self.folder), self.python_path(work))

    def write_scripts(self, target: str, first: bool = False) -> None:
        """What the units run: one script a process, and the web server's settings and hook."""
        own = self.folder / ".berth"
        (own / "run").mkdir(parents=True, exist_ok=True)
        web = project.web(self.app)
        settings: dict[str, Any] = {
            "target": target,
            "workers": web["workers"],
            # Several workers that meet an empty database would all create its tables.
            "first": first,
            "project": str(self.work),
            "socket": str(self.paths.root_socket(self.release)),
            "link": str(self.paths.web_sock),
            "graceful": int(self.app["drain"]["requests"]),
        }
        (own / "serve.json").write_text(json.dumps(settings, indent=2) + "\n")
        (own / "gunicorn.conf.py").write_text(module_source(gunicorn_conf))
        python = venv.python(venv.of(self.folder))
        for process in self.app["processes"]:
            if process["name"] != "web":
                self._script(process["name"], process["command"])
            elif process["command"]:
                socket = str(self.paths.own_socket(self.release))
                command = process["command"].replace("{socket}", socket).replace("{fd}", _LISTENER)
                self._script("web", command, socket if "{socket}" in process["command"] else "")
            else:  # quoted, since a factory's name ends in parentheses
                self._script("web", f"{python} -m gunicorn -c {own}/gunicorn.conf.py {shlex.quote(target)}")
        jobs.make_locks(self.paths, self.app, self.sealed.gid)
        for job in self.app["jobs"]:
            self._script(job["name"], job["command"], first=jobs.once(self.paths, job["name"]))
        untrusted.take(own, self.sealed, "the release")
        folders.serve(self.app, self.folder, self.project, self.paths.public(self.release))
        lasting = not project.web(self.app)["command"]
        public.mark(self.folder, public.asked_as(self.app), keepalive=lasting)
        places.remember(self.folder, self.project, self.work)

    def _script(self, name: str, command: str, socket: str = "", first: Sequence[str] = ()) -> None:
        lines = ["#!/bin/sh", "# Ansible managed", f"cd {shlex.quote(str(self.work))} || exit 1"]
        paths = ":".join(shlex.quote(str(path)) for path in self.python_path())
        lines.append(f'export PYTHONPATH={paths}"${{PYTHONPATH:+:$PYTHONPATH}}"')
        if (self.folder / ".berth/site/bin").is_dir():
            lines.append(f'export PATH={shlex.quote(str(self.folder / ".berth/site/bin"))}":$PATH"')
        if socket:
            lines.append(f"rm -f {shlex.quote(socket)}")
        lines += first
        # The unit's main process is the command itself where that is possible: a shell passes no signal on.
        lines.append(shell.as_main(command) or command)
        path = self.folder / ".berth/run" / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)

    def refuse_code(self, target: str) -> None:
        """Before anything is built: no folder that the app may write holds what a release consists of."""
        parts = code_parts(self.app, self.folder, self.project, self.work, target)
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
        self._sandboxed(
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

    def role(self) -> tuple[str, str]:
        return tables.role(self.app, self.project, self.folder)

    def freeze_units(self) -> list[str]:
        """This release's own copies of env files and units, so that a rollback brings them back."""
        _, group = ids(self.paths.app)
        self.paths.frozen.mkdir(mode=0o750, exist_ok=True)
        os.chown(self.paths.frozen, 0, group)
        role = self.role()[0]
        env = (self.paths.etc / ("owner.env" if role == "owner" else "env")).read_text()
        journal.replace_text(self.paths.env(self.release), env, 0o640, 0, group)
        migrate_env = (self.paths.etc / "migrate.env").read_text()
        journal.replace_text(self.paths.migrate_env(self.release), migrate_env, 0o600)
        return [env, migrate_env]


def code_parts(app: dict[str, Any], root: Path, folder: Path, work: Path, target: str) -> dict[str, Path]:
    """What no folder may hold that the app can write: the project, what is installed, served or migrated."""
    parts = {"the project": folder}
    installer = project.find_installer(folder, root, app["python"]["directory"])
    if installer.file:
        parts["what is installed"] = installer.path
    if ini := alembic.find_ini(folder, root):
        parts["Alembic's settings"] = ini / alembic.INI
    for start in project.python_path(work) if target else []:
        module = start.joinpath(*target.partition(":")[0].split("."))
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            if path.is_file():
                parts[f"the code of {target}"] = path
    return parts


def freeze_unit(paths: Paths, template: str, release: str) -> None:
    """systemd prefers the file of an instance to its template. Nothing in it comes from the source: where in
    the release the app runs is told by a link of the release's own.
    """
    text = (paths.units / template).read_text()
    text = re.sub(r"(?m)^WorkingDirectory=.*/releases/%i$", lambda line: f"{line[0]}/{places.WORK}", text)
    journal.replace_text(paths.units / naming.instance_file(template, release), text, 0o644)


def installed(env: Path) -> dict[str, str]:
    """Distributions of an environment with their versions, read from its metadata folders."""
    found = {}
    for path in (one for folder in venv.libraries(env) for one in folder.glob("*.dist-info")):
        name, _, version = path.name[: -len(".dist-info")].rpartition("-")
        found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return found


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


def missing_front_end(root: Path, folder: Path) -> list[str]:
    """A hint where a package.json says how to build and nothing was built; it may lie beside the project."""
    for path in sorted(
        {one for top in (root, folder) for one in (*top.glob(_NODE), *top.glob(f"*/{_NODE}"))}
    ):
        try:
            scripts = json.loads(untrusted.read_text(path)).get("scripts", {})
        except (OSError, ValueError, AttributeError):
            continue
        built = any((path.parent / name).is_dir() for name in ("dist", "build", "out", ".next"))
        if "build" in scripts and not built:
            where = path.relative_to(root)
            return [f"{where} has a build script and nothing is built: name the commands under build."]
    return []
