"""Where an alembic.ini, or `[tool.alembic]` in pyproject.toml, says that the migrations are. Read, not run.

The options are those of https://alembic.sqlalchemy.org/en/latest/tutorial.html#editing-the-ini-file.
"""

from __future__ import annotations

import ast
import configparser
import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import venv
from ..errors import ReleaseError
from ..host import untrusted
from .toml import load_toml

INI = "alembic.ini"
_SECTION = "alembic"
_SEPARATORS = {"os": ":", "space": " ", "newline": "\n", ":": ":", ";": ";"}
# A package that `package:folder` names may be imported from a folder above the one with the ini.
_ABOVE = 3
SKIPPED = {".git", venv.LINK, "venv", "node_modules", "tests", "test", "docs", "examples", ".berth"}
# An env.py that mentions none of these takes the address from the ini, whatever the environment says.
_READS_SETTINGS = re.compile(
    r"environ|getenv|settings|get_config|set_main_option|set_section_option|create_\w*engine|\burl\s*=|engine",
    re.IGNORECASE,
)


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


def find_ini(project: Path, root: Path) -> Path | None:
    """The folder of the alembic.ini: in the project, above it, or the only one below it."""
    folder = project
    while True:
        if config(folder):
            return folder
        if folder in (root, folder.parent):
            break
        folder = folder.parent
    found = []
    for parent, folders, files in os.walk(project):
        folders[:] = [name for name in folders if name not in SKIPPED]
        if len(Path(parent).relative_to(project).parts) >= 3:
            folders.clear()
        if INI in files:
            found.append(Path(parent))
    return found[0] if len(found) == 1 else None


def read_revisions(folder: Path, root: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every revision with those below it, and its labels; read, not run."""
    result = {}
    for path in read(folder, root).revisions():
        try:
            tree = ast.parse(untrusted.read_text(path, errors="replace"))
        except (OSError, SyntaxError, ValueError):
            continue
        said: dict[str, Any] = {}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            for target in targets:
                value = getattr(node, "value", None)
                if isinstance(target, ast.Name) and value is not None:
                    with contextlib.suppress(ValueError):
                        said[target.id] = ast.literal_eval(value)
        if isinstance(said.get("revision"), str):
            result[said["revision"]] = (_names(said.get("down_revision")), _names(said.get("branch_labels")))
    return result


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def find_heads(revisions: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> set[str]:
    """The revisions that nothing stands on."""
    below = {name for names, _ in revisions.values() for name in names}
    return set(revisions) - below


def have_labels(
    revisions: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]], heads: Collection[str]
) -> bool:
    """Whether each head has a label of its own, which any revision of its branch may carry."""
    found = {}
    for head in heads:
        labels: set[str] = set()
        todo, seen = [head], {head}
        while todo:
            below, own = revisions.get(todo.pop(), ((), ()))
            labels.update(own)
            todo += [name for name in below if name not in seen]
            seen.update(below)
        found[head] = labels
    return all(
        found[head].difference(*(labels for other, labels in found.items() if other != head))
        for head in heads
    )


def has_literal_url(folder: Path, root: Path) -> bool:
    try:
        text = untrusted.read_text(read(folder, root).env, errors="replace")
    except OSError:
        return False
    # What alembic's own template says of the ini is no sign of the project's settings.
    text = re.sub(r"engine_from_config|connectable|#.*|\burl\s*=\s*config\.get_main_option", "", text)
    text = re.sub(r"config\.get_main_option|config\.get_section|url=url", "", text)
    return not _READS_SETTINGS.search(text)
