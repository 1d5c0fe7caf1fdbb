"""The sources of a project, which are read and never run, and the folders that are none of its own."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import venv
from ..host import untrusted

# By-products, and what is not the project's own: no part of a source.
SKIPPED_FOLDERS = {
    ".git", ".hg", ".svn", venv.LINK, "venv", "__pycache__", "node_modules", ".tox", ".nox", ".mypy_cache",
    ".pytest_cache", ".ruff_cache", ".idea", ".vscode", ".berth",
}  # fmt: skip
NO_APPS = SKIPPED_FOLDERS | {
    *("test", "tests", "docs", "doc", "docs_src", "examples", "example", "migrations", "alembic", "versions"),
    *("scripts", "benchmarks", "build", "dist"),
}
# Modules that are commands for a terminal: no request comes to what they make.
_COMMANDS = {"cli", "_cli", "commandline", "command_line", "commands", "console", "manage"}


def web(app: Mapping[str, Any]) -> dict[str, Any]:
    """The process that serves requests."""
    return next(process for process in app["processes"] if process["name"] == "web")


def python_path(project: Path) -> list[Path]:
    """Folders that imports start from: the project, and src/ where that layout is used."""
    return [project, project / "src"] if (project / "src").is_dir() else [project]


def texts(project: Path) -> Iterator[tuple[Path, str]]:
    """The sources of the project, one after the other."""
    for path in sources(project):
        try:
            yield path, untrusted.read_text(path, errors="replace")
        except OSError:
            continue


def parse(text: str) -> ast.Module:
    """A source, as its syntax says; empty where it has none, or is nested deeper than can be followed."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def syntax_error(project: Path) -> str:
    """The first file that does not parse, with its line: why no application was found in it."""
    for path in sources(project):
        try:
            ast.parse(untrusted.read_text(path, errors="replace"))
        except SyntaxError as error:
            return f"SyntaxError: {error.msg} ({path.relative_to(project)}:{error.lineno})"
        except (OSError, ValueError):
            continue
    return ""


def sources(root: Path) -> Iterator[Path]:
    """The Python files that may be part of the running app."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in NO_APPS and name.isidentifier())
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("test_") and name != "conftest.py":
                yield Path(folder) / name


def is_command(path: Path) -> bool:
    """Whether a source, by its relative path, belongs to a command line and not to the server."""
    return bool(_COMMANDS.intersection(path.with_suffix("").parts))
