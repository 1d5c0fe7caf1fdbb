"""What must hold for one app beyond its types, and the values that follow from others."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ..services import external, pgbouncer
from . import names as names
from .external import check_external
from .files import in_project, overlap
from .folders import check_folders
from .problem import Report, show
from .processes import check_job, check_processes, check_tasks, check_unit_names
from .redeploy import check_redeploy
from .server import check_package, check_size
from .sources import check_source
from .variables import check_variables
from .vault import SERVER

_LEAST_REDIS = 16 * 1024**2

# In place of an app's name (berth restore --go-live all).
EVERY = "all"

# Whole numbers: path in the app → lowest, highest, unit.
_RANGES: dict[str, tuple[float, float, str]] = {
    "migrations.lock_timeout": (1, 3600, "seconds"),
    "migrations.lock_retries": (0, 20, ""),
    "migrations.timeout": (1, 7 * names.DAY, "seconds"),
    "health.timeout": (1, 3600, "seconds"),
    "health.interval": (0.1, 60, "seconds"),
    "health.successes": (1, 100, ""),
    "health.hold": (0, 600, "seconds"),
    "proxy.read_timeout": (1, names.DAY, "seconds"),
    "proxy.write_timeout": (1, names.DAY, "seconds"),
    "drain.requests": (0, names.DAY, "seconds"),
    "drain.websocket": (0, 7 * names.DAY, "seconds"),
    "drain.releases": (1, 100, ""),
    "redeploy.jitter": (0, names.DAY, "seconds"),
    "keep_releases": (2, 100, "(the live one and at least one to go back to)"),
    "limits.tasks": (16, 1_000_000, ""),
    "limits.files": (256, 10_000_000, ""),
}


def check_app(
    report: Report, app: dict[str, Any], path: str, given: Collection[str], inventory_dir: str, tls: str
) -> None:
    """Check one app; fills in what follows from other values."""
    check_name(report, app["name"], f"{path}.name")
    app["domains"] = _domains(report, app["domains"], f"{path}.domains")
    check_source(report, app["source"], f"{path}.source", given, inventory_dir)
    _python(report, app["python"], f"{path}.python")
    for key in ("python", "migrations"):
        below = f"{path}.{key}.directory"
        app[key]["directory"] = in_project(report, below, app[key]["directory"], top=True)
    for index, line in enumerate(app["build"]):
        names.check_line(report, f"{path}.build[{index}]", line)
        if not line.strip():
            report.add(f"{path}.build[{index}]", 'is empty; write a command, e.g. "npm ci"')
    for index, package in enumerate(app["system_packages"]):
        check_package(report, f"{path}.system_packages[{index}]", package)
    app["processes"] = check_processes(report, app["processes"], f"{path}.processes", given)
    for index, job in enumerate(app["jobs"]):
        check_job(report, job, f"{path}.jobs[{index}]")
    check_unit_names(report, app, path)
    _database(report, app, path, given, inventory_dir)
    _pooler(report, app, f"{path}.pooler")
    _redis(report, app["redis"], f"{path}.redis", given)
    check_variables(report, app, path)
    names.check_line(report, f"{path}.migrations.command", app["migrations"]["command"])
    check_folders(report, app, path)
    _health(report, app, path)
    _proxy(report, app["proxy"], f"{path}.proxy", tls)
    if app["limits"]["build_memory"]:
        check_size(report, f"{path}.limits.build_memory", app["limits"]["build_memory"])
    cpu = app["limits"]["cpu"]
    if cpu:
        rule = 'write per cent of one core, e.g. "150%"'
        names.check_pattern(report, f"{path}.limits.cpu", cpu, re.compile(r"[1-9][0-9]{0,5}%"), rule)
    for key, (low, high, unit) in _RANGES.items():
        value: Any = app
        for part in key.split("."):
            value = value[part]
        names.check_range(report, f"{path}.{key}", value, low, high, unit)
    check_tasks(report, app, f"{path}.limits.tasks", given)
    check_redeploy(report, app, f"{path}.redeploy")
    for index, entry in enumerate(app["egress"]["allow"]):
        below = f"{path}.egress.allow[{index}]"
        names.check_network(report, f"{below}.to", entry["to"])
        names.check_range(report, f"{below}.port", entry["port"], 1, 65535, "")


def check_name(report: Report, name: str, path: str) -> None:
    """Check the name of an app."""
    if report.touches(path):
        return
    if not names.APP.fullmatch(name):
        report.add(
            path,
            f"{show(path, name)} is not a valid name; write at most 31 lower-case letters, digits "
            f'and dashes, a letter first, e.g. "{names.slug(name)}"',
        )
    elif name.startswith("berth-"):
        report.add(
            path, f'"{name}" begins like the users and units of Berth; write another, e.g. "{name[6:]}"'
        )
    elif name == SERVER:
        report.add(
            path, f'"{name}" is what the vault calls the server itself; write another, e.g. "{name}-app"'
        )
    elif name == EVERY:
        report.add(path, f'"{name}" is what verbs take for every app; write another, e.g. "{name}-app"')
    elif name in names.SYSTEM_NAMES or name in names.UNIT_FAMILIES or name.startswith("systemd-"):
        report.add(
            path, f'"{name}" is a name that the system uses itself; write another, e.g. "{name[:27]}-app"'
        )


def _domains(report: Report, domains: list[str], path: str) -> list[str]:
    if not domains and not report.touches(path):
        report.add(path, "is empty; write at least one host name, e.g. [board.example.com]")
    result = []
    for index, domain in enumerate(domains):
        valid = names.check_domain(report, f"{path}[{index}]", domain)
        result.append(names.normal_domain(domain) if valid else domain)
    return result


def _python(report: Report, python: dict[str, Any], path: str) -> None:
    version = python["version"]
    match = re.fullmatch(r"3\.([0-9]{1,2})(\.[0-9]{1,2})?", version)
    if version and (not match or int(match[1]) < 8):
        report.add(f"{path}.version", f'{show(path, version)} is not a Python version; write e.g. "3.12"')
    for key in ("extras", "groups"):
        for index, value in enumerate(python[key]):
            below = f"{path}.{key}[{index}]"
            names.check_pattern(report, below, value, names.EXTRA, "write letters, digits and dashes")


def _database(
    report: Report, app: dict[str, Any], path: str, given: Collection[str], inventory_dir: str
) -> None:
    database = app["database"]
    where = f"{path}.database.name"
    if not database["name"]:
        database["name"] = app["name"].replace("-", "_")
        where = f"{path}.name"
    name = database["name"]
    database["owner"] = f"{name}_owner"
    database["user"] = name
    if not database["enabled"]:
        return
    if not report.touches(where):
        fix = "set database.name to another" if where.endswith("].name") else "write another"
        if name.startswith("pg_") or name in names.DATABASE_WORDS:
            report.add(where, f'"{name}" is a word of PostgreSQL\'s own; {fix}, e.g. "{name[:50]}_app"')
        else:
            rule = 'write lower-case letters, digits and "_", at most 57, e.g. "board"'
            names.check_pattern(report, where, name, names.DATABASE, rule)
    for index, extension in enumerate(database["extensions"]):
        below = f"{path}.database.extensions[{index}]"
        names.check_pattern(report, below, extension, names.EXTENSION, 'write e.g. "pg_trgm"')
    rule = 'write e.g. "postgresql+psycopg" (without "://")'
    scheme = re.compile(r"postgres(ql)?(\+[a-z0-9_]+)?")
    names.check_pattern(report, f"{path}.database.scheme", database["scheme"], scheme, rule)
    check_external(report, database, f"{path}.database", given, inventory_dir)


def _pooler(report: Report, app: dict[str, Any], path: str) -> None:
    database = app["database"]
    if not app["pooler"]["enabled"]:
        return
    if not database["enabled"]:
        report.add(
            f"{path}.enabled", "pools connections to a database, and database.enabled is false; remove it"
        )
    elif database["role"] == "owner":
        report.add(
            f"{path}.enabled",
            "is for the runtime role, and database.role is owner, which goes around the pooler; "
            "remove one of them",
        )
    elif external.used(database):
        report.add(
            f"{path}.enabled",
            "pools connections to this server's own PostgreSQL, and database.host is elsewhere; remove it, "
            "and use that one's own pooler, if it has one (docs/your-app.md)",
        )
    elif database["name"] == pgbouncer.CONSOLE:
        report.add(
            f"{path}.enabled",
            f'cannot pool a database "{pgbouncer.CONSOLE}", as PgBouncer calls its own console; set '
            "database.name to another, or remove the pooler",
        )


def _redis(report: Report, redis: dict[str, Any], path: str, given: Collection[str]) -> None:
    below = [key for key in given if key.startswith(f"{path}.")]
    # Written as false it is a decision, and the rest may wait there for another one.
    if below and f"{path}.enabled" not in given:
        report.add(path, 'does nothing without "enabled: true"; write that, or remove it')
    memory = redis["memory"]
    if not memory:
        return
    check_size(report, f"{path}.memory", memory)
    if not report.touches(f"{path}.memory") and names.systemd_bytes(memory) < _LEAST_REDIS:
        report.add(f"{path}.memory", f'{show("", memory)} is too little for Redis; write at least "16M"')


def _health(report: Report, app: dict[str, Any], path: str) -> None:
    value = app["health"]["path"]
    below = f"{path}.health.path"
    if not value:
        return
    if not value.startswith("/"):
        report.add(
            below, f'{show(below, value)} does not begin with a slash; write the path alone, e.g. "/healthz"'
        )
    elif not re.fullmatch(r"/[!-~]*", value) or re.search(r"[\"'\\{}#<>]", value):
        report.add(below, f'{show(below, value)} is not a path; write e.g. "/healthz"')
    else:
        for index, entry in enumerate(app["static"]):
            if entry["url"] and overlap(value.split("?")[0], entry["url"]):
                report.add(
                    below,
                    f'"{value}" lies in static[{index}], so the app would never be asked; write another',
                )
                break


def _proxy(report: Report, proxy: dict[str, Any], path: str, tls: str) -> None:
    proxy["tls"] = proxy["tls"] or tls
    body = proxy["max_body"]
    if body.isdecimal():
        report.add(f"{path}.max_body", f'{show("", body)} has no unit; write e.g. "10MB" (KB, MB or GB)')
    else:
        rule = 'write e.g. "10MB" (KB, MB or GB)'
        names.check_pattern(report, f"{path}.max_body", body, names.BODY_SIZE, rule)
    host = proxy["upstream_host"]
    if host and names.check_domain(report, f"{path}.upstream_host", host):
        proxy["upstream_host"] = names.normal_domain(host)
    for name, value in proxy["headers"].items():
        below = f"{path}.headers.{name}"
        if not names.HEADER.fullmatch(name):
            report.add(below, 'is not a header\'s name; write e.g. "X-Robots-Tag"')
        names.check_line(report, below, value)
