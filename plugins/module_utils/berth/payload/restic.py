"""A repository of restic at a place off this server: how it is reached, asked and kept.

For `files`, as root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from . import backup, reasons
from .parts import RECOVERY, STATE, FilesError

Facts = dict[str, Any]

# Seconds for a place to answer; and for all of a store, a check or a restore.
ANSWER = 120.0
AT_WORK = 20 * 3600.0
# How a program ended that was ended for want of an answer.
GONE = -9
# What a snapshot's tag begins with that says which server made it.
MAKER = "by:"


@dataclass(frozen=True)
class Place:
    """Somewhere off this server; `known` is what settings say of it, and `folder` this run's own for it."""

    known: Facts
    folder: Path

    @property
    def name(self) -> str:
        return str(self.known["name"])

    @property
    def where(self) -> str:
        """For people."""
        return str(self.known["where"])

    def prepare(self, key: str) -> None:
        """Lay out what is given to programs as files: nothing of it stands in a command line."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        files = {"password": key}
        if self.known["type"] == "sftp":
            files |= {"key": self.known["secrets"]["private_key"], "known_hosts": self.known["known_hosts"]}
        for name, text in files.items():
            backup.keep(self.folder / name, text.strip() + "\n")

    def words(self) -> list[str]:
        one, path = self.known, f"{str(self.known['path']).rstrip('/')}/files"
        if one["type"] == "sftp":
            return ["-r", f"sftp:{self.name}:{path}", "-o", f"sftp.command={shlex.join(self.ssh())}"]
        style = "path" if one["uri_style"] == "path" else "dns"
        return [
            "-r",
            f"s3:https://{one['endpoint']}/{one['bucket']}{path}",
            "-o",
            f"s3.bucket-lookup={style}",
        ]

    def ssh(self) -> list[str]:
        """Nothing but this key, and no server but the one whose key is known."""
        one = self.known
        options = {
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "ConnectTimeout": "20",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
        }
        chosen = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        whom = ["-p", str(one["port"]), "-l", one["user"], one["host"]]
        return ["ssh", "-F", "/dev/null", "-i", str(self.folder / "key"), *chosen, *whom, "-s", "sftp"]

    def environment(self) -> dict[str, str]:
        found = {
            "RESTIC_PASSWORD_FILE": str(self.folder / "password"),
            "RESTIC_CACHE_DIR": str(STATE / "cache"),
            # Of a run of hours a line each minute.
            "RESTIC_PROGRESS_FPS": "0.016",
        }
        if self.known["type"] == "s3":
            found |= {
                "AWS_ACCESS_KEY_ID": self.known["secrets"]["access_key"],
                "AWS_SECRET_ACCESS_KEY": self.known["secrets"]["secret_key"],
                "AWS_DEFAULT_REGION": self.known["region"],
            }
        return found


def places(settings: Facts) -> list[Place]:
    """Each with its files laid out in this run's own folder, which ends with the unit."""
    own = Path(os.environ["RUNTIME_DIRECTORY"])
    found = [Place(one, own / str(one["name"])) for one in settings["places"]]
    for one in found:
        one.prepare(str(settings["key"]))
    return found


@dataclass(frozen=True)
class Answer:
    """How restic ended, and what it printed."""

    code: int
    out: str
    err: str


def run(place: Place, *words: str, timeout: float = ANSWER) -> Answer:
    """restic on a place's repository, to the end; what it ended with is for the caller to judge."""
    env = {**backup.ENVIRONMENT, **place.environment()}
    try:
        done = subprocess.run(
            ["restic", *place.words(), *words], capture_output=True, text=True, errors="replace", env=env,
            timeout=timeout, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        # It tries for a quarter of an hour what does not work, and says meanwhile what that is.
        said = [text.decode(errors="replace") if isinstance(text, bytes) else text or ""
                for text in (error.stdout, error.stderr)]  # fmt: skip
        late = f"Fatal: it did not answer within {timeout:.0f} s"
        return Answer(GONE, said[0], f"{said[1]}\n{late}")
    except OSError as error:
        raise FilesError(f"restic cannot be run: {error.strerror}") from None
    return Answer(done.returncode, done.stdout, done.stderr)


def asked(place: Place, *words: str, timeout: float = ANSWER) -> str:
    """What restic answers; FilesError where it fails."""
    done = run(place, *words, timeout=timeout)
    if done.code != 0:
        raise FilesError(why(done))
    return done.out


def why(done: Answer) -> str:
    """The sentence in what restic and ssh printed that says what went wrong."""
    lines = _lines(done)
    if known := reasons.known("\n".join(lines)):
        return known
    fatal = [line for line in lines if line.startswith("Fatal: ")]
    said = (fatal or lines or [f"restic ended with {done.code}"])[-1]
    return said.removeprefix("Fatal: ")[:300].rstrip(". ")


def _lines(done: Answer) -> list[str]:
    """What was said, without where: that is somebody's own words."""
    said = [_message(line) for line in f"{done.err}\n{done.out}".splitlines()]
    return [one for one in said if one and not re.match(r"(sftp|s3):", one)]


def _message(line: str) -> str:
    """What a line says of the whole run, which may be JSON; empty where it is of one file, or a number."""
    try:
        known = json.loads(line)
    except ValueError:
        return line.strip()
    if not isinstance(known, dict) or known.get("message_type") in ("status", "summary", "error"):
        return ""
    return str(known.get("message") or "")


def missing(done: Answer) -> bool:
    """Whether there is no repository: the place answered, and its configuration is not there."""
    text = "\n".join(_lines(done))
    said = re.search(r"Is there a repository at|config file does not exist|repository does not exist", text)
    absent = re.search(r"(?i)does not exist|no such file|not exist|NoSuchKey", text)
    return done.code == 10 or bool(said and absent and not reasons.known(text))


def open_repository(place: Place, known: Facts) -> None:
    """Make it where it is missing; one that was there and is gone is not made again, since that is a loss.

    What a run left locked that was killed is unlocked: there is no other of this server's, by the lock.
    """
    done = run(place, "cat", "config", "--no-lock")
    begun = bool(known.get("repository"))
    if missing(done):
        if begun:
            raise FilesError(
                "the repository there is gone or its disk is not mounted; where it shall begin anew, remove "
                f"{STATE}/{place.name}.json on the server"
            )
        asked(place, "init")
        done = run(place, "cat", "config", "--no-lock")
    if done.code != 0:
        raise FilesError(why(done))
    refuse_successor(place, known, begun)
    known["repository"] = str(json.loads(done.out).get("id", ""))
    unlock(place)


def identity() -> str:
    """What snapshots of this server are marked with. It is born here, and neither stored nor brought back."""
    path = STATE / "server.id"
    with contextlib.suppress(FileNotFoundError):
        if found := path.read_text().strip():
            return found
    made = secrets.token_hex(8)
    backup.keep(path, f"{made}\n")
    return made


def makers(found: list[Facts]) -> list[str]:
    """The servers that snapshots are marked with; those of an earlier Berth are not."""
    tags = {str(tag) for one in found for tag in one.get("tags") or []}
    return sorted(tag.removeprefix(MAKER) for tag in tags if tag.startswith(MAKER))


def refuse_successor(place: Place, known: Facts, begun: bool) -> None:
    """FilesError where another server stores its files in a repository; nothing is written there before.

    One that was built anew from what lies there has those before it in `before`, from its first look on.
    Whoever comes later was built anew from this one's.
    """
    there = makers(snapshots(place))
    if not begun and RECOVERY.exists():
        known["before"] = there
    if not set(there) - {identity(), *known.get("before", [])}:
        return
    if begun:
        raise FilesError(
            "another server was built anew from what lies there, and goes on with it: switch this one off "
            "for good, or write another path for it"
        )
    raise FilesError(
        "it holds the files of another server, or of this one as it was before it was set up anew: write "
        "another path"
    )


def unlock(place: Place) -> None:
    """Locks of this server's are of runs that ended; another's stays until restic takes it for stale."""
    locks = asked(place, "list", "locks", "--no-lock").split()
    if not locks:
        return
    asked(place, "unlock")
    left = asked(place, "list", "locks", "--no-lock").split()
    owners = {}
    for one in left:
        with contextlib.suppress(ValueError, FilesError):
            owners[one] = str(json.loads(asked(place, "cat", "lock", one, "--no-lock")).get("hostname", ""))
    if left and set(owners.values()) <= {socket.gethostname()}:
        asked(place, "unlock", "--remove-all")
    elif left:
        other = next(name for name in owners.values() if name != socket.gethostname())
        raise FilesError(f"server {other} is at work in it; each server needs a path of its own")


def moment(text: str) -> float:
    """restic's own time stamps, which have nanoseconds and a zone."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if not found:
        raise FilesError(f"{text!r} is no time that restic writes")
    return datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00")).timestamp()


def snapshots(place: Place, *words: str) -> list[Facts]:
    """Those there, the newest last; a repository is one server's."""
    answer = asked(place, "snapshots", "--json", "--no-lock", *words)
    return sorted(json.loads(answer or "[]") or [], key=lambda one: moment(one["time"]))
