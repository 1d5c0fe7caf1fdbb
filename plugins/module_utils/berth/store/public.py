"""What the proxy may read of a release: files that root put there, and marks of what the release can take.

The proxy follows links wherever its user may read, to its own keys too. So it is given no folder that anybody
else has filled: root makes every folder itself and puts plain files into it, as hard links, and no link that
leads out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ReleaseError
from ..host.untrusted import shown
from ..payload import hold

# Leads to the release's folder of files, all of root's making.
STATIC = ".berth/static"
# The server of this release says `Connection: close` when it retires, so connections to it may be kept.
KEEPALIVE = ".berth/keepalive"
# One empty file, named after the host name that this release expects to be asked under.
HOSTS = ".berth/hosts"

# Of folders of releases so many are numbered, for a proxy that cannot list them: `.1` is the newest.
NUMBERED = 9

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def publish(source: Path, target: Path, what: str) -> None:
    """Put the files of a folder of a tree that was taken where the proxy finds them; hidden ones stay away.

    A link is made anew where it stays in the folder, and refused where it does not.
    """
    _make(target.parent)
    descriptor = os.open(source, _FOLDER)
    try:
        _copy(descriptor, source.resolve(), PurePosixPath(), target, what)
    finally:
        os.close(descriptor)


def _copy(descriptor: int, top: Path, inside: PurePosixPath, target: Path, what: str) -> None:
    _make(target)
    with os.scandir(descriptor) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            below = os.open(name, _FOLDER, dir_fd=descriptor)
            try:
                _copy(below, top, inside / name, target / name, what)
            finally:
                os.close(below)
        elif stat.S_ISLNK(mode):
            (target / name).symlink_to(_led(top, inside / name, what))
        elif stat.S_ISREG(mode):
            _link(descriptor, target / name)


def _led(top: Path, inside: PurePosixPath, what: str) -> str:
    """Where a link leads inside of the folder, in so few words that it cannot lead anywhere else."""
    try:
        real = (top / inside).resolve()
    except (OSError, RuntimeError):  # in a circle
        real = Path("/")
    if not real.is_relative_to(top):
        leads = shown(str((top / inside).readlink()))
        raise ReleaseError(
            f"{shown(str(inside))} in {what} is a link to {leads}: what the proxy serves must not "
            "lead out of its folder."
        )
    return os.path.relpath(real, top / inside.parent)


def _link(descriptor: int, target: Path) -> None:
    os.link(target.name, target, src_dir_fd=descriptor, follow_symlinks=False)
    linked = os.open(target, _FILE)
    try:
        # Where the app may write (scratch), it may have become something else meanwhile; here it cannot.
        if stat.S_ISREG(os.fstat(linked).st_mode):
            os.fchmod(linked, 0o644)
        else:
            target.unlink()
    finally:
        os.close(linked)


def _make(folder: Path) -> None:
    """A folder that the proxy may list, whatever the umask."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def number(folder: Path, releases: Sequence[str]) -> None:
    """Links `.1`, `.2` … to those of these releases, the newest first, whose files the proxy may enter."""
    if not folder.is_dir():
        return  # no release has had files yet
    there = [name for name in releases if (folder / name).is_dir() and (folder / name).stat().st_mode & 0o001]
    for at in range(1, NUMBERED + 1):
        link = folder / f".{at}"
        name = there[at - 1] if at <= len(there) else ""
        if name and not (link.is_symlink() and os.readlink(link) == name):  # noqa: PTH115 - as it was written
            temporary = link.with_name(f".{at}.new")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(name)
            temporary.replace(link)
        elif not name:
            link.unlink(missing_ok=True)


def asked_as(app: dict[str, Any]) -> str:
    """The host name that a release of this app is asked under, once the proxy knows it."""
    return str(app["proxy"]["upstream_host"] or app["domains"][0]).lower()


def mark(release: Path, host: str, keepalive: bool) -> None:
    """What the proxy asks at each request about the release that is live."""
    _make(release / HOSTS)
    (release / HOSTS / host).touch()
    if keepalive:
        lasting(release).touch()


def lasting(release: Path) -> Path:
    """The mark by which the proxy keeps connections to this release; away while the app is held."""
    return release / KEEPALIVE


def mend(release: Path) -> None:
    """Connections to it may be kept again."""
    hold.put_back(lasting(release))


def expects(release: Path, host: str) -> bool:
    """Whether a release was made for being asked under this host name."""
    return (release / HOSTS / host).is_file()
