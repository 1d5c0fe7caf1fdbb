"""Which Python a project asks for, and the one that fits of those that there are."""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ReleaseError
from ..host import untrusted
from .toml import load_toml


def parse_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def satisfies(version: tuple[int, ...], specifiers: str) -> bool:
    """Whether a Python version is inside a `requires-python` range."""
    for clause in specifiers.split(","):
        found = re.fullmatch(r"\s*(~=|===?|!=|<=|>=|<|>)\s*v?([0-9][0-9.]*)(\.\*)?[a-z0-9.]*\s*", clause)
        if not found:
            if clause.strip():
                raise ReleaseError(f"requires-python: {specifiers!r} is not understood.")
            continue
        operator, wanted, star = found.group(1), parse_version(found.group(2)), bool(found.group(3))
        size = max(len(version), len(wanted))
        left, right = _pad(version, size), _pad(wanted, size)
        if operator == "~=":
            fits = left >= right and version[: len(wanted) - 1] == wanted[:-1]
        elif operator in ("==", "==="):
            fits = version[: len(wanted)] == wanted if star else left == right
        elif operator == "!=":
            fits = version[: len(wanted)] != wanted if star else left != right
        else:
            fits = {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]
        if not fits:
            return False
    return True


def _pad(version: tuple[int, ...], size: int) -> tuple[int, ...]:
    return version + (0,) * (size - len(version))


@dataclass(frozen=True)
class PythonWish:
    version: str  # "3.12", a minor version that must be met; "" for any
    range: str  # a requires-python range; "" for any
    why: str


def wanted_python(project: Path, root: Path, configured: str) -> PythonWish:
    requires = _requires(project)
    if configured:
        wanted = ".".join(configured.split(".")[:2])
        # Known now, where the installer would say it in its own words after a while.
        if requires and not fits(PythonWish("", requires, ""), parse_version(wanted)):
            raise ReleaseError(
                f"python.version says {wanted}, and the project asks for {requires} (requires-python): leave "
                "python.version out or write one that fits, and python: {install: true} where the server has "
                "none."
            )
        return PythonWish(wanted, "", "python.version")
    for folder in (project, root):
        try:
            lines = untrusted.read_text(folder / ".python-version", errors="replace").split()
        except OSError:
            continue
        match = re.match(r"(?:cpython-|python)?(3\.\d+)", lines[0]) if lines else None
        if match:
            return PythonWish(match.group(1), requires, ".python-version")
    return PythonWish("", requires, "requires-python" if requires else "nothing")


def _requires(project: Path) -> str:
    """The range of Pythons as the project's own tool says it."""
    toml = load_toml(project / "pyproject.toml")
    asked = toml.get("project", {}).get("requires-python", "")
    if not asked:
        asked = toml.get("tool", {}).get("poetry", {}).get("dependencies", {}).get("python", "")
        if isinstance(asked, str):
            asked = ",".join(_poetry_range(part.strip()) for part in asked.split(",") if "|" not in asked)
    if not asked and (project / "setup.cfg").is_file():
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(untrusted.read_text(project / "setup.cfg"))
            asked = parser.get("options", "python_requires", fallback="")
        except (configparser.Error, OSError, UnicodeDecodeError):
            asked = ""
    return asked if isinstance(asked, str) else ""


def _poetry_range(text: str) -> str:
    """Poetry's `^3.11`, `~3.11` and `3.11.*` as a plain range."""
    match = re.fullmatch(r"([\^~])\s*(\d+)\.(\d+)(?:\.\d+)?", text)
    if match:
        major, minor = int(match.group(2)), int(match.group(3))
        upper = f"{major + 1}.0" if match.group(1) == "^" else f"{major}.{minor + 1}"
        return f">={text[1:].strip()},<{upper}"
    if re.fullmatch(r"\d+\.\d+(\.\d+)?(\.\*)?", text):
        return f"=={text}" if text.endswith("*") else f"=={text}.*"
    return "" if text in ("*", "") else text


def host_pythons(folders: tuple[str, ...] = ("/usr/local/bin", "/usr/bin")) -> dict[tuple[int, ...], str]:
    """The interpreters of this host by minor version."""
    found: dict[tuple[int, ...], str] = {}
    for folder in folders:
        for path in sorted(Path(folder).glob("python3.*")):
            match = re.fullmatch(r"python3\.(\d+)", path.name)
            if match and os.access(path, os.X_OK):
                found.setdefault((3, int(match.group(1))), str(path))
    return found


def fits(wish: PythonWish, minor: tuple[int, ...]) -> bool:
    """Whether a minor version may be what is asked for."""
    if wish.version and ".".join(map(str, minor)) != wish.version:
        return False
    # A range may name a patch level, of which an interpreter's name says nothing: be generous upwards.
    return not wish.range or satisfies(minor, wish.range) or satisfies((*minor, 99), wish.range)


def pick_python(wish: PythonWish, pythons: dict[tuple[int, ...], str]) -> tuple[str, str]:
    """The newest fitting interpreter: its version and its path."""
    for version in sorted(pythons, reverse=True):
        if fits(wish, version):
            return ".".join(map(str, version)), pythons[version]
    have = ", ".join(".".join(map(str, version)) for version in sorted(pythons)) or "none"
    want = wish.version or wish.range
    raise ReleaseError(
        f"The project asks for Python {want} ({wish.why}), and this server has {have}: set python.version to "
        "one of these if the project runs on it, python.install: true to let uv download it, or add the "
        "wanted one through system_packages."
    )
