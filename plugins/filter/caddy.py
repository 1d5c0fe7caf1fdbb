# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Filters of the role proxy for Caddy: values as a Caddyfile holds them, and those that it cannot hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

# Ansible ships module_utils to hosts, but does not put this folder where filters could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth.contract import names
else:
    from ansible.module_utils.berth.contract import names

PLAIN = re.compile(r"[A-Za-z0-9_./:@=;,+*-]+")


def caddy_quote(value: str) -> str:
    """One token of a Caddyfile that means exactly this text."""
    text = str(value)
    if not names.is_line(text):
        raise AnsibleFilterError("has a line break or another control character; write it on one line")
    if "{$" in text:
        raise AnsibleFilterError("has {$, which Caddy would replace by one of its environment variables")
    text = text.replace("{", "\\{")
    if PLAIN.fullmatch(text):
        return text
    if '"' not in text and "\\" not in text:
        return f'"{text}"'
    if "`" not in text:
        return f"`{text}`"
    raise AnsibleFilterError(
        "mixes a backtick with a double quote, a backslash or a brace, which a Caddyfile cannot hold"
    )


def larger_than(limit: int) -> str:
    """A regular expression of the whole numbers above this one; Caddy matches it for next to nothing."""
    digits = str(limit)
    more = [f"[1-9][0-9]{{{len(digits)},}}"]
    for at, digit in enumerate(digits):
        if digit != "9":
            rest = len(digits) - at - 1
            more.append(f"{digits[:at]}[{int(digit) + 1}-9]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"^0*({'|'.join(more)})$"


def caddy_problems(sites: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of resolved sites a Caddyfile cannot hold: a sentence each."""
    found = []
    for number, site in enumerate(sites):
        for name, value in site["headers"]["forced"].items():
            try:
                caddy_quote(value)
            except AnsibleFilterError as error:
                found.append(f"proxy_sites[{number}].headers.{name}: the value {error.message}")
    return found


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in tasks and templates."""
        return {"caddy_problems": caddy_problems, "caddy_quote": caddy_quote, "larger_than": larger_than}
