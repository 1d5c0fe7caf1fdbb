# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Filters of the role proxy: sites filled in, checked, and quoted for a Caddyfile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

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
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
DOMAIN = re.compile(r"(?=.{1,253}$)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
ABSOLUTE = re.compile(r"/[A-Za-z0-9._/@+-]+")
URL_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_|~0-9A-Za-z-]+")
SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[KMGT]i?)?B?", re.IGNORECASE)
PLAIN = re.compile(r"[A-Za-z0-9_./:@=;,+*-]+")

# Set where the app has not said otherwise.
DEFAULT_HEADERS = {
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}
# A browser keeps it for a year, so only for certificates that every browser trusts, and for this host alone.
HSTS = {"Strict-Transport-Security": "max-age=31536000"}


def size_in_bytes(value: str) -> int:
    """Bytes of a size as Caddy reads it: MB is a million bytes, MiB is 1024 * 1024."""
    found = SIZE.fullmatch(str(value).strip())
    if not found:
        raise ValueError(f"{value!r} is not a size; write for example 10MB or 1GB")
    unit = (found["unit"] or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    return int(float(found["number"]) * base ** (" KMGT".index(unit[0]) if unit else 0))


def larger_than(limit: int) -> str:
    """A regular expression of the whole numbers above this one; Caddy matches it for next to nothing."""
    digits = str(limit)
    more = [f"[1-9][0-9]{{{len(digits)},}}"]
    for at, digit in enumerate(digits):
        if digit != "9":
            rest = len(digits) - at - 1
            more.append(f"{digits[:at]}[{int(digit) + 1}-9]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"^0*({'|'.join(more)})$"


def caddy_quote(value: str) -> str:
    """One token of a Caddyfile that means exactly this text."""
    text = str(value)
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ValueError("has a line break or another control character; write it on one line")
    if "{$" in text:
        raise ValueError("has {$, which Caddy would replace by one of its environment variables")
    text = text.replace("{", "\\{")
    if PLAIN.fullmatch(text):
        return text
    if '"' not in text and "\\" not in text:
        return f'"{text}"'
    if "`" not in text:
        return f"`{text}`"
    raise ValueError(
        "mixes a backtick with a double quote, a backslash or a brace, which a Caddyfile cannot hold"
    )


def _refuse(where: str, value: Any, what: str, instead: str) -> AnsibleFilterError:
    return AnsibleFilterError(f"{where}: {value!r} is not {what}; write for example {instead}")


def _headers(given: Mapping[str, Any], tls: str, where: str) -> dict[str, dict[str, str]]:
    """Headers to set whatever the app says, to set where it says nothing, and to remove."""
    chosen = {str(name): "" if value is None else str(value) for name, value in given.items()}
    forced: dict[str, str] = {}
    for name, value in chosen.items():
        if not HEADER_NAME.fullmatch(name):
            raise _refuse(where, name, "the name of a header", "X-Robots-Tag")
        if value:
            try:
                forced[name] = caddy_quote(value)
            except ValueError as error:
                raise AnsibleFilterError(f"{where}.{name}: the value {error}") from error
    taken = {name.lower() for name in chosen}
    offered = DEFAULT_HEADERS | (HSTS if tls == "acme" else {})
    return {
        "forced": forced,
        "offered": {name: caddy_quote(value) for name, value in offered.items() if name.lower() not in taken},
        "removed": {name: "" for name, value in chosen.items() if not value},
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
    if not URL_PATH.fullmatch(url):
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
    return before if before != now and DOMAIN.fullmatch(before) else ""


def _site(site: Mapping[str, Any], where: str, known: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(site) - SITE_KEYS)
    if unknown:
        raise AnsibleFilterError(
            f"{where}.{unknown[0]}: unknown key; a site has {', '.join(sorted(SITE_KEYS))}"
        )
    name, socket, tls = str(site.get("name", "")), str(site.get("socket", "")), str(site.get("tls") or "acme")
    if not NAME.fullmatch(name):
        raise _refuse(f"{where}.name", name, "a name (lower-case letters, digits, dashes)", "board")
    if not ABSOLUTE.fullmatch(socket):
        raise _refuse(f"{where}.socket", socket, "an absolute path", f"/srv/{name}/web.sock")
    if tls not in ("acme", "internal"):
        raise _refuse(f"{where}.tls", tls, "acme or internal", "acme")
    domains = [str(domain).lower() for domain in site.get("domains") or []]
    if not domains:
        raise AnsibleFilterError(f"{where}.domains: is empty; write at least one host name")
    for domain in domains:
        if not DOMAIN.fullmatch(domain):
            raise _refuse(f"{where}.domains", domain, "a host name", "www.example.com")
    host = str(site.get("upstream_host") or "").lower()
    if host and not DOMAIN.fullmatch(host):
        raise _refuse(f"{where}.upstream_host", host, "a host name", "app.internal")
    try:
        max_body = size_in_bytes(site.get("max_body", "10MB"))
    except ValueError as error:
        raise AnsibleFilterError(f"{where}.max_body: {error}") from error
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
        "max_body": max_body,
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
    known = _known(receipt)
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


def _known(receipt: str) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(receipt)
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def proxy_receipt(sites: Sequence[Mapping[str, Any]], receipt: str = "") -> str:
    """What was applied, for whoever asks later: every site as it was given, and what its app is asked as."""
    known = _known(receipt)
    applied = {
        str(site["name"]): {
            **site,
            "host": site_host(site),
            "before": host_before(site, known.get(str(site["name"]), {})),
        }
        for site in sites
    }
    return json.dumps(applied, indent=1, sort_keys=True) + "\n"


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in templates."""
        return {"larger_than": larger_than, "proxy_receipt": proxy_receipt, "proxy_resolve": proxy_resolve}
