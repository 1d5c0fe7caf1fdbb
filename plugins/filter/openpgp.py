# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Whose key an armored OpenPGP text is, told without gpg: a bare server has none."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator

_ARMOR = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*?\n(?:[A-Za-z]+: .*\n)*\s*\n(?P<body>[A-Za-z0-9+/=\s]+?)"
    r"\n=[A-Za-z0-9+/]{4}\s*\n-----END PGP PUBLIC KEY BLOCK-----"
)
_PUBLIC_KEY = 6


def openpgp_fingerprints(text: str) -> list[str]:
    """Fingerprints of all primary keys of a text, upper case; none where it is no armored key.

    apt trusts every key of a file, so all of them count. Subkeys do not: they are worth what their primary
    key's signature over them is, which apt itself checks.
    """
    try:
        return [
            hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
            .hexdigest()
            .upper()
            if body[:1] == b"\x04"
            else f"version {body[0]}"
            for block in _ARMOR.finditer(f"{text.strip()}\n")
            for tag, body in _packets(base64.b64decode(re.sub(r"\s", "", block["body"]), validate=True))
            if tag == _PUBLIC_KEY
        ]
    except (IndexError, binascii.Error):
        return []


def _packets(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each packet (RFC 9580, 4.2); lengths that no key has end it."""
    at = 0
    while at < len(raw):
        head = raw[at]
        if head & 0xC0 == 0xC0:
            tag, first = head & 0x3F, raw[at + 1]
            if first < 192:
                size, at = first, at + 2
            elif first < 224:
                size, at = ((first - 192) << 8) + raw[at + 2] + 192, at + 3
            else:
                size, at = int.from_bytes(raw[at + 2 : at + 6], "big"), at + 6
        else:
            tag, octets = (head & 0x3C) >> 2, 1 << (head & 0x03)
            if octets == 8 or not head & 0x80:
                raise IndexError
            size, at = int.from_bytes(raw[at + 1 : at + 1 + octets], "big"), at + 1 + octets
        if at + size > len(raw):
            raise IndexError
        yield tag, raw[at : at + size]
        at += size


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Names as used in templates."""
        return {"openpgp_fingerprints": openpgp_fingerprints}
