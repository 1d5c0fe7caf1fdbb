"""Asking a release whether it is well: HTTP over its own socket, and through the public route."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..diagnosis import cause
from ..errors import UP, ReleaseError, cut, next_run
from . import listening, units
from .units import Past

HEALTH_PATHS = (
    "/healthz",
    "/health",
    "/readyz",
    "/healthcheck",
    "/livez",
    "/api/health",
    "/api/healthz",
    "/health/",
    "/ping",
    "/status",
)
_POLL = 0.05
# Seconds that a process gets to write its stack down: on a busy machine its turn comes late.
_TO_ANSWER = 3.0
# What a host name of no list gets, and for how long until it is taken for the answer.
_REFUSALS = (400, 421)
_SURE = 2.0


class _UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.unix_path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


class _LoopbackHTTPS(http.client.HTTPSConnection):
    """To this machine's proxy, under the public name, at the port that its address leaves out.

    Its certificate may still be on its way, so it is not checked.
    """

    # What the proxy showed, as DER.
    certificate = b""

    def __init__(self, domain: str, timeout: float) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        super().__init__(domain, timeout=timeout, context=context)
        self.context = context

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        secure = self.context.wrap_socket(plain, server_hostname=self.host)
        self.certificate = secure.getpeercert(binary_form=True) or b""
        self.sock = secure


def _headers(domain: str, host: str) -> dict[str, str]:
    """What the proxy sends, so that host checks and client addresses work as they will."""
    return {
        "Host": host or domain,
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": domain,
        "User-Agent": "berth-health",
        "Connection": "close",
    }


@dataclass(frozen=True)
class Reply:
    """One answer; status 0 when nobody answered."""

    status: int
    location: str = ""
    body: str = ""


def ask(path: Path, url: str, domain: str, timeout: float = 10, host: str = "") -> Reply:
    """One request over a release's socket, as the proxy would send it."""
    connection = _UnixHTTP(path, timeout)
    try:
        connection.request("GET", url, headers=_headers(domain, host))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return Reply(0)
    finally:
        connection.close()
    return Reply(response.status, response.getheader("Location", ""), body.decode(errors="replace"))


def _serves(status: int) -> bool:
    """Whether an app without a health path is there. 400 and 421 are what a host name of no list gets."""
    return 0 < status < 500 and status not in (400, 421)


@dataclass
class Probe:
    """Which path tells the health of an app, and what counts as well."""

    socket: Path
    domain: str
    path: str  # "" until found
    host: str = ""  # what the proxy sends as Host where that is not the domain

    def get(self, url: str, timeout: float) -> Reply:
        return ask(self.socket, url, self.domain, timeout, self.host)

    def ask(self, timeout: float) -> int:
        if self.path:
            return self.get(self.path, timeout).status
        for path in HEALTH_PATHS:
            reply = self.get(path, timeout)
            status = reply.status
            if status == 0:
                return 0
            # A single-page app answers every path that it does not know with its page.
            page = reply.body.lstrip()[:1] == "<"
            if status >= 500 or (200 <= status < 300 and not page):
                self.path = path  # it exists; an error is a health path that says no
                return status
        status = self.get("/", timeout).status
        if _serves(status):
            self.path = "/"
        return status

    def good(self, status: int) -> bool:
        return 200 <= status < 300 or (self.path == "/" and _serves(status))

    def routes(self) -> list[str]:
        """Paths that exist, those that sound like health first; empty where the app does not tell."""
        try:
            paths = json.loads(self.get("/openapi.json", 3).body)["paths"]
            known = [path for path, verbs in paths.items() if "get" in verbs and "{" not in path]
        except (ValueError, KeyError, TypeError, AttributeError):
            known = [path for path in HEALTH_PATHS if self.good(self.get(path, 2).status)]
        return sorted(known, key=lambda path: not re.search(r"health|ready|live|ping|status", path))


def probe(socket: Path, app: dict[str, Any], path: str) -> Probe:
    """For a release of this app, under the names that the proxy uses."""
    host = str((app.get("proxy") or {}).get("upstream_host") or "")
    return Probe(socket, str(app["domains"][0]), path, host)


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
            refused = (refused or now) if status in _REFUSALS else 0.0
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
    return reply.status in _REFUSALS and bool(re.search(r"(?i)\bhosts?\b|misdirected", reply.body))


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
    elif status in (400, 421):
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


@dataclass(frozen=True)
class PublicReply:
    """What came through the proxy, with the certificate that it showed."""

    status: int
    release: str = ""
    certificate: bytes = b""


def ask_public(domain: str, path: str, timeout: float, release: str = "") -> PublicReply:
    """One request as the world makes it, but to this machine. OSError or HTTPException without an answer."""
    headers = {"Host": domain, "User-Agent": "berth-verify", "X-Berth-Verify": release}
    connection = _LoopbackHTTPS(domain, timeout)
    try:
        connection.request("GET", path or "/", headers=headers)
        response = connection.getresponse()
        response.read()
        return PublicReply(response.status, response.getheader("X-Berth-Release", ""), connection.certificate)
    finally:
        connection.close()


def open_to_all(probe: Probe, status: int) -> bool:
    """Whether a visitor gets to the app: it is well, or asks who is there."""
    return probe.good(status) or status in (401, 403)


def verify_public(
    domain: str,
    path: str,
    probe: Probe,
    release: str = "",
    limit: float = 10,
    before_is_well: Callable[[], bool] = lambda: True,
) -> str:
    """Through the proxy as the world sees it. Empty when well, a note when it cannot be told.

    The proxy may still hold connections to the release before, and each answers once more. So it is asked
    until `release` itself answers, where its server can say so. Where the release before is no better (its
    database restarts in this moment), going back helps nobody, and there is time to wait.
    """
    began = time.monotonic()
    deadline = began + limit
    said = ""
    while True:
        try:
            reply = ask_public(domain, path, 10, release)
            itself = not release or reply.release == release
            if open_to_all(probe, reply.status):
                if itself or reply.status >= 400 or time.monotonic() >= began + 3:
                    return ""
                continue
            said = f"https://{domain}{path or '/'} answers {reply.status}"
            # Everybody gets this answer now, so there is no time to be patient.
            if before_is_well():
                deadline = min(deadline, time.monotonic() + (0.2 if release and itself else 1))
        except ssl.SSLError as error:
            if time.monotonic() >= deadline:
                return (
                    f"the proxy has no certificate for {domain} yet ({error.reason or 'TLS alert'}), so the "
                    f"public "
                    "route was not checked"
                )
        except (OSError, http.client.HTTPException) as error:
            said = f"the proxy does not answer on port 443 ({error})"
        if time.monotonic() >= deadline:
            raise ReleaseError(f"The public route failed after the switch: {said}.")
        time.sleep(0.1)
