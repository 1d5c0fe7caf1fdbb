"""The same sites give the same configuration of nginx, and each of them says what Caddy's says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.module_utils.berth.store import public

from plugins.filter.nginx import bytes_of, certified, nginx_problems, nginx_quote
from plugins.filter.proxy import proxy_resolve
from tests.support.sites import render, variables
from tests.unit.test_caddyfile import CORPUS, EVERYTHING, site

RECORDS = Path(__file__).parent / "records/nginx"


def sites(**more: Any) -> str:
    return render(**{"version": "1.22.1", **more}, provider="nginx")


def server(text: str, name: str) -> str:
    """The part that answers for a canonical host."""
    parts = [
        part
        for part in text.split("\n\tserver {\n")
        if f"server_name {name};" in part and "proxy_pass" in part
    ]
    assert len(parts) == 1
    return parts[0]


@pytest.mark.parametrize("name", CORPUS)
def test_the_same_sites_give_the_same_file(name: str) -> None:
    version = {"everything": "1.26.3"}.get(name, "1.22.1")
    given = {**CORPUS[name], "version": version, "state": {"ipv6": name != "one"}}
    assert sites(**given) == (RECORDS / f"{name}.conf").read_text()


def test_headers_are_added_in_one_place() -> None:
    """One of its own makes a location forget all of the server's."""
    text = sites(sites=EVERYTHING)
    for found in re.finditer(r"(?m)^\t\tlocation .*\{$\n((?:\t\t\t.*\n)*)\t\t\}", text):
        assert "add_header" not in found[1]
        assert "proxy_set_header" not in found[1]
        # The same goes for what happens to errors.
        if "error_page" in found[1]:
            assert "502 503 504 @error;" in found[1], found[0]


def test_nothing_is_asked_twice_that_changes_something() -> None:
    text = sites(sites=EVERYTHING)
    assert "non_idempotent" not in text
    # With a second server to go to, an app would get twice what it dies of.
    for upstream in re.findall(r"upstream \S+ \{\n(.*?)\n\t\}", text, re.DOTALL):
        assert upstream.count("server unix:") == 1


def test_the_journal_is_told_of_no_request() -> None:
    """One that finds no socket is worth `crit` to nginx, with all that was asked for."""
    assert re.findall(r"(?m)^\s*error_log (.*);", sites(sites=EVERYTHING)) == ["stderr alert"]


@pytest.mark.parametrize(("version", "own"), [("1.22.1", False), ("1.25.1", True), ("1.26.3", True)])
def test_http_2_is_switched_on_in_the_words_of_the_version(version: str, own: bool) -> None:
    text = sites(sites=[site("board")], version=version)
    assert ("\thttp2 on;" in text) is own
    assert ("listen 443 ssl http2;" in text) is not own


def test_without_ipv6_nothing_listens_there() -> None:
    assert "[::]" in sites(sites=[site("board")])
    assert "[::]" not in sites(sites=[site("board")], state={"ipv6": False})


def test_brotli_is_spoken_where_it_is_installed() -> None:
    module = variables("vars/nginx.yml")["__proxy_brotli_module"]
    assert "brotli" not in sites(sites=EVERYTHING)
    assert "\tbrotli on;" in sites(sites=EVERYTHING, state={"paths": [module]})


def test_older_files_are_looked_for_in_as_many_releases_as_are_numbered() -> None:
    found = re.findall(r"try_files( /\.[^;]*) @app;", server(sites(sites=EVERYTHING), "board.test"))
    wanted = "".join(f" /.{number}$uri" for number in range(1, public.NUMBERED + 1))
    assert found == [wanted, wanted]


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("nosniff", '"nosniff"'),
        ('{"group": "a"}', r'"{\"group\": \"a\"}"'),
        ("C:\\x", r'"C:\\x"'),
        ("$host; }", '"${berth_dollar}host; }"'),
    ],
)
def test_values_become_one_parameter(text: str, parameter: str) -> None:
    assert nginx_quote(text) == parameter


def test_values_that_cannot_be_one_parameter_are_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="line break"):
        nginx_quote("a\nb")
    with pytest.raises(AnsibleFilterError, match=r"^proxy_log_size: '50' is not a size"):
        bytes_of("50")
    assert bytes_of("50MiB") == 50 << 20


def test_what_nginx_cannot_be_told_is_said_where_it_stands() -> None:
    headers = {"X-Fine": "$y", "X-*": "", "X$": "y"}
    problems = nginx_problems(proxy_resolve([site("board"), site("notes", headers=headers)]))
    assert [problem.split(": ")[0] for problem in problems] == [
        "proxy_sites[1].headers.X$",
        "proxy_sites[1].headers.X-*",
    ]
    assert nginx_problems(proxy_resolve(EVERYTHING)) == []


def test_certificates_are_kept_for_all_names_of_a_site() -> None:
    wanted = [certified(one) for one in proxy_resolve(EVERYTHING)]
    assert wanted[0] == {
        "name": "board",
        "domains": ["board.test", "www.board.test", "old.test"],
        "acme": True,
    }
    assert [one["acme"] for one in wanted] == [True, False, True, True]


def test_the_ports_never_keep_a_process_waiting() -> None:
    """Of two that are woken for one connection the slower one would stand still until the next one comes."""
    unit = (Path(__file__).parents[2] / "roles/proxy/files/nginx/50-berth.conf").read_text()
    assert "\nNonBlocking=yes\n" in unit
