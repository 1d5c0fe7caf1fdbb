"""Running uv: as the build user, in a sandbox, with the index and the downloads that this server allows."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import environment
from ..diagnosis import cause, needs
from ..errors import ReleaseError, cut, run_of
from ..host import sandbox
from ..host.command import Result
from ..paths import CA_BUNDLE, UV, Paths
from ..reading import wheels
from ..reading.dependencies import Installer
from ..sources import source
from . import index, once

LIMIT = 900.0
INSTALLING = "Installing the dependencies"
_UNREACHED = re.compile(r"dns error|error sending request|Connection refused|timed out")


class Uv:
    """uv for one app; `folder` is where it runs unless a call says otherwise."""

    def __init__(self, paths: Paths, app: dict[str, Any], folder: Path, installer: Installer) -> None:
        self.paths = paths
        self.app = app
        self.folder = folder
        self.installer = installer
        # What it could not build the last time that it failed: name and version.
        self.unbuilt: tuple[str, str] | None = None

    @cached_property
    def index(self) -> index.Index | None:
        """The index that this server is told to use."""
        return index.configured(self.app)

    @cached_property
    def foreign(self) -> str:
        """The index that uv.lock names instead of the one that this server is told to use."""
        return index.other(self.installer.path, self.index) if self.installer.kind == "uv" else ""

    def beside(self, target: Path) -> Path | None:
        """Where uv finds no settings of the project, which may name the index that it shall not ask."""
        return target if self.foreign else None

    def run(
        self,
        args: list[str],
        target: Path,
        writable: list[Path] | None = None,
        cwd: Path | None = None,
        doing: str = INSTALLING,
    ) -> Result:
        """As the build user, who can write the new environment and the app's cache, and nothing else."""
        sandbox.ready(self.paths.build_home, self.paths.build_user)
        with self._index_file() as env_file:
            result = once.as_builder(
                self.paths,
                self.app,
                [str(UV), *args],
                LIMIT,
                [target, self.paths.build_home, *(writable or [])],
                cwd=cwd or self.folder,
                env={**self._settings(target), **self._downloads(args, target)},
                env_file=env_file,
            )
        if result.code != 0:
            lines = [source.public_url(line) for line in result.lines]
            text = "\n".join(lines)
            self.unbuilt = wheels.unbuilt(text) or self.unbuilt
            full = "No space left" in text or "os error 28" in text
            if full:
                why, advice = f"the server's disk is full ({reason(lines)})", cause.ROOM
            elif starved := sandbox.out_of_memory(result, self.app):
                why, advice = f"{starved}.", f"then: {run_of('deploy', self.paths.app)}"
            elif missing := needs.to_build(text):
                why, advice = (
                    f"{reason(lines)}: {missing}.",
                    f"add it, then: {run_of('deploy', self.paths.app)}",
                )
            else:
                why, advice = self._why(lines), self._advice(doing, text)
            raise ReleaseError(f"{doing} failed: {why}", log=lines[-20:], advice=advice)
        return result

    def _why(self, lines: list[str]) -> str:
        """uv's reason, and what it means here."""
        why, text = reason(lines), "\n".join(lines)
        if self.index and re.search(r"[Hh]ash mismatch|--require-hashes", text):
            return f"{why}: what {self.index.public} serves is not what the lock recorded"
        lost = _UNREACHED.search(text)
        if lost and not self.index:
            return f"{why}: if this server shall use another index, name it in server.python.index_url"
        return why

    def _advice(self, doing: str, text: str) -> str:
        if _UNREACHED.search(text):
            what = "let the server reach it (server.python names other addresses)"
        elif re.search(r"[Hh]ash mismatch|--require-hashes", text):
            what = "correct the lock, or the index"
        else:
            what = "correct " + (
                "the dependency files" if doing == INSTALLING else "python.version or server.python"
            )
        return f"{what}, then: {run_of('deploy', self.paths.app)}"

    @contextmanager
    def _index_file(self) -> Iterator[Path | None]:
        """The index for systemd to read: its address may hold a password, and arguments are seen by all."""
        if self.index is None:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="berth-index-", dir="/run") as folder:
            path = Path(folder) / "env"
            path.write_text(environment.render({"UV_DEFAULT_INDEX": self.index.url}))
            yield path

    def _downloads(self, args: list[str], target: Path) -> dict[str, str]:
        """Interpreters are downloaded where they are asked for, never on the way."""
        if args[0] != "python":
            return {"UV_PYTHON_DOWNLOADS": "never"}
        packages = self.app["packages"]
        known = {
            "UV_PYTHON_INSTALL_MIRROR": packages.get("install_mirror"),
            "UV_PYTHON_DOWNLOADS_JSON_URL": (packages.get("downloads_json") or "").removeprefix("file://"),
        }
        found = {name: str(value) for name, value in known.items() if value}
        return {"UV_PYTHON_DOWNLOADS": "manual", "UV_PYTHON_INSTALL_DIR": str(target), **found}

    def _settings(self, target: Path) -> dict[str, str]:
        return {
            "UV_TOOL_DIR": "/tmp/uv-tools",  # noqa: S108 - private to the sandbox
            "POETRY_VIRTUALENVS_CREATE": "false",
            "UV_CACHE_DIR": str(self.paths.uv_cache),
            "UV_PROJECT_ENVIRONMENT": str(target),
            "VIRTUAL_ENV": str(target),
            # Cache and environment change owners separately.
            "UV_LINK_MODE": "copy",
            "UV_NO_PROGRESS": "1",
            "SSL_CERT_FILE": CA_BUNDLE,
            "PIP_CERT": CA_BUNDLE,
            "HOME": "/tmp",  # noqa: S108 - private to the sandbox
            "LC_ALL": "C.UTF-8",
        }


def reason(lines: list[str]) -> str:
    """The line of uv's report that names the cause."""
    # Older versions draw a tree, newer ones write `error:` and `cause:`.
    text = [
        re.sub(r"^\s*[\u00d7\u2500-\u25ff>-]+\s*|^\s*(error|cause): *", "", line).strip() for line in lines
    ]
    for pattern in (
        r"^Because ",
        r"[Hh]ash mismatch",
        r"not found in|requires-python",
        r"Failed to",
        r"^No ",
    ):
        for number, line in enumerate(text):
            if re.search(pattern, line):
                # uv folds its sentences.
                rest = " ".join(text[number : number + 3]) if line.startswith("Because ") else line
                return cut(rest, 400)
    return cut(text[-1] if text else "uv gave no reason", 400)
