"""A load of keep-alive clients that counts every answer which is not exactly right."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import json
import os
import ssl
import statistics
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import websockets.asyncio.client
import websockets.exceptions

from tests.support.pace import patience

Job = Callable[[httpx.AsyncClient], Awaitable[None]]
Window = tuple[float, float]


@dataclasses.dataclass
class Tally:
    """What a load saw."""

    requests: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    seconds: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """(when it began, how long it took) of every good answer."""

    def within(self, windows: Sequence[Window]) -> Tally:
        """The good answers that overlap one of these times, as a tally of their own."""
        near = [
            (began, took)
            for began, took in self.seconds
            if any(began < end and began + took > begin for begin, end in windows)
        ]
        return Tally(len(near), [], near)

    def quantile(self, share: float) -> float:
        """The latency, in milliseconds, that this share of the answers stayed below."""
        ordered = sorted(took for _, took in self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def figures(self) -> str:
        """The middle, the tail and the longest, in milliseconds."""
        return (
            f"{self.requests} requests, p50 {self.quantile(0.5):.1f} ms, p99 {self.quantile(0.99):.1f} ms, "
            f"max {self.quantile(1):.0f} ms"
        )

    def report(self) -> str:
        """One line of figures."""
        took = [t for _, t in self.seconds]
        mean = 1000 * statistics.fmean(took) if took else 0.0
        return (
            f"{self.requests} requests, {len(self.failures)} failed, mean {mean:.1f} ms, "
            f"p50 {self.quantile(0.5):.1f} ms, "
            f"p99 {self.quantile(0.99):.1f} ms, max {self.quantile(1):.0f} ms"
        )


class Load:
    """Clients in a background thread, GET and POST in turns, until stopped.

    Goes to 127.0.0.1 only. Every POST is a new row whose text must come back; every GET must be a 200
    with a whole JSON body. Each client waits `pause` seconds after an answer.
    """

    def __init__(
        self,
        domain: str,
        port: int,
        authority: Path,
        *,
        clients: int = 8,
        http2: bool = False,
        pause: float = 0.0,
    ) -> None:
        self.domain = domain
        self.url = f"https://127.0.0.1:{port}"
        self.context = ssl.create_default_context(cafile=str(authority))
        self.clients = clients
        self.http2 = http2
        self.pause = pause
        self.tally = Tally()
        self.numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    async def _all(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self.clients)))

    async def _client(self, number: int) -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        async with httpx.AsyncClient(
            verify=self.context, http1=not self.http2, http2=self.http2, limits=limits, timeout=30
        ) as client:
            while not self._stop.is_set():
                await self._one(client, number)
                if self.pause:
                    await asyncio.sleep(self.pause)

    async def _one(self, client: httpx.AsyncClient, number: int) -> None:
        serial = next(self.numbers)
        post = serial % 4 == 0
        text = f"load {number}-{serial}"
        began = time.time()
        self.tally.requests += 1
        try:
            request = client.build_request(
                "POST" if post else "GET",
                f"{self.url}/api/posts",
                json={"author": "load", "text": text} if post else None,
                headers={"Host": self.domain},
                extensions={"sni_hostname": self.domain},
            )
            answer = await client.send(request)
            good = answer.status_code == (201 if post else 200)
            if good and post:
                good = answer.json()["text"] == text
            elif good:
                answer.json()
            if not good:
                self.tally.failures.append(f"{request.method} {answer.status_code} {answer.text[:80]!r}")
                return
        except (httpx.HTTPError, ValueError, KeyError) as error:
            self.tally.failures.append(f"{'POST' if post else 'GET'} {type(error).__name__}: {error}")
            return
        self.tally.seconds.append((began, time.time() - began))


@dataclasses.dataclass(frozen=True)
class Answer:
    """One complete and right answer."""

    kind: str
    began: float
    took: float
    mark: str
    """Which version of the app gave it."""

    @property
    def ended(self) -> float:
        """When it was complete."""
        return self.began + self.took


def figures(answers: Sequence[Answer]) -> str:
    """p50, p99 and the longest, in milliseconds."""
    took = sorted(answer.took for answer in answers)
    if not took:
        return "none"
    at = [took[min(len(took) - 1, int(share * len(took)))] * 1000 for share in (0.5, 0.99, 1)]
    return f"{len(took):5d} requests, p50 {at[0]:6.1f} ms, p99 {at[1]:7.1f} ms, max {at[2]:6.0f} ms"


def _within(answers: Sequence[Answer], windows: Sequence[Window], inside: bool) -> list[Answer]:
    """The answers that overlap one of the windows, or those that overlap none."""
    return [a for a in answers if any(a.began < end and a.ended > begin for begin, end in windows) is inside]


class Traffic:
    """All that clients do at once, against `tests/fixtures/loadapp`, through TLS, until stopped.

    Keep-alive clients over HTTP/1.1 and HTTP/2 that read, post, upload and wait for slow answers, WebSockets
    that stay open from the first second to the last, and others that come and go. Nothing is retried. Every
    answer is compared with what it has to be, to the last byte. Goes to 127.0.0.1 only.
    """

    def __init__(
        self,
        domain: str,
        port: int,
        authority: Path,
        *,
        http1: int = 3,
        http2: int = 2,
        slow: int = 6,
        uploads: int = 1,
        sockets: int = 2,
        longest: int = 0,
        pause: float = 0.03,
    ) -> None:
        self.domain = domain
        self.port = port
        self.authority = authority
        self.counts = {"http1": http1, "http2": http2, "slow": slow, "uploads": uploads, "sockets": sockets}
        self.counts["longest"] = longest
        self.pause = pause
        self.sent: Counter[str] = Counter()
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.broken: list[Window] = []
        """When each request that failed had been sent, and when it failed."""
        self.held: dict[str, list[tuple[float, str, int]]] = {}
        """What each WebSocket that stays open heard: (when, version, counter)."""
        self._serials = itertools.count(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        limit = patience(60)
        self._thread.join(timeout=limit)
        if self._thread.is_alive():
            self.failures.append(f"some clients did not come to an end within {limit:.0f} s")

    @property
    def requests(self) -> int:
        """How many were sent, messages over WebSockets included."""
        return sum(self.sent.values())

    def report(self, windows: Sequence[Window]) -> str:
        """Figures of what is fast by nature: while deploys ran against quiet time, and each kind's count."""
        fast = [a for a in self.answers if not a.kind.endswith("slow")]
        # Where a version answers for the first time is where it went live.
        first = {a.mark: a.began for a in sorted(fast, key=lambda a: a.began, reverse=True)}
        switches = [(at - 0.5, at + 0.5) for at in first.values()]
        lines = [f"{self.requests} requests, {len(self.failures)} failures"]
        for name, chosen in (
            ("while deploying", _within(fast, windows, True)),
            ("0.5 s around a switch", _within(fast, switches, True)),
            ("in quiet time", _within(fast, windows, False)),
        ):
            lines.append(f"  {name:22} {figures(chosen)}")
        for kind in sorted(self.sent):
            lines.append(f"  {kind:22} {figures([a for a in self.answers if a.kind == kind])}")
        return "\n".join(lines)

    async def _all(self) -> None:
        work = []
        for _ in range(self.counts["http1"]):
            work.append(self._client([self._mixed("h1")]))
        for _ in range(self.counts["http2"]):
            # Several at once over the one connection that HTTP/2 needs.
            work.append(self._client([self._mixed("h2"), self._mixed("h2")], http2=True))
        for number in range(self.counts["slow"]):
            later = 5 * number / self.counts["slow"]
            version = "h2" if number % 2 else "h1"
            work.append(self._client([self._slow(version, later)], http2=version == "h2"))
        for number in range(self.counts["uploads"]):
            version = "h2" if number % 2 else "h1"
            work.append(self._client([self._upload(version)], http2=version == "h2"))
        for _ in range(self.counts["longest"]):
            work.append(self._client([self._longest()]))
        for number in range(self.counts["sockets"]):
            work.append(self._held_socket(f"ws-{number}"))
        if self.counts["sockets"]:
            work.append(self._short_sockets())
        await asyncio.gather(*work)

    def _context(self) -> ssl.SSLContext:
        # Each client its own: httpx writes the protocols it speaks into it.
        return ssl.create_default_context(cafile=str(self.authority))

    async def _client(self, jobs: list[Job], *, http2: bool = False) -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        async with httpx.AsyncClient(
            verify=self._context(), http1=not http2, http2=http2, limits=limits, timeout=60, trust_env=False
        ) as client:
            await asyncio.gather(*(job(client) for job in jobs))

    async def _ask(
        self,
        client: httpx.AsyncClient,
        kind: str,
        method: str,
        path: str,
        check: Callable[[httpx.Response], str],
        content: bytes | None = None,
    ) -> None:
        """Send one request; `check` returns the version that answered, or raises ValueError."""
        self.sent[kind] += 1
        began = time.time()
        try:
            response = await client.request(
                method,
                f"https://127.0.0.1:{self.port}{path}",
                content=content,
                headers={"Host": self.domain},
                extensions={"sni_hostname": self.domain},
            )
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code} {response.text[:80]!r}")
            mark = check(response)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            clock = time.strftime("%H:%M:%S", time.gmtime(began))
            took = time.time() - began
            self.broken.append((began, began + took))
            self.failures.append(
                f"{clock} {kind} {method} {path} after {took:.2f} s: {type(error).__name__} {error}"
            )
            await asyncio.sleep(0.2)
            return
        self.answers.append(Answer(kind, began, time.time() - began, mark))

    def _mixed(self, version: str) -> Job:
        async def job(client: httpx.AsyncClient) -> None:
            while not self._stop.is_set():
                serial = next(self._serials)
                if serial % 2:
                    size = 200 + serial % 7 * 10_000
                    await self._ask(
                        client, f"{version} GET", "GET", f"/blob/{serial}?size={size}", _is_blob(serial, size)
                    )
                else:
                    body = f"{serial} ".encode() * (1 + serial % 500)
                    await self._ask(client, f"{version} POST", "POST", "/echo", _is_echo(body), body)
                await asyncio.sleep(self.pause)

        return job

    def _slow(self, version: str, later: float) -> Job:
        async def job(client: httpx.AsyncClient) -> None:
            await asyncio.sleep(later)
            while not self._stop.is_set():
                await self._ask(client, f"{version} slow", "GET", "/slow?seconds=5", _is_echo(b"slow"))

        return job

    def _longest(self) -> Job:
        """One request, for longer than the proxy waits to let go of a replaced release."""

        async def job(client: httpx.AsyncClient) -> None:
            await self._ask(client, "longest", "GET", "/slow?seconds=55&most=56", _is_echo(b"slow"))

        return job

    def _upload(self, version: str) -> Job:
        body = os.urandom(1_500_000)

        async def job(client: httpx.AsyncClient) -> None:
            while not self._stop.is_set():
                await self._ask(client, f"{version} upload", "PUT", "/upload", _is_echo(body), body)
                await asyncio.sleep(0.3)

        return job

    def _connect(self) -> websockets.asyncio.client.connect:
        return websockets.asyncio.client.connect(
            f"wss://{self.domain}/ws",
            ssl=self._context(),
            host="127.0.0.1",
            port=self.port,
            proxy=None,
            open_timeout=20,
            close_timeout=10,
        )

    async def _say(self, connection: websockets.asyncio.client.ClientConnection, kind: str, n: int) -> str:
        """One message and its echo; the version that sent it."""
        self.sent[kind] += 1
        text = f"{n}:" + "x" * (n % 300)
        began = time.time()
        await connection.send(text)
        said = json.loads(await asyncio.wait_for(connection.recv(), 20))
        if (said["n"], said["text"]) != (n, text):
            raise ValueError(f"message {n} came back as {said['n']}")
        self.answers.append(Answer(kind, began, time.time() - began, said["mark"]))
        return str(said["mark"])

    async def _held_socket(self, name: str) -> None:
        heard = self.held.setdefault(name, [])
        try:
            async with self._connect() as connection:
                while not self._stop.is_set():
                    n = len(heard) + 1
                    heard.append((time.time(), await self._say(connection, "ws held", n), n))
                    await asyncio.sleep(0.2)
        except (OSError, TimeoutError, ValueError, websockets.exceptions.WebSocketException) as error:
            self.failures.append(f"{name} after {len(heard)} messages: {type(error).__name__} {error}")

    async def _short_sockets(self) -> None:
        while not self._stop.is_set():
            n = 0
            try:
                async with self._connect() as connection:
                    for n in range(1, 11):
                        await self._say(connection, "ws short", n)
                        await asyncio.sleep(0.05)
            except (OSError, TimeoutError, ValueError, websockets.exceptions.WebSocketException) as error:
                self.failures.append(f"a short WebSocket at message {n}: {type(error).__name__} {error}")
                await asyncio.sleep(0.2)


def _is_blob(serial: int, size: int) -> Callable[[httpx.Response], str]:
    def check(response: httpx.Response) -> str:
        wanted = (f"{serial}-" * (size // len(f"{serial}-") + 1))[:size].encode()
        if response.content != wanted:
            raise ValueError(f"{len(response.content)} of {size} bytes, or wrong ones")
        if response.headers["X-Sha256"] != hashlib.sha256(wanted).hexdigest():
            raise ValueError("wrong checksum")
        return str(response.headers["X-Mark"])

    return check


def _is_echo(body: bytes) -> Callable[[httpx.Response], str]:
    checksum = hashlib.sha256(body).hexdigest()

    def check(response: httpx.Response) -> str:
        said = response.json()
        if (said["length"], said["sha256"]) != (len(body), checksum):
            raise ValueError(f"the server got {said['length']} of {len(body)} bytes, or wrong ones")
        if said.get("text", body.decode(errors="replace")) != body.decode(errors="replace"):
            raise ValueError("the echo differs")
        return str(said["mark"])

    return check
