# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Filters of the role proxy for nginx: values as it takes them, and those that it cannot be told."""

from __future__ import annotations

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

# What is more than a letter to the directives that headers are set and removed with.
_MEANS_MORE = ("$", "*")


def nginx_quote(value: str) -> str:
    """One parameter that means exactly this text, where variables are looked for."""
    text = str(value)
    if not names.is_line(text):
        raise AnsibleFilterError("has a line break or another control character; write it on one line")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "${berth_dollar}") + '"'


def nginx_problems(sites: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of resolved sites cannot be said: a sentence each."""
    return [
        f"proxy_sites[{number}].headers.{name}: nginx takes no {sign} in the name of a header; leave it out"
        for number, site in enumerate(sites)
        for name in (*site["headers"]["forced"], *site["headers"]["removed"])
        for sign in _MEANS_MORE
        if sign in name
    ]


def certified(site: Mapping[str, Any]) -> dict[str, Any]:
    """What `payload/certificates.py` is told of a resolved site."""
    return {
        "name": site["name"],
        "domains": [site["canonical"], *site["aliases"]],
        "acme": site["tls"] == "acme",
    }


def bytes_of(size: str) -> int:
    """A size with its unit, as bytes."""
    if not names.BODY_SIZE.fullmatch(str(size)):
        raise AnsibleFilterError(f"proxy_log_size: {size!r} is not a size; write for example 50MiB")
    return names.body_bytes(str(size))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in tasks and templates."""
        return {
            "bytes_of": bytes_of,
            "certified": certified,
            "nginx_problems": nginx_problems,
            "nginx_quote": nginx_quote,
        }
