"""Which file of a project says what to install, and what it says. Nothing of the project is executed."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host import untrusted
from .toml import load_toml


@dataclass(frozen=True)
class Installer:
    kind: str  # uv, poetry, pdm, requirements, pyproject, setup.cfg or none
    file: str
    folder: Path | None = field(default=None, compare=False)
    package: str = ""  # the member of a uv workspace that the lock is read for

    @property
    def path(self) -> Path:
        return (self.folder or Path()) / self.file


_LOCKS = (("uv", "uv.lock"), ("poetry", "poetry.lock"), ("pdm", "pdm.lock"))
_REQUIREMENTS = (
    "requirements.txt", "requirements.lock", "requirements/production.txt", "requirements/prod.txt",
    "requirements-prod.txt", "requirements/base.txt", "requirements/requirements.txt",
)  # fmt: skip


def find_installer(project: Path, root: Path | None = None, directory: str = "") -> Installer:
    """Which file says what to install: a lock first, then what is less exact."""
    if directory:
        project = (root or project) / directory
    toml = load_toml(project / "pyproject.toml")
    for kind, file in _LOCKS:
        if (project / file).is_file() and toml:
            return Installer(kind, file, project)
    for file in _REQUIREMENTS:
        if (project / file).is_file():
            return Installer("requirements", file, project)
    above = _workspace(project, root, toml)
    if above:
        return above
    if toml.get("project") or _unlocked_poetry(toml):
        return Installer("pyproject", "pyproject.toml", project)
    if setup_requirements(project) is not None:
        return Installer("setup.cfg", "setup.cfg", project)
    if root and project != root and not toml:
        return find_installer(project.parent, root)
    return Installer("none", "", project)


def _unlocked_poetry(toml: dict[str, Any]) -> bool:
    """Whether Poetry's own table says what to install; its build backend then tells uv."""
    poetry = toml.get("tool", {}).get("poetry", {})
    if not poetry.get("dependencies"):
        return False
    if "build-system" not in toml or poetry.get("package-mode") is False:
        raise ReleaseError(
            "pyproject.toml has dependencies for Poetry, and neither a poetry.lock nor a [build-system] that "
            "could tell them: run `poetry lock` and commit poetry.lock."
        )
    return True


def _workspace(project: Path, root: Path | None, toml: dict[str, Any]) -> Installer | None:
    """A uv lock above the project that names it as a member."""
    name = str(toml.get("project", {}).get("name", ""))
    folder = project
    while root and name and folder != root:
        folder = folder.parent
        if (folder / "uv.lock").is_file():
            there = str(project.relative_to(folder))
            for package in load_toml(folder / "uv.lock").get("package", []):
                origin = package.get("source", {})
                if there in (origin.get("editable"), origin.get("virtual"), origin.get("directory")):
                    return Installer("uv", "uv.lock", folder, str(package["name"]))
    return None


# `.`, `-e .[extra]`: a requirements file that names the project it lies in.
_ITSELF = re.compile(r"\s*(?:(?:-e|--editable)[\s=]*)?(?:file:)?\./?(?:\[([^\]]*)\])?\s*(?:[;#].*)?")
_OTHER_FILE = re.compile(r"\s*(-r|-c|--requirement|--constraint)[\s=]*(\S+)")


def split_itself(installer: Installer) -> tuple[list[str], list[str] | None]:
    """The other lines of a requirements file, which may then lie anywhere, and the project's wanted extras.

    The latter is None where no line names the project, or what it needs is not in its pyproject.toml.
    """
    others: list[str] = []
    extras: list[str] | None = None
    if not load_toml((installer.folder or Path()) / "pyproject.toml").get("project"):
        return others, None
    for line in untrusted.read_text(installer.path, errors="replace").splitlines():
        named, file = _ITSELF.fullmatch(line), _OTHER_FILE.match(line)
        if named:
            extras = [*(extras or []), *re.findall(r"[\w.-]+", named[1] or "")]
        elif file:
            others.append(f"{file[1]} {installer.path.parent / file[2]}")
        else:
            others.append(line)
    return others, extras


def pdm_requirements(lock: Path, choice: Mapping[str, list[str]]) -> list[str]:
    """PDM's lock as requirements with hashes: what `pdm export --prod` writes, without PDM."""
    wanted = {"default", *choice["extras"], *choice["groups"]}
    lines = []
    for package in load_toml(lock).get("package", []):
        if not wanted.intersection(package.get("groups", ["default"])):
            continue
        name = package["name"] + (f"[{','.join(package['extras'])}]" if package.get("extras") else "")
        if package.get("git"):
            line = f"{name} @ git+{package['git']}@{package.get('revision', 'HEAD')}"
        elif package.get("url"):
            line = f"{name} @ {package['url']}"
        elif package.get("path"):
            raise ReleaseError(
                f"pdm.lock: {package['name']} is a folder, which a release cannot install from."
            )
        else:
            line = f"{name}=={package['version']}"
        if package.get("marker"):
            line += f" ; {package['marker']}"
        hashes = [f" --hash={file['hash']}" for file in package.get("files", []) if file.get("hash")]
        lines.append(line + "".join(hashes if not package.get("git") else []))
    return lines


def setup_requirements(project: Path, extras: Iterable[str] = ()) -> list[str] | None:
    """What a setup.cfg asks for; None where it says nothing of it. Nothing of the project is run to know."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(untrusted.read_text(project / "setup.cfg"))
    except FileNotFoundError:
        return None
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"setup.cfg cannot be read: {str(error).splitlines()[0]}.") from error
    if not parser.has_option("options", "install_requires"):
        return None
    lines = parser.get("options", "install_requires").splitlines()
    for extra in extras:
        lines += parser.get("options.extras_require", extra, fallback="").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
