"""How the author starts the app: Procfile, Dockerfile and compose files, and what such a line names."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from . import untrusted

_SERVERS = ("uvicorn", "gunicorn", "hypercorn", "granian", "fastapi")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(\))?", re.ASCII)


def lines(project: Path, root: Path) -> Iterator[tuple[str, str]]:
    """The commands that start the web server, with where they stand; the likeliest first."""
    for folder in dict.fromkeys((project, root)):
        for number, line in _read(folder / "Procfile"):
            if line.startswith("web:"):
                yield line.removeprefix("web:").strip(), f"Procfile:{number}"
    for folder in dict.fromkeys((project, root)):
        for name in ("Dockerfile", "Dockerfile.prod", "docker/Dockerfile", "Containerfile"):
            last = ("", "")
            for number, line in _read(folder / name):
                match = re.match(r"(?:CMD|ENTRYPOINT)\s+(.*)", line, re.IGNORECASE)
                if match and any(server in match.group(1) for server in _SERVERS):
                    last = (_plain(match.group(1)), f"{name}:{number}")
            if last[0]:
                yield last
    for folder in dict.fromkeys((project, root)):
        for name in ("compose.yml", "compose.yaml", "docker-compose.yml", "docker-compose.yaml"):
            for number, line in _read(folder / name):
                match = re.match(r"\s*command:\s*(.+)", line)
                if match and any(server in match.group(1) for server in _SERVERS):
                    yield _plain(match.group(1)), f"{name}:{number}"


def _read(path: Path) -> list[tuple[int, str]]:
    """Numbered lines; one that ends in a backslash goes on in the next."""
    try:
        text = untrusted.read_text(path, errors="replace")
    except OSError:
        return []
    result: list[tuple[int, str]] = []
    start, held = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1] + " "
            continue
        result.append((start, (held + line).rstrip()))
        start, held = 0, ""
    return result


def _plain(text: str) -> str:
    """The exec form (a JSON list) as one line."""
    text = text.strip()
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = [word.strip(" '\"") for word in text.strip("[]").split(",")]
        return " ".join(map(str, words))
    return text.strip("'\"")


def folder(line: str, project: Path) -> str:
    """The folder of the project that such a line changes to before it serves; empty for the project."""
    match = re.match(r"cd\s+(\S+)\s*(?:&&|;)", line)
    found = match.group(1).strip("'\"") if match else _after(line.split(), "--chdir")
    found = os.path.normpath(found) if found else "."
    inside = not found.startswith(("/", "..", "."))
    return found if inside and (project / found).is_dir() else ""


def target(line: str, project: Path) -> str:
    """The `module:attribute` of such a line; `module:` where only a file is named."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    words = [part for word in words for part in (word.split() if " " in word else [word])]
    if not any(Path(word).name in _SERVERS for word in words):
        return ""
    found = next((word for word in words if _TARGET.fullmatch(word)), "")
    if not found and "fastapi" in words:
        file = next((word for word in words if word.endswith(".py")), "")
        found = ".".join(Path(file).with_suffix("").parts) + ":" if file else _package(words, project)
    if not found:
        return ""
    module, _, attribute = found.partition(":")
    folder = _after(words, "--app-dir")
    if folder and folder not in (".", "src") and (project / folder).is_dir():
        module = ".".join([*Path(folder).parts, module])
    # A file below src/ is told by what the sources define; a module is imported as its author wrote it.
    if not attribute and (project / "src").is_dir():
        module = module.removeprefix("src.")
    if not _is_module(project, module):
        return ""
    if "--factory" in words and not attribute.endswith("()"):
        attribute += "()"
    return f"{module}:{attribute}"


def _package(words: list[str], project: Path) -> str:
    """The application of a package folder that `fastapi run` is given, in the order it looks there itself."""
    place = next((word.rstrip("/") for word in words if (project / word / "__init__.py").is_file()), "")
    if not place or Path(place).is_absolute() or ".." in Path(place).parts:
        return ""
    text = "\n".join(line for _, line in _read(project / place / "__init__.py"))
    for name in ("app", "api"):
        if re.search(rf"(?m)^{name}\b.*=|^from .*import.*\b{name}\b|^\s+{name},?$", text):
            return f"{'.'.join(Path(place).parts)}:{name}"
    return ""


def _after(words: list[str], option: str) -> str:
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return ""


def _is_module(project: Path, module: str) -> bool:
    parts = Path(*module.split("."))
    return any(
        (root / parts).with_suffix(".py").is_file() or (root / parts / "__init__.py").is_file()
        for root in (project, project / "src")
    )
