"""A rule is checked by one pattern: what the contract takes, roles and `berth init` take too, and no more."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from berth import scaffold
from berth.kit import BerthError
from plugins.filter.base import base_input_problems
from plugins.filter.proxy import proxy_resolve
from plugins.filter.redis import redis_instances
from plugins.module_utils.berth.contract import names
from tests.unit.contract_case import ROOT, problems
from tests.unit.test_base_sentences import INPUTS, KEY

Takes = Callable[[str], bool]


def contract(path: str, **beside: Any) -> Takes:
    """Whether the contract takes a value at this place, or a key where the path ends with a dot."""

    def takes(value: str) -> bool:
        if path.endswith("."):
            return problems({path[:-1]: {value: "x"}, **beside}) == []
        return problems({path: value, **beside}) == []

    return takes


def proxy(key: str) -> Takes:
    """Whether role proxy does."""

    def takes(value: str) -> bool:
        places: dict[str, dict[str, Any]] = {
            "name": {"name": value},
            "domains": {"domains": [value]},
            "max_body": {"max_body": value},
            "headers": {"headers": {value: "x"}},
            "static": {"static": [{"url": value, "root": "/srv/board/public"}]},
        }
        site = {"name": "board", "domains": ["board.example.com"], "socket": "/srv/board/web.sock"}
        try:
            return proxy_resolve([{**site, **places[key]}]) != []
        except AnsibleFilterError:
            return False

    return takes


def redis(key: str) -> Takes:
    """Whether role redis does, on a server with much memory."""

    def takes(value: str) -> bool:
        try:
            return redis_instances([{"name": "board", key: value}], 1 << 30) != []
        except AnsibleFilterError:
            return False

    return takes


def base(key: str, inner: str = "", **beside: Any) -> Takes:
    """Whether role base does."""

    def takes(value: str) -> bool:
        return base_input_problems({**INPUTS, key: {inner: value, **beside} if inner else value}) == []

    return takes


def init(kind: str) -> Takes:
    """Whether `berth init` does."""

    def takes(value: str) -> bool:
        try:
            return scaffold.validate(kind, value) != ""
        except BerthError:
            return False

    return takes


def key_of_base(value: str) -> bool:
    return base_input_problems({**INPUTS, "admin": {"name": "ops", "authorized_keys": [value]}}) == []


ADMIN = {"authorized_keys": [KEY]}
RULES: dict[str, tuple[list[Takes], list[str], list[str]]] = {
    "app": (
        [contract("apps[0].name"), proxy("name"), redis("name"), init("app")],
        ["board", "a", "b-2", "a" * 31],
        ["Board", "2b", "a_b", "a" * 32, "-a"],
    ),
    "host": (
        [contract("apps[0].domains[0]"), proxy("domains"), init("domain")],
        ["board.example.com", "xn--bcher-kva.example.com", f"{'a' * 63}.example.com", "a.b-c.d2.example.com"],
        ["board_.example.com", "a..example.com", "-a.example.com", "a-.example.com", "203.0.113.7",
         f"{'a' * 64}.example.com", ".".join(["abcdefgh"] * 30), "board.example.7"],
    ),
    "body": (
        [contract("apps[0].proxy.max_body"), proxy("max_body")],
        ["10MB", "1.5GB", "64KiB", "1GiB"],
        ["10", "10M", "0MB", "10 MB", "lots", "10mb", "1TB"],
    ),
    "header": (
        [contract("apps[0].proxy.headers."), proxy("headers")],
        ["X-Robots-Tag", "x_y", "Content-Security-Policy"],
        ["X Y", "X:Y", "-X-Y", "+X", "?X", "#X", "`X`", ">X", "X{"],
    ),
    "url": (
        [contract("apps[0].static"), proxy("static")],
        ["/static", "/a/b", "/a@b", "/a+b:c", "/a~b", "/..a"],
        ["static", "/a b", "/a/../b", "/a/./b", "/a*", "/{a}", "/a//b"],
    ),
    "size": (
        [contract("server.journal_max"), base("journal_max")],
        ["500M", "2G", "1.5G"],
        ["500", "lots", "0", "5MB", "-1M"],
    ),
    "memory": (
        [contract("apps[0].redis.memory", **{"apps[0].redis.enabled": True}), redis("memory")],
        ["256M", "1.5G", "16M"],
        ["256", "256MB", "0M", "1M", "lots"],
    ),
    "clock": (
        [contract("server.updates.reboot_at"), base("updates", "reboot_at")],
        ["04:30", "23:59"],
        ["24:00", "4:30", "noon"],
    ),
    "locale": (
        [contract("server.locale"), base("locale")],
        ["C.UTF-8", "de_DE.UTF-8", "de_DE.UTF-8@euro"],
        ["german", "de_DE", "POSIX", "de_DE.ISO-8859-1"],
    ),
    "hostname": (
        [contract("server.hostname"), base("hostname")],
        ["web1", "web-1.example.com", "Web1"],
        ["web_1", "web1.", "a" * 64, "-web"],
    ),
    "user": (
        [contract("server.admin.name", **{"server.admin.authorized_keys": [KEY]}),
         base("admin", "name", **ADMIN)],
        ["ops", "anna_2", "a" * 32],
        ["Ops Team", "2ops", "a" * 33, "_ops", "root"],
    ),
    "key": (
        [contract("server.admin.authorized_keys", **{"server.admin.name": "ops"}), key_of_base],
        [KEY, f'from="10.0.0.0/8" {KEY}', f'no-pty,command="echo a \\" b" {KEY}', KEY.rpartition(" ")[0]],
        # The last ones sshd skips: of a comment, and of words that are no options.
        ["ops.pub", "ssh-ed25519 AAAA ops", KEY[:40], f"# {KEY}", f"my laptop: {KEY}"],
    ),
}  # fmt: skip


def listed(rule: str, takes: Takes) -> Takes:
    """Some values stand in a list or an entry of their own."""
    if rule == "key" and takes is RULES["key"][0][0]:
        return lambda value: problems({"server.admin": {"name": "ops", "authorized_keys": [value]}}) == []
    if rule == "url" and takes is RULES["url"][0][0]:
        return lambda value: problems({"apps[0].static": [{"url": value, "path": "static"}]}) == []
    return takes


@pytest.mark.parametrize("rule", RULES)
def test_who_asks_takes_the_same(rule: str) -> None:
    everybody, good, bad = RULES[rule]
    for number, takes in enumerate(listed(rule, one) for one in everybody):
        said = {value: takes(value) for value in (*good, *bad)}
        assert said == {**dict.fromkeys(good, True), **dict.fromkeys(bad, False)}, number


def patterns(path: Path) -> set[str]:
    """Texts of a file that are patterns of something with letters, and long enough to be one rule."""
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"\[(?!\^)[^\]\s]*a-z[^\]\s]*\][*+{]", node.value)
        and "\n" not in node.value
    }


def test_no_pattern_stands_in_two_files() -> None:
    found = defaultdict(list)
    folders = ("plugins/filter", "plugins/module_utils/berth", "berth")
    for path in (one for folder in folders for one in sorted((ROOT / folder).rglob("*.py"))):
        for pattern in patterns(path):
            found[pattern].append(str(path.relative_to(ROOT)))
    assert {pattern: files for pattern, files in found.items() if len(files) > 1} == {}
    assert names.LABEL.pattern in found


@pytest.mark.parametrize(
    ("text", "number"), [("10MB", 10_000_000), ("1GiB", 1024**3), ("1.5KB", 1500), ("64KiB", 65536)]
)
def test_a_body_is_as_large_as_the_proxy_takes_it_for(text: str, number: int) -> None:
    assert names.body_bytes(text) == number
