"""The name of an environment, which says all that can change what is installed in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..host import untrusted
from ..paths import Paths, text_digest
from ..reading import dependencies
from ..reading.dependencies import Installer
from ..reading.toml import LOCK, load_toml
from . import pythons
from .pins import IMPLIED, SERVER

# Part of every environment's name: a newer way of making them makes new ones.
_MADE = "2"


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
        if dependencies.split_itself(installer)[1] is not None:
            texts.append(json.dumps(_dependencies(folder), sort_keys=True, default=str))
    elif installer.kind == "setup.cfg":
        texts += dependencies.setup_requirements(folder, choice["extras"]) or []
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
