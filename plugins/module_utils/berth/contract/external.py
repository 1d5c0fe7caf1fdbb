"""Databases on somebody else's PostgreSQL: `database.host`, and who may make them, `vault.server.postgresql`.

No message of this file contains a secret.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..services import external
from . import names as names
from .files import check_certificate
from .problem import Report, did_you_mean, show
from .spec import ABSENT, Walker
from .vault import below, is_placeholder

_LOCAL = ("localhost", "127.0.0.1", "::1")
# Where Debian's clusters listen.
_OWN = range(5432, 5440)


def check_external(
    report: Report, database: dict[str, Any], path: str, given: Collection[str], inventory_dir: str
) -> None:
    """Check an app's `database.host` and what goes with it; makes the file's path absolute."""
    if not database["host"]:
        for key, default in external.DEFAULTS.items():
            if f"{path}.{key}" in given and database[key] != default:
                report.add(f"{path}.{key}", "has no effect without database.host; write that, or remove it")
        return
    host = database["host"] = names.normal_domain(database["host"]).strip("[]")
    if report.touches(f"{path}.host"):
        return
    if not names.is_host(host) and not names.is_address(host):
        report.add(
            f"{path}.host",
            f'{show("", host)} is not a host name or an address; write it alone, e.g. "db.example.net"',
        )
        return
    names.check_range(report, f"{path}.port", database["port"], 1, 65535, "")
    for key in ("admin", "maintenance_db"):
        if names.check_line(report, f"{path}.{key}", database[key]) and not database[key].strip():
            report.add(f"{path}.{key}", 'is empty; write its name, or leave it out for "postgres"')
    if host in _LOCAL and database["port"] in _OWN:
        report.add(
            f"{path}.host",
            f'"{host}" is this server, which has a PostgreSQL for its apps itself; remove it, or write the '
            "port of your tunnel (none of 5432 to 5439)",
        )
    if database["sslmode"] == "disable" and not _is_private(host):
        report.add(
            f"{path}.sslmode",
            f'"disable" would send every row through other people\'s networks in the clear to {host}; write '
            "verify-full, or the private address of that server as database.host",
        )
    if database["ca"] and not str(database["sslmode"]).startswith("verify"):
        report.add(f"{path}.ca", f"has no effect with sslmode: {database['sslmode']}; remove one of them")
    elif database["ca"]:
        database["ca"] = check_certificate(report, f"{path}.ca", database["ca"], inventory_dir)


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return names.is_private_domain(host)


def _elsewhere(apps: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The database of each app that has one there, and where that stands."""
    for index, app in enumerate(apps):
        database = app["database"]
        if app["state"] != "absent" and external.elsewhere(database):
            yield f"apps[{index}].database", database


def hosts_of(apps: list[dict[str, Any]]) -> dict[str, str]:
    """Each host once, and the entry that names it first."""
    found: dict[str, str] = {}
    for path, database in _elsewhere(apps):
        found.setdefault(database["host"], path)
    return found


def check_hosts(report: Report, apps: list[dict[str, Any]]) -> None:
    """Apps that name one host mean one server, which is reached in one way."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for path, database in _elsewhere(apps):
        other, known = first.setdefault(database["host"], (path, database))
        for key in external.DEFAULTS:
            if database[key] != known[key] and not report.touches(f"{path}.{key}"):
                report.add(
                    f"{path}.{key}",
                    f"is another one than {other}.{key}, and both are of {database['host']}; write the same",
                )


def check_administrators(report: Report, values: object, hosts: Mapping[str, str], walker: Walker) -> None:
    """Check `vault.server.postgresql`: by each of `hosts` the password of who makes databases there."""
    path = "vault.server.postgresql"
    if report.touches(path):
        return
    passwords = below(report, values, path, None, walker)
    for host in passwords:
        if host not in hosts:
            hint = did_you_mean(host, hosts) if hosts else "; remove it"
            report.add(f"{path}.{host}", f"no app's database.host is so{hint}")
    for host, named in hosts.items():
        here = f"{path}.{host}"
        if not report.touches(here) and not report.touches(named):
            _check(report, here, passwords.get(host, ABSENT), f"the password of {named}.admin")


def _check(report: Report, path: str, value: object, wanted: str) -> None:
    if value is ABSENT:
        report.add(path, f"missing; write {wanted} there (ansible-vault edit)")
    elif not isinstance(value, str) or not value.strip():
        report.add(path, f"is not text; write {wanted} in quotes")
    elif not names.is_line(value):
        report.add(path, f"has a line break or another control character; write {wanted} in one line")
    elif is_placeholder(value):
        report.add(path, f"is a placeholder; write {wanted}")
