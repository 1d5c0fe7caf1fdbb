"""Where dependency files say that packages lie on a disk: in the source, or the release is refused.

uv and Poetry run as a user of no rights and would be refused most of it by the kernel. Here it is said in one
sentence, with the line, before anything is installed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import ReleaseError
from ..host import untrusted
from ..reading.dependencies import Installer
from ..reading.toml import LOCK, load_toml

# What a line of a requirements file may say before a path: another file, an editable folder, wheels.
_OPTION = re.compile(
    r"(-r|-c|-e|-f|--requirement|--constraint|--editable|--find-links|--index-url|-i|--extra-index-url)"
    r"(?:\s+|=|(?<=-[rcefi]))(\S+)"
)
_NAMED = re.compile(r"[\w.-]+\s*(?:\[[^\]]*\])?\s*@\s*(\S+)")
_INCLUDES = ("-r", "-c", "--requirement", "--constraint")
_PATH_KEYS = ("editable", "directory", "path", "virtual", "url", "git", "registry")


def check(root: Path, folder: Path, installer: Installer) -> None:
    """Refuse what is named outside of the source; `folder` is the project's, where installers run."""
    if installer.kind == "requirements":
        _requirements(root, folder, installer.path)
    elif installer.kind in ("uv", "poetry", "pdm"):
        _lock(root, installer)
    for place in dict.fromkeys((installer.folder or folder, folder)):
        _pyproject(root, place)


def _requirements(root: Path, folder: Path, start: Path) -> None:
    todo, seen = [start], set()
    while todo:
        file = todo.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        where = os.path.relpath(file, root)
        for number, line in enumerate(untrusted.read_text(file, errors="replace").splitlines(), 1):
            option, path = _named(line.split(" #")[0].strip())
            local = _local(path, folder)
            if local is None:
                continue
            if not untrusted.below(root, file.parent / local):
                raise _refusal(f"{where}:{number}", path)
            if option in _INCLUDES:
                todo.append(file.parent / local)


def _named(line: str) -> tuple[str, str]:
    """The option of a line, if any, and the place it names; empty where it names none."""
    if not line or line.startswith("#"):
        return "", ""
    if option := _OPTION.match(line):
        return option[1], option[2]
    if named := _NAMED.match(line):
        return "", named[1]
    first = line.split(";")[0].split()[0]
    return "", first if first.startswith((".", "/", "~", "file:")) else ""


def _local(text: str, folder: Path) -> str | None:
    """A place on this disk as a path; None for an address elsewhere, and for none."""
    text = unquote(text.replace("${PROJECT_ROOT}", str(folder)))
    text = re.sub(r"^(git|hg|svn|bzr)\+", "", text.strip("\"'"))
    if text.startswith("file:"):
        plain = re.sub(r"^file:(//(localhost)?(?=/))?", "", text).split("#")[0]
        return re.sub("^//+", "/", plain)
    if not text or re.match(r"[a-z][a-z0-9+.-]*:|[\w.-]+@", text, re.IGNORECASE):
        return None
    # `-e .[extra]`; a home folder is never the source's.
    text = re.sub(r"\[[^\]]*\]$", "", text)
    return f"/{text}" if text.startswith("~") else text


def _lock(root: Path, installer: Installer) -> None:
    folder = installer.folder or root
    where = os.path.relpath(installer.path, root)
    for package in load_toml(installer.path).get("package", []):
        name = package.get("name", "?")
        places = dict(package.get("source") or {})
        # Poetry writes {type, url}, PDM writes path and url beside the name.
        places |= {key: package[key] for key in ("path", "url") if key in package}
        for key in _PATH_KEYS:
            local = _local(str(places.get(key) or ""), folder)
            if local is not None and not untrusted.below(root, folder / local):
                text = str(places[key])
                raise _refusal(f"{where}{_line(installer.path, text)}", text, f"{name} comes from")


def _line(path: Path, text: str) -> str:
    for number, line in enumerate(untrusted.read_text(path, LOCK, "replace").splitlines(), 1):
        if text in line:
            return f":{number}"
    return ""


def _pyproject(root: Path, folder: Path) -> None:
    path = folder / "pyproject.toml"
    toml = load_toml(path)
    where = os.path.relpath(path, root)
    for text in _told(toml):
        local = _local(text, folder)
        if local is not None and not untrusted.below(root, folder / local):
            raise _refusal(f"{where}{_line(path, text)}", text)


def _told(toml: dict[str, Any]) -> Iterator[str]:
    """Every place on a disk that a pyproject.toml may name for a dependency."""
    table, tool = toml.get("project", {}), toml.get("tool", {})
    groups = [*table.get("optional-dependencies", {}).values(), *toml.get("dependency-groups", {}).values()]
    for line in [*table.get("dependencies", []), *(line for group in groups for line in group)]:
        if isinstance(line, str) and (named := _NAMED.match(line)):
            yield named[1]
    uv, poetry = tool.get("uv", {}), tool.get("poetry", {})
    for source in uv.get("sources", {}).values():
        for one in source if isinstance(source, list) else [source]:
            yield str(one.get("path") or one.get("git") or "")
    yield from (str(one).split("*")[0] for one in uv.get("workspace", {}).get("members", []))
    tables = [poetry.get("dependencies", {})]
    tables += [group.get("dependencies", {}) for group in poetry.get("group", {}).values()]
    for wanted in tables:
        for one in wanted.values():
            for entry in one if isinstance(one, list) else [one]:
                if isinstance(entry, dict):
                    yield str(entry.get("path") or entry.get("url") or entry.get("git") or "")


def _refusal(where: str, text: str, verb: str = "names") -> ReleaseError:
    return ReleaseError(
        f"{where}: {verb} {untrusted.shown(text)}, which is outside of the source: put it there, or name a "
        "package of an index."
    )
