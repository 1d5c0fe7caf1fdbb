"""Deploys that nobody starts by hand: what an app's are to be like, and what became of them so far.

What is asked is the inventory's, written by role redeploy (`/etc/berth/<app>/redeploy.json`). What became of
them is the engine's alone (`/var/lib/berth/<app>/redeploy.json`), whoever had it run: a commit that failed
once is known to the timer on the server and to a controller alike.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import cut
from ..paths import Paths
from . import journal

FILE = "redeploy.json"
# So many failed attempts are remembered, the newest.
_KEPT = 8
# How often what is not the release's fault is tried, and after how many seconds again.
PATIENCE = (60, 300, 1800)
# A run that was cut off so often with the same release is not begun again.
CUTS = 2
# Outcomes that are no trouble: of the first no end is known yet, and the others end what was.
_PLAIN = ("begun", "nothing", "deployed")
# The same trouble is told again after so many seconds.
_AGAIN = 24 * 3600


def settings(paths: Paths) -> dict[str, Any]:
    """What the server was told about the app's redeploys; nothing where it has none."""
    return _read(paths.etc / FILE)


def state(paths: Paths) -> dict[str, Any]:
    """What became of them; nothing where nobody asked for one yet, or the file was damaged."""
    return _read(paths.state / FILE)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def changing(paths: Paths) -> Iterator[dict[str, Any]]:
    """The state, written back where it was changed; one at a time, and for a moment."""
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(paths.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        found = state(paths)
        before = json.dumps(found, sort_keys=True)
        yield found
        if json.dumps(found, sort_keys=True) != before:
            journal.replace_text(paths.state / FILE, json.dumps(found, indent=2) + "\n", 0o600)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def noting(paths: Paths) -> Iterator[dict[str, Any]]:
    """The same for what a full disk must not stop: then it is not written."""
    with contextlib.suppress(OSError), changing(paths) as now:
        yield now


# Of one attempt ---------------------------------------------------------------------------------------------


def begin(paths: Paths, fingerprint: str) -> None:
    """A release is about to be made. What never ends is told from what fails by how often it was begun."""
    with noting(paths) as now:
        past = now.get("trying") or {}
        times = int(past.get("times") or 0) if past.get("fingerprint") == fingerprint else 0
        now["trying"] = {"fingerprint": fingerprint, "times": times + 1}


def failed(paths: Paths, fingerprint: str, **past: Any) -> None:
    """Remember an attempt: its `commit`, `step` and `reason`.

    `passing`: it may be over by itself, as where a repository or a database does not answer. `waits`: nothing
    is wrong with it, and somebody has to say yes.
    """
    with changing(paths) as now:
        now.pop("trying", None)
        known = now.setdefault("failed", {})
        before = known.pop(fingerprint, {})
        past["reason"] = cut(_masked(paths, str(past.get("reason", ""))), 1000)
        times = int(before.get("times") or 0) + 1
        known[fingerprint] = {**past, "at": journal.now(), "times": times}
        for old in list(known)[:-_KEPT]:
            del known[old]


def succeeded(paths: Paths, fingerprint: str) -> None:
    """It is live: nothing of before is held against it."""
    if not state(paths):
        return
    with changing(paths) as now:
        now.pop("trying", None)
        now.get("failed", {}).pop(fingerprint, None)


def forgive(paths: Paths) -> list[str]:
    """Forget what failed, for one more attempt; the commits."""
    with changing(paths) as now:
        now.pop("trying", None)
        known: dict[str, Any] = now.pop("failed", {})
    return [str(one.get("commit", "")) for one in known.values()]


def quarantine(found: Mapping[str, Any], fingerprint: str, moment: datetime | None = None) -> str:
    """Why a release is not tried, in one sentence; empty where it may be."""
    trying = found.get("trying") or {}
    if trying.get("fingerprint") == fingerprint and int(trying.get("times") or 0) >= CUTS:
        return f"Its deploy was begun {trying['times']} times and cut off each time"
    past = (found.get("failed") or {}).get(fingerprint)
    if not past:
        return ""
    times, when = int(past.get("times") or 1), str(past.get("at", ""))
    said = f"It failed in step {past.get('step', '?')} at {when}: {str(past.get('reason', '')).rstrip('.')}"
    if not past.get("passing") or times > len(PATIENCE):
        return said
    waited = ((moment or datetime.now(timezone.utc)) - _moment(when)).total_seconds()
    # A clock that was set back must not have it wait for as long.
    return said if 0 <= waited < PATIENCE[times - 1] else ""


def _masked(paths: Paths, said: str) -> str:
    """What a failure says in its own words may quote a secret."""
    return str(journal.hidden(paths, {"said": said})["said"])


def _moment(stamp: str) -> datetime:
    try:
        return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return datetime.fromtimestamp(0, timezone.utc)


# Of one look ------------------------------------------------------------------------------------------------


def note(paths: Paths, outcome: str, said: str, by: str, **more: str) -> bool:
    """What came of a look. False where the same was told already, less than a day ago."""
    said = _masked(paths, said)
    with noting(paths) as now:
        now["last"] = {"outcome": outcome, "said": said, "by": by, "at": journal.now(), **more}
        if outcome in _PLAIN:
            if outcome != _PLAIN[0]:
                now.pop("told", None)
            return True
        # How much is free, or how often it was tried, is no other trouble.
        what = f"{outcome}: {re.sub('[0-9]+', '#', said)}"
        told = now.get("told") or {}
        age = (datetime.now(timezone.utc) - _moment(str(told.get("at", "")))).total_seconds()
        if told.get("what") == what and 0 <= age < _AGAIN:
            return False
        now["told"] = {"what": what, "at": journal.now()}
    return True


def remember(paths: Paths, commit: str, tag: str) -> None:
    """That a commit is live, and under which tag it was found."""
    with noting(paths) as now:
        now["deployed"] = {"commit": commit, "tag": tag}


def pause(paths: Paths, by: str) -> bool:
    """Whether it was not paused before."""
    with changing(paths) as now:
        new = "paused" not in now
        now.setdefault("paused", {"by": by, "at": journal.now()})
    return new


def resume(paths: Paths) -> bool:
    """Whether it was paused before."""
    if not state(paths):
        return False
    with changing(paths) as now:
        return now.pop("paused", None) is not None
