"""Limits on what one client may ask: how often it writes, and how much it sends."""

import hashlib
import hmac
import ipaddress
import math
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from board.errors import answer_error
from board.settings import Rate

# The generic cell rate algorithm: one row a client, one statement a write, no window edges, and exact
# over any number of processes, because the row's lock puts them in order.
_TAKE = text(
    """
    INSERT INTO rate_limits AS r (key, used_until) VALUES (:key, clock_timestamp() + :step)
    ON CONFLICT (key) DO UPDATE SET used_until = greatest(r.used_until, clock_timestamp()) + :step
    WHERE greatest(r.used_until, clock_timestamp()) + :step <= clock_timestamp() + :span
    RETURNING key
    """
)
_WAIT = text(
    """
    SELECT extract(epoch FROM used_until + :step - :span - clock_timestamp())
    FROM rate_limits WHERE key = :key
    """
)


class RateLimiter:
    """At most ``rate.events`` writes in a burst, refilled evenly over ``rate.seconds``."""

    def __init__(self, engine: AsyncEngine, rate: Rate | None, secret: bytes) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._rate = rate
        self._secret = secret

    async def take(self, client: str) -> int:
        """Count one write of the client: 0 when it may, else the seconds it has to wait."""
        if self._rate is None:
            return 0
        step = timedelta(seconds=self._rate.seconds / self._rate.events)
        span = timedelta(seconds=self._rate.seconds)
        values = {"key": self._key(client), "step": step, "span": span}
        async with self._engine.connect() as connection:
            if (await connection.execute(_TAKE, values)).first():
                return 0
            return max(1, math.ceil(await connection.scalar(_WAIT, values) or 0))

    def _key(self, client: str) -> str:
        """No address is stored, only a keyed digest of it."""
        return hmac.new(self._secret, f"rate:{network(client)}".encode(), hashlib.sha256).hexdigest()


def network(client: str) -> str:
    """The address for IPv4, its /64 for IPv6: one household has as many addresses there as it likes."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class BodyLimit:
    """Refuses a request body above ``limit`` bytes, announced or not, before it fills memory or disk."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not length.isdigit() or int(length) > self.limit:
            return await answer_error(scope, receive, send, 413, "The request is too large.")
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413, "The request is too large.")
            return message

        await self.app(scope, counted, send)
