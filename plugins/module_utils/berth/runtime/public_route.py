"""Asking the live release through the proxy, under its public name, as the world does."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ReleaseError
from .health import Probe


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
                    "public route was not checked"
                )
        except (OSError, http.client.HTTPException) as error:
            said = f"the proxy does not answer on port 443 ({error})"
        if time.monotonic() >= deadline:
            raise ReleaseError(f"The public route failed after the switch: {said}.")
        time.sleep(0.1)
