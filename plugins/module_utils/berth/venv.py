"""How a release is packaged, in words: a virtual environment, which releases of the same packages share.

Whoever explains, guards, removes or runs a release asks here where its Python and its tools are. How an
environment is made is known to `packaging`, and no word of it stands elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# In every release; leads to its environment.
LINK = ".venv"
_SYSTEM = "/usr/local/bin:/usr/bin:/bin"

# For code that is read-only: Python would try in vain to keep its bytecode beside it.
SEALED = {"PYTHONDONTWRITEBYTECODE": "1"}
# For what runs on: a line is in the log when it was printed.
LOGGED = {"PYTHONUNBUFFERED": "1"}


def of(release: Path) -> Path:
    """The environment of a release's folder, by the link in it."""
    return release / LINK


def tool(env: Path, name: str) -> str:
    """A program of an environment, such as alembic."""
    return str(env / "bin" / name)


def python(env: Path) -> str:
    """Its interpreter."""
    return tool(env, "python")


def libraries(env: Path) -> Iterator[Path]:
    """The folders that its packages are in."""
    return env.glob("lib/python3*/site-packages")


def holds(path: str) -> bool:
    """Whether a file that a traceback names is a package's, and not the app's own."""
    return f"/{LINK}/" in path


def variables(env: Path, app: str, release: str) -> dict[str, str]:
    """What every process and every command of a release finds in its environment."""
    return {"PATH": f"{env}/bin:{_SYSTEM}", "BERTH_APP": app, "BERTH_RELEASE": release}


def imports_from(folders: list[Path]) -> dict[str, str]:
    """What makes Python look for modules there first."""
    return {"PYTHONPATH": ":".join(str(folder) for folder in folders)}


# Names that an app is given by itself, in its unit or by its start script.
GIVEN = frozenset({*variables(Path(), "", ""), *imports_from([]), *SEALED, *LOGGED})
