"""What of a source has to be installed as a package, and is not found where it lies. Read, not run."""

from __future__ import annotations

import os
from pathlib import Path

from . import dependencies, project
from .dependencies import Installer
from .toml import load_toml


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
    if installer.kind == "requirements" and dependencies.split_itself(installer)[1] is not None:
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


def is_workspace(folder: Path) -> bool:
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
