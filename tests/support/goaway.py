"""Clients of HTTP/2 that do what RFC 9113 has them do where a server ends their connection, as browsers do.

A server that says GOAWAY names the last stream that it deals with. Answers up to that one still come, and
what was sent after it is sent again over a new connection, be it a POST. httpx and older curls call either a
failure: they cannot tell what is one, so this speaks in frames.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import hpack
from hyperframe import frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REFUSED_STREAM = 7


class Asked:
    """One POST until its answer is whole. Small, so that no flow control holds it back."""

    def __init__(self, serial: int) -> None:
        self.body = f"number {serial}".encode()
        self.status = ""
        self.answer = b""

    def problem(self) -> str:
        """What is wrong with the answer."""
        if self.status != "200":
            return f"status {self.status} {self.answer[:80]!r}"
        right = json.loads(self.answer)["sha256"] == hashlib.sha256(self.body).hexdigest()
        return "" if right else f"an answer to something else: {self.answer[:80]!r}"


class Connection:
    """One, over which several are asked at once."""

    def __init__(self, domain: str, port: int, context: ssl.SSLContext) -> None:
        self.domain = domain
        plain = socket.create_connection(("127.0.0.1", port), 30)
        self.socket = context.wrap_socket(plain, server_hostname=domain)
        self.pack, self.unpack = hpack.Encoder(), hpack.Decoder()
        self.open: dict[int, Asked] = {}
        self.refused: list[Asked] = []
        self.next = 1
        self.last: int | None = None
        """The last stream that the server deals with, once it has said so."""
        self._rest = b""
        self._headers = b""
        # As much as may come: nothing here is told later that there is room again.
        wide = frame.SettingsFrame(0, settings={frame.SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 30})
        more = frame.WindowUpdateFrame(0, window_increment=1 << 30)
        self._send(PREFACE + wide.serialize() + more.serialize())

    def _send(self, said: bytes) -> None:
        # What the server said before it went has still to be heard.
        with contextlib.suppress(OSError):
            self.socket.sendall(said)

    def ask(self, asked: Asked) -> None:
        stream, self.next = self.next, self.next + 2
        self.open[stream] = asked
        said = ((":method", "POST"), (":scheme", "https"), (":authority", self.domain), (":path", "/echo"))
        headers = frame.HeadersFrame(stream, data=self.pack.encode(said), flags=["END_HEADERS"])
        body = frame.DataFrame(stream, data=asked.body, flags=["END_STREAM"])
        self._send(headers.serialize() + body.serialize())

    def listen(self) -> list[Asked]:
        """What has its whole answer now; OSError where nothing comes any more."""
        said = self.socket.recv(65536)
        if not said:
            raise ConnectionResetError("the connection ended")
        self._rest += said
        whole = []
        while len(self._rest) >= 9:
            one, length = frame.Frame.parse_frame_header(memoryview(self._rest[:9]))
            if len(self._rest) < 9 + length:
                break
            one.parse_body(memoryview(self._rest[9 : 9 + length]))
            self._rest = self._rest[9 + length :]
            whole += self._heard(one)
        return whole

    def _heard(self, one: Any) -> list[Asked]:
        if isinstance(one, frame.SettingsFrame) and "ACK" not in one.flags:
            self._send(frame.SettingsFrame(0, flags=["ACK"]).serialize())
        elif isinstance(one, frame.PingFrame) and "ACK" not in one.flags:
            self._send(frame.PingFrame(0, opaque_data=one.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(one, frame.GoAwayFrame):
            if one.error_code:
                raise ConnectionResetError(f"the server says that this client is wrong: {one!r}")
            self.last = one.last_stream_id
            self.refused += [self.open.pop(stream) for stream in sorted(self.open) if stream > self.last]
        elif isinstance(one, frame.RstStreamFrame) and one.stream_id in self.open:
            if one.error_code != REFUSED_STREAM:
                raise ConnectionResetError(f"the server gave up one request: {one!r}")
            self.refused.append(self.open.pop(one.stream_id))
        elif isinstance(one, (frame.HeadersFrame, frame.ContinuationFrame)):
            self._headers += one.data
            if "END_HEADERS" in one.flags:
                headers = {str(name): str(value) for name, value in self.unpack.decode(self._headers)}
                self._headers = b""
                if one.stream_id in self.open:
                    self.open[one.stream_id].status = headers.get(":status", "")
        elif isinstance(one, frame.DataFrame) and one.stream_id in self.open:
            self.open[one.stream_id].answer += one.data
        if "END_STREAM" in one.flags and one.stream_id in self.open:
            return [self.open.pop(one.stream_id)]
        return []


class Clients:
    """Some of them, in threads, until stopped."""

    def __init__(self, domain: str, port: int, authority: Path, *, clients: int = 4, wide: int = 3) -> None:
        self.domain, self.port, self.wide = domain, port, wide
        self.context = ssl.create_default_context(cafile=str(authority))
        self.context.set_alpn_protocols(["h2"])
        self.answered = 0
        self.again = 0
        """What a server has refused, and got again."""
        self.goodbyes = 0
        self.failures: list[str] = []
        self._serial = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=120)
        if any(thread.is_alive() for thread in self._threads):
            self.failures.append("some clients did not come to an end")

    def report(self) -> str:
        return (
            f"{self.answered} answered, {self.goodbyes} connections ended by GOAWAY, "
            f"{self.again} sent again, {len(self.failures)} failed"
        )

    def _client(self) -> None:
        later: list[Asked] = []
        while later or not self._stop.is_set():
            later = self._connected(later)

    def _connected(self, later: list[Asked]) -> list[Asked]:
        """Over one connection; what is to be sent over another."""
        try:
            connection = Connection(self.domain, self.port, self.context)
        except OSError as error:
            self._fail(f"connecting: {error}", 1)
            return later
        with connection.socket:
            try:
                while connection.last is None and (connection.open or later or not self._stop.is_set()):
                    self._fill(connection, later)
                    if not connection.open:
                        break
                    self._check(connection.listen())
                while connection.open:
                    self._check(connection.listen())
            except OSError as error:
                lost = len(connection.open)
                told = f"GOAWAY {connection.last}" if connection.last is not None else "no GOAWAY"
                if lost or connection.last is None:
                    self._fail(f"{lost} of {connection.next // 2} without an answer, {told}: {error}", lost)
        with self._lock:
            self.goodbyes += connection.last is not None
            self.again += len(connection.refused)
        return later + connection.refused

    def _fill(self, connection: Connection, later: list[Asked]) -> None:
        while len(connection.open) < self.wide and (later or not self._stop.is_set()):
            if not later:
                with self._lock:
                    self._serial += 1
                    later.append(Asked(self._serial))
                time.sleep(0.01)
            connection.ask(later.pop(0))

    def _check(self, whole: list[Asked]) -> None:
        with self._lock:
            self.answered += len(whole)
        for problem in filter(None, (one.problem() for one in whole)):
            self._fail(problem, 1)

    def _fail(self, what: str, count: int) -> None:
        with self._lock:
            clock = time.strftime("%H:%M:%S", time.gmtime())
            self.failures += [f"{clock} {what}"] * max(count, 1)
        time.sleep(0.2)
