# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Filters of the role proxy: sites filled in and checked, as plain values that any provider can quote."""

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
    from plugins.module_utils.berth.store import proxy
else:
    from ansible.module_utils.berth.contract import names
    from ansible.module_utils.berth.store import proxy

SITE_KEYS = {
    "name",
    "domains",
    "socket",
    "tls",
    "max_body",
    "read_timeout",
    "write_timeout",
    "upstream_host",
    "marks",
    "headers",
    "static",
}
ABSOLUTE = re.compile(r"/[A-Za-z0-9._/@+-]+")

# Set where the app has not said otherwise.
DEFAULT_HEADERS = {
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}
# A browser keeps it for a year, so only for certificates that every browser trusts, and for this host alone.
HSTS = {"Strict-Transport-Security": "max-age=31536000"}


def _refuse(where: str, value: Any, what: str, instead: str) -> AnsibleFilterError:
    return AnsibleFilterError(f"{where}: {value!r} is not {what}; write for example {instead}")


def _headers(given: Mapping[str, Any], tls: str, where: str) -> dict[str, Any]:
    """Headers to set whatever the app says, to set where it says nothing, and to remove."""
    chosen = {str(name): "" if value is None else str(value) for name, value in given.items()}
    for name, value in chosen.items():
        if not names.HEADER.fullmatch(name):
            raise _refuse(where, name, "the name of a header", "X-Robots-Tag")
        if not names.is_line(value):
            raise AnsibleFilterError(
                f"{where}.{name}: the value has a line break or another control character; "
                "write it on one line"
            )
    taken = {name.lower() for name in chosen}
    offered = DEFAULT_HEADERS | (HSTS if tls == "acme" else {})
    return {
        "forced": {name: value for name, value in chosen.items() if value},
        "offered": {name: value for name, value in offered.items() if name.lower() not in taken},
        "removed": [name for name, value in chosen.items() if not value],
    }


def _seconds(value: Any, where: str, example: str, least: int = 1) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < least:
        raise _refuse(where, value, "a number of seconds", example)
    return number


def _static(folder: Mapping[str, Any], where: str) -> dict[str, Any]:
    url, root = str(folder.get("url", "")).rstrip("/"), str(folder.get("root", ""))
    if not names.is_url_path(url):
        raise _refuse(f"{where}.url", folder.get("url", ""), "a path", "/static")
    if not ABSOLUTE.fullmatch(root) or ".." in root.split("/"):
        raise _refuse(f"{where}.root", root, "an absolute folder", "/srv/board/public")
    max_age = _seconds(folder.get("max_age", 86400), f"{where}.max_age", "86400", least=0)
    kept = str(folder.get("kept") or "")
    if kept and (not ABSOLUTE.fullmatch(kept) or ".." in kept.split("/")):
        raise _refuse(f"{where}.kept", kept, "an absolute folder", "/srv/board/public")
    return {"url": url, "root": root, "kept": kept, "max_age": max_age}


def site_host(site: Mapping[str, Any]) -> str:
    """What the app is asked as."""
    return str(site.get("upstream_host") or site["domains"][0]).lower()


def host_before(site: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What an app was asked as before that changed: a release of that time may know no other name."""
    now, then = site_host(site), str(known.get("host", ""))
    before = then if then not in ("", now) else str(known.get("before", ""))
    return before if before != now and names.is_host(before) else ""


def _site(site: Mapping[str, Any], where: str, known: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(site) - SITE_KEYS)
    if unknown:
        raise AnsibleFilterError(
            f"{where}.{unknown[0]}: unknown key; a site has {', '.join(sorted(SITE_KEYS))}"
        )
    name, socket, tls = str(site.get("name", "")), str(site.get("socket", "")), str(site.get("tls") or "acme")
    if not names.APP.fullmatch(name):
        raise _refuse(f"{where}.name", name, "a name (lower-case letters, digits, dashes)", "board")
    if not ABSOLUTE.fullmatch(socket):
        raise _refuse(f"{where}.socket", socket, "an absolute path", f"/srv/{name}/web.sock")
    if tls not in ("acme", "internal"):
        raise _refuse(f"{where}.tls", tls, "acme or internal", "acme")
    domains = [str(domain).lower() for domain in site.get("domains") or []]
    if not domains:
        raise AnsibleFilterError(f"{where}.domains: is empty; write at least one host name")
    for domain in domains:
        if not names.is_host(domain):
            raise _refuse(f"{where}.domains", domain, "a host name", "www.example.com")
    host = str(site.get("upstream_host") or "").lower()
    if host and not names.is_host(host):
        raise _refuse(f"{where}.upstream_host", host, "a host name", "app.internal")
    max_body = str(site.get("max_body", "10MB"))
    if not names.BODY_SIZE.fullmatch(max_body):
        raise _refuse(f"{where}.max_body", max_body, "a size", "10MB (KB, MB, GB, KiB, MiB or GiB)")
    marks = str(site.get("marks") or "")
    if marks and not ABSOLUTE.fullmatch(marks):
        raise _refuse(f"{where}.marks", marks, "an absolute folder", f"/srv/{name}/current/.berth")
    folders = site.get("static") or []
    return {
        "name": name,
        "canonical": domains[0],
        "aliases": domains[1:],
        "socket": socket,
        "tls": tls,
        "max_body": names.body_bytes(max_body),
        "read_timeout": _seconds(site.get("read_timeout", 60), f"{where}.read_timeout", "60"),
        "write_timeout": _seconds(site.get("write_timeout", 60), f"{where}.write_timeout", "60"),
        "upstream_host": host,
        "host": site_host(site),
        "before": host_before(site, known) if marks else "",
        "marks": marks,
        "headers": _headers(site.get("headers") or {}, tls, f"{where}.headers"),
        "static": [_static(folder, f"{where}.static[{number}]") for number, folder in enumerate(folders)],
    }


def proxy_resolve(sites: Sequence[Mapping[str, Any]], receipt: str = "") -> list[dict[str, Any]]:
    """Every site with all its keys, typed; the first thing that is wrong ends it with one sentence.

    ``receipt`` is what `proxy_receipt` wrote when the sites were applied last.
    """
    known = proxy.parse(receipt).sites
    resolved = [
        _site(site, f"proxy_sites[{number}]", known.get(str(site.get("name")), {}))
        for number, site in enumerate(sites)
    ]
    seen: dict[str, str] = {}
    for number, site in enumerate(resolved):
        where = f"proxy_sites[{number}]"
        claims = [
            ("name", site["name"]),
            *(("domains", host) for host in (site["canonical"], *site["aliases"])),
        ]
        for kind, value in claims:
            other = seen.get(f"{kind} {value}")
            if other:
                raise AnsibleFilterError(f"{where}.{kind}: {value} is also at {other}; remove one of them")
            seen[f"{kind} {value}"] = where
    return resolved


def proxy_receipt(
    sites: Sequence[Mapping[str, Any]], receipt: str = "", published: Mapping[str, Any] | None = None
) -> str:
    """What was applied, for whoever asks later: every site as it was given, and what its app is asked as.

    `receipt` is the one before, `published` what the provider's file says of it.
    """
    known = proxy.parse(receipt).sites
    applied = {
        str(site["name"]): {
            **site,
            "host": site_host(site),
            "before": host_before(site, known.get(str(site["name"]), {})),
        }
        for site in sites
    }
    return proxy.written(applied, published or {})


def proxy_former(receipt: str, provider: str) -> dict[str, Any]:
    """What ran before this `provider` was chosen, and where its certificates are; empty where nothing did."""
    applied = proxy.parse(receipt)
    if applied.provider in ("", provider):
        applied = proxy.Applied()
    found = {key: getattr(applied, key) for key in ("program", "group", "certificates")}
    return {**found, "units": list(applied.units)}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in templates."""
        return {"proxy_former": proxy_former, "proxy_receipt": proxy_receipt, "proxy_resolve": proxy_resolve}
