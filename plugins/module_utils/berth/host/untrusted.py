"""The boundary to what others wrote: sources, builds, dependencies, and the apps' own folders.

Root opens, changes, compiles or serves nothing where another user may still write. A tree is therefore either
another user's, who alone works on it (in a sandbox), or it was *taken*: gone through once from its top, in a
way that nobody can interfere with, and found to hold no surprise. In a tree that was taken no link leads out,
so the rest of the engine may use plain paths there; what it reads it reads through here all the same.
"""

from __future__ import annotations

import os
import shutil
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .. import venv
from ..errors import ReleaseError

LIMIT = 8 << 20
# What Berth puts into a release: a source's link to it would lead wherever Berth's own lead.
OURS = (".berth", venv.LINK, "release.json")
# Belongs to root and may be read by all: virtual environments are made of links into it.
_SYSTEM = "/usr/"
_DEPTH = 100
_LINKS = 40
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeError(ReleaseError, OSError):
    """Something that must not be read: whoever skips what it cannot read skips this too."""


@dataclass(frozen=True)
class Owner:
    """Whose a tree becomes, and how far it is opened; files that can be run keep that."""

    uid: int
    gid: int
    folders: int = 0o750
    files: int = 0o640


def never(_path: str) -> bool:
    return False


def shown(name: str) -> str:
    """A name for a message: what cannot be printed is spelled out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


def bad_name(name: str) -> str:
    """What is wrong with a file's name; empty where nothing is."""
    try:
        text = os.fsencode(name).decode()
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    bad = next((char for char in text if unicodedata.category(char) in ("Cc", "Zl", "Zp")), "")
    return f"holds the control character U+{ord(bad):04X}" if bad else ""


# Taking and giving -------------------------------------------------------------------------------


@dataclass
class _Take:
    what: str
    top: Path
    owner: Owner
    drop: Callable[[str], bool]
    links: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)
    theirs: int = 0

    def refuse(self, path: str, why: str) -> ReleaseError:
        return ReleaseError(f"{shown(path)} in {self.what} {why}")

    def folder(self, descriptor: int, path: str, depth: int) -> None:
        """First the folder itself: from then on nobody else can change what is in it."""
        os.fchown(descriptor, self.owner.uid, self.owner.gid)
        os.fchmod(descriptor, 0o700)
        if depth > _DEPTH:
            raise self.refuse(path, f"is nested deeper than {_DEPTH} folders.")
        with os.scandir(descriptor) as listing:
            entries = list(listing)
        for entry in entries:
            below = f"{path}/{entry.name}" if path else entry.name
            if self.drop(below):
                _remove(descriptor, entry.name)
                self.dropped.append(below)
                continue
            if why := bad_name(entry.name):
                raise self.refuse(below, f"has a name that {why}: rename it.")
            self.entry(descriptor, entry, below, depth)
        os.fchmod(descriptor, self.owner.folders)

    def entry(self, descriptor: int, entry: os.DirEntry[str], below: str, depth: int) -> None:
        known = entry.stat(follow_symlinks=False)
        inode = (known.st_dev, known.st_ino)
        if stat.S_ISDIR(known.st_mode):
            inside = os.open(entry.name, _OPEN_FOLDER, dir_fd=descriptor)
            try:
                self.folder(inside, below, depth + 1)
            finally:
                os.close(inside)
            return
        if stat.S_ISLNK(known.st_mode):
            self.links[below] = os.readlink(entry.name, dir_fd=descriptor)
        elif not stat.S_ISREG(known.st_mode):
            raise self.refuse(below, "is neither a file, a folder nor a link: take it out.")
        elif known.st_nlink > 1 and known.st_uid != self.theirs and inode not in self.seen:
            raise self.refuse(below, "is a second name of a file that lies elsewhere: put a copy there.")
        self.seen.add(inode)
        if (known.st_uid, known.st_gid) != (self.owner.uid, self.owner.gid):
            os.chown(entry.name, self.owner.uid, self.owner.gid, dir_fd=descriptor, follow_symlinks=False)
        if stat.S_ISREG(known.st_mode):
            # The folder is root's by now, so the name still means the file that was looked at.
            mode = self.owner.files | (self.owner.folders & 0o111 if known.st_mode & 0o100 else 0)
            if stat.S_IMODE(known.st_mode) != mode or known.st_uid != self.owner.uid:
                os.chmod(entry.name, mode, dir_fd=descriptor)

    def judge_links(self) -> None:
        for path in sorted(self.links):
            why = self.leads_out(path)
            if why:
                raise self.refuse(path, f"is a link to {shown(self.links[path])}, {why}")

    def outside(self) -> str:
        return f"which is outside of {self.what}: put the file itself there, or take the link out."

    def leads_out(self, path: str) -> str:
        """Followed as the kernel would, but in memory; empty where it stays inside."""
        at: list[str] = []
        todo = path.split("/")[::-1]
        hops = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not at:
                    return self.outside()
                at.pop()
                continue
            at.append(part)
            if hops and at[0] in OURS and path.split("/")[0] not in OURS:
                return "which is Berth's own: take the link out."
            target = self.links.get("/".join(at))
            if target is None:
                continue
            hops += 1
            if hops > _LINKS:
                return "which leads in a circle: take it out."
            at.pop()
            if target.startswith("/"):
                if os.path.normpath(target).startswith(_SYSTEM) and ".." not in todo:
                    return ""
                if not f"{target}/".startswith(f"{self.top}/"):
                    return self.outside()
                at, target = [], target[len(str(self.top)) :]
            todo += target.split("/")[::-1]
        return ""


def take(top: Path, owner: Owner, what: str = "the source", drop: Callable[[str], bool] = never) -> list[str]:
    """Make a tree root's (or whoever's), and refuse what has no place in it, in one sentence with the path.

    Refused: links that lead out, devices and the like, names that cannot be written down. Setuid bits go, and
    so does what `drop` says of a path relative to the top. The paths that went are returned.
    """
    descriptor = os.open(top, _OPEN_FOLDER)
    try:
        job = _Take(what, top, owner, drop, theirs=os.fstat(descriptor).st_uid)
        job.folder(descriptor, "", 0)
    finally:
        os.close(descriptor)
    job.judge_links()
    return sorted(job.dropped)


def give(top: Path, uid: int, gid: int, folders: int | None = None, files: int | None = None) -> None:
    """Hand a tree that is root's to another user: its top last, before which nobody else gets at the rest."""
    descriptor = os.open(top, _OPEN_FOLDER)
    try:
        _give(descriptor, uid, gid, folders, files)
    finally:
        os.close(descriptor)


def _give(descriptor: int, uid: int, gid: int, folders: int | None, files: int | None) -> None:
    with os.scandir(descriptor) as listing:
        entries = list(listing)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            inside = os.open(entry.name, _OPEN_FOLDER, dir_fd=descriptor)
            try:
                _give(inside, uid, gid, folders, files)
            finally:
                os.close(inside)
            continue
        if files is not None and not entry.is_symlink():
            os.chmod(entry.name, files, dir_fd=descriptor)
        os.chown(entry.name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    if folders is not None:
        os.fchmod(descriptor, folders)
    os.fchown(descriptor, uid, gid)


def _remove(descriptor: int, name: str) -> None:
    """An entry of a folder that is root's, whatever it is and holds."""
    try:
        inside = os.open(name, _OPEN_FOLDER, dir_fd=descriptor)
    except OSError:  # no folder, or a link to one
        os.unlink(name, dir_fd=descriptor)
        return
    try:
        os.fchown(inside, os.geteuid(), -1)
        os.fchmod(inside, 0o700)
        for entry in os.listdir(inside):  # noqa: PTH208 - by its descriptor
            _remove(inside, entry)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=descriptor)


def remove(path: Path) -> None:
    """A tree, whoever wrote it. `rmtree` goes down by descriptors, so nothing can lead it elsewhere."""
    assert shutil.rmtree.avoids_symlink_attacks
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


# Looking and reading -----------------------------------------------------------------------------


def resolve(top: Path, path: Path, what: str) -> Path:
    """Where a path of a tree that was taken really is; one that leaves the tree is refused."""
    real = path.resolve()
    if not real.is_relative_to(top.resolve()):
        raise ReleaseError(f"{what} leads out of the source.")
    return real


def below(top: Path, path: Path) -> bool:
    """Whether a path stays in a tree, by its words and by the links in it."""
    words = Path(os.path.normpath(path))
    return words.is_relative_to(os.path.normpath(top)) and path.resolve().is_relative_to(top.resolve())


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """A file that somebody else wrote, and its size: no device, and no pipe without an end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as handle:
        known = os.fstat(descriptor)
        if not stat.S_ISREG(known.st_mode):
            raise UnsafeError(f"{shown(path.name)} is not a plain file.")
        yield handle, known.st_size


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """All of such a file, unless that is too much."""
    with opened(path) as (handle, size):
        content = handle.read(min(size, limit) + 1)
    if len(content) > limit:
        raise UnsafeError(
            f"{shown(path.name)} is larger than {limit >> 20} MiB, which is too much to be read."
        )
    return content


def read_text(path: Path, limit: int = LIMIT, errors: str = "strict") -> str:
    return read_bytes(path, limit).decode("utf-8", errors).replace("\r\n", "\n")


def folders(top: Path, path: Path) -> Iterator[tuple[Path, os.stat_result | None]]:
    """Each folder from below `top` to `path`, which another user may write, as it is: no link is followed."""
    descriptor = os.open(top, _OPEN_FOLDER)
    here = top
    try:
        for part in path.relative_to(top).parts:
            here = here / part
            try:
                known = os.stat(part, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                yield here, None
                return
            yield here, known
            inside = os.open(part, _OPEN_FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inside
    finally:
        os.close(descriptor)


def write_new(path: Path, text: str, mode: int = 0o644) -> None:
    """A file that is not there yet, in a folder of root's; nothing that lies there already is written to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
        os.fchmod(descriptor, mode)
