"""Which releases stay, and removing the others with all that belongs to them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..host import untrusted
from ..host.command import systemctl
from ..paths import APP, Paths
from ..runtime import jobs, units
from . import lock
from .journal import RECORD, now, read_record, write_record


def list_releases(paths: Paths) -> dict[str, dict[str, Any]]:
    """Every release folder with its record, oldest first; an empty record is a partial release."""
    if not paths.releases.is_dir():
        return {}
    found = (path for path in sorted(paths.releases.iterdir()) if path != paths.stage and path.is_dir())
    return {path.name: read_record(path) for path in found}


def live_release(paths: Paths) -> str:
    """What the proxy talks to: the release whose socket `web.sock` points at; empty when there is none."""
    try:
        return paths.web_sock.readlink().name.removesuffix(".sock")
    except OSError:
        return ""


def select(
    releases: dict[str, dict[str, Any]], live: str, keep: int, busy: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Releases that stay and that go: live, still at work, and those that were live last, `keep` in all."""
    stay = {live} if live in releases else set()
    stay.update(candidates(releases, live)[: max(1, keep) - len(stay)])
    stay.update(release for release in busy if served(releases.get(release, {})))
    return sorted(stay), sorted(set(releases) - stay)


def served(record: dict[str, Any]) -> bool:
    """Whether a release ever was live, so that it may still have clients: one taken back at once, too."""
    return bool(record.get("healthy") or record.get("withdrawn"))


def last_live(record: dict[str, Any]) -> tuple[int, str, str]:
    """When a release went live, to be compared: a count, since clocks are put right and names follow them."""
    return int(record.get("turn") or 0), str(record.get("live_since", "")), str(record.get("created", ""))


def next_turn(releases: dict[str, dict[str, Any]]) -> int:
    return 1 + max((int(record.get("turn") or 0) for record in releases.values()), default=0)


def candidates(releases: dict[str, dict[str, Any]], live: str) -> list[str]:
    """What a rollback may go to: what was live last comes first, and what was gone back from at the end."""
    found = [name for name, record in releases.items() if record.get("healthy") and name != live]
    return sorted(
        found,
        key=lambda name: (not releases[name].get("withdrawn"), last_live(releases[name]), name),
        reverse=True,
    )


def previous(releases: dict[str, dict[str, Any]], live: str) -> str:
    """The release a plain rollback goes to: what was live before the live one and is trusted still."""
    mine = releases.get(live, {})

    def before(name: str) -> bool:
        # One that is not proved yet came after all that are.
        older = (last_live(releases[name]), name) < (last_live(mine), live)
        return not releases[name].get("withdrawn") and (older or not mine.get("healthy"))

    return next((name for name in candidates(releases, live) if before(name)), "")


def withdraw(paths: Paths, release: str) -> None:
    """Note that a release was gone back from: it is no release to go back to any more, unless it is named."""
    record = read_record(paths.release(release))
    if record and not record.get("withdrawn"):
        write_record(paths.release(release), {**record, "withdrawn": now()})


def at_work(paths: Paths) -> list[str]:
    """Releases of which something runs: a web process that retires, a worker that ends its task, a job."""
    owner = {
        name: release
        for release, names in instances(paths).items()
        for name in names
        if name.endswith(".service")
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
    names = instances(paths).get(release, [])
    if names:
        # What would start others goes first.
        units.ask_to_stop([name for name in names if name.endswith((".timer", ".socket"))])
        units.stop(names, patience=30)
        units.disable(paths, names)
        systemctl("reset-failed", *names)
    for name in names:
        (paths.units / name).unlink(missing_ok=True)
        # When a timer ran last; its name never comes back.
        jobs.stamp(paths, name).unlink(missing_ok=True)
    paths.env(release).unlink(missing_ok=True)
    paths.migrate_env(release).unlink(missing_ok=True)
    for socket in (paths.root_socket(release), paths.own_socket(release)):
        socket.unlink(missing_ok=True)
    untrusted.remove(paths.public(release))
    untrusted.remove(paths.release(release))
    if paths.release(release).exists():
        return f"{paths.release(release)} is still there (lsattr -R and findmnt tell why)"
    return ""


def instances(paths: Paths) -> dict[str, list[str]]:
    """The unit files of every release of this app. Files say whose they are: `a-b-web@…` is not app a's."""
    found: dict[str, list[str]] = {}
    for path in sorted(paths.units.glob(f"{paths.app}-*@*.*")):
        release = path.name.partition("@")[2].rpartition(".")[0]
        if release and path.suffix in (".service", ".socket", ".timer") and owned(path, paths.app):
            found.setdefault(release, []).append(path.name)
    return found


def owned(path: Path, app: str) -> bool:
    """Whether a unit file carries the app's mark."""
    try:
        return bool(re.search(rf"^# Berth app: {re.escape(app)}$", path.read_text(), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return False


def sweep(paths: Paths) -> list[str]:
    """What a killed run may leave beside its release: files that belong to no release, half-written ones."""
    here = set(list_releases(paths))
    gone = [release for release in instances(paths) if release not in here]
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
        lost += _half_written_units(paths)
        for path in lost:
            path.unlink(missing_ok=True)
    return gone + [path.name for path in lost]


def _half_written_units(paths: Paths) -> list[Path]:
    """Those of this app: `.a-b-web@…` is app a-b's, where there is one: the contract lets one be."""
    others = [name for name in known(paths.root) if name.startswith(f"{paths.app}-")]
    found = [
        path
        for pattern in (f".{paths.app}-*@*.new", f"*.wants/.{paths.app}-*@*.new")
        for path in paths.units.glob(pattern)
    ]
    return [path for path in found if not path.name.startswith(tuple(f".{name}-" for name in others))]


def known(root: Path = Path("/")) -> list[str]:
    """Every app that ever was set up on this server and not purged."""
    states = (root / "var/lib/berth").glob("*")
    return sorted(path.name for path in states if path.is_dir() and APP.fullmatch(path.name))


# The engine's bootstrap among a process's arguments, whatever version it is of.
ENGINE = re.compile(rb"\bberth\.\w+\.agent\b")
TEMPORARY = ("run/berth-git-*", "run/berth-index-*", "tmp/berth-index-*", "var/tmp/berth-diff-*")


def sweep_temporary(root: Path = Path("/"), proc: Path = Path("/proc")) -> list[str]:
    """Folders that a killed engine had for git, perhaps with a key inside; not while another engine runs."""
    left = [path for pattern in TEMPORARY for path in root.glob(pattern)]
    if not left or _other_engines(proc):
        return []
    for path in left:
        untrusted.remove(path)
    return [path.name for path in left]


def _other_engines(proc: Path) -> bool:
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        # The shell and the sudo around an engine have its text among their arguments too, but not first.
        python = b"python" in words[0].rsplit(b"/", 1)[-1] and path.parent.name != str(os.getpid())
        if python and any(ENGINE.search(word) for word in words[1:]):
            return True
    return False


def env_of(paths: Paths, release: str) -> str:
    """The environment that a release links to, if it was built to its end."""
    link = paths.release(release) / ".venv"
    name = link.readlink().name if link.is_symlink() else ""
    return name if name and paths.env_mark(name).exists() else ""


def remove_unused_envs(paths: Paths, spare: str = "") -> list[str]:
    """Environments that no release links to, half-built ones included; but for one."""
    if not paths.envs.is_dir():
        return []
    used = {spare}
    for release in list_releases(paths):
        link = paths.release(release) / ".venv"
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
