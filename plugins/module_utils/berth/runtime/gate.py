"""Waiting until a release is well; where it does not become so, why."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..diagnosis import cause
from ..errors import UP, ReleaseError, cut, next_run
from . import listening, units
from .health import REFUSALS, Probe
from .units import Past

_POLL = 0.05
# Seconds that a process gets to write its stack down: on a busy machine its turn comes late.
_TO_ANSWER = 3.0
# For how long an app refuses its host name until that is taken for the answer.
_SURE = 2.0


@dataclass(frozen=True)
class Crew:
    """The workers that a release's server begins with; all traffic comes at once with the switch."""

    workers: int
    needed: bool = True  # or only waited for

    def ready(self, probe: Probe, unit: str) -> int:
        """How many of them take connections; all of them where that is not to be seen."""
        server = units.main_pid(unit)
        # Somebody has just answered: where nobody is seen to listen, this kernel does not tell.
        return listening.accepting(probe.socket, server) or self.workers


def wait_healthy(
    probe: Probe,
    unit: str,
    health: dict[str, Any],
    about: cause.About,
    past: Past,
    crew: Crew | None = None,
) -> None:
    """Until the release answers well often enough and long enough, with all workers; or the cause.

    What the unit did before it was asked to start (`past`) is of no interest.
    """
    budget, interval = float(health["timeout"]), float(health["interval"])
    needed, hold = int(health["successes"]), float(health["hold"])
    began = looked = time.monotonic()
    deadline = began + budget
    good, status, first, refused = 0, 0, 0.0, 0.0
    ready = 0  # workers, once nothing else is waited for
    while True:
        state = _state(unit)
        # A start that waits (for Postgres, for the end of a stop, for a busy systemd) has not failed.
        waits = state.get("Job", "") not in ("", "0")
        gone = state.get("ActiveState") in ("failed", "inactive", "deactivating") and not waits
        if gone or past.fell(state, unit):
            raise _ended(unit, state, about, first, past)
        status = probe.ask(min(10.0, max(1.0, deadline - time.monotonic())))
        now = time.monotonic()
        if probe.good(status):
            good += 1
            first = first or now
            if good >= needed and now - first >= hold:
                # Workers that die are replaced by their server, which does not end itself.
                if hold and cause.ended(units.journal(unit, since=past.since)):
                    raise _ended(unit, state, about, first, past)
                ready = crew.ready(probe, unit) if crew else 0
                if not crew or ready >= crew.workers:
                    return
        else:
            good = ready = 0
            # Its list of host names is read once: waiting changes nothing.
            refused = (refused or now) if status in REFUSALS else 0.0
            if refused and now - refused >= _SURE and _refuses_name(probe):
                raise _not_well(probe, unit, status, now - began, about, past)
            if now - looked > 1:
                looked = now
                lines = units.journal(unit, since=past.since)
                if cause.out_of_memory(lines) or len(cause.ended(lines)) >= (1 if first else 2):
                    raise _ended(unit, state, about, first, past)
        if now >= deadline + (hold if first else 0):
            if crew and ready:
                if not crew.needed:
                    return
                raise _few(ready, crew.workers, unit, now - began, about, past)
            raise _not_well(probe, unit, status, budget, about, past)
        left = hold - (now - first) if good >= needed and not ready else interval
        time.sleep(min(interval, max(left, _POLL)) if good else _POLL)


def _refuses_name(probe: Probe) -> bool:
    """Whether a 400 is a host check's, by what it says."""
    reply = probe.get(probe.path or "/", 5)
    return reply.status in REFUSALS and bool(re.search(r"(?i)\bhosts?\b|misdirected", reply.body))


def _state(unit: str) -> dict[str, str]:
    return units.show(unit, "ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts", "Job")


def _ended(unit: str, state: dict[str, str], about: cause.About, first: float, past: Past) -> ReleaseError:
    lines = units.journal(unit, since=past.since)
    what = "did not start"
    if first:
        what = f"answered well, and failed after {time.monotonic() - first:.0f} s"
    return _failed(f"{about.called} {what}: {cause.explain(lines, state, about)}.", unit, lines)


def _not_well(
    probe: Probe, unit: str, status: int, budget: float, about: cause.About, past: Past
) -> ReleaseError:
    lines = units.journal(unit, since=past.since)
    if status == 0:
        return _failed(f"{_silent(probe, unit, lines, budget, about)}.", unit, lines)
    where = probe.path or "any health path"
    sentence = f"{about.called} answered {status} on {where} for {budget:.0f} s"
    reply = probe.get(probe.path or "/", 5)
    if status == 404:
        known = ", ".join(probe.routes()[:6])
        sentence += ": set health.path to a path that exists" + (f", such as {known}" if known else "")
    elif status in (401, 403):
        sentence += ": set health.path to one that needs no login"
    elif 300 <= status < 400:
        to = f" ({reply.location})" if reply.location else ""
        sentence += f", which leads elsewhere{to}: set health.path to the path that answers itself"
    elif status >= 500:
        why = cause.reason(lines, about)
        sentence += f": {why}" if why else _quoted(reply.body)
    elif status in REFUSALS:
        sentence += f"{_quoted(reply.body)}: it has to accept the host name {probe.host or probe.domain}"
        sentence += ", or proxy.upstream_host has to name one that it accepts"
    else:
        sentence += _quoted(reply.body)
    return _failed(f"{sentence}.", unit, lines)


def _few(ready: int, workers: int, unit: str, took: float, about: cause.About, past: Past) -> ReleaseError:
    lines = units.journal(unit, since=past.since)
    why = cause.reason(lines, about) or "raise health.timeout, or give web fewer workers"
    said = f"{ready} of {workers} workers were ready after {took:.0f} s"
    return _failed(f"{about.called} answered well, but only {said}: {why}.", unit, lines)


def _quoted(body: str) -> str:
    line = cut(body.strip().splitlines()[0], 120) if body.strip() else ""
    return f" ({line})" if line and not line.startswith("<") else ""


def _silent(probe: Probe, unit: str, lines: list[str], budget: float, about: cause.About) -> str:
    """Why nobody answers on the socket."""
    why = cause.reason(lines, about)
    if why:
        return f"{about.called} did not answer within {budget:.0f} s: {why}"
    if not about.target:
        return _no_socket(probe, unit, budget)
    where = cause.stuck(lines)
    at = cause.brief(_stack(unit, about.inside), about.inside)
    if where == "startup":
        place = f" (at {at})" if at else ""
        return f"The app's startup (lifespan) did not finish within {budget:.0f} s{place}"
    if where == "import" or at:
        waits = f": it waits at {at}" if at else ""
        return f"The import of {about.target.split(':')[0]} did not finish within {budget:.0f} s{waits}"
    return f"{about.called} did not answer on its socket within {budget:.0f} s"


def _no_socket(probe: Probe, unit: str, budget: float) -> str:
    """A command of one's own that listens elsewhere, or nowhere."""
    known = listening.places(unit)
    if any(Path(place).name == probe.socket.name for place in known):
        return f"The command listens on its socket, but did not answer within {budget:.0f} s"
    advice = "let processes.web.command listen on the unix socket {socket}"
    if known:
        return f"The command listens on {', '.join(known)} instead of its socket: {advice}"
    return f"The command did not listen on its socket within {budget:.0f} s: {advice}"


def _stack(unit: str, inside: str) -> str:
    """Where the processes are right now: gunicorn.conf.py has taught them to say so. They are lost anyway."""
    asked, place = time.time(), ""
    units.systemctl("kill", "--signal=RTMIN+5", unit)
    while not place and time.time() < asked + _TO_ANSWER:
        time.sleep(0.3)
        place = cause.stack_place(units.journal(unit, 400, asked), inside)
    return place


def _failed(sentence: str, unit: str, lines: list[str]) -> ReleaseError:
    log = f"journalctl -u {unit} -n 200 shows its whole log on the server."
    # What a deploy would not apply is worth a word; the rest is as often a matter of the code.
    first = f"write it, then: {UP}. " if next_run("deploy", "", sentence) == UP else ""
    return ReleaseError(sentence, log=lines[-20:], advice=first + log)
