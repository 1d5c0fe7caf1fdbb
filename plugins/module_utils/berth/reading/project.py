"""Reading a project: its Python, its dependency files, its ASGI target. Nothing of it is executed here."""

from __future__ import annotations

import ast
import configparser
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import venv
from ..errors import ReleaseError
from ..host import untrusted
from . import launch
from .toml import load_toml

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
_WRAPPER = re.compile(r"(Middleware|ASGIApp|Asgi|Wrapper)$")
_WRAPPER_TEXT = re.compile(r"(Middleware|ASGIApp|Asgi|Wrapper)\(\w")
_FACTORIES = {
    *("create_app", "make_app", "build_app", "get_app", "init_app"),
    *("create_application", "get_application"),
}


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


# Python versions ------------------------------------------------------------------------------


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


# The ASGI target ------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Target:
    rank: tuple[int, ...]
    target: str
    where: str
    directory: str = ""  # relative to the project, where the command that names it runs


def web(app: Mapping[str, Any]) -> dict[str, Any]:
    """The process that serves requests."""
    return next(process for process in app["processes"] if process["name"] == "web")


def python_path(project: Path) -> list[Path]:
    """Folders that imports start from: the project, and src/ where that layout is used."""
    return [project, project / "src"] if (project / "src").is_dir() else [project]


def find_targets(project: Path, root: Path | None = None, directory: str = "") -> list[Target]:
    """Every ASGI application that the sources seem to define, the likeliest first.

    `directory` is the folder below the project that the server is to run in.
    """
    work = project / directory
    entry = load_toml(project / "pyproject.toml").get("tool", {}).get("fastapi", {}).get("entrypoint", "")
    if isinstance(entry, str) and ":" in entry:
        return [Target((-9,), entry, "[tool.fastapi] entrypoint")]
    said: list[Target] = []
    found: dict[str, Target] = {}
    for start in reversed(python_path(work)):
        for path in sources(start):
            if start == work and (work / "src") in path.parents:
                continue
            for hit in _targets_in(path, start, project):
                found.setdefault(hit.target, hit)
    in_code = sorted(found.values())
    for rank, (line, where) in enumerate(launch.lines(project, root or project)):
        below = "" if directory else launch.folder(line, project)
        target = launch.target(line, work / below)
        if target.endswith(":"):  # `fastapi run app/main.py` names the module alone
            target = next((hit.target for hit in in_code if hit.target.startswith(target)), "")
        if target:
            said.append(Target((-8, rank), target, where, below))
    named = {hit.target for hit in said}
    return said + [hit for hit in in_code if hit.target not in named]


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


def _targets_in(path: Path, root: Path, project: Path) -> Iterator[Target]:
    try:
        text = untrusted.read_text(path, errors="replace")
        interesting = "FastAPI" in text or _WRAPPER_TEXT.search(text)
        if not interesting and not any(name in text for name in _FACTORIES):
            return
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return
    relative = path.relative_to(root)
    parts = list(relative.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if not parts or not all(part.isidentifier() for part in parts):
        return
    module = ".".join(parts)
    names = {"main": 0, "app": 1, "asgi": 1, "api": 2, "server": 2, "application": 2}
    later = 100 if is_command(relative) else 0
    rank = (later + len(parts), names.get(parts[-1], 3))
    factories = _factories(tree)
    for node in tree.body:
        for name, call in _assignments(node):
            called = _called(call)
            attribute = 0 if name in ("app", "application", "api") else 1
            where = f"{path.relative_to(project)}:{node.lineno}"
            if called == "FastAPI":
                yield Target((*rank, 0, attribute), f"{module}:{name}", where)
            elif called in factories or called in _FACTORIES:
                yield Target((*rank, 1, attribute), f"{module}:{name}", where)
            elif _wraps(call):
                # A wrapped app is what its author serves, so it goes before the bare one.
                yield Target((later - 1, *rank, attribute), f"{module}:{name}", where)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in factories and _callable_bare(node):
            where = f"{path.relative_to(project)}:{node.lineno}"
            yield Target((*rank, 2, node.name not in _FACTORIES), f"{module}:{node.name}()", where)


def _wraps(call: ast.Call) -> bool:
    """`Middleware(FastAPI())`, or `SomeMiddleware(app)` of an app made before."""
    if any(_called(inner) == "FastAPI" for inner in ast.walk(call) if isinstance(inner, ast.Call)):
        return True
    given = [*call.args, *(word.value for word in call.keywords)]
    return bool(_WRAPPER.search(_called(call))) and any(isinstance(one, ast.Name) for one in given)


def _factories(tree: ast.Module) -> set[str]:
    """Functions of this module that make a FastAPI instance."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(inner, ast.Call) and _called(inner) == "FastAPI" for inner in ast.walk(node))
        and any(isinstance(inner, ast.Return) and inner.value is not None for inner in ast.walk(node))
    }


def _callable_bare(function: ast.FunctionDef) -> bool:
    given = len(function.args.defaults)
    return len(function.args.args) <= given and all(default for default in function.args.kw_defaults)


def _assignments(node: ast.stmt) -> Iterator[tuple[str, ast.Call]]:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif isinstance(node, ast.AnnAssign):
        target, value = node.target, node.value
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            yield target.id, value


def _called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""
