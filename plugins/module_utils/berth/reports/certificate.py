"""What a certificate says of itself: until when it holds, and who signed it. Nothing is verified.

The proxy's certificates are read as they come over the connection: of one that nobody trusts, the standard
library tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

_COMMON_NAME, _ORGANIZATION = b"\x55\x04\x03", b"\x55\x04\x0a"
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17


@dataclass(frozen=True)
class Certificate:
    begins: datetime
    ends: datetime
    issuer: str
    # Signed by itself, or by the authority of this server's own proxy: no browser trusts it.
    own: bool

    def ends_soon(self, now: datetime) -> bool:
        """Whether it should have been renewed: by then a fortnight is left, or a quarter of a short life."""
        return self.ends - now < min(timedelta(days=14), (self.ends - self.begins) / 4)


def read(der: bytes, authority: str = "") -> Certificate:
    """From its DER bytes; ValueError where they are none. `authority` is how the proxy's own calls itself."""
    try:
        (_, whole), *_ = _parts(der)
        (_, signed), *_ = _parts(whole)
        fields = [field for field in _parts(signed) if field[0] != _VERSION]
        _serial, _algorithm, (_, issuer), (_, validity), (_, subject), *_ = fields
        begins, ends = (_moment(*field) for field in _parts(validity))
    except (ValueError, IndexError) as error:
        raise ValueError(f"no certificate: {error}") from error
    name = _name(issuer)
    own = issuer == subject or bool(authority and name.startswith(authority))
    return Certificate(begins, ends, name, own)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each value that stands here."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("it is cut off")
        yield tag, data[at : at + length]
        at += length


def _moment(tag: int, content: bytes) -> datetime:
    """A UTCTime has no century: from 50 on it is the last one."""
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)


def _name(issuer: bytes) -> str:
    """Its common name, else its organization."""
    found: dict[bytes, str] = {}
    for _, one in _parts(issuer):
        for tag, pair in _parts(one):
            if tag == _SEQUENCE:
                (_, kind), (_, value), *_ = _parts(pair)
                found[kind] = value.decode(errors="replace")
    return found.get(_COMMON_NAME) or found.get(_ORGANIZATION, "")
