"""The same sites give the same Caddyfile: one that differs by a byte reloads Caddy on every server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter.caddy import caddy_problems, caddy_quote, larger_than
from plugins.filter.proxy import proxy_resolve
from tests.support.sites import render

RECORDS = Path(__file__).parent / "records/caddyfile"
HEADERS = {
    "x-frame-options": "DENY",
    "Referrer-Policy": "",
    "X-Powered-By": None,
    "X-Robots-Tag": "noindex",
    "X-Number": 7,
    "Content-Security-Policy": "default-src 'self'; script-src 'none'",
    "Report-To": '{"group": "a", "max_age": 10}',
    "X-Placeholder": "{http.request.uri}",
    "X-Windows": "C:\\x",
    "X-Comment": "a # no comment",
    "X-Backtick": "a `b` c",
    "Permissions-Policy": "geolocation=(), camera=()",
}


def site(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "domains": [f"{name}.test"], "socket": f"/srv/{name}/web.sock", **more}


def static(name: str, url: str, **more: Any) -> dict[str, Any]:
    return {"url": url, "root": f"/srv/{name}/current/.berth/static", **more}


EVERYTHING = [
    site(
        "board",
        domains=["Board.test", "www.board.test", "old.test"],
        marks="/srv/board/current/.berth",
        upstream_host="App.internal",
        headers=HEADERS,
        max_body="1GiB",
        read_timeout=90,
        write_timeout=3600,
        static=[
            static("board", "/static", kept="/srv/board/public", max_age=86400),
            static("board", "/media/a~b/", kept="/srv/board/public", max_age=0),
        ],
    ),
    site(
        "notes",
        tls="internal",
        headers={"X-Robots-Tag": "noindex"},
        domains=["notes.test", "www.notes.test"],
        max_body="1.5MB",
        static=[static("notes", "/assets")],
    ),
    site("shop", marks="/srv/shop/current/.berth", write_timeout="30", upstream_host="shop.internal"),
    site("wiki", tls="", max_body="64KiB", marks="/srv/wiki/current/.berth"),
]
CORPUS: dict[str, dict[str, Any]] = {
    "none": {"sites": []},
    "one": {"sites": [site("board")]},
    "everything": {
        "sites": EVERYTHING,
        "receipt": json.dumps({"board": {"host": "before.test"}, "wiki": {"host": "wiki.test"}}),
        "version": "2.11",
        "proxy_email": "ops@example.com",
        "proxy_acme_ca": "https://acme.example.com/directory",
        "proxy_idle_timeout": 60,
        "proxy_stream_close_delay": 600,
        "proxy_log_size": "10MiB",
        "proxy_log_keep": 2,
        "proxy_log_days": 7,
    },
}


@pytest.mark.parametrize("name", CORPUS)
def test_the_same_sites_give_the_same_file(name: str) -> None:
    assert render(**CORPUS[name]) == (RECORDS / f"{name}.caddyfile").read_text()


def test_each_header_is_offered_for_itself() -> None:
    """Of several in one block Caddy sets all or none: an app that sets one would lose HSTS."""
    text = render(EVERYTHING)
    offered = re.findall(r"^(.*)\?Strict-Transport-Security ", text, re.MULTILINE)
    assert {words.strip() for words in offered} == {"header"}
    assert not re.search(r"^\s+\?", text, re.MULTILINE)


def test_files_are_looked_for_below_their_path_only() -> None:
    """Caddy asks the matchers of a set in any order: beside a path, the look at the disk may come first."""
    for site in render(EVERYTHING).split("\nhttps:// {")[1].split("\n}\n"):
        for found in re.finditer(r"^(\t+)@(?:static|kept)_\d+ \{", site, re.MULTILINE):
            outside = found[1][1:]
            (route,) = re.findall(rf"^{outside}(\S.*) \{{$", site[: found.start()], re.MULTILINE)[-1:]
            assert re.fullmatch(r"route /\S+/\*", route)


def test_the_journal_is_told_no_headers() -> None:
    """Whatever Caddy has to say of a request there, no API key is part of it."""
    (said,) = re.findall(r"^\tlog default \{\n(.*?)^\t\}$", render([]), re.MULTILINE | re.DOTALL)
    assert "exclude http.log.access\n" in said
    assert "request>headers delete\n" in said


@pytest.mark.parametrize("limit", [0, 1, 9, 10, 99, 100, 1999, 10_000_000, 1_073_741_824, 999_999_999])
def test_larger_numbers_and_no_others_are_matched(limit: int) -> None:
    known = re.compile(larger_than(limit))
    near = {*range(max(0, limit - 120), limit + 120), limit // 2, limit * 2, limit * 10, limit * 11, 10**18}
    for number in near:
        assert bool(known.search(str(number))) == (number > limit), number
        assert bool(known.search(f"00{number}")) == (number > limit), number
    assert not known.search("")
    assert not known.search("many")


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
    with pytest.raises(AnsibleFilterError, match=r"^(has|mixes) "):
        caddy_quote(text)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{$HOME}", "the value has {$, which Caddy would replace by one of its environment variables"),
        ('both " and `', "the value mixes a backtick with a double quote, a backslash or a brace"),
    ],
)
def test_what_a_caddyfile_cannot_hold_is_said_where_it_stands(value: str, said: str) -> None:
    sites = proxy_resolve([site("board"), site("notes", headers={"X-Fine": "y", "X-Y": value})])
    (problem,) = caddy_problems(sites)
    assert problem.startswith(f"proxy_sites[1].headers.X-Y: {said}")
    assert caddy_problems(proxy_resolve(EVERYTHING)) == []
