"""The controller's side of a `path` source: which files belong to it, their digest, and the archive."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import IO

from ..errors import ReleaseError
from ..host import untrusted
from ..reading.project import SKIPPED_FOLDERS

SKIPPED_SUFFIXES = {".pyc", ".pyo"}
HARMLESS_ENV = {"example", "sample", "template", "dist", "test"}


def is_env_file(name: str) -> bool:
    """`.env`, `.env.production`: settings that would silently win over the inventory's."""
    return name == ".env" or (name.startswith(".env.") and name.rsplit(".", 1)[-1] not in HARMLESS_ENV)


def list_files(root: Path) -> list[str]:
    """What belongs to the source: what git would take, or everything but the usual by-products."""
    if not root.is_dir():
        raise ReleaseError(f"source.path: {root} is not a folder on this machine.")
    names = _from_git(root)
    if names is None:
        names = list(_from_walk(root))
    kept = sorted(name for name in names if not _skipped(name))
    for name in kept:
        if why := untrusted.bad_name(name):
            raise ReleaseError(f"source.path: {untrusted.shown(name)} has a name that {why}: rename it.")
    return kept


def _skipped(name: str) -> bool:
    parts = name.split("/")
    return bool(SKIPPED_FOLDERS.intersection(parts[:-1])) or Path(name).suffix in SKIPPED_SUFFIXES


def _from_git(root: Path) -> list[str] | None:
    try:
        listed = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if listed.returncode != 0 or not listed.stdout:
        return None
    names = [os.fsdecode(raw) for raw in listed.stdout.split(b"\0") if raw]
    # Deleted but not yet committed files are listed too, and submodules as folders.
    return [name for name in names if (root / name).is_symlink() or (root / name).is_file()]


def _from_walk(root: Path) -> list[str]:
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name for name in folders if name not in SKIPPED_FOLDERS and not (Path(folder) / name).is_symlink()
        ]
        for name in files:
            names.append(str((Path(folder) / name).relative_to(root)))
    return names


def clone(url: str, version: str, target: Path) -> None:
    """One commit of a repository, laid out in an empty folder of this machine."""
    options = {"capture_output": True, "text": True, "check": False, "timeout": 300}
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    for words in (
        ["init", "--quiet"],
        ["fetch", "--quiet", "--depth=1", "--", url, version],
        ["checkout", "--quiet", "FETCH_HEAD"],
    ):
        try:
            done = subprocess.run(["git", "-C", str(target), *words], env=env, **options)  # type: ignore[call-overload]
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReleaseError(f"git did not end well on this machine: {error}.") from error
        if done.returncode != 0:
            lines = [
                line for line in done.stderr.splitlines() if line.startswith(("fatal", "error", "ERROR"))
            ]
            raise ReleaseError(f"The repository cannot be read from this machine: {(lines or ['?'])[0]}")


def digest(root: Path, names: list[str]) -> str:
    """Path, executable bit and content of every file; neither times nor owners."""
    total = hashlib.sha256()
    for name in names:
        path = root / name
        if path.is_symlink():
            kind, content = "l", str(path.readlink()).encode()
        else:
            kind = "x" if path.stat().st_mode & stat.S_IXUSR else "f"
            content = path.read_bytes()
        total.update(f"{kind}{len(name.encode())}:{name}:{len(content)}:".encode())
        total.update(content)
    return total.hexdigest()


def archive(root: Path, names: list[str], target: IO[bytes]) -> int:
    """Write the files as a compressed tar file; its size."""
    with tarfile.open(fileobj=target, mode="w:gz", compresslevel=3) as tar:
        for name in names:
            info = tar.gettarinfo(str(root / name), arcname=name)
            if info.islnk():  # one more name of a file that was packed before
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", (root / name).stat().st_size
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            if info.isreg():
                with (root / name).open("rb") as content:
                    tar.addfile(info, content)
            elif info.issym():
                tar.addfile(info)
    size = target.tell()
    target.seek(0)
    return size
