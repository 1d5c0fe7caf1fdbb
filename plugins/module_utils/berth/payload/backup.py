"""Backups of PostgreSQL on its own server: makes them, one at a time, and tells how they are.

Runs by itself, as the user postgres, from the units of role backup and for whoever asks:

    backup.py full | incremental | dump    one sentence on what was made; or why not, and exit status 1
    backup.py state                        all that is known of backups, as JSON; exit status 0
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SETTINGS = Path("/etc/berth/backup/settings.json")
RESTORED = "/var/lib/postgresql/berth-restored"
# Bytes that a backup leaves free on a disk of its own, for WAL; and the least and the most that a twentieth
# of the disk amounts to where the server itself writes: with less than that it is nearly full.
RESERVE = 256 << 20
SHARED = (1 << 30, 10 << 30)
# Of a segment of WAL, unless the cluster was made with others.
SEGMENT = 16 << 20
# Seconds to wait for another backup to end; and for pgBackRest and the server to answer a question, of
# somebody who waits, and in the middle of work: a cold disk takes its time.
PATIENCE = 6 * 3600
ANSWER = 10.0
AT_WORK = 600.0
KINDS = {"full": "full", "incremental": "incr"}
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
MB = 1 << 20

# pgBackRest's word for a stanza that it cannot read.
OTHER = 99
# Those that are somebody's.
DATABASES = (
    "select datname from pg_database where datallowconn and not datistemplate and datname <> 'postgres'"
)
KEPT = """
    select json_build_object('name', datname, 'bytes', pg_database_size(oid),
      'said', shobj_description(oid, 'pg_database'))
    from pg_database where shobj_description(oid, 'pg_database') like '{"berth": {"is": %' order by datname
"""
# Bytes of all databases.
SIZE = "select sum(pg_database_size(oid)) from pg_database"

Facts = dict[str, Any]

# Of a place off this server before anything is known of it.
NOWHERE: Facts = {"relay": {}, "backups": {}}


class BackupError(Exception):
    """Why there is no backup, in a sentence."""


# Asking others ----------------------------------------------------------------------------------------------


def run(argv: list[str], timeout: float | None = None, **more: str) -> str:
    """What a program prints; BackupError in its own words where it fails."""
    env = {**ENVIRONMENT, **more}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=timeout, env=env, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BackupError(f"{Path(argv[0]).name} did not answer within {timeout:.0f} s") from None
    except OSError as error:
        raise BackupError(f"{argv[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = reason(done.stderr + "\n" + done.stdout)
        raise BackupError(said or f"{argv[0]} ended with {done.returncode}")
    return done.stdout


def reason(output: str) -> str:
    """The sentence in what pgBackRest, psql or pg_dump wrote that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        # pgBackRest goes on in further lines, up to its hints and its stack.
        if found := re.match(r"(?:.*\s)?ERROR: \[(\d+)\]: (.*)", line):
            more = []
            for after in lines[number + 1 :]:
                if re.match(r"(HINT|NOTE|ERROR|WARN|INFO|STACK|\d{4}-\d\d-\d\d )|-{3}", after):
                    break
                more.append(after)
            # An S3 storage says in a word of its answer what it is.
            word = [f"({one})" for one in re.findall(r"<Code>(\w+)</Code>", output)[:1]]
            more = [found[2].rstrip(": *"), *word] if word else [found[2], *more[:1]]
            return " ".join(more).rstrip(".")
    for line in lines:
        if found := re.match(r"(?:(?:psql|pg_dump|pg_dumpall|pg_restore): (?:error: )?|ERROR:\s+)(.*)", line):
            return found[1].rstrip(".")
    return lines[-1].rstrip(".") if lines else ""


def sql(settings: Facts, query: str, timeout: float = ANSWER) -> str:
    """The answer of the server to one query, as psql prints it without decoration."""
    server = ["-h", str(settings["socket"]), "-p", str(settings["port"]), "-d", "postgres"]
    argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *server, "-c", query]
    return run(argv, timeout, PGAPPNAME="berth-backup", PGCONNECT_TIMEOUT="3").strip()


def pgbackrest(settings: Facts, *words: str, timeout: float | None = None) -> str:
    """pgBackRest on Berth's stanza, by its own configuration or that of a place off this server."""
    place = [f"--config={settings['config']}"] if settings.get("config") else []
    argv = ["pgbackrest", *place, f"--stanza={settings['stanza']}", "--log-level-console=error", *words]
    return run(argv, timeout)


def info(settings: Facts, timeout: float = ANSWER) -> Facts:
    """What the repository holds: a stanza with its status, backups and archives."""
    answer = pgbackrest(settings, "info", "--output=json", timeout=timeout)
    # What it could not decipher it quotes as it is.
    found = json.loads(answer or "[]", strict=False)
    named = [one for one in found if one.get("name") == settings["stanza"]]
    known: Facts = named[0] if named else {"status": {"code": 1, "message": "missing stanza path"}}
    return {"backup": [], "archive": [], **known, "status": status(known)}


def status(stanza: Facts) -> Facts:
    """Its code and message; of one that cannot be read the reason, which is its repository's."""
    said: Facts = stanza["status"]
    causes = [one["status"]["message"] for one in stanza.get("repo", []) if one["status"]["code"] == OTHER]
    if said["code"] == OTHER and causes and re.search(r"\b(Crypto|Format)Error\b", causes[0]):
        file = (re.findall(r"'([^']+)'", causes[0]) or ["a file of it"])[0]
        return {**said, "message": f"another key than today's wrote {file}, or that is damaged"}
    if said["code"] == OTHER and causes:
        return {**said, "message": reason(re.sub(r"^\[.*?\] ", "ERROR: [0]: ", causes[0]))}
    return said


def current(known: Facts) -> list[Facts]:
    """The backups of the cluster that archives now: those from before an upgrade need the old version."""
    newest = known["db"][-1].get("id") if known.get("db") else None
    return [one for one in known["backup"] if newest in (None, one.get("database", {}).get("id", newest))]


def versions(known: Facts) -> dict[int, int]:
    """PostgreSQL's major version by the number that the repository gives a cluster."""
    return {one["id"]: int(one["version"]) for one in known.get("db", [])}


def free(path: Path) -> int:
    """Bytes that others than root can still write there."""
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def taken(folder: Path) -> int:
    """Bytes that a folder takes on its disk; links are not followed."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(top, name).lstat().st_blocks * 512
    return total


# One at a time ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone(folder: Path, patience: float = PATIENCE, name: str = "lock", busy: str = "") -> Iterator[None]:
    """Hold the lock of backups, or one of another name; kernel-held, so whoever is killed frees it.

    `busy` is what to say of another holder that does not end in time.
    """
    descriptor = os.open(folder / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise BackupError(
                        busy or f"another backup has been at work for {patience / 3600:.0f} h"
                    ) from None
                time.sleep(0.5)
        yield
    finally:
        os.close(descriptor)


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: str) -> float:
    """What `stamp` made a text of; ValueError where that was not its work."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def note(folder: Path, kind: str, began: float, problem: str) -> None:
    """How a run ended, for `state`."""
    entry = {"began": stamp(began), "ended": stamp(time.time()), "problem": problem}
    keep(folder / f"{kind}.json", json.dumps(entry) + "\n")


def keep(path: Path, text: str) -> None:
    """Write a file; it is on the disk when this returns, whole or not at all.

    On a full disk it is written over the one before, in its place: that one would go on saying that all is
    well.
    """
    temporary, content = path.with_name(f".{path.name}.new"), text.encode()
    try:
        lay(temporary, content, os.O_CREAT | os.O_TRUNC)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        lay(path, content, os.O_CREAT)


def lay(path: Path, text: bytes, flags: int) -> None:
    """Write the whole of a file in place, down to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


# Making -----------------------------------------------------------------------------------------------------


def stored(backup: Facts) -> int:
    """Bytes that a backup takes in the repository."""
    repository = backup.get("info", {}).get("repository", {})
    return int(repository.get("delta") or repository.get("size") or 0)


def needed(kind: str, backups: list[Facts], size: int, since: int = 0) -> int:
    """Bytes that the next backup is likely to take: a fifth more than the last of its kind did.

    Without one before it: half of the data, or a tenth for an incremental. That takes what was written since
    the newest backup where this is more, as after a bulk load, up to a full one. `size` is that of all
    databases, `since` what the archive has of the WAL after it.
    """
    fulls = [one for one in backups if one["type"] == "full"]
    whole = stored(fulls[-1]) * 1.2 if fulls else size / 2
    if kind == "full" or not backups:
        return int(whole)
    others = [one for one in backups if one["type"] != "full"]
    guess = stored(others[-1]) * 1.2 if others else size / 10
    return int(max(guess, min(since * 1.2, whole)))


def reserve(settings: Facts, path: Path) -> int:
    """Bytes to be left free there: beside the server's own files, all that it may write then."""
    query = "select pg_size_bytes(current_setting('max_wal_size')), current_setting('data_directory')"
    wal, _, data = sql(settings, query, AT_WORK).partition("|")
    device = path.stat().st_dev
    try:
        shared = device in {Path(data).stat().st_dev, Path(data, "pg_wal").stat().st_dev}
    except OSError:
        shared = True
    if not shared:
        return RESERVE
    return max(int(wal), shared_reserve(path))


def shared_reserve(path: Path) -> int:
    """The same on a disk that others write to, too."""
    disk = os.statvfs(path)
    least, most = SHARED
    return max(least, min(disk.f_blocks * disk.f_frsize // 20, most))


# What else than making room, on a disk that is nearly full.
INSTEAD = (
    "lower server.backup.retention_days, or set server.backup.enabled to false, since WAL goes on filling "
    "the disk"
)


def refuse_full_disk(path: Path, need: int, keep: int, what: str, instead: str = INSTEAD) -> None:
    room = free(path)
    if room < need + keep:
        raise BackupError(
            f"{path} has {room // MB} MB free, and the {what} needs about {need // MB} MB beside the "
            f"{keep // MB} MB that stay free; make room there, {instead}"
        )


def have_room(settings: Facts, backups: list[Facts], need: int, what: str) -> None:
    """Refuse where there is none, also after the end of what nobody needs any more.

    pgBackRest ends that after a backup; where none is made, for want of room, WAL would pile up for ever.
    """
    path = Path(settings["repository"])
    keep = reserve(settings, path)
    if backups and free(path) < need + keep:
        with contextlib.suppress(BackupError):
            pgbackrest(settings, "expire")
    refuse_full_disk(path, need, keep, what)


def back_up(settings: Facts, kind: str) -> str:
    """A physical backup of the whole cluster, and the end of those that nobody needs any more."""
    began = time.monotonic()
    before = info(settings, AT_WORK)
    if before["status"]["code"] in (1, 3):
        raise BackupError(f"there is no repository for stanza {settings['stanza']}; berth up makes it")
    size = int(sql(settings, SIZE, AT_WORK))
    need = needed(kind, current(before), size, written(settings, before))
    have_room(settings, before["backup"], need, f"{kind} backup")
    pgbackrest(settings, f"--type={KINDS[kind]}", "backup")
    made: Facts = info(settings, AT_WORK)["backup"][-1]
    took = time.monotonic() - began
    if made.get("error"):
        raise BackupError(
            f"backup {made['label']} is made, and pages of the database are damaged "
            f"(pgbackrest --stanza={settings['stanza']} --set={made['label']} info names their files)"
        )
    return f"{word(made)} backup {made['label']}: {stored(made) / MB:.1f} MB stored, {took:.0f} s"


def written(settings: Facts, known: Facts) -> int:
    """Bytes that the WAL since the newest backup takes in the archive, compressed as that backup is."""
    if not known["backup"]:
        return 0
    last = known["backup"][-1]["archive"]["stop"] or ""
    return sum(path.stat().st_size for name, path in archived(settings, known).items() if name[8:] > last[8:])


def archived(settings: Facts, known: Facts) -> dict[str, Path]:
    """The segments of WAL in the archive, by their names."""
    if not known["archive"]:
        return {}
    folder = Path(settings["repository"]) / "archive" / settings["stanza"] / known["archive"][-1]["id"]
    # One that is being written is no segment yet.
    whole = (path for path in folder.glob("*/*") if path.suffix != ".tmp")
    return {path.name[:24]: path for path in whole if re.match(r"[0-9A-F]{24}-", path.name)}


def word(backup: Facts) -> str:
    """Its kind; a differential one was made by hand."""
    kind = str(backup["type"])
    return {"incr": "incremental", "diff": "differential"}.get(kind, kind)


def dump(settings: Facts) -> str:
    """A dump of each database, of all roles, and the end of old ones. The others go on where one fails."""
    began = time.monotonic()
    top = Path(settings["dumps"])
    answer = sql(settings, DATABASES.replace("datname", "datname, pg_database_size(oid)", 1), AT_WORK)
    sizes = {name: int(size) for name, _, size in (line.rpartition("|") for line in answer.splitlines())}
    server = ["-h", str(settings["socket"]), "-p", str(settings["port"])]
    # Packed by zstd where both ends of pg_dump know it.
    pack = "zstd:3" if int(settings["version"]) >= 16 else "6"
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep = reserve(settings, top)
    problems, total = [], 0
    for name, size in [*sizes.items(), ("", 0)]:
        one = ["pg_dump", *server, "-Fc", "-Z", pack, "--lock-wait-timeout=10min"]
        argv = one if name else ["pg_dumpall", *server, "--globals-only"]
        try:
            total += dump_one(settings, top / folder_of(name), name, size, keep, argv)
        except BackupError as error:
            problems.append(f"{name or 'roles'}: {error}")
    forget_old(top, {folder_of(name) for name in ["", *sizes]}, settings)
    if problems:
        raise BackupError("; ".join(problems))
    plural = "database" if len(sizes) == 1 else "databases"
    return f"dumps of {len(sizes)} {plural}: {total / MB:.1f} MB, {time.monotonic() - began:.0f} s"


def folder_of(name: str) -> str:
    """Where the dumps of a database lie; those of all roles without a name."""
    return f"db-{urllib.parse.quote(name, safe='')}" if name else "roles"


def dump_one(
    settings: Facts, folder: Path, name: str, size: int, keep: int, argv: list[str], **more: str
) -> int:
    """One dump under a name that sorts by time; its bytes. `more` are variables for who makes it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(".*.partial"):
        left.unlink()
    last = dumps_in(folder)
    need = int(last[-1].stat().st_size * 1.2) if last else size // 3
    refuse_full_disk(folder, need, keep, f"dump of {name or 'roles'}", settings.get("instead", INSTEAD))
    suffix = ".sql" if argv[0] == "pg_dumpall" else ".dump"
    final = folder / (stamp(time.time()).replace(":", "").replace("-", "") + suffix)
    temporary = folder / f".{final.name}.partial"
    room = free(folder) - keep
    try:
        # As a variable: of an argument with "=" in it, pg_dump would read more than a name.
        env = {"PGAPPNAME": "berth-dump", "PGDATABASE": name or "postgres", **more}
        with limited(room):
            run([*argv, "-f", str(temporary)], None, **env)
        if suffix == ".dump":
            run(["pg_restore", *settings.get("reads", ["--list"]), str(temporary)])
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(final)
    except BackupError:
        if temporary.exists() and temporary.stat().st_size >= room:
            raise BackupError(
                f"it outgrew the {room // MB} MB that are free in {folder} beside the {keep // MB} MB that "
                f"stay free; make room there, {settings.get('instead', INSTEAD)}"
            ) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
    for old in dumps_in(folder)[: -int(settings["dumps_kept"])]:
        old.unlink()
    return final.stat().st_size


@contextlib.contextmanager
def limited(most: int) -> Iterator[None]:
    """Programs that are run meanwhile write no file of more bytes: what it takes is guessed before."""
    wanted = {resource.RLIMIT_FSIZE: most, resource.RLIMIT_CORE: 0}
    before = {which: resource.getrlimit(which) for which in wanted}
    try:
        for which, value in wanted.items():
            hard = before[which][1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, hard))
        yield
    finally:
        for which, known in before.items():
            resource.setrlimit(which, known)


def dumps_in(folder: Path) -> list[Path]:
    """The dumps of one database, the newest last."""
    return sorted(path for path in folder.glob("[0-9]*") if path.suffix in (".dump", ".sql"))


def forget_old(top: Path, current: set[str], settings: Facts) -> None:
    """Dumps of databases that are gone end with the days that can be gone back to."""
    oldest = time.time() - float(settings["retention_days"]) * 86400
    for folder in top.glob("*"):
        if folder.name in current:
            continue
        for path in dumps_in(folder):
            if path.stat().st_mtime < oldest:
                path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


# Telling ----------------------------------------------------------------------------------------------------


def state(settings: Facts) -> Facts:
    """All that is known; what had no answer is None and named under `unknown`."""
    unknown: list[str] = []

    def ask(what: str, question: Any, default: Any = None) -> Any:
        try:
            return question()
        except (BackupError, OSError, ValueError, KeyError, IndexError) as error:
            unknown.append(f"{what} is unknown: {error}.")
            return default

    known = ask("What the repository holds", lambda: info(settings))
    archived = ask("Whether WAL is archived", lambda: archiving(settings))
    backups = [backup_row(one, versions(known)) for one in known["backup"]] if known else []
    return {
        "settings": settings,
        "stanza": {key: known["status"].get(key, "") for key in ("code", "message")} if known else None,
        "backups": backups,
        "archiving": archived,
        "window": ask("What can be restored", lambda: window(settings, known)) if known else None,
        "dumps": ask("Which dumps there are", lambda: dumps(settings), []),
        # Of one that is gone, no new dump is missed. A server that does not answer is told of already.
        "databases": (archived and ask("Which databases there are", lambda: databases(settings))) or [],
        "repository": ask("The repository's disk", lambda: disk(Path(settings["repository"]))),
        "runs": {kind: ask(f"The last run ({kind})", lambda kind=kind: last_run(settings, kind), {})
                 for kind in (*KINDS, "dump")},
        # Places off this server, as was last known of each: nobody waits for a network here.
        "offsite": [ask(f"How off-site {one['name']} is", lambda one=one: offsite(settings, one),
                        {**one, **NOWHERE}) for one in settings.get("offsite") or []],
        # How the newest restore came out that was rehearsed, and since when there are such.
        "drill": ask("The last drill", lambda: last_run(settings, "drill"), {}),
        "drills_since": ask("Since when there are drills", lambda: folder_since(settings), ""),
        # What was restored to look at, and stays until it is dropped.
        "restored": ask("What was restored", lambda: restored(settings), {}),
        # Databases that were live before one went live that was restored, and what was copied for that.
        "kept": (archived and ask("Which databases are kept", lambda: kept(settings), [])) or [],
        "unknown": unknown,
    }  # fmt: skip


def backup_row(backup: Facts, versions: Mapping[int, int]) -> Facts:
    began, ended = backup["timestamp"]["start"], backup["timestamp"]["stop"]
    return {
        "label": backup["label"],
        "kind": word(backup),
        "began": stamp(began),
        "ended": stamp(ended),
        "seconds": ended - began,
        "stored_mb": round(stored(backup) / MB, 1),
        "data_mb": round(int(backup.get("info", {}).get("size", 0)) / MB, 1),
        "damaged": bool(backup.get("error")),
        "where": "server",
        # PostgreSQL's, which a restore needs.
        "version": versions.get(backup.get("database", {}).get("id", 0)),
    }


def archiving(settings: Facts) -> Facts:
    """How the server's archiver is: what waits, and for how long."""
    query = """
        select json_build_object(
          'mode', current_setting('archive_mode'), 'command', current_setting('archive_command'),
          'last', (select extract(epoch from last_archived_time)::bigint from pg_stat_archiver),
          'failed', (select extract(epoch from last_failed_time)::bigint from pg_stat_archiver),
          'waiting', (select count(*) from pg_ls_archive_statusdir() where name like '%.ready'),
          'oldest_seconds', (
            select coalesce(extract(epoch from clock_timestamp() - min(modification)), 0)::bigint
            from pg_ls_archive_statusdir() where name like '%.ready'),
          'wal_mb', (select coalesce(sum(size), 0)::bigint / 1048576 from pg_ls_waldir()))
    """
    found: Facts = json.loads(sql(settings, query))
    last, failed = found.pop("last"), found.pop("failed")
    return {
        **found,
        "ours": found["command"] == settings["archive_command"],
        "last": stamp(last) if last else "",
        "failed": stamp(failed) if failed else "",
        # A failure counts until something was archived after it.
        "failing": bool(failed and failed >= (last or 0) and found["waiting"]),
    }


def window(settings: Facts, known: Facts) -> Facts:
    """From when to when each second can be restored, and which segments of WAL are missing between.

    The names in the archive say it. A gap ends what can be restored from the backups before it: the window is
    the newest stretch without one that has a backup, `broken` where something came after it.
    """
    empty: Facts = {"from": "", "to": "", "missing": [], "broken": False}
    backups = current(known)
    if not backups or not known["archive"]:
        return empty
    segments = archived(settings, known)
    first = backups[0]["archive"]["start"]
    names = sorted(name for name in segments if name[8:] >= first[8:])
    if not names:
        return empty
    missing = gaps(names, segment_size(settings))
    ends = [names.index(one["after"]) + 1 for one in missing]
    stretches = [names[one:other] for one, other in itertools.pairwise([0, *ends, len(names)])]
    for stretch in reversed(stretches):
        starts = {name[8:] for name in stretch}
        within = [one for one in backups if one["archive"]["start"][8:] in starts]
        if within:
            newest = max(segments[stretch[-1]].stat().st_mtime, within[-1]["timestamp"]["stop"])
            return {
                "from": stamp(within[0]["timestamp"]["stop"]),
                "to": stamp(newest),
                "missing": missing,
                "broken": stretch is not stretches[-1],
            }
    return {**empty, "missing": missing, "broken": True}


def segment_size(settings: Facts) -> int:
    """Bytes of a segment of WAL (`initdb --wal-segsize`); the usual ones where the server does not answer."""
    try:
        return int(sql(settings, "select pg_size_bytes(current_setting('wal_segment_size'))"))
    except (BackupError, ValueError):
        return SEGMENT


def gaps(names: list[str], size: int = SEGMENT) -> list[Facts]:
    """Where segments of one timeline do not follow each other; so many of them as 4 GB hold make a log."""

    def number(name: str) -> int:
        return int(name[8:16], 16) * ((1 << 32) // size) + int(name[16:24], 16)

    found = []
    for one, other in itertools.pairwise(names):
        lost = number(other) - number(one) - 1
        if one[:8] == other[:8] and lost > 0:
            found.append({"after": one, "before": other, "segments": lost})
    return found


def databases(settings: Facts) -> list[str]:
    return sql(settings, DATABASES).splitlines()


def dumps(settings: Facts) -> list[Facts]:
    """The newest dump of each database, how many there are of it, and what it takes."""
    rows = []
    for folder in sorted(Path(settings["dumps"]).glob("*")):
        files = dumps_in(folder)
        if not files:
            continue
        last = files[-1].stat()
        rows.append(
            {
                "of": urllib.parse.unquote(folder.name.removeprefix("db-")),
                "roles": folder.name == "roles",
                "at": stamp(last.st_mtime),
                "file": str(files[-1]),
                "kept": len(files),
                "stored_mb": round(last.st_size / MB, 1),
            }
        )
    return rows


def disk(path: Path) -> Facts:
    state = os.statvfs(path)
    usable = state.f_blocks - state.f_bfree + state.f_bavail
    return {
        "path": str(path),
        "free_mb": free(path) // MB,
        "used_percent": round(100 * (1 - state.f_bavail / usable)) if usable else 0,
    }


def offsite(settings: Facts, place: Facts) -> Facts:
    """What its relay last said of WAL (`relay`), and what was last known of its backups (`backups`)."""
    return {**place, **{what: last_run(settings, f"offsite/{place['name']}.{what}") for what in NOWHERE}}


def last_run(settings: Facts, kind: str) -> Facts:
    path = Path(settings["state"]) / f"{kind}.json"
    found: Facts = json.loads(path.read_text()) if path.exists() else {}
    return found


def folder_since(settings: Facts) -> str:
    """When the folder that drills restore into was made, as long as none has; empty without."""
    path = Path(settings.get("drill") or "/nonexistent")
    return stamp(path.stat().st_mtime) if path.is_dir() else ""


def restored_folder(settings: Facts) -> Path:
    """Where restores go that people look at. Without settings there may be one still."""
    return Path(settings.get("restored") or RESTORED)


def restored(settings: Facts) -> Facts:
    """How the last restore went, `there` while its files are, and the bytes that they take."""
    folder = restored_folder(settings)
    there = (folder / "data").is_dir()
    return {**last_run(settings, "restored"), "there": there, "takes": taken(folder) if there else 0}


def kept(settings: Facts) -> list[Facts]:
    """Databases that an exchange left, by what their comments say (see `exchange`)."""
    rows = [json.loads(line) for line in sql(settings, KEPT).splitlines()]
    known = [(row, json.loads(row["said"])["berth"]) for row in rows]
    # The owner of a database writes its comment, too.
    plain = re.compile(r"[^0-9A-Za-z:-]")
    return [
        {
            "name": row["name"],
            "bytes": row["bytes"],
            **{key: plain.sub("", str(said.get(key, ""))) for key in ("is", "app", "at")},
        }
        for row, said in known
    ]


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    if len(argv) != 1 or argv[0] not in (*KINDS, "dump", "state"):
        print("backup.py full | incremental | dump | state", file=sys.stderr)
        return 2
    os.umask(0o077)
    kind = argv[0]
    try:
        settings = json.loads(SETTINGS.read_text())
    except FileNotFoundError:
        print(f"No {kind}: there are to be no backups on this server ({SETTINGS}).", file=sys.stderr)
        return 1
    if kind == "state":
        print(json.dumps(state(settings)))
        return 0
    folder, began, problem, said = Path(settings["state"]), time.time(), "", ""
    try:
        with alone(folder):
            said = dump(settings) if kind == "dump" else back_up(settings, kind)
    except BackupError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or kind}: {error.strerror}"
    except (ValueError, LookupError, TypeError) as error:
        problem = f"an answer of pgBackRest or of the server cannot be read ({type(error).__name__}: {error})"
    return conclude(folder, kind, began, problem, said, "dump" if kind == "dump" else f"{kind} backup")


def conclude(folder: Path, kind: str, began: float, problem: str, said: str, what: str) -> int:
    """Note how a run ended and say it: what was made, or why there is no `what`. The exit status."""
    try:
        note(folder, kind, began, problem)
    except OSError as error:
        problem = problem or f"{said}, which cannot be noted: {error.filename or folder}: {error.strerror}"
    if problem:
        print(f"No {what}: {problem}.", file=sys.stderr)
        return 1
    print(f"Made: {said}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
