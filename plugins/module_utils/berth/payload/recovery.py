"""A server that is lost, brought back onto a bare host: what is stored off it beside Postgres' backups.

Runs by itself, as root, from the unit of role recovery:

    recovery.py look     find what is stored at a place, and which releases were live
    recovery.py born     bring back the secrets that were born on the server
    recovery.py files    bring back the apps' files, what their Redis kept, and what else is named

Nothing is written at a place. How a verb went is kept in `<verb>.json`; `born` and `files` take the snapshots
that `look` found. Each can be repeated after it was cut off, until an app runs.

Where others than root write, it is they who write here, too: restic's answer is piped to a program of theirs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, parts, restic
from .parts import FilesError
from .restic import AT_WORK, Place, asked, moment

Facts = dict[str, Any]

# Root's alone, and in no snapshot: what opens the places stands here until all is done.
FOLDER = parts.RECOVERY
SETTINGS = FOLDER / "settings.json"
VERBS = ("look", "born", "files")
# Seconds to wait for a run that was begun before.
PATIENCE = 3600.0
# What only the lost server knew. All else of /etc/berth says what was done there, and here is not done yet.
BORN = re.compile(
    r"etc/berth/(?:(?!redis/|postgresql/|backup/)[a-z][a-z0-9-]*/secrets\.json"
    r"|redis/[a-z][a-z0-9-]*/(?:port|password|admin)|postgresql/[A-Za-z0-9_-]+)"
)
# What is read into memory at once: secrets and records are small.
SMALL = 16 << 20


# Reading what is stored -------------------------------------------------------------------------------------


@contextlib.contextmanager
def piped(place: Place, *words: str) -> Iterator[IO[bytes]]:
    """What restic writes, as it comes; FilesError at the end where it failed, or was not read to its end."""
    env = {**backup.ENVIRONMENT, **place.environment()}
    argv = ["restic", *place.words(), *words]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=said, stdin=subprocess.DEVNULL, env=env
        ) as work,
    ):
        assert work.stdout is not None

        def judge(code: int | None) -> None:
            if code:
                said.seek(0)
                text = said.read().decode(errors="replace")
                raise FilesError(restic.why(restic.Answer(code, "", text)))

        try:
            yield work.stdout
        except BaseException as error:
            # Whoever reads misses the rest; why there is none, only restic knows.
            with contextlib.suppress(subprocess.TimeoutExpired):
                judge(work.wait(1) if isinstance(error, FilesError | tarfile.TarError) else None)
            work.kill()
            raise
        work.stdout.close()
        judge(work.wait())


def dump(snapshot: str, path: str, *, archive: bool = True) -> list[str]:
    """restic's words for a folder as an archive, whose names begin at the top; or for one file."""
    return ["dump", "--no-lock", *(["--archive", "tar"] if archive else []), snapshot, path]


def small(place: Place, snapshot: str, folder: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Links and small files of a folder, each with its content."""
    with piped(place, *dump(snapshot, folder)) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for one in archive:
                file = archive.extractfile(one) if one.isfile() and one.size <= SMALL else None
                if file or one.issym():
                    yield one, file.read() if file else b""
        # A pipe that is closed before its end would be an error of restic's.
        while stream.read(1 << 20):
            pass


def has(snapshot: Facts, folder: str) -> bool:
    """Whether something of a folder was stored in it."""
    return any(f"{one}/".startswith(f"{folder}/") for one in snapshot.get("paths") or [])


# Looking ----------------------------------------------------------------------------------------------------


def look(settings: Facts) -> Facts:
    """The newest of each part at the first place that has them, and what was live by then."""
    problems = []
    for place in restic.places(settings):
        if settings["place"] not in ("", place.name):
            continue
        try:
            return {**found(place), "place": place.name, "where": place.where}
        except FilesError as error:
            problems.append(f"{place.name}: {error}")
    raise FilesError("; ".join(problems) or f"there is no place {settings['place']} in server.backup.offsite")


def found(place: Place) -> Facts:
    newest: Facts = {}
    for one in restic.snapshots(place):
        for tag in (name for name in one.get("tags") or [] if not name.startswith(restic.MAKER)):
            newest[tag] = {
                "id": one["id"], "at": backup.stamp(moment(one["time"])), "paths": one.get("paths") or [],
            }  # fmt: skip
    if parts.SERVER not in newest:
        raise FilesError("nothing of a server is stored there; its path may be another one")
    server = newest[parts.SERVER]
    return {"snapshots": newest, "live": live(place, server), "cluster": cluster(place, server)}


def live(place: Place, server: Facts) -> Facts:
    """Of each app the release that was live: its name, the version and where that came from."""
    links, records = {}, {}
    if not has(server, "/srv"):
        return {}
    for one, content in small(place, server["id"], "/srv"):
        words = one.name.strip("/").split("/")
        if one.issym() and words[2:] == ["current"]:
            links[words[1]] = Path(one.linkname).name
        elif len(words) == 5 and words[4] == "release.json":
            with contextlib.suppress(ValueError):
                records[words[1], words[3]] = json.loads(content)
    told = {}
    for app, release in sorted(links.items()):
        record = records.get((app, release)) or {}
        known = {key: str(record.get(key) or "") for key in ("version", "source")}
        told[app] = {"release": release, **known}
    return told


def cluster(place: Place, server: Facts) -> Facts:
    """What is to be known of the cluster before there is one: its version."""
    if not has(server, "/etc/berth"):
        return {}
    # Neither is there where backups of Postgres were switched off.
    for one, content in small(place, server["id"], "/etc/berth"):
        if one.name.strip("/") == "etc/berth/backup/settings.json":
            with contextlib.suppress(ValueError):
                return {"version": str(json.loads(content)["version"])}
    return {}


# Bringing back ----------------------------------------------------------------------------------------------


def chosen(settings: Facts) -> tuple[Place, Facts]:
    """What `look` found, and the place where it was."""
    known = json.loads((FOLDER / "look.json").read_text())
    for place in restic.places(settings):
        if place.name == known.get("place"):
            return place, known
    raise FilesError(f"{known.get('place') or 'the place'} is no more in server.backup.offsite")


def born(settings: Facts, root: Path = Path("/")) -> Facts:
    """Secrets to where roles take them for born here; their owners and groups are for those to set."""
    place, known = chosen(settings)
    count = 0
    for one, content in small(place, known["snapshots"][parts.SERVER]["id"], "/etc/berth"):
        name = one.name.strip("/")
        if one.issym() or not BORN.fullmatch(name):
            continue
        path = root / name
        for folder in reversed(path.relative_to(root / "etc").parents[:-1]):
            mode = 0o755 if folder == Path("berth") else 0o700
            (root / "etc" / folder).mkdir(mode=mode, parents=True, exist_ok=True)
        backup.keep(path, content.decode())
        count += 1
    return {"secrets": count}


def files(settings: Facts, root: Path = Path("/")) -> Facts:
    """Of each app of the inventory what it stored, and the folders that are named."""
    place, known = chosen(settings)
    snapshots, made = known["snapshots"], {}
    for name in sorted(settings["apps"]):
        one, data = snapshots.get(parts.tag(f"app {name}")), root / "srv" / name / "data"
        if one is None:
            made[name] = {"of": "", "bytes": 0}
            continue
        size = room_for(place, one, data)
        if has(one, f"/srv/{name}/data"):
            unpack(place, one["id"], f"/srv/{name}/data", data)
        if settings["apps"][name]["redis"]:
            redis(place, one, name, root)
        made[name] = {"of": one["at"], "bytes": size}
    server = snapshots[parts.SERVER]
    for folder in settings["folders"]:
        if has(server, folder):
            unpack(place, server["id"], folder, root / folder.lstrip("/"))
    return {"files": made}


def room_for(place: Place, snapshot: Facts, folder: Path) -> int:
    """Bytes of a snapshot; FilesError where the disk has too little room."""
    said = asked(place, "stats", "--json", "--no-lock", snapshot["id"], timeout=AT_WORK)
    size, room = int(json.loads(said)["total_size"]), backup.free(folder)
    if room < size + parts.RESERVE:
        raise FilesError(
            f"{folder} has {room // backup.MB} MB free, and the files take {size // backup.MB} MB; "
            "make room there"
        )
    return size


def redis(place: Place, snapshot: Facts, name: str, root: Path) -> None:
    """What an instance had in memory. It has to be stopped; its first start takes this for its own file.

    A copy as a replica gets it is a valid beginning of the file of writes, by all versions since 4.
    """
    copy, raw = f"{parts.STATE}/redis/{name}.rdb", f"/var/lib/redis/{name}"
    folder = root / raw.lstrip("/")
    if has(snapshot, copy):
        empty(folder)
        words = dump(snapshot["id"], copy, archive=False)
        with piped(place, *words) as stream:
            as_owner(folder, ["dd", "of=appendonly.aof", "bs=1M", "status=none"], stream)
    elif has(snapshot, raw):
        empty(folder)
        unpack(place, snapshot["id"], raw, folder)


def empty(folder: Path) -> None:
    as_owner(folder, ["find", ".", "-mindepth", "1", "-delete"])


def unpack(place: Place, snapshot: str, path: str, target: Path) -> None:
    """A folder's content into one that may be there already; what has the same name is written anew."""
    within = target
    while not within.is_dir():
        within = within.parent
    if within != target:
        as_owner(within, ["mkdir", "-p", "-m", "700", str(target)])
    skipped = len(path.strip("/").split("/"))
    argv = ["tar", "-x", "-p", "--no-same-owner", f"--strip-components={skipped}", "-f", "-"]
    with piped(place, *dump(snapshot, path)) as stream:
        as_owner(target, argv, stream)


def as_owner(folder: Path, argv: Sequence[str], stream: IO[bytes] | None = None) -> None:
    """Run a program in a folder as the user whose it is; FilesError in its own words."""
    who = identity(folder)
    done = subprocess.run(
        argv, cwd=folder, stdin=stream or subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env=backup.ENVIRONMENT, check=False, user=who["user"], group=who["group"],
        extra_groups=who["extra_groups"],
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise FilesError(f"{folder}: {(said or [f'{argv[0]} ended with {done.returncode}'])[-1][:300]}")


def identity(folder: Path) -> Facts:
    """Of its owner, as subprocess takes it; never root's, who must not write where that owner may, too."""
    owner = folder.lstat()
    if owner.st_uid == 0:
        raise FilesError(f"{folder} is root's, and what was stored of it was not")
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


# The command line -------------------------------------------------------------------------------------------


def note(verb: str, settings: Facts, began: float, problem: str, **made: Any) -> None:
    """How it went, for whoever asked."""
    entry = {"run": settings.get("run", ""), "problem": problem, "began": backup.stamp(began),
             "seconds": round(time.time() - began, 1), **made}  # fmt: skip
    backup.keep(FOLDER / f"{verb}.json", json.dumps(entry, indent=1) + "\n")


def main(argv: list[str]) -> int:
    """The exit status."""
    if len(argv) != 1 or argv[0] not in VERBS:
        print(f"recovery.py {' | '.join(VERBS)}", file=sys.stderr)
        return 2
    # Of what is secret each file and folder says so itself; /etc/berth is for all to pass through.
    os.umask(0o022)
    verb, began, problem, made = argv[0], time.time(), "", {}
    settings: Facts = {}
    try:
        settings = json.loads(SETTINGS.read_text())
        with backup.alone(FOLDER, PATIENCE, busy="a run that was begun before is still at work"):
            note(verb, settings, began, "it was cut off")
            made = {"look": look, "born": born, "files": files}[verb](settings)
    except backup.BackupError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or verb}: {error.strerror}"
    except (ValueError, LookupError, TypeError, tarfile.TarError) as error:
        problem = f"what is stored cannot be read ({type(error).__name__}: {error})"
    note(verb, settings, began, problem, **made)
    if problem:
        print(f"Not brought back: {problem}.", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
