"""An instance of PostgreSQL beside the live one: what was backed up, restored into a folder of its own.

Runs as the user postgres, beside `backup`. The folder holds all of it (data, socket, tablespaces, log), so
that nothing is left of it once that is removed. It is reached by its socket alone, archives nothing, talks to
no other server, and takes little memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import backup

Facts = dict[str, Any]

# What replay refuses to do with less than the server had that wrote the WAL.
AT_LEAST = (
    *("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions"),
    "max_locks_per_transaction",
)
MEMORY = "128MB"
# WAL that replay keeps at most, and what a server writes when it starts.
WAL = 512 << 20
# Seconds for a start, replay included; and for a server that is killed to be gone.
REPLAY = 24 * 3600
GONE = 60
# Who may come to its socket, through folders of 0700: their owner alone.
OWNER_ALONE = "local all all trust\n"
PARTS = ("data", "tablespaces", "socket", "log", "queries")
# Bytes that it leaves free: it is no reason for the live server to stop.
RESERVE = 1 << 30
# Seconds for pgBackRest to tell what there is.
PATIENCE = 120.0
# By SFTP it leaves each file open that it reads a part of, as long as its session lasts. A server allows that
# about a thousand, and a cluster's small files are parts of a few: so it has some sessions, and goes on where
# that was not enough.
SESSIONS = 4
HELD_OPEN = r"unable to open file '.*' for read: libssh2 error \[-31\]: sftp error \[4\]"


@dataclass(frozen=True)
class Server:
    """Where a server is asked."""

    socket: str
    port: int

    def words(self) -> list[str]:
        return ["-h", self.socket, "-p", str(self.port)]

    def ask(self, query: str, database: str = "postgres", timeout: float | None = 60) -> str:
        """The answer to one query, as psql prints it without decoration."""
        argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *self.words(), "-c", query]
        # As a variable: of an argument with "=" in it, psql would read more than a name.
        return backup.run(argv, timeout, **_environment(database)).strip()

    def ask_as(self, role: str, query: str, database: str, patience: str) -> str:
        """The answer to somebody else's query, who reads alone and finds names as everywhere."""
        argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *self.words(), "-U", role, "-c", query]
        options = f"-c default_transaction_read_only=on -c statement_timeout={patience}"
        known = {**_environment(database), "PGOPTIONS": options}
        return backup.run(argv, None, **known).strip()

    def script(self, file: Path, database: str, options: str) -> list[str]:
        """What the queries in a file answer. One that fails leaves the others alone."""
        argv = ["psql", "-XAtq", *self.words(), "-f", str(file)]
        return backup.run(argv, None, **_environment(database, options)).splitlines()


def _environment(database: str, options: str = "") -> dict[str, str]:
    # It is a superuser who asks, in databases of others: none of their functions may get between.
    options = f"-c search_path=pg_catalog {options}".strip()
    known = {"PGAPPNAME": "berth-backup", "PGCONNECT_TIMEOUT": "10", "PGDATABASE": database}
    return {**known, "PGOPTIONS": options}


def live(settings: Facts) -> Server:
    return Server(str(settings["socket"]), int(settings["port"]))


def beside(settings: Facts, folder: Path) -> Server:
    return Server(str(folder / "socket"), int(settings["port"]))


def quoted(name: str) -> str:
    """A name as SQL spells it."""
    return '"' + name.replace('"', '""') + '"'


def program(settings: Facts, name: str) -> str:
    """One of the cluster's own version, where Debian and Ubuntu have it."""
    return f"/usr/lib/postgresql/{settings['version']}/bin/{name}"


def outcome(argv: list[str], options: str = "") -> tuple[int, str]:
    """How a program ended whose failure is an answer, and what it printed."""
    env = {**backup.ENVIRONMENT, **_environment("postgres", options)}
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        errors="replace", env=env, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


# Room -------------------------------------------------------------------------------------------------------


def readable(settings: Facts) -> Facts:
    """What the repository holds; BackupError where it cannot be read."""
    known = backup.info(settings, PATIENCE)
    status = known["status"]
    if status["code"] not in (0, 2):
        raise backup.BackupError(f"the repository cannot be read: {status.get('message')}")
    return known


def have_room(folder: Path, need: int, room: int, what: str) -> None:
    """BackupError where the disk of the folder has too little room."""
    if room < need + RESERVE:
        raise backup.BackupError(
            f"{folder} has {room // backup.MB} MB free, and the {what} needs about {need // backup.MB} MB "
            f"beside the {RESERVE // backup.MB} MB that stay free; make room there"
        )


def needed(size: int, newest: Facts) -> int:
    """Bytes that the instance takes: the larger of what is live and what was backed up, and WAL."""
    return int(max(size, int(newest.get("info", {}).get("size", 0))) * 1.1) + WAL


# Making it --------------------------------------------------------------------------------------------------


def restore(settings: Facts, folder: Path, *target: str) -> None:
    """Files of the newest backup that suits, and how to go on from there with WAL: all of it, or to a target.

    `target` is pgBackRest's: `--type=time`, `--target=…`, `--target-action=promote`.
    """
    for part in ("data", "tablespaces", "socket"):
        (folder / part).mkdir(mode=0o700, parents=True)
    words = [
        f"--pg1-path={folder / 'data'}",
        # Where they came from are the live ones.
        f"--tablespace-map-all={folder / 'tablespaces'}",
        "--archive-mode=off",
    ]
    pgbackrest_restore(settings, folder / "data", *words, *target)


def pgbackrest_restore(settings: Facts, data: Path, *words: str) -> None:
    """Have pgBackRest restore into a folder of its own, from here or from a place off this server."""
    more = [f"--process-max={SESSIONS}"] if settings.get("config") else []
    before: tuple[int, int] | None = None
    while True:
        try:
            backup.pgbackrest(settings, *more, *words, "restore")
        except backup.BackupError as error:
            now = sum(len(names) for _, _, names in os.walk(data)), backup.taken(data)
            if not re.search(HELD_OPEN, str(error)) or now == before:
                raise backup.BackupError(plain(str(error))) from None
            before, more = now, [*more[:1], "--delta"]
        else:
            return


def plain(said: str) -> str:
    """What pgBackRest says of a restore, without its own processes and how often they tried."""
    text = re.sub(r"^raised from \S+ protocol: ", "", re.sub(r" \[\w+\] on \d+ retr.*", "", said))
    damaged = re.search(
        r"corrupt|checksum|invalid (size|block)|cipher|decrypt|(Crypto|Format)Error", text, re.I
    )
    return f"a file of it is damaged ({text})" if damaged else text


def limits(server: Server) -> dict[str, int]:
    """What a server that wrote WAL has of what replay asks for at least."""
    return {name: int(server.ask(f"select current_setting('{name}')")) for name in AT_LEAST}


def at_least(controldata: str, known: Mapping[str, int]) -> dict[str, int]:
    """Settings that must not be smaller than those of the server that wrote the WAL.

    The restored files tell those of the backup, and the live server, where it was asked, those of today.
    """
    text = controldata.replace("_xacts ", "_transactions ").replace("_xact ", "_transaction ")
    found = {}
    for name in AT_LEAST:
        said = re.search(rf"(?m)^{name} setting:\s+(\d+)", text)
        if value := max(known.get(name, 0), int(said[1]) if said else 0):
            found[name] = value
    return found


def wal_sizes(controldata: str) -> dict[str, str]:
    """Settings without which a server does not start whose segments of WAL are larger than most."""
    said = re.search(r"(?m)^Bytes per WAL segment:\s+(\d+)", controldata)
    segment = (int(said[1]) if said else backup.SEGMENT) // backup.MB
    return {"min_wal_size": f"{2 * segment}MB", "max_wal_size": f"{max(256, 4 * segment)}MB"}


def configuration(folder: Path, port: int, version: int, minimal: Mapping[str, int], **more: str) -> str:
    """A closed server: its socket, and neither archive, publisher, library nor job of the live one's."""
    chosen = {
        "listen_addresses": "",
        "port": str(port),
        "unix_socket_directories": str(folder / "socket"),
        "unix_socket_permissions": "0700",
        "hba_file": str(folder / "data/pg_hba.conf"),
        "ident_file": str(folder / "data/pg_ident.conf"),
        "cluster_name": folder.name,
        "shared_buffers": MEMORY,
        "maintenance_work_mem": "64MB",
        "huge_pages": "off",
        # It would make code at run time, which the unit forbids.
        "jit": "off",
        "archive_mode": "off",
        "shared_preload_libraries": "",
        # A restored subscription would take what the live one is waiting for.
        "max_logical_replication_workers": "0",
        "autovacuum": "off",
        "track_commit_timestamp": "on",
        "ssl": "off",
        # It makes the live server no slower, and is not kept over a power cut.
        "fsync": "off",
        "full_page_writes": "off",
        "hot_standby": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "lc_messages": "C",
        "restart_after_crash": "off",
        **{name: str(value) for name, value in minimal.items()},
        **more,
    }
    if version >= 17:
        chosen["event_triggers"] = "off"
    return "".join(f"{name} = '{value}'\n" for name, value in chosen.items())


def recovery(auto: str) -> str:
    """How to get WAL and up to where, without what ALTER SYSTEM set on the live server."""
    lines = auto.splitlines(keepends=True)
    return "".join(line for line in lines if re.match(r"(restore_command|recovery_target\w*)\s*=", line))


def configure(
    settings: Facts, folder: Path, known: Mapping[str, int], hba: str = OWNER_ALONE, **more: str
) -> None:
    """Write the files that Debian keeps outside of a data folder, and forget what came with this one.

    `hba` says who may connect.
    """
    data = folder / "data"
    code, said = outcome([program(settings, "pg_controldata"), "-D", str(data)])
    if code != 0:
        raise backup.BackupError(f"pg_controldata: {backup.reason(said)}")
    minimal = at_least(said, known)
    more = {**wal_sizes(said), **more}
    text = configuration(folder, int(settings["port"]), int(settings["version"]), minimal, **more)
    (data / "postgresql.conf").write_text(text)
    (data / "pg_hba.conf").write_text(hba)
    (data / "pg_ident.conf").write_text("")
    auto = data / "postgresql.auto.conf"
    auto.write_text(recovery(auto.read_text()))


def start(settings: Facts, folder: Path) -> None:
    """Start it, and wait until it has replayed what there is and takes part in nothing else any more."""
    argv = [program(settings, "pg_ctl"), "-D", str(folder / "data"), "-l", str(folder / "log"), "-s", "-w"]
    code, _ = outcome([*argv, "-t", str(REPLAY), "start"])
    server, end = beside(settings, folder), time.monotonic() + REPLAY
    while code == 0 and time.monotonic() < end:
        # It is up already, and while it replays it may refuse everybody.
        with contextlib.suppress(backup.BackupError):
            if server.ask("select pg_is_in_recovery()") == "f":
                return
        if not postmaster(folder / "data"):
            break
        time.sleep(0.2)
    raise backup.BackupError(why(_log(folder)) or "its server ended without a word")


def why(log: str) -> str:
    """The sentence in a server's log that says why it ended."""
    # Whoever asks whether it is up is refused in the same words.
    fatal = re.findall(r"(?:FATAL|PANIC):\s+(?!\s|the database system is )(.*)", log)
    said = backup.reason("\n".join(line for line in log.splitlines() if "ERROR: [" in line))
    return "; ".join([*fatal[:1], *([said] if said else [])])


def _log(folder: Path) -> str:
    try:
        return (folder / "log").read_text(errors="replace")
    except OSError:
        return ""


def ended_at(folder: Path) -> str:
    """The location in the WAL that replay came to, as its new timeline's history says it; empty without."""
    histories = sorted((folder / "data/pg_wal").glob("*.history"))
    lines = histories[-1].read_text().split("\n") if histories else []
    found = [line.split("\t")[1] for line in lines if re.match(r"\s*\d+\t[0-9A-F]+/[0-9A-F]+\t", line)]
    return found[-1] if found else ""


# Ending it --------------------------------------------------------------------------------------------------


def stop(settings: Facts, folder: Path) -> None:
    """An orderly end, after which its files are whole."""
    argv = [program(settings, "pg_ctl"), "-D", str(folder / "data"), "-s", "-w", "-m", "fast", "-t", "600"]
    code, said = outcome([*argv, "stop"])
    if code != 0:
        raise backup.BackupError(f"the server does not stop: {backup.reason(said)}")


def postmaster(data: Path) -> int:
    """The process that serves this folder; 0 where none does.

    After a power cut the number in its file may be anybody's, the live server's too: what counts is where
    it works.
    """
    try:
        number = int((data / "postmaster.pid").read_text().split("\n")[0])
        return number if Path(f"/proc/{number}/cwd").readlink() == data.resolve() else 0
    except (OSError, ValueError):
        return 0


def remove(folder: Path) -> None:
    """End what runs in this folder and delete what is in it, whatever state that is in; the folder stays."""
    if number := postmaster(folder / "data"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGQUIT)
        end = time.monotonic() + GONE
        while postmaster(folder / "data") and time.monotonic() < end:
            time.sleep(0.1)
        if left := postmaster(folder / "data"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
            time.sleep(1)
    for part in PARTS:
        path = folder / part
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
