"""Keeps the engine's compiled code on the server: compiling it takes most of the time that opening it takes.

The code itself comes over the connection every time. What is kept belongs to exactly that code and this
Python, lies where only root writes, and carries a checksum; whatever is wrong with it, all is compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import marshal
import os
import stat
import sys
import zipimport
from pathlib import Path
from types import CodeType

FOLDER = Path("/var/cache/berth/engine")
# Of so many programs: who works on one server from two checkouts uses both in turn, and each has two.
_KEPT = 6


class _Importer(zipimport.zipimporter):
    """Imports from the engine's zip; what was compiled before is not compiled again."""

    known: dict[str, CodeType] = {}  # noqa: RUF012 - one zip per process

    def get_code(self, fullname: str) -> CodeType:
        return self.known.get(fullname) or super().get_code(fullname)


class Bytecode:
    """The compiled modules of one engine: a zip file that this process can read by a path."""

    def __init__(self, engine: str | Path, folder: Path = FOLDER, owner: int = 0) -> None:
        self.engine = Path(engine)
        self.owner = owner
        python = importlib.util.MAGIC_NUMBER.hex()
        digest = hashlib.sha256(self.engine.read_bytes()).hexdigest()
        self.file = folder / f"{digest[:32]}-{python}"
        self.known = self._read()

    def use(self) -> None:
        """Import from what is kept, from now on."""
        if self.known:
            _Importer.known = self.known
            sys.path_hooks.insert(0, _Importer)
            sys.path_importer_cache.clear()

    def _read(self) -> dict[str, CodeType]:
        """Nothing where it is not there, not whole, or could be another's."""
        try:
            if not all(self._ours(place) for place in (self.file.parent, self.file)):
                return {}
            kept = self.file.read_bytes()
            if kept[:32] != hashlib.sha256(kept[32:]).digest():
                return {}
            found: dict[str, CodeType] = marshal.loads(kept[32:])  # noqa: S302 - root's own, by its checksum
        except (OSError, ValueError, EOFError, TypeError):
            return {}
        return found

    def _ours(self, place: Path) -> bool:
        about = os.lstat(place)
        return (
            about.st_uid == self.owner
            and not stat.S_ISLNK(about.st_mode)
            and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        )

    def keep(self) -> None:
        """Compile all modules for the next engine; nothing where there is no such folder, or it cannot be."""
        if self.known:
            return
        new = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            if not self._ours(self.file.parent):
                return
            try:
                body = marshal.dumps(self._compile())
                new.write_bytes(hashlib.sha256(body).digest() + body)
                new.rename(self.file)
            finally:
                new.unlink(missing_ok=True)
            kept = sorted(self.file.parent.iterdir(), key=lambda path: path.lstat().st_mtime)
            for path in kept[:-_KEPT]:
                path.unlink()

    def _compile(self) -> dict[str, CodeType]:
        import zipfile  # only where there is something to compile

        found = {}
        with zipfile.ZipFile(self.engine) as archive:
            for name in archive.namelist():
                module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                path = str(self.engine / name)
                found[module] = compile(archive.read(name), path, "exec", dont_inherit=True)
        return found
