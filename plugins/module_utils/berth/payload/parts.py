"""What is stored off a server beside Postgres' backups, in parts, each with snapshots of its own.

`server` is what there is once; each app has a part of its own, with what its Redis keeps.
For `files`, as root.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import backup

Facts = dict[str, Any]

# Root's alone: it holds what opens the places, too.
SETTINGS = Path("/etc/berth/restic.json")
# Root's too: the lock, the state, restic's cache, and copies of what Redis has in memory.
STATE = Path("/var/lib/berth/restic")
# Of a server that was built anew from what lies at a place: how that went. Of another one it is not there.
RECOVERY = Path("/var/lib/berth-recovery")
SERVER = "server"
# Seconds for a copy of all that a Redis has in memory.
COPIED = 20 * 3600.0
# Bytes that what is written here leaves free: such copies, and what is brought back.
RESERVE = 1 << 30


class FilesError(backup.BackupError):
    """Why something is not stored or not brought back, in a sentence."""


@dataclass(frozen=True)
class Part:
    """What has snapshots of its own. In `written` others write, and may while it is read."""

    name: str
    paths: tuple[Path, ...]
    written: tuple[Path, ...] = ()

    @property
    def tag(self) -> str:
        return tag(self.name)


def tag(part: str) -> str:
    return SERVER if part == SERVER else f"app:{part.removeprefix('app ')}"


def apps(root: Path = Path("/")) -> list[str]:
    """Those with files here that Berth set up, and nobody purged: what is left of a removed one counts."""
    found = []
    for path in sorted((root / "srv").glob("*/data")):
        ours = (
            root / "var/lib/berth" / path.parent.name
        ).is_dir() and path.parent.lstat().st_uid == os.geteuid()
        if ours and stat.S_ISDIR(path.lstat().st_mode):
            found.append(path.parent.name)
    return found


def wanted(settings: Facts, dumps: Mapping[str, Path], root: Path = Path("/")) -> list[Part]:
    """All that is stored. `dumps` are copies of what Redis has in memory, by app, or where it keeps that."""
    state, dumped = root / "var/lib/berth", root / "var/lib/berth/backup/dumps"
    own = [path for path in sorted(state.glob("*")) if path.name not in (STATE.name, "backup")]
    records = sorted((root / "srv").glob("*/releases/*/release.json"))
    # As they are, where they lead or not.
    links = [path / name for path in sorted((root / "srv").glob("*")) for name in ("current", "web.sock")]
    folders = [root / str(one).lstrip("/") for one in settings["folders"]]
    named = [root / "etc/berth", *own, root / "var/log/berth", dumped, *folders, *records, *links]
    found = [Part(SERVER, _there(named), _there([dumped.parent, *map(_top, folders)]))]
    for name in apps(root):
        data, memory = root / "srv" / name / "data", dumps.get(name)
        kept = root / "var/lib/redis"
        raw = memory is not None and memory.is_relative_to(kept)
        paths = [data, *([memory] if memory else [])]
        found.append(Part(f"app {name}", _there(paths), _there([data, *([kept] if raw else [])])))
    return found


def _there(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(path for path in paths if os.path.lexists(path))


def _top(path: Path) -> Path:
    """The first folder on the way that is not root's, or the last: what is above it nobody can exchange."""
    for one in (*reversed(path.parents), path):
        with contextlib.suppress(OSError):
            if one.lstat().st_uid != os.geteuid():
                return one
    return path


def left_out() -> list[str]:
    """What opens the places lies in the vault, and stored beside what it opens it helps nobody.

    As patterns, so that a file is left out that is being written.
    """
    return [f"{SETTINGS.parent}/*{SETTINGS.name}*", "/etc/berth/backup/*offsite*"]


# Redis ------------------------------------------------------------------------------------------------------


def copies_of_redis(root: Path = Path("/")) -> tuple[dict[str, Path], list[str]]:
    """Of each app whose Redis persists, a consistent copy; and what is to be said of those without one.

    Of one that does not run, its files are as good.
    """
    found, problems = {}, []
    folder = root / STATE.relative_to("/") / "redis"
    persist = {
        path.parent.name
        for path in sorted((root / "etc/berth/redis").glob("*/port"))
        if "\nappendonly yes\n" in _text(root / f"etc/redis/redis-{path.parent.name}.conf")
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.stem not in persist or path.suffix != ".rdb":
            path.unlink()
    for name in sorted(persist):
        born, target = root / "etc/berth/redis" / name, folder / f"{name}.rdb"
        port, password = _text(born / "port").strip(), _text(born / "admin").strip()
        if not _listens(int(port)):
            found[name] = root / "var/lib/redis" / name
            continue
        try:
            found[name] = copy_of_redis(port, password, target)
        except backup.BackupError as error:
            problems.append(f"Redis of {name} is not stored: {error}")
            if target.exists():
                found[name] = target
    return found, problems


def copy_of_redis(port: str, password: str, target: Path) -> Path:
    """As a replica gets it, so that it is whole and the instance goes on."""
    need = int(target.stat().st_size * 1.2) if target.exists() else 0
    if backup.free(target.parent) < need + RESERVE:
        raise FilesError(
            f"{target.parent} has {backup.free(target.parent) // backup.MB} MB free; make room there"
        )
    temporary = target.with_suffix(".new")
    argv = ["redis-cli", "-h", "127.0.0.1", "-p", port, "--user", "berth", "--rdb", str(temporary)]
    try:
        backup.run(argv, COPIED, REDISCLI_AUTH=password)
        with temporary.open("rb") as file:
            if file.read(5) != b"REDIS":
                raise FilesError("what redis-cli got of it is no copy")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            return True
    except ConnectionRefusedError:
        return False
    except OSError:
        return True


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
