"""Whose key a text is, told without gpg."""

from __future__ import annotations

import base64

import pytest

from plugins.filter.openpgp import openpgp_fingerprints
from tests.support.kit import ROOT

PGDG = (ROOT / "roles/postgresql/files/apt.postgresql.org.asc").read_text()
# As the PostgreSQL project publishes it.
FINGERPRINT = "B97B0AFCAA1A47F044F244A07FCC7D46ACCC4CF8"


def test_a_key_is_known_by_its_fingerprint() -> None:
    assert openpgp_fingerprints(PGDG) == [FINGERPRINT]
    assert openpgp_fingerprints(PGDG.replace("\n", "\r\n")) == [FINGERPRINT]


def test_a_key_beside_it_does_not_go_unseen() -> None:
    assert openpgp_fingerprints(f"{PGDG}\n{PGDG}") == [FINGERPRINT] * 2
    # A second key behind the first one, in the same block: old and new format, and a version of tomorrow.
    start, _, rest = PGDG.partition("\n\n")
    body, _, end = rest.rpartition("\n=")
    for packet in (b"\x99\x00\x06\x04abcde", b"\xc6\x06\x04abcde", b"\xc6\x06\x06abcde"):
        raw = base64.b64encode(base64.b64decode(body.replace("\n", "")) + packet).decode()
        found = openpgp_fingerprints(f"{start}\n\n{raw}\n={end}")
        assert (len(found), found[0], found[1] != FINGERPRINT) == (2, FINGERPRINT, True)
    assert found[1] == "version 6"


@pytest.mark.parametrize(
    "text", ["", "<html>no such key</html>", PGDG[: len(PGDG) // 2], PGDG.replace("PUBLIC", "PRIVATE")]
)
def test_what_is_no_key_is_nobodys(text: str) -> None:
    assert openpgp_fingerprints(text) == []
