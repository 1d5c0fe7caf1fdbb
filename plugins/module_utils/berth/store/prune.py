"""Removing releases and environments, with all that belongs to them."""

from __future__ import annotations

from .. import venv
from ..host import untrusted
from ..paths import Paths
from ..runtime import naming, units
from . import lock, presence, releases
from .journal import RECORD


def at_work(paths: Paths) -> list[str]:
    """Releases of which something runs: a web process that retires, a worker that ends its task, a job."""
    owner = {
        name: release for release, names in naming.instances(paths).items() for name in naming.services(names)
    }
    working = ("active", "activating", "deactivating", "reloading")
    found = units.states(list(owner))
    return sorted({owner[name] for name, state in found.items() if state in working})


def remove_release(paths: Paths, release: str) -> str:
    """A release and everything that carries its name; what cannot be removed of it, or nothing.

    First it stops being one that a rollback could go to; its folder goes last, so that a killed prune is
    repeated.
    """
    (paths.release(release) / RECORD).unlink(missing_ok=True)
    units.forget(paths, naming.instances(paths).get(release, []))
    paths.env(release).unlink(missing_ok=True)
    paths.migrate_env(release).unlink(missing_ok=True)
    for socket in (paths.root_socket(release), paths.own_socket(release)):
        socket.unlink(missing_ok=True)
    untrusted.remove(paths.public(release))
    untrusted.remove(paths.release(release))
    if paths.release(release).exists():
        return f"{paths.release(release)} is still there (lsattr -R and findmnt tell why)"
    return ""


def sweep(paths: Paths) -> list[str]:
    """What a killed run may leave beside its release: files that belong to no release, half-written ones."""
    here = set(releases.records(paths))
    gone = [release for release in naming.instances(paths) if release not in here]
    for release in gone:
        remove_release(paths, release)
    lost = [path for path in paths.frozen.glob("*.env") if path.name.partition(".")[0] not in here]
    for folder in (paths.sockets, paths.run):
        lost += [path for path in folder.glob("*.sock") if path.stem not in here]
    for folder, pattern in (
        (paths.base, ".*.new"),
        (paths.etc, ".*.new"),
        (paths.frozen, ".*.new"),
        (paths.state, ".*.new"),
        (paths.releases, "*/.release.json.*new"),
    ):
        lost += folder.glob(pattern)
    # In folders that all apps share, a run for another app may be in the middle of a write.
    with lock.hostwide(paths.root):
        lost += naming.half_written(paths, presence.known(paths.root))
        for path in lost:
            path.unlink(missing_ok=True)
    return gone + [path.name for path in lost]


def env_of(paths: Paths, release: str) -> str:
    """The environment that a release links to, if it was built to its end."""
    link = venv.of(paths.release(release))
    name = link.readlink().name if link.is_symlink() else ""
    return name if name and paths.env_mark(name).exists() else ""


def remove_unused_envs(paths: Paths, spare: str = "") -> list[str]:
    """Environments that no release links to, half-built ones included; but for one."""
    if not paths.envs.is_dir():
        return []
    used = {spare}
    for release in releases.records(paths):
        link = venv.of(paths.release(release))
        if link.is_symlink():
            used.add(link.readlink().name)
    gone = []
    for env in sorted(paths.envs.iterdir()):
        if env.name not in used:
            # Unmark first: what is left of an interrupted removal must not look complete.
            paths.env_mark(env.name).unlink(missing_ok=True)
            untrusted.remove(env)
            gone.append(env.name)
    return gone
