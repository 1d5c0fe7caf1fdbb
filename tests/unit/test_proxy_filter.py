"""The proxy's sites: filled in, checked, quoted."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter.proxy import caddy_quote, larger_than, proxy_receipt, proxy_resolve, size_in_bytes


def site(**changes: Any) -> dict[str, Any]:
    return {
        "name": "board",
        "domains": ["board.test", "www.board.test"],
        "socket": "/srv/board/web.sock",
    } | changes


@pytest.mark.parametrize(
    ("text", "number"),
    [("10MB", 10_000_000), ("1 GiB", 1024**3), ("1.5k", 1500), ("7", 7), ("64KiB", 65536), ("20B", 20)],
)
def test_sizes_mean_what_caddy_means(text: str, number: int) -> None:
    assert size_in_bytes(text) == number


@pytest.mark.parametrize("limit", [0, 1, 9, 10, 99, 100, 1999, 10_000_000, 1_073_741_824, 999_999_999])
def test_larger_numbers_and_no_others_are_matched(limit: int) -> None:
    known = re.compile(larger_than(limit))
    near = {*range(max(0, limit - 120), limit + 120), limit // 2, limit * 2, limit * 10, limit * 11, 10**18}
    for number in near:
        assert bool(known.search(str(number))) == (number > limit), number
        assert bool(known.search(f"00{number}")) == (number > limit), number
    assert not known.search("")
    assert not known.search("many")


@pytest.mark.parametrize("text", ["", "MB", "10 potatoes", "-1MB", "10M iB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        size_in_bytes(text)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("nosniff", "nosniff"),
        ("max-age=31536000; includeSubDomains", '"max-age=31536000; includeSubDomains"'),
        ("default-src 'self'", "\"default-src 'self'\""),
        ('{"group": "a"}', '`\\{"group": "a"}`'),
        ("a # no comment", '"a # no comment"'),
        ("C:\\x", "`C:\\x`"),
    ],
)
def test_values_become_one_token(text: str, token: str) -> None:
    assert caddy_quote(text) == token


@pytest.mark.parametrize("text", ["a\nb", "{$HOME}", 'both " and `', "\x7f"])
def test_values_that_cannot_be_one_token_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        caddy_quote(text)


def test_a_site_gets_every_key() -> None:
    (only,) = proxy_resolve([site()])
    assert only["canonical"] == "board.test"
    assert only["aliases"] == ["www.board.test"]
    assert only["max_body"] == 10_000_000
    assert (only["read_timeout"], only["write_timeout"], only["marks"]) == (60, 60, "")
    assert only["static"] == []


def test_a_header_of_the_user_replaces_the_default_whatever_its_case() -> None:
    (only,) = proxy_resolve([site(headers={"x-frame-options": "DENY", "Referrer-Policy": ""})])
    assert only["headers"]["forced"] == {"x-frame-options": "DENY"}
    assert list(only["headers"]["removed"]) == ["Referrer-Policy"]
    assert set(only["headers"]["offered"]) == {"X-Content-Type-Options", "Strict-Transport-Security"}


def test_no_hsts_for_certificates_of_the_internal_authority() -> None:
    (only,) = proxy_resolve([site(tls="internal")])
    assert "Strict-Transport-Security" not in only["headers"]["offered"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Board App"}, r"proxy_sites\[0\]\.name: 'Board App' is not a name"),
        ({"domains": []}, r"proxy_sites\[0\]\.domains: is empty"),
        ({"domains": ["board.test {"]}, r"domains: 'board.test \{' is not a host name"),
        ({"domains": ["a.test", "a.test"]}, r"domains: a.test is also at proxy_sites\[0\]"),
        ({"socket": "web.sock"}, r"socket: 'web.sock' is not an absolute path; .*/srv/board/web.sock"),
        ({"tls": "off"}, r"tls: 'off' is not acme or internal"),
        ({"max_body": "lots"}, r"max_body: 'lots' is not a size"),
        ({"read_timeout": 0}, r"read_timeout: 0 is not a number of seconds"),
        ({"write_timeout": "soon"}, r"write_timeout: 'soon' is not a number of seconds"),
        ({"headers": {"X Y": "z"}}, r"headers: 'X Y' is not the name of a header"),
        ({"headers": {"X-Y": "a\nb"}}, r"headers\.X-Y: the value has a line break"),
        ({"static": [{"url": "/", "root": "/srv/x"}]}, r"static\[0\]\.url: '/' is not a path"),
        (
            {"static": [{"url": "/s", "root": "/srv/../etc"}]},
            r"static\[0\]\.root: .* is not an absolute folder",
        ),
        ({"marks": "x"}, r"marks: 'x' is not an absolute folder"),
        (
            {"static": [{"url": "/s", "root": "/srv/x", "kept": "/srv/*"}]},
            r"static\[0\]\.kept: .* is not an absolute folder",
        ),
        ({"colour": "red"}, r"proxy_sites\[0\]\.colour: unknown key; a site has domains"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message) as raised:
        proxy_resolve([site(**changes)])
    assert "\n" not in str(raised.value)


def test_two_sites_share_neither_name_nor_domain() -> None:
    with pytest.raises(
        AnsibleFilterError, match=r"proxy_sites\[1\]\.name: board is also at proxy_sites\[0\]"
    ):
        proxy_resolve([site(), site(domains=["other.test"])])
    with pytest.raises(AnsibleFilterError, match=r"proxy_sites\[1\]\.domains: www.board.test is also at"):
        proxy_resolve([site(), site(name="notes", domains=["notes.test", "WWW.board.test"])])


def before(receipt: str, **changes: Any) -> tuple[str, str]:
    """What a releases of earlier names is asked as, and the receipt once that is applied."""
    sites = [site(marks="/srv/board/current/.berth", **changes)]
    (only,) = proxy_resolve(sites, receipt)
    return only["before"], proxy_receipt(sites, receipt)


def test_the_name_from_before_a_change_is_remembered() -> None:
    said, receipt = before("")
    assert said == ""
    said, receipt = before(receipt, domains=["new.test", "board.test"])
    assert said == "board.test"
    # Until the next change: a second run finds nothing to do, and a rollback its name.
    assert before(receipt, domains=["new.test", "board.test"]) == (said, receipt)
    said, receipt = before(receipt, domains=["new.test"], upstream_host="App.internal")
    assert said == "new.test"
    said, receipt = before(receipt, domains=["new.test"])
    assert said == "app.internal"
    assert before("no receipt")[0] == ""
    assert before('{"board": {"host": "evil {"}}')[0] == ""
