"""Changes of how people get in, which are put back unless a new login has proved them.

At every instant the server has what it had before, or what is proved, or a timer (and, after a power cut, its
boot) that brings back what it had before. Runs by itself, as root, with the standard library alone:

    guard.py revert NAME TOKEN    put back what that change replaced, unless it is proved: its timer's call
    guard.py boot                 the same for whatever a power cut left unproved, before anybody can log in
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/berth/guard")
PROGRAM = Path("/usr/local/lib/berth/guard.py")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
# Seconds for one command: a reload that hangs must not hold up the way back.
COMMAND = 30
# Seconds to wait for another process at work on the same change; its commands are bounded.
TURN = 100
TRIES = 3
PAUSE = 2.0

Facts = dict[str, Any]
Command = Sequence[str]


class GuardError(Exception):
    """Why nothing is changed, or is as before again: a sentence."""


def run(command: Command) -> tuple[int, str]:
    """A command's exit status and what it printed; 127 where it is missing, 124 where it hangs."""
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=COMMAND, env=ENVIRONMENT, cwd="/", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {COMMAND} s"
    except OSError as error:
        return 127, str(error.strerror)
    return done.returncode, done.stdout.strip()


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1]


# Files: whole, on the disk, and root's ----------------------------------------------------------------------


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(path: Path, content: bytes, mode: int, uid: int, gid: int) -> None:
    """A file with this content, whole or not at all, and on the disk when this returns."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            if os.geteuid() == 0:
                os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(name, path)  # noqa: PTH105 - a test stands in for it
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
    sync(path.parent)


def drop(path: Path) -> None:
    """No such file, and on the disk when this returns."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - a test stands in for it
        sync(path.parent)


def refuse_foreign(path: Path) -> None:
    """Only root's plain files, in folders where nobody else can rename or write."""
    ours = {0, os.geteuid()}
    for folder in path.parents:
        if not os.path.lexists(folder):
            continue  # it will be root's
        found = folder.lstat()
        loose = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours or loose:
            raise GuardError(f"{path}: {folder} is not a folder where root alone writes; nothing was changed")
    if os.path.lexists(path) and not (stat.S_ISREG(path.lstat().st_mode) and path.lstat().st_uid in ours):
        raise GuardError(f"{path} is no plain file of root's: move it away; nothing was changed")


def picture(path: Path) -> Facts:
    """All that brings a file back: content, mode and owners, or that there is none."""
    refuse_foreign(path)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return {"path": str(path), "content": None}
    content = base64.b64encode(path.read_bytes()).decode()
    return {
        "path": str(path), "content": content, "mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid,
        "gid": found.st_gid,
    }  # fmt: skip


def paint(files: Sequence[Facts]) -> None:
    """Files as the pictures have them, and nothing left of a writer that was killed."""
    for file in files:
        path = Path(file["path"])
        for half in path.parent.glob(f".{path.name}.*.new"):
            drop(half)
        if file["content"] is None:
            drop(path)
        else:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            put(path, base64.b64decode(file["content"]), file["mode"], file["uid"], file["gid"])


# One change -------------------------------------------------------------------------------------------------


class Guard:
    """The changes of one name (`ssh`, `firewall`): at most one of them is unproved at a time."""

    def __init__(self, name: str, state: Path | None = None) -> None:
        self.name = name
        self.folder = (state or STATE) / name
        self.pending = self.folder / "pending"
        self.outcome = self.folder / "outcome.json"

    @contextlib.contextmanager
    def alone(self, turn: float = TURN) -> Iterator[None]:
        """One process at a time; the kernel frees the lock of one that was killed."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "lock").open("w") as handle:
            deadline = time.monotonic() + turn
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise GuardError(f"another change of {self.name} is at work: run again") from None
                    time.sleep(0.1)
            yield

    def unproved(self) -> Facts | None:
        """The change that nobody has proved yet, with what it replaced."""
        try:
            found: Facts = json.loads(self.pending.read_text())
        except (OSError, ValueError):  # it is written whole, so there is none
            return None
        return found

    def told(self) -> Facts:
        """How the last change ended: `state` (kept, reverted), `why`, `at`."""
        try:
            found: Facts = json.loads(self.outcome.read_text())
        except (OSError, ValueError):
            return {}
        return found

    def tell(self, state: str, why: str) -> None:
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        text = json.dumps({"state": state, "why": why, "at": at}) + "\n"
        put(self.outcome, text.encode(), 0o600, 0, 0)

    def apply(
        self,
        wanted: Sequence[Facts],
        reload: Sequence[Command],
        *,
        check: Callable[[], str] = lambda: "",
        seconds: int = 120,
    ) -> str:
        """Write the files and have them read, to be put back in `seconds` unless the token is kept.

        `wanted` are pictures. `reload` makes the server go by whatever the files say, the old ones too.
        `check` looks at the files once they are written and says what is wrong with them; empty is nothing.
        GuardError where all is as before.
        """
        with self.alone():
            if self.unproved():
                self.put_back("the run that made it ended before a new login had proved it")
            old = [picture(Path(file["path"])) for file in wanted]
            token = secrets.token_hex(6)
            # The timer first: it finds nothing to do until `pending` is there, and then it is running.
            deadline = time.monotonic() + seconds
            self.arm(token, seconds)
            change = {"token": token, "files": old, "reload": [list(one) for one in reload]}
            put(self.pending, json.dumps(change).encode(), 0o600, 0, 0)
            try:
                paint(wanted)
                if problem := check():
                    raise GuardError(problem)
                # A process that was stopped for long would change what no timer brings back.
                if time.monotonic() > deadline - COMMAND:
                    raise GuardError("the server was too slow to change this safely")
                for command in reload:
                    status, said = run(command)
                    if status != 0:
                        raise GuardError(f"`{' '.join(command)}` failed: {last_line(said)}")
            except (GuardError, OSError) as error:
                self.put_back(str(error))
                self.disarm(token)
                raise GuardError(str(error)) from None
            return token

    def arm(self, token: str, seconds: int) -> None:
        """The timer that brings the old state back."""
        status, said = run(
            ["systemd-run", "--quiet", "--collect", f"--unit={self.unit(token)}", f"--on-active={seconds}",
             "--timer-property=AccuracySec=1s", f"--description=Berth: put back {self.name}, unproved",
             "/usr/bin/python3", "-I", str(PROGRAM), "revert", self.name, token]
        )  # fmt: skip
        if status != 0:
            raise GuardError(f"no timer can be set that would put it back: {last_line(said)}")

    def disarm(self, token: str) -> None:
        run(["systemctl", "stop", f"{self.unit(token)}.timer"])

    def unit(self, token: str) -> str:
        return f"berth-guard-{self.name}-{token}"

    def keep(self, token: str) -> None:
        """The change is proved: nothing puts it back any more."""
        with self.alone():
            change = self.unproved()
            if change is None or change["token"] != token:
                raise GuardError(
                    f"the change of {self.name} was put back before its proof arrived: run again"
                )
            drop(self.pending)
            self.tell("kept", "")
            self.disarm(token)

    def revert(self, token: str, why: str, *, load: bool = True, turn: float = TURN) -> bool:
        """Put back what the unproved change of this token (empty: any) replaced; whether there was one."""
        with self.alone(turn):
            change = self.unproved()
            if change is None or (token and change["token"] != token):
                return False
            self.put_back(why, load=load)
        return True

    def put_back(self, why: str, *, load: bool = True) -> None:
        """Under the lock. `pending` goes last, so that whatever is cut off here is done again."""
        change = self.unproved()
        assert change is not None
        paint(change["files"])
        for command in change["reload"] if load else ():
            for attempt in range(TRIES):
                status, said = run(command)
                if status == 0:
                    break
                if attempt < TRIES - 1:
                    time.sleep(PAUSE)
            else:
                why += f"; after that `{' '.join(command)}` failed: {last_line(said)}"
        self.tell("reverted", why)
        drop(self.pending)


def boot(state: Path | None = None) -> list[str]:
    """Put back whatever is unproved. Nobody has read the files since the power came back."""
    names = sorted(path.parent.name for path in (state or STATE).glob("*/pending"))
    return [
        name for name in names if Guard(name, state).revert("", "the server was off before it", load=False)
    ]


def main(words: Sequence[str]) -> int:
    if list(words) == ["boot"]:
        for name in boot():
            print(
                f"{name}: what was before is back; the server went down before a login had proved the change"
            )
        return 0
    if len(words) == 3 and words[0] == "revert":
        # Whoever holds the lock ends, or is ended: there is no other way back to wait for.
        if Guard(words[1]).revert(words[2], "no new login proved it in time", turn=float("inf")):
            print(f"{words[1]}: what was before is back; no new login proved the change in time")
        return 0
    print((__doc__ or "").strip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
