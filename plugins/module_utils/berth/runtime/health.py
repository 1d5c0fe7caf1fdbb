"""Asking a release over its own socket whether it is well, as the proxy would."""

from __future__ import annotations

import http.client
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
# What a host name of no list gets.
REFUSALS = (400, 421)


class _UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.unix_path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


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
    """Whether an app without a health path is there."""
    return 0 < status < 500 and status not in REFUSALS


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
