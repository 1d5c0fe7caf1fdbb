"""How the author starts the app: Procfile, Dockerfile and compose files, and what such a line names."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..host import untrusted

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


# What works off a queue beside the web server. What shows a queue in a browser is none of them.
_WORKERS = ("celery", "arq", "taskiq", "rq", "rqworker", "dramatiq")
_NO_WORKER = {"flower", "events", "inspect", "shell"}
_COMPOSE = tuple(
    f"{name}{more}.{end}"
    for name in ("compose", "docker-compose")
    for more in ("", ".prod", ".production")
    for end in ("yml", "yaml")
)
_RUNNERS = re.compile(r"(?:(?:uv|poetry|pdm|pipenv|hatch) run (?:--?\S+ )*|exec )+")


@dataclass(frozen=True)
class Command:
    """A command that the author runs beside the web server."""

    name: str
    line: str
    where: str


def commands(project: Path, root: Path) -> list[Command]:
    """Processes in Procfile and compose files that the app needs beside its web server, each once."""
    found: dict[str, Command] = {}
    for folder in dict.fromkeys((project, root)):
        for number, line in _read(folder / "Procfile"):
            name, _, command = line.partition(":")
            if re.fullmatch(r"[\w-]+", name) and name not in ("web", "release") and command.strip():
                found.setdefault(name, Command(name, _bare(command.strip()), f"Procfile:{number}"))
        for file in _COMPOSE:
            for name, number, command in _services(folder / file):
                if tool(command):
                    found.setdefault(name, Command(name, _bare(command), f"{file}:{number}"))
    unique = {one.line: one for one in reversed(list(found.values()))}
    return list(reversed(unique.values()))


def tool(line: str) -> str:
    """Which worker of a queue a command is: `celery beat`, `arq`; empty where it is none."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    words = [part for word in words for part in (word.split() if " " in word else [word])]
    at = next((number for number, word in enumerate(words) if Path(word).name in _WORKERS), None)
    if at is None or _NO_WORKER.intersection(words[at:]):
        return ""
    name = Path(words[at]).name
    verb = next((word for word in words[at:] if word in ("worker", "beat", "scheduler")), "")
    return f"{name} {verb}".strip()


def _bare(line: str) -> str:
    """Without what is for a developer's machine, or for the container alone."""
    line = re.sub(r"(?<!\$)\$\{\w+:?-([^}]*)\}", r"\1", line).replace("$$", "$")
    line = re.sub(r"\s--(?:reload|watch(?:[ =]\S+)?)(?=\s|$)", "", line)
    return _RUNNERS.sub("", line, count=1) if _RUNNERS.match(line) else line


def _services(path: Path) -> Iterator[tuple[str, int, str]]:
    """(service, line, command) of a compose file; what is not written plainly is left out."""
    rows = [
        (number, line) for number, line in _read(path) if line.strip() and not line.lstrip().startswith("#")
    ]
    inside, depth, service = False, 0, ""
    for at, (number, line) in enumerate(rows):
        indent = _indent(line)
        if not indent:
            inside, depth = line.startswith("services:"), 0
        elif inside:
            depth = depth or indent
            name = re.fullmatch(r"\s+[\"']?([\w.-]+)[\"']?:\s*(?:&\S+)?\s*", line)
            if indent == depth:
                service = name[1] if name else ""
                continue
            match = re.match(r"\s+command:\s*(.*?)\s*$", line)
            if service and match:
                yield service, number, _value(match[1], _block(rows[at + 1 :], indent))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block(rows: list[tuple[int, str]], indent: int) -> list[str]:
    """The lines below a key; items of a list may stand as deep as the key itself."""
    found = []
    for _, line in rows:
        item = line.lstrip().startswith("- ")
        if _indent(line) < indent or (_indent(line) == indent and not item):
            break
        found.append(line.strip())
    return found


def _value(text: str, block: list[str]) -> str:
    """A scalar, a folded one, or a list, as one line for a shell."""
    if text.startswith("["):
        try:
            words = [str(word) for word in json.loads(text)]
        except ValueError:
            words = [word.strip(" '\"") for word in text.strip("[]").split(",")]
    elif text in ("", ">", "|", ">-", "|-"):
        if not block or not block[0].startswith("- "):
            return " ".join(block)
        words = [line.removeprefix("- ").strip().strip("'\"") for line in block]
    else:
        plain = text[1:-1] if text[0] in "'\"" and text[-1] == text[0] else text
        try:
            words = shlex.split(plain)
        except ValueError:
            return plain
        if len(words) != 3 or words[1] not in ("-c", "-lc"):
            return plain
    if len(words) == 3 and Path(words[0]).name in ("sh", "bash") and words[1] in ("-c", "-lc", "-ec"):
        return words[2]
    return shlex.join(words)


_IMAGE = re.compile(r"FROM\s+(?:--\S+\s+)*(\S+)", re.IGNORECASE)


def _filled_in(text: str, given: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)(?::-[^}]*)?\}?", lambda found: given.get(found[1], ""), text)


def python(project: Path, root: Path) -> tuple[str, str]:
    """The Python of the image that a Dockerfile ends in (`3.11`), and where; empty where it does not say."""
    for folder in dict.fromkeys((project, root)):
        for name in ("Dockerfile", "Dockerfile.prod", "docker/Dockerfile", "Containerfile"):
            given: dict[str, str] = {}
            stages: dict[str, str] = {}
            last = ("", "")
            for number, line in _read(folder / name):
                if argument := re.match(r"ARG\s+(\w+)=[\"']?([^\"'\s]+)", line, re.IGNORECASE):
                    given[argument[1]] = argument[2]
                if not (image := _IMAGE.match(line)):
                    continue
                text = _filled_in(image[1], given)
                found = re.search(r"(?:^|/)python:(3\.\d+)|(?:^|[-:/])python(3\.\d+)", text)
                version = (found[1] or found[2]) if found else stages.get(text, "")
                if stage := re.search(r"\sAS\s+(\S+)", line, re.IGNORECASE):
                    stages[stage[1]] = version
                last = (version, f"{name}:{number}")
            if last[0]:
                return last
    return "", ""
