"""The files of a server, stored off it with restic: what is needed beside Postgres to build the server anew.

Runs by itself, as root, from the units of role files:

    files.py store      store all of it at every place; a sentence on what was stored, or why not and status 1
    files.py restore    bring back what the request says, beside what is live

A place holds one repository, which is this server's alone. What is stored makes parts, each with snapshots of
its own: `server`, and one for each app. How it went at each is kept in `<place>.json`, without a secret.

Apps, Postgres and the proxy write into some of what is stored, while it is stored. Their folders are mounted
anew for this process, read-only and so that the kernel follows no link in them. restic itself has one
capability, to read everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    # By itself: the folder that it lies in is its package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = Path(__file__).resolve().parent.name

from . import backup, mounts, parts, restic
from .parts import SETTINGS, STATE, FilesError, Part
from .restic import AT_WORK, Place, asked, moment

Facts = dict[str, Any]

REQUEST = Path("/run/berth-files.json")
DAY = 86400
# Seconds until all files are checked once: a part of them each time.
CHECK, SHARES = 7 * DAY, 20
# Seconds to wait for another run.
PATIENCE = 3600.0
# Bytes of one app's files beyond which it is said that they are many.
LARGE = 100 << 30


# Storing ----------------------------------------------------------------------------------------------------


def store_part(place: Place, part: Part) -> tuple[Facts, str]:
    """A snapshot of one part: what is to be noted of it, and what could not be read."""
    began = time.time()
    excluded = [word for path in parts.left_out() for word in ("--exclude", str(path))]
    tags = ["--tag", part.tag, "--tag", f"{restic.MAKER}{restic.identity()}"]
    words = ["backup", "--json", *tags, *excluded, "--"]
    done = restic.run(place, *words, *map(str, part.paths), timeout=AT_WORK)
    lines = [line for line in done.out.splitlines() if '"summary"' in line]
    # With 3 there is a snapshot, in which something is missing that could not be read.
    if done.code not in (0, 3) or not lines:
        raise FilesError(restic.why(done))
    summary = json.loads(lines[-1])
    unread = [] if done.code == 0 else unreadable(done.err + "\n" + done.out)
    made = {
        "at": backup.stamp(began),
        "snapshot": str(summary["snapshot_id"])[:8],
        "seconds": round(time.time() - began),
        "files": int(summary["total_files_processed"]),
        "bytes": int(summary["total_bytes_processed"]),
        "added": int(summary.get("data_added_packed") or summary["data_added"]),
    }
    return made, f"{unread[0]} could not be read" if unread else ""


def unreadable(output: str) -> list[str]:
    """What could not be read, without what was deleted while it was to be."""
    found = []
    for line in output.splitlines():
        if '"error"' not in line:
            continue
        with contextlib.suppress(ValueError):
            one = json.loads(line)
            error = one.get("error")
            gone = "no such file" in line or (isinstance(error, dict) and error.get("Err") == 2)
            if one.get("message_type") == "error" and not gone:
                found.append(str(one.get("item") or "a file"))
    return found


def unneeded(snapshots: list[Facts], days: int, now: float, current: Iterable[str]) -> list[str]:
    """Snapshots that no day to be gone back to needs: older, and not the newest of a part that there is."""
    newest: dict[str, Facts] = {}
    for one in snapshots:
        for name in one.get("tags") or []:
            if name not in newest or newest[name]["time"] < one["time"]:
                newest[name] = one
    kept = {newest[name]["id"] for name in current if name in newest}
    return [
        one["id"] for one in snapshots if moment(one["time"]) < now - days * DAY and one["id"] not in kept
    ]


def tidy(place: Place, settings: Facts, known: Facts, wanted: Sequence[Part], now: float) -> None:
    """Forget what is too old; once a week make room, and check all lists and a share of the data."""
    old = unneeded(restic.snapshots(place), int(settings["retention_days"]), now, [one.tag for one in wanted])
    for start in range(0, len(old), 100):
        asked(place, "forget", *old[start : start + 100], timeout=AT_WORK)
    checked = known.get("checked") or {}
    if checked and not checked["problem"] and moment(checked["at"]) > now - CHECK:
        return
    asked(place, "prune", timeout=AT_WORK)
    share = int(now // CHECK) % SHARES + 1
    done = restic.run(place, "check", f"--read-data-subset={share}/{SHARES}", timeout=AT_WORK)
    problem = restic.why(done) if done.code else ""
    known["checked"] = {"at": backup.stamp(time.time()), "problem": problem}


def store_at(place: Place, settings: Facts, wanted: Sequence[Part]) -> Facts:
    """All parts at one place, up to the first that fails; how it went, which begins with how it was."""
    known: Facts = read(STATE / f"{place.name}.json")
    known |= {"where": place.where, "began": backup.stamp(time.time()), "problem": ""}
    made, problems = known.setdefault("parts", {}), []
    try:
        restic.open_repository(place, known)
        for part in wanted:
            made[part.name], said = store_part(place, part)
            problems += [said] if said else []
        for name in set(made) - {part.name for part in wanted}:
            del made[name]
        tidy(place, settings, known, wanted, time.time())
        if problem := known["checked"]["problem"]:
            problems.append(problem)
        known["stored"] = backup.stamp(time.time())
    except (FilesError, ValueError, LookupError, TypeError) as error:
        problems.append(
            str(error) if isinstance(error, FilesError) else f"restic's answer cannot be read ({error})"
        )
    known |= {"problem": "; ".join(problems), "ended": backup.stamp(time.time())}
    backup.keep(STATE / f"{place.name}.json", json.dumps(known, indent=1) + "\n")
    return known


def read(path: Path) -> Facts:
    """Of one's own files; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def store(settings: Facts) -> tuple[str, list[str], list[str]]:
    """At every place: what was stored, what was not, and what is to be noted."""
    began = time.monotonic()
    dumps, problems = parts.copies_of_redis()
    wanted = parts.wanted(settings, dumps)
    mounts.guard(path for part in wanted for path in part.written)
    stored, size, notes = [], 0, []
    for place in restic.places(settings):
        known = store_at(place, settings, wanted)
        if known["problem"]:
            problems.append(f"{place.name}: {known['problem']}")
        else:
            stored.append(place.name)
        size = max(size, sum(part["added"] for part in known["parts"].values()))
        notes = [
            f"{name} has {part['bytes'] >> 30} GB of files" for name, part in known["parts"].items()
            if part["bytes"] > LARGE
        ]  # fmt: skip
    took = time.monotonic() - began
    said = f"files at {', '.join(stored)}: {size / backup.MB:.1f} MB more, {took:.0f} s" if stored else ""
    return said, problems, notes


# Restoring --------------------------------------------------------------------------------------------------


def choose(found: list[Facts], at: float) -> Facts:
    """The newest snapshot that was begun by then."""
    fit = [one for one in found if moment(one["time"]) <= at]
    if not found:
        raise FilesError("nothing of it was stored there yet")
    if not fit:
        raise FilesError(f"the oldest that is stored there is of {backup.stamp(moment(found[0]['time']))}")
    return fit[-1]


def restore(settings: Facts, request: Facts) -> Facts:
    """An app's files as they were, in a folder beside those of today; nothing that is there is changed."""
    app, at = str(request["app"]), float(request["at"] or time.time())
    base = Path("/srv", app)
    here = base in Path("/srv").iterdir() and base.is_dir()
    if not here or base.lstat().st_uid != os.geteuid():
        raise FilesError(f"there is no app {app} on this server; its files would have no owner")
    problems = []
    for place in restic.places(settings):
        if request["place"] not in ("", place.name):
            continue
        try:
            chosen = choose(restic.snapshots(place, "--tag", parts.tag(f"app {app}")), at)
            return {**restored(place, chosen, base), "place": place.name, "app": app}
        except FilesError as error:
            problems.append(f"{place.name}: {error}")
    raise FilesError("; ".join(problems) or f"there is no place {request['place']} in server.backup.offsite")


def restored(place: Place, chosen: Facts, base: Path) -> Facts:
    """What one snapshot has of `data`, made in a folder that nobody else may enter, then put beside it."""
    began, data = time.monotonic(), base / "data"
    size = int(json.loads(asked(place, "stats", "--json", "--no-lock", chosen["id"]))["total_size"])
    room = backup.free(base)
    if room < size + parts.RESERVE:
        raise FilesError(
            f"{base} has {room // backup.MB} MB free, and the files take {size // backup.MB} MB; "
            "make room there"
        )
    stamp = backup.stamp(moment(chosen["time"])).replace("-", "").replace(":", "")
    target, stage = base / f"data.restored-{stamp}", base / ".data.restoring"
    if os.path.lexists(target):
        raise FilesError(f"{target} is there already; remove it first, or look at it")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(mode=0o700)
    try:
        words = ["restore", chosen["id"], "--no-lock", "--target", str(stage), "--include", str(data)]
        asked(place, *words, timeout=AT_WORK)
        inside = stage / str(data).lstrip("/")
        if not inside.is_dir():
            raise FilesError("that snapshot has no files of it")
        count = give_back(inside, data)
        inside.rename(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    took = round(time.monotonic() - began)
    of = backup.stamp(moment(chosen["time"]))
    return {"folder": str(target), "of": of, "files": count, "seconds": took, "bytes": size}


def give_back(folder: Path, like: Path) -> int:
    """What was the app's is today's app's, whose number may be another; the files in it are counted."""
    was, now = folder.lstat(), like.lstat() if os.path.lexists(like) else folder.parent.lstat()
    count = 0
    for top, folders, names in os.walk(folder):
        # A link to a folder stands among those.
        links = [name for name in folders if Path(top, name).is_symlink()]
        for path in (Path(top), *(Path(top, name) for name in (*links, *names))):
            known = path.lstat()
            uid = now.st_uid if known.st_uid == was.st_uid else known.st_uid
            gid = now.st_gid if known.st_gid == was.st_gid else known.st_gid
            if (uid, gid) != (known.st_uid, known.st_gid):
                os.chown(path, uid, gid, follow_symlinks=False)
                if not stat.S_ISLNK(known.st_mode):
                    path.chmod(stat.S_IMODE(known.st_mode) & ~0o6000)
        count += len(names) + len(links)
    return count


# The command line -------------------------------------------------------------------------------------------


def main(argv: list[str]) -> int:
    """The exit status."""
    if argv not in (["store"], ["restore"]):
        print("files.py store | restore", file=sys.stderr)
        return 2
    os.umask(0o077)
    kind, began, said, made = argv[0], time.time(), "", {}
    problems: list[str] = []
    notes: list[str] = []
    try:
        settings = json.loads(SETTINGS.read_text())
    except FileNotFoundError:
        print(f"No file is stored off this server ({SETTINGS}).", file=sys.stderr)
        return 1
    request = read(REQUEST) if kind == "restore" else {}
    try:
        with backup.alone(STATE, PATIENCE):
            if kind == "store":
                said, problems, notes = store(settings)
            else:
                made = restore(settings, request)
                said = f"{made['files']} files of {made['app']} in {made['folder']}"
    except backup.BackupError as error:
        problems = [str(error)]
    except OSError as error:
        problems = [f"{error.filename or kind}: {error.strerror}"]
    except (ValueError, LookupError, TypeError) as error:
        problems = [f"an answer of restic cannot be read ({type(error).__name__}: {error})"]
    entry = {"began": backup.stamp(began), "ended": backup.stamp(time.time()), "problem": "; ".join(problems),
             "notes": notes, "request": request, **made}  # fmt: skip
    with contextlib.suppress(OSError):
        backup.keep(STATE / f"last-{kind}.json", json.dumps(entry, indent=1) + "\n")
    if said:
        print(f"{'Stored' if kind == 'store' else 'Restored'}: {said}.")
    if problems:
        print(f"Not {'stored' if kind == 'store' else 'restored'}: {'; '.join(problems)}.", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
