"""Timers that deploy what is new: this engine is installed for them, with what they go by."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host.command import module_source
from ..paths import Paths
from ..payload import redeploy as program
from ..runtime import clocks
from ..store import journal, redeploys
from ..store.lock import hostwide

_BELOW = ("redeploy", "source")


def apply(
    entries: Sequence[Mapping[str, Any]], check: bool, root: Path = Path("/"), code: bytes = b""
) -> list[str]:
    """Bring all timers to what the apps' entries say; what was changed, or would be."""
    with contextlib.nullcontext() if check else hostwide(root):
        return _apply(entries, check, root, code)


def _apply(entries: Sequence[Mapping[str, Any]], check: bool, root: Path, code: bytes) -> list[str]:
    wanted = {str(one["name"]): one for one in entries if one["redeploy"]["schedule"]}
    code = code or own_code()
    changes = []
    for app in [app for app in clocks.apps(root) if app not in wanted]:
        changes.append(f"{app}: no timer any more")
        if not check:
            clocks.forget(app, root)
            (Paths(app, root).etc / redeploys.FILE).unlink(missing_ok=True)
    if not wanted:
        return changes
    if _contents(code) != _contents(_bytes(_below(program.ENGINE, root))):
        changes.append("the engine on the server")
        if not check:
            _write(_below(program.ENGINE, root), code, 0o644)
    changes += _text(_below(program.PROGRAM, root), module_source(program), 0o644, check)
    changes += _text(clocks.file(clocks.SERVICE, root), clocks.service(program.PROGRAM), 0o644, check)
    again = []
    for app, entry in wanted.items():
        told = {key: entry[key] for key in _BELOW}
        changes += _text(
            Paths(app, root).etc / redeploys.FILE, json.dumps(told, indent=2) + "\n", 0o600, check
        )
        text = clocks.timer(app, entry["redeploy"]["schedule"], entry["redeploy"]["jitter"])
        new = _text(clocks.file(clocks.name(app), root), text, 0o644, check)
        if new or not clocks.enabled(app, root) or not clocks.running(app):
            again.append(app)
            changes += new or [f"the timer of {app}"]
    if changes and not check:
        clocks.start(list(wanted), again, root)
    return changes


def differs(entry: Mapping[str, Any], root: Path = Path("/")) -> bool:
    """Whether the server's timer goes by something else than an app's entry says."""
    told = redeploys.settings(Paths(entry["name"], root))
    if not entry["redeploy"]["schedule"]:
        return bool(told)
    # An engine of before could not read what this one writes.
    engine = _archive()
    older = engine and _contents(_bytes(Path(engine))) != _contents(_bytes(_below(program.ENGINE, root)))
    return bool(older or any(told.get(key) != entry[key] for key in _BELOW))


def own_code() -> bytes:
    """The zip that this engine runs from."""
    if archive := _archive():
        return Path(archive).read_bytes()
    raise ReleaseError("This engine was not packed, so it cannot be installed.")


def _archive() -> str:
    return str(getattr(getattr(__spec__, "loader", None), "archive", ""))


def _below(path: Path, root: Path) -> Path:
    return root / path.relative_to("/")


def _contents(code: bytes) -> list[tuple[str, int]]:
    """Of two checkouts of the same version the times of files differ, and nothing else."""
    try:
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            return [(one.filename, one.CRC) for one in archive.infolist()]
    except zipfile.BadZipFile:
        return []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path, text: str, mode: int, check: bool) -> list[str]:
    """Its name, where it was not as it is to be."""
    if _bytes(path) == text.encode():
        return []
    if not check:
        _write(path, text, mode)
    return [path.name]


def _write(path: Path, content: str | bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    journal.replace_text(path, content, mode)
