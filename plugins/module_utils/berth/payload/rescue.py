"""A cluster whose data folder is lost or does not start, restored in place, with the WAL that is left of it.

Runs by itself, as the user postgres, while the cluster's server is down:

    rescue.py plan       what would be restored, as JSON; or why not, and exit status 1
    rescue.py restore    do it, all WAL included; the server is started by whoever asked

A request comes as JSON on standard input: `wal`, the folder with the WAL that is left, where that is not in
the data folder; `from`, the name of a place off this server, where the repository here is lost too. What is
there of the data folder is kept beside it: nothing is deleted but what an earlier try had begun. With `onto`,
such a place as well, a host that is new is restored onto: the cluster that was just made there has nothing
to keep, and its WAL is another one's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, offsite, side

Facts = dict[str, Any]

# Segments and histories of timelines; what was renamed since is none of them.
WAL = re.compile(r"[0-9A-F]{24}|[0-9A-F]{8}\.history")
# Of a copy that is not whole, and of a folder put aside; and why a system does not rename one to there.
PARTIAL = ".berth-partial"
STAMP = "%Y%m%dT%H%M%SZ"
UNMOVABLE = (errno.EXDEV, errno.EBUSY)
# Only the server that replayed it knows: one that is started after that has forgotten it.
LAST = """
    select case when current_setting('track_commit_timestamp')::bool then
      (select to_char(timestamp at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.US "UTC"')
       from pg_last_committed_xact()) end
"""
READY = re.compile(r"([0-9A-F]{24}|[0-9A-F]{8}\.history)\.ready")


def data_of(settings: Facts) -> Path:
    """Where Debian and Ubuntu have a cluster."""
    return Path("/var/lib/postgresql", str(settings["version"]), str(settings["stanza"]))


class Rescue:
    """One try, and what an earlier one left."""

    def __init__(self, settings: Facts, request: Facts) -> None:
        self.settings, self.data = settings, data_of(settings)
        # As long as this is there, the data folder is what a try has made of it, and not yet whole: `asides`
        # are the folders that were put aside, and `moving` the one that is being put aside now.
        self.mark = self.data.with_name(f"{self.data.name}.berth-rescue.json")
        self.begun: Facts = json.loads(self.mark.read_text()) if self.mark.exists() else {}
        self.asides: list[str] = self.begun.get("asides", [])
        self.given = str(request.get("wal") or self.begun.get("wal") or "")
        self.onto = str(request.get("onto") or "")
        self.place = self.onto or str(request.get("from") or self.begun.get("from") or "")
        self.source = offsite.at(settings, self.place) if self.place else settings

    def note(self, moving: str) -> None:
        self.begun = {"asides": self.asides, "moving": moving, "wal": self.given, "from": self.place}
        backup.keep(self.mark, json.dumps(self.begun) + "\n")

    def plan(self) -> Facts:
        """What would be done; BackupError where it must not or cannot be."""
        self.refuse_living()
        backups = self.backups()
        found = {str(folder): len(self.left(folder)) for folder in self.sources()}
        segments = sum(found.values())
        if self.given and not segments:
            raise backup.BackupError(f"{self.given} holds no WAL; name the folder that pg_wal was")
        self.have_room(side.needed(0, backups[-1]))
        there = [str(self.data)] if not self.begun and self.data.exists() else []
        return {
            "backup": backups[-1]["label"],
            "wal": " and ".join(folder for folder, count in found.items() if count),
            "segments": segments,
            "data": str(self.data),
            "keeps": " and ".join([*self.asides, *there]),
            "place": self.place,
        }

    def backups(self) -> list[Facts]:
        """Those that it can be restored from; BackupError without one, with where else there may be some."""
        hint = ""
        for one in [] if self.place else offsite.places(self.settings)[:1]:
            hint = f"; read it from {one['name']} with --from {one['name']} (-e offsite={one['name']})"
        try:
            known = side.readable(self.source)
        except backup.BackupError as error:
            raise backup.BackupError(f"{error}{hint}") from None
        if self.place:
            self.refuse_unfit(known)
        found = backup.current(known)
        if not found:
            raise backup.BackupError(f"there is no backup yet, so nothing can be restored{hint}")
        return found

    def refuse_unfit(self, known: Facts) -> None:
        """Files of one major version are nothing to another; and a place may be out of reach altogether."""
        for one in offsite.places(self.settings):
            if one["name"] == self.place and one.get("problem"):
                raise backup.BackupError(str(one["problem"]))
        stored = str(known["db"][-1]["version"]) if known.get("db") else ""
        if stored and stored != str(self.settings["version"]):
            cure = f"; write server.postgresql.version: {stored}, and begin on a bare host"
            raise backup.BackupError(
                f"what lies at {self.place} is of PostgreSQL {stored}, and this server has "
                f"{self.settings['version']}{cure if self.onto else ''}"
            )

    def have_room(self, need: int) -> None:
        """On a disk of its own, what is there makes room when it is put aside."""
        if self.data.is_mount():
            side.have_room(self.data, need, backup.free(self.data) + backup.taken(self.data), "restore")
        else:
            side.have_room(self.data.parent, need, backup.free(self.data.parent), "restore")

    def refuse_living(self) -> None:
        code, _ = side.outcome(["pg_isready", "-q", "-t", "5", *side.live(self.settings).words()])
        # What a try that was cut off left at work is its own.
        if code in (0, 1) or (side.postmaster(self.data) and not self.begun):
            raise backup.BackupError(
                "Postgres is running: a rescue is for one whose data is lost; berth restore is for all else"
            )

    def sources(self) -> list[Path]:
        """The folders with what is left of the WAL, of which the first is the oldest."""
        if self.onto:
            return []
        if self.given:
            return [Path(self.given)]
        untouched = not self.begun or self.begun.get("moving")
        return [Path(one) / "pg_wal" for one in [*self.asides, *([str(self.data)] if untouched else [])]]

    @staticmethod
    def left(folder: Path) -> list[Path]:
        try:
            return sorted(path for path in folder.iterdir() if WAL.fullmatch(path.name))
        except OSError:
            return []

    def restore(self) -> Facts:
        planned, began = self.plan(), time.monotonic()
        if side.postmaster(self.data):
            self.control("stop", "-m", "immediate")
        self.clear()
        side.pgbackrest_restore(self.source, self.data)
        copied = self.bring_wal()
        last = self.replay()
        self.mark.unlink()
        if self.onto:
            self.announce()
            for one in self.asides:
                remove(Path(one))
            self.asides = []
        kept, took = " and ".join(self.asides), round(time.monotonic() - began, 1)
        return {**planned, "kept": kept, "copied": copied, "last_commit": last, "seconds": took}

    def clear(self) -> None:
        """Put aside what is there, and remove what a try that was cut off had begun to restore.

        Of the latter there is no pg_control, which pgBackRest writes last. It is noted first, so that what is
        put aside now is never taken for what a try made.
        """
        moving = self.begun.get("moving", "")
        whole = not self.begun or (self.data / "global/pg_control").exists()
        if moving and not goes_on(self.data, Path(moving)):
            # Somebody brought the cluster back in the meantime.
            moving, whole = "", True
        if not moving and whole and self.data.exists():
            at = time.strftime(STAMP, time.gmtime())
            moving = str(self.data.with_name(f"{self.data.name}.lost-{at}"))
            self.asides = [*self.asides, moving]
        self.note(moving)
        if moving:
            put_aside(self.data, Path(moving))
            self.note("")
        elif self.data.exists():
            for path in entries(self.data):
                remove(path)
        self.data.mkdir(mode=0o700, exist_ok=True)

    def replay(self) -> str:
        """Come to the end of all WAL where nobody else can connect, and stop again. The last commit's time.

        A server lets sessions in before that, into what its databases were called and held by then; and
        there they would stay.
        """
        private = self.data / "berth-rescue"
        private.mkdir(mode=0o700)
        etc = Path("/etc/postgresql", str(self.settings["version"]), str(self.settings["stanza"]))
        chosen = {
            "config_file": str(etc / "postgresql.conf"),
            "unix_socket_directories": str(private),
            "listen_addresses": "",
            "hot_standby": "off",
            # Where it is off as yet, the last commit's time would be forgotten at the end of the WAL.
            "track_commit_timestamp": "on",
            "logging_collector": "off",
        }
        words = " ".join(f"-c {name}='{value}'" for name, value in chosen.items())
        code, said = self.control("start", "-t", str(side.REPLAY), "-l", str(private / "log"), "-o", words)
        server = side.Server(str(private), int(self.settings["port"]))
        if code != 0 or not self.replayed(server):
            log = (private / "log").read_text(errors="replace") if (private / "log").exists() else said
            raise backup.BackupError(
                f"what was restored does not start: {side.why(log) or backup.reason(said)}"
            )
        last = ""
        # One that cannot say it is as well restored.
        with contextlib.suppress(backup.BackupError):
            last = server.ask(LAST)
        self.control("stop", "-m", "fast", "-t", "3600")
        shutil.rmtree(private)
        return last

    def replayed(self, server: side.Server) -> bool:
        """Wait until it takes sessions, or is gone: pg_ctl takes one for started that replays without."""
        end = time.monotonic() + side.REPLAY
        while side.outcome(["pg_isready", "-q", "-t", "5", *server.words()])[0] != 0:
            if not side.postmaster(self.data) or time.monotonic() > end:
                return False
            time.sleep(0.5)
        return True

    def announce(self) -> None:
        """Have the history of the timeline that began here archived, once anything is.

        The server itself does so only where it archives. By that file others know that somebody goes on here.
        """
        wal = self.data / "pg_wal"
        for path in wal.glob("*.history"):
            if not (wal / "archive_status" / f"{path.name}.done").exists():
                (wal / "archive_status" / f"{path.name}.ready").touch()

    def control(self, *words: str) -> tuple[int, str]:
        return side.outcome([side.program(self.settings, "pg_ctl"), "-D", str(self.data), "-s", "-w", *words])

    def bring_wal(self) -> int:
        """What the archive does not have is read there; and what waited to be archived waits again."""
        target = self.data / "pg_wal"
        status = target / "archive_status"
        for folder in (target, status):
            folder.mkdir(mode=0o700, exist_ok=True)
        brought: set[str] = set()
        for source in self.sources():
            for path in self.left(source):
                # A try that was cut off had it from the folder before.
                if path.name not in brought:
                    bring(path, target / path.name)
                    brought.add(path.name)
            with contextlib.suppress(OSError):
                for path in (source / "archive_status").iterdir():
                    if READY.fullmatch(path.name) and path.name.removesuffix(".ready") in brought:
                        bring(path, status / path.name)
        return len(brought)


def goes_on(data: Path, aside: Path) -> bool:
    """Whether what is in the folder is the rest of what is in the other one: moved in the order of names."""
    rest, moved = ([path.name for path in entries(one)] if one.exists() else [] for one in (data, aside))
    moved = [name for name in moved if not name.endswith(PARTIAL)]
    return not rest or not moved or rest[0] >= moved[-1]


def put_aside(data: Path, aside: Path) -> None:
    """Have all that is in the folder in another one beside it; one that was cut off goes on where it was.

    A folder that is a disk of its own, or comes of a container's image, cannot be renamed; what is in it can
    be moved.
    """
    if not data.exists():
        return
    if not aside.exists():
        try:
            data.rename(aside)
        except OSError as error:
            if error.errno not in UNMOVABLE:
                raise
            need, room = backup.taken(data), backup.free(aside.parent)
            if room < need + side.RESERVE:
                raise backup.BackupError(
                    f"{data} cannot be renamed ({error.strerror}), and {aside.parent} has "
                    f"{room // backup.MB} MB free for a copy of its {need // backup.MB} MB: copy its pg_wal "
                    "to another disk, empty it, and name that copy with --wal (-e wal=FOLDER)"
                ) from None
            aside.mkdir(mode=0o700)
        else:
            return
    for path in entries(data):
        carry(path, aside / path.name)


def entries(folder: Path) -> list[Path]:
    """All that is in it, but for what a file system makes for itself, which is root's."""
    return sorted(path for path in folder.iterdir() if path.name != "lost+found")


def carry(source: Path, target: Path) -> None:
    """Rename, or copy and remove; the target has its name when it is whole and on the disk."""
    partial = target.with_name(f".{target.name}{PARTIAL}")
    remove(partial)
    if not os.path.lexists(target):
        try:
            source.rename(target)
        except OSError as error:
            if error.errno not in UNMOVABLE:
                raise
        else:
            return
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, partial, symlinks=True)
        else:
            shutil.copy2(source, partial, follow_symlinks=False)
        os.sync()
        partial.rename(target)
        os.sync()
    remove(source)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bring(source: Path, target: Path) -> None:
    """A file's content, down to the disk."""
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())
    target.chmod(0o600)


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    if len(argv) != 1 or argv[0] not in ("plan", "restore"):
        print("rescue.py plan | restore", file=sys.stderr)
        return 2
    os.umask(0o077)
    try:
        settings = json.loads(backup.SETTINGS.read_text())
        rescue = Rescue(settings, json.loads(sys.stdin.read() or "{}"))
        if argv[0] == "plan":
            print(json.dumps(rescue.plan()))
            return 0
        busy = "a backup, or a rescue that was begun before, is at work; wait for its end"
        with backup.alone(Path(settings["state"]), 0, busy=busy):
            print(json.dumps(rescue.restore()))
    except (backup.BackupError, OSError, ValueError, LookupError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
