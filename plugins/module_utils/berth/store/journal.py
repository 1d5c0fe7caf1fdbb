"""The deploy journal, the audit line and each release's record."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..diagnosis import masking
from ..paths import Paths
from . import shapes

RECORD = "release.json"
# Beyond this size a file becomes `<name>.1`, whose predecessor goes: about a hundred deploys, and thousands.
JOURNAL_LIMIT = 256 * 1024
AUDIT_LIMIT = 2 * 1024 * 1024
# What the engine makes itself and reads again: names, releases, revisions.
_DECIDES = frozenset(
    {"what", "step", "result", "kind", "old", "lost", "from", "to", "schema_from", "schema_to"}
)


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _append(path: Path, entry: dict[str, Any], mode: int, limit: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, mode)
        try:
            # The engines of two apps write one audit file.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not is_still(path, descriptor):
                continue
            size = os.fstat(descriptor).st_size
            if size >= limit:
                path.replace(older(path))
                continue
            # Half a line, as a power cut may leave it, must not swallow this one.
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = f"\n{line}"
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
            return
        finally:
            os.close(descriptor)


def is_still(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except OSError:
        return False


def older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def entries(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a file and of its predecessor, oldest first."""
    found: list[dict[str, Any]] = []
    for part in (older(path), path):
        try:
            lines = part.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # half a line: the power went away while it was written
            if isinstance(entry, dict):
                found.append(entry)
    return found


def note(paths: Paths, release: str, step: str, state: str, **more: Any) -> None:
    """One line before (`begin`) and one after (`end`, `left`, `failed`) every step that changes something."""
    _append(
        paths.state / "journal.jsonl",
        {"at": now(), "release": release, "step": step, "state": state, **hidden(paths, more)},
        0o600,
        JOURNAL_LIMIT,
    )


def audit(paths: Paths, **entry: Any) -> None:
    """One line about a run, with the `login` that it came by, where there was one."""
    known = {"login": name} if (name := login()) else {}
    line = {"at": now(), "app": paths.app, **hidden(paths, entry), **known}
    _append(paths.audit, line, 0o640, AUDIT_LIMIT)


_LOGIN = Path("/proc/self/loginuid")
# What the kernel says of a process that nobody logged in for.
_NOBODY = 2**32 - 1


def login() -> str:
    """Who logged in for this process: as the kernel kept it through sudo, else as sudo says; or empty."""
    try:
        number = int(_LOGIN.read_text())
    except (OSError, ValueError):
        number = _NOBODY
    if number == _NOBODY:
        return os.environ.get("SUDO_USER", "")
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return str(number)


def hidden(paths: Paths, entry: dict[str, Any]) -> dict[str, Any]:
    """What a failure says in its own words may quote a secret."""
    masked: dict[str, Any] = masking.Mask(masking.of_app(paths)).every(entry, _DECIDES)
    return masked


def unfinished(paths: Paths) -> dict[str, Any] | None:
    """The last journal entry, when a run ended before its last step did: between two steps, or inside one."""
    for entry in reversed(entries(paths.state / "journal.jsonl")):
        closed = entry.get("state") == "failed" or (
            entry.get("state") == "end" and entry.get("step") in ("finish", "settle", "rehearse")
        )
        return None if closed else entry
    return None


def read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return shapes.today(record) if isinstance(record, dict) else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replaced in one step, so a reader never meets half of it. Root's: it holds the app's whole entry."""
    text = json.dumps({"format": shapes.FORMAT, **record}, indent=2, ensure_ascii=False)
    replace_text(folder / RECORD, text + "\n", 0o600)


def replace_text(path: Path, text: str | bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
    # A name of its own: two runs that write one file must not write into each other's half.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    temporary = Path(name)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(text.encode() if isinstance(text, str) else text)
        handle.flush()
        if os.geteuid() == 0:
            os.fchown(handle.fileno(), uid, gid)
        os.fchmod(handle.fileno(), mode)
        os.fsync(handle.fileno())
    temporary.replace(path)
