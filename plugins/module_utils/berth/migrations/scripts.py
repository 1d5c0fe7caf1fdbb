"""Where an alembic.ini, or `[tool.alembic]` in pyproject.toml, says that the migrations are. Read, not run.

The options are those of https://alembic.sqlalchemy.org/en/latest/tutorial.html#editing-the-ini-file.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host import untrusted
from ..reading.toml import load_toml

INI = "alembic.ini"
_SECTION = "alembic"
_SEPARATORS = {"os": ":", "space": " ", "newline": "\n", ":": ":", ";": ";"}
# A package that `package:folder` names may be imported from a folder above the one with the ini.
_ABOVE = 3


@dataclass(frozen=True)
class Scripts:
    """The folder with env.py, and those with revisions."""

    environment: Path
    versions: tuple[Path, ...]

    @property
    def env(self) -> Path:
        return self.environment / "env.py"

    def revisions(self) -> list[Path]:
        return sorted({path for folder in self.versions for path in folder.rglob("*.py")})

    def files(self) -> list[Path]:
        """Everything that a migration may run."""
        return sorted({*self.environment.rglob("*.py"), *self.revisions()})


def config(folder: Path) -> Path | None:
    """The file in a folder that says where migrations are; None where there is none."""
    if (folder / INI).is_file():
        return folder / INI
    return folder / "pyproject.toml" if _toml(folder) else None


def read(folder: Path, root: Path) -> Scripts:
    """The places that the configuration in a folder names; alembic's own defaults where it names none.

    What lies outside of the source is refused: it would be read by root.
    """
    told = {**_ini(folder), **_toml(folder)}
    environment = _place(folder, str(told.get("script_location") or "alembic"))
    locations = told.get("version_locations") or []
    if isinstance(locations, str):
        separator = _SEPARATORS.get(
            str(told.get("path_separator") or told.get("version_path_separator") or "").strip()
        )
        locations = locations.split(separator) if separator else re.split(r"[,\s]+", locations)
    versions = [_place(folder, str(one).strip()) for one in locations if str(one).strip()]
    found = Scripts(environment, tuple(versions or [environment / "versions"]))
    for place in (found.environment, *found.versions):
        if not untrusted.below(root, place):
            where = os.path.relpath(config(folder) or folder, root)
            raise ReleaseError(
                f"{where}: {untrusted.shown(str(place))} is outside of the source, where migrations lie."
            )
    return found


def other_sections(folder: Path) -> list[str]:
    """What `alembic -n` would take, in an ini without the section that is taken by itself."""
    parser = _parse(folder)
    if parser.has_section(_SECTION) or _toml(folder):
        return []
    return [name for name in parser.sections() if parser.has_option(name, "script_location")]


def _ini(folder: Path) -> dict[str, Any]:
    parser = _parse(folder)
    return dict(parser.items(_SECTION)) if parser.has_section(_SECTION) else {}


def _parse(folder: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
        parser.read_string(untrusted.read_text(folder / INI))
    return parser


def _toml(folder: Path) -> dict[str, Any]:
    """Alembic 1.16 reads these; what pyproject.toml says goes before the ini."""
    try:
        told = load_toml(folder / "pyproject.toml").get("tool", {}).get("alembic", {})
    except ReleaseError:  # whoever needs the file says so
        return {}
    return told if isinstance(told, dict) else {}


def _place(folder: Path, location: str) -> Path:
    location = location.replace("%(here)s", str(folder)).replace("%%", "%")
    package, colon, below = location.partition(":")
    if not colon:
        return folder / location
    inside = Path(*package.split("."), below)
    return next((base / inside for base in _bases(folder) if (base / inside).is_dir()), folder / inside)


def _bases(folder: Path) -> Iterator[Path]:
    for base in (folder, *folder.parents[:_ABOVE]):
        yield base
        yield base / "src"
