"""The proxy's sites: filled in and checked, as plain values."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter.proxy import proxy_receipt, proxy_resolve


def site(**changes: Any) -> dict[str, Any]:
    return {
        "name": "board",
        "domains": ["board.test", "www.board.test"],
        "socket": "/srv/board/web.sock",
    } | changes


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
    assert only["headers"]["removed"] == ["Referrer-Policy"]
    assert set(only["headers"]["offered"]) == {"X-Content-Type-Options", "Strict-Transport-Security"}


def test_values_are_plain_whoever_quotes_them() -> None:
    (only,) = proxy_resolve([site(headers={"Report-To": '{"group": "a"}', "X-Y": 7}, max_body="64KiB")])
    assert only["headers"]["forced"] == {"Report-To": '{"group": "a"}', "X-Y": "7"}
    assert only["headers"]["offered"]["Strict-Transport-Security"] == "max-age=31536000"
    assert only["max_body"] == 65536


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
        ({"headers": {"-X-Y": "z"}}, r"headers: '-X-Y' is not the name of a header"),
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
