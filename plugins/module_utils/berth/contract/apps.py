"""What must hold for one app beyond its types, and the values that follow from others."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ..environment import REFERENCE, SECRET, app_parts
from ..services import table as services
from . import names as names
from .files import check_folder, in_project, on_controller, overlap
from .problem import Report, show
from .schedule import check_schedule
from .server import check_package, check_size

_SSH_GIT = re.compile(r"ssh://[^\s/]+/\S+|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s/]\S*")
_HOST_KEY = re.compile(r"[^\s#@|][^\s]* (ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( [^\n]*)?")
_HTTPS_GIT = re.compile(r"https://[^\s/]+/\S+")
_FILE_GIT = re.compile(r"file:///\S+")
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_DAY = 86400
_LEAST_REDIS = 16 * 1024**2
# Threads count as tasks: a worker may use the 40 of the pool for functions without async, and some more.
_TASKS_OF_A_WORKER = 48

# Whole numbers: path in the app → lowest, highest, unit.
_RANGES: dict[str, tuple[float, float, str]] = {
    "migrations.lock_timeout": (1, 3600, "seconds"),
    "migrations.lock_retries": (0, 20, ""),
    "migrations.timeout": (1, 7 * _DAY, "seconds"),
    "health.timeout": (1, 3600, "seconds"),
    "health.interval": (0.1, 60, "seconds"),
    "health.successes": (1, 100, ""),
    "health.hold": (0, 600, "seconds"),
    "proxy.read_timeout": (1, _DAY, "seconds"),
    "proxy.write_timeout": (1, _DAY, "seconds"),
    "drain.requests": (0, _DAY, "seconds"),
    "drain.websocket": (0, 7 * _DAY, "seconds"),
    "drain.releases": (1, 100, ""),
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
    _source(report, app["source"], f"{path}.source", given, inventory_dir)
    _python(report, app["python"], f"{path}.python")
    for key in ("python", "migrations"):
        below = f"{path}.{key}.directory"
        app[key]["directory"] = in_project(report, below, app[key]["directory"], top=True)
    for index, line in enumerate(app["build"]):
        _line(report, line, f"{path}.build[{index}]")
        if not line.strip():
            report.add(f"{path}.build[{index}]", 'is empty; write a command, e.g. "npm ci"')
    for index, package in enumerate(app["system_packages"]):
        check_package(report, f"{path}.system_packages[{index}]", package)
    app["processes"] = _processes(report, app["processes"], f"{path}.processes", given)
    for index, job in enumerate(app["jobs"]):
        _job(report, job, f"{path}.jobs[{index}]")
    _unit_names(report, app, path)
    _database(report, app, path)
    _redis(report, app["redis"], f"{path}.redis", given)
    _variables(report, app, path)
    _line(report, app["migrations"]["command"], f"{path}.migrations.command")
    _folders(report, app, path)
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
    _tasks(report, app, f"{path}.limits.tasks", given)


def _tasks(report: Report, app: dict[str, Any], path: str, given: Collection[str]) -> None:
    """As many as web's workers may use; fewer would show under load alone."""
    web, limits = app["processes"][0], app["limits"]
    wrong = report.touches(path) or report.touches(f"{path.removesuffix('limits.tasks')}processes")
    if wrong or web.get("command"):
        return
    workers = int(web.get("workers", 2))
    least = workers * _TASKS_OF_A_WORKER
    if limits["tasks"] >= least:
        return
    if path not in given:
        limits["tasks"] = least
        return
    report.add(
        path,
        f"{limits['tasks']} is too little for {workers} workers of web, each with up to "
        f"{_TASKS_OF_A_WORKER} threads; write {least}, or fewer workers",
    )


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


def _source(
    report: Report, source: dict[str, Any], path: str, given: Collection[str], inventory_dir: str
) -> None:
    source["subdir"] = in_project(report, f"{path}.subdir", source["subdir"], top=True)
    if source["git"]:
        _git(report, source, path)
        return
    for key in ("version", "deploy_key", "host_keys"):
        if f"{path}.{key}" in given and source["path"]:
            report.add(
                f"{path}.{key}", 'has no effect with "path"; remove it, or write "git" instead of "path"'
            )
    if not source["path"]:
        return
    folder = on_controller(report, f"{path}.path", source["path"], inventory_dir)
    if folder is None:
        return
    source["path"] = str(folder)
    if not check_folder(report, f"{path}.path", folder) or not source["subdir"]:
        return
    if not (folder / source["subdir"]).is_dir():
        report.add(f"{path}.subdir", f'"{source["subdir"]}" is not a folder in {folder}')


def _git(report: Report, source: dict[str, Any], path: str) -> None:
    address = source["git"]
    by_ssh = bool(_SSH_GIT.fullmatch(address))
    # An address may carry a token, so it is never repeated.
    if address.startswith("http://"):
        report.add(f"{path}.git", "is not encrypted; write an https:// or ssh address")
    elif re.match(r"https://[^/]*@", address):
        report.add(
            f"{path}.git",
            "contains a user or a token, which would end up in logs; write git@host:owner/repository "
            'and give the key with "deploy_key"',
        )
    elif not (by_ssh or _HTTPS_GIT.fullmatch(address) or _FILE_GIT.fullmatch(address)):
        report.add(
            f"{path}.git",
            "is not the address of a repository; "
            "write https://host/owner/repository or git@host:owner/repository",
        )
    elif source["deploy_key"] and not by_ssh:
        report.add(f"{path}.deploy_key", 'works with ssh alone; write "git: git@host:owner/repository"')
    version = source["version"]
    if version.startswith("-") or ".." in version or not re.fullmatch(r"[A-Za-z0-9._/+@-]+", version):
        report.add(
            f"{path}.version",
            f'{show(path, version)} is not a branch, tag or commit; write e.g. "main" or "v1.4.0"',
        )
    for index, line in enumerate(source["host_keys"]):
        below = f"{path}.host_keys[{index}]"
        if not by_ssh:
            report.add(below, 'works with ssh alone; write "git: git@host:owner/repository"')
        else:
            rule = "write a line of ssh-keyscan: host, kind and key"
            names.check_pattern(report, below, line, _HOST_KEY, rule)
    key = source["deploy_key"]
    if key and not names.VARIABLE.fullmatch(key):
        # Somebody may have put the key itself here.
        report.add(
            f"{path}.deploy_key",
            'is not the name of a secret in vault.<app>; write its name, e.g. "DEPLOY_KEY"',
        )


def _python(report: Report, python: dict[str, Any], path: str) -> None:
    version = python["version"]
    match = re.fullmatch(r"3\.([0-9]{1,2})(\.[0-9]{1,2})?", version)
    if version and (not match or int(match[1]) < 8):
        report.add(f"{path}.version", f'{show(path, version)} is not a Python version; write e.g. "3.12"')
    for key in ("extras", "groups"):
        for index, value in enumerate(python[key]):
            below = f"{path}.{key}[{index}]"
            names.check_pattern(report, below, value, names.EXTRA, "write letters, digits and dashes")


def _processes(
    report: Report, processes: list[dict[str, Any]], path: str, given: Collection[str]
) -> list[dict[str, Any]]:
    for index, process in enumerate(processes):
        below = f"{path}[{index}]"
        if report.touches(f"{below}.name"):
            continue
        _unit_name(report, process["name"], f"{below}.name")
        _line(report, process["command"], f"{below}.command")
        check_size(report, f"{below}.memory", process["memory"])
        if process["name"] == "web":
            _web(report, process, below, given)
        else:
            _other(report, process, below, given)
    web = [process for process in processes if process["name"] == "web"]
    if len(web) > 1:
        second = [index for index, process in enumerate(processes) if process["name"] == "web"][1]
        report.add(f"{path}[{second}].name", 'there is a process "web" already; give this one another name')
    others = [process for process in processes if process["name"] != "web"]
    return [*(web or [_plain_web()]), *others]


def _plain_web() -> dict[str, Any]:
    """Stands for the process that the user left out; the caller's schema fills it in (see `contract`)."""
    return {"name": "web"}


def _web(report: Report, process: dict[str, Any], path: str, given: Collection[str]) -> None:
    if process["app"] and process["command"]:
        report.add(path, "has both app and command; keep one of them")
    if process["app"] and not _ATTRIBUTE.fullmatch(process["app"]):
        report.add(
            f"{path}.app",
            f'{show(path, process["app"])} is not module:attribute; write e.g. "board.main:app"',
        )
    ways = [way for way in ("{fd}", "{socket}") if way in process["command"]]
    if process["command"] and not ways:
        report.add(
            f"{path}.command",
            "does not say where to listen; write {fd} for the number of the socket that is open already, "
            'e.g. "uvicorn board.main:app --fd {fd}", or {socket} for the path of one to make',
        )
    if len(ways) == 2:
        report.add(f"{path}.command", "has both {fd} and {socket}; keep one of them")
    if f"{path}.instances" in given:
        report.add(f"{path}.instances", 'is not for web; write "workers"')
    if f"{path}.stop_timeout" in given:
        report.add(f"{path}.stop_timeout", 'is not for web; write "drain: {requests: 60}" for the app')
    if f"{path}.overlap" in given:
        report.add(f"{path}.overlap", "is not for web, whose releases always overlap; remove it")
    process["directory"] = in_project(report, f"{path}.directory", process["directory"], top=True)
    names.check_range(report, f"{path}.workers", process["workers"], 1, 256, "")


def _other(report: Report, process: dict[str, Any], path: str, given: Collection[str]) -> None:
    if not process["command"] and not report.touches(f"{path}.command"):
        report.add(f"{path}.command", 'missing; write the command to run, e.g. "python -m board.worker"')
    if f"{path}.app" in given:
        report.add(f"{path}.app", 'is for web alone; write "command"')
    if f"{path}.workers" in given:
        report.add(f"{path}.workers", 'is for web alone; write "instances"')
    if f"{path}.directory" in given:
        report.add(
            f"{path}.directory",
            'is for web alone, and the others run where web does; write "cd folder && …" into command',
        )
    process["workers"] = 1
    names.check_range(report, f"{path}.instances", process["instances"], 1, 100, "")
    names.check_range(report, f"{path}.stop_timeout", process["stop_timeout"], 1, _DAY, "seconds")


def _job(report: Report, job: dict[str, Any], path: str) -> None:
    if not report.touches(f"{path}.name"):
        _unit_name(report, job["name"], f"{path}.name")
        if job["name"] == "web":
            report.add(f"{path}.name", '"web" is the name of the web process; give the job another name')
    if not report.touches(f"{path}.command"):
        if job["command"].strip():
            _line(report, job["command"], f"{path}.command")
        else:
            report.add(
                f"{path}.command", 'is empty; write the command to run, e.g. "python -m board.nightly"'
            )
    if not report.touches(f"{path}.schedule"):
        check_schedule(report, f"{path}.schedule", job["schedule"])
    names.check_range(report, f"{path}.timeout", job["timeout"], 1, 7 * _DAY, "seconds")
    check_size(report, f"{path}.memory", job["memory"])


def _unit_name(report: Report, name: str, path: str) -> None:
    rule = f'write lower-case letters, digits and dashes, a letter first, e.g. "{names.slug(name)}"'
    names.check_pattern(report, path, name, names.UNIT, rule)


def _line(report: Report, command: str, path: str) -> None:
    names.check_line(report, path, command)


def _unit_names(report: Report, app: dict[str, Any], path: str) -> None:
    """Processes, their instances and jobs all become units of one name space."""
    taken: dict[str, str] = {}
    for kind in ("processes", "jobs"):
        for entry in app[kind]:
            label = f'{"process" if kind == "processes" else "job"} "{entry["name"]}"'
            if entry["name"] == "web-relay":
                report.add(f"{path}.{kind}", f"{label} has the name of a unit of Berth's own; rename it")
            for number in range(1, min(entry.get("instances", 1), 100) + 1):
                name = entry["name"] if number == 1 else f"{entry['name']}-{number}"
                if not name or name == "web":
                    continue
                if name in taken:
                    what = f"instance {number} of {label}" if number > 1 else label
                    report.add(
                        f"{path}.{kind}",
                        f'{what} and {taken[name]} would share the unit "{name}"; rename one of them',
                    )
                    break
                taken[name] = f"instance {number} of {label}" if number > 1 else label


def _database(report: Report, app: dict[str, Any], path: str) -> None:
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


def _variables(report: Report, app: dict[str, Any], path: str) -> None:
    """Every environment variable has a valid name and one origin."""
    origin: dict[str, str] = {}

    def claim(name: str, where: str, *, plain: bool = True) -> None:
        if not names.VARIABLE.fullmatch(name):
            shown = show("", name) if plain else "the name"
            report.add(
                where,
                f"{shown} is not a name for an environment variable; "
                'write letters, digits and "_", no digit first',
            )
        elif name == "HOME":
            report.add(where, "HOME is set by Berth, to a folder that the app may write; remove it")
        elif name.startswith("BERTH_"):
            report.add(where, f'{name} is one of the names that Berth sets itself ("BERTH_…"); write another')
        elif name in origin:
            report.add(where, f"{name} is set by {origin[name]} as well; keep one of them")
        else:
            origin[name] = where.split(".", 1)[1]

    for name, value in app["env"].items():
        claim(name, f"{path}.env.{name}")
        _env_value(report, app, value, f"{path}.env.{name}")
    for name, value in app["migrations"]["env"].items():
        below = f"{path}.migrations.env.{name}"
        if not names.VARIABLE.fullmatch(name) or name == "HOME" or name.startswith("BERTH_"):
            report.add(
                below, 'is not a name to set; write letters, digits and "_", and neither HOME nor BERTH_…'
            )
        _env_value(report, app, value, below)
    for index, secret in enumerate(app["secrets"]):
        where = f"{path}.secrets[{index}]"
        if not report.touches(f"{where}.name"):
            claim(secret["name"], f"{where}.name", plain=False)
        names.check_range(report, f"{where}.length", secret["length"], 16, 4096, "characters")
    for service in services.of(app):
        for part, name in app[service.key]["variables"].items():
            if name:
                claim(name, f"{path}.{service.key}.variables.{part}")


def _env_value(report: Report, app: dict[str, Any], value: Any, path: str) -> None:
    """A plain value, or a template whose references all exist."""
    if not isinstance(value, dict):
        names.check_value(report, path, value)
        return
    template = value["template"]
    if not names.check_value(report, path, template):
        return
    parts = [f"{one.prefix}.{part}" for one in services.of(app) for part in app[one.key]["variables"]]
    known = [*parts, *app_parts(app)]
    absent = {one.prefix: one for one in services.ALL if not one.used(app)}
    for match in REFERENCE.finditer(template):
        if match.group(0).startswith("$$"):
            continue
        inside = match.group(1).strip()
        secret = SECRET.fullmatch(inside)
        if secret:
            declared = [one["name"] for one in app["secrets"]]
            if secret.group(2) not in declared:
                report.add(
                    path, f"refers to the secret {secret.group(2)}, which is not declared under secrets"
                )
        elif "." in inside and (lacking := absent.get(inside.partition(".")[0])):
            report.add(path, lacking.missing())
        elif inside not in known:
            shown = show("", inside)
            report.add(
                path, f"{shown} is nothing to refer to; write one of {', '.join(known)} or secret('NAME')"
            )


def _folders(report: Report, app: dict[str, Any], path: str) -> None:
    persistent: dict[str, str] = {}
    for index, value in enumerate(app["persistent"]):
        below = f"{path}.persistent[{index}]"
        normal = in_project(report, below, value)
        for other in persistent:
            if normal and overlap(normal, other):
                report.add(below, f'"{normal}" overlaps with "{other}"; keep the outer one alone')
                break
        persistent[normal or value] = below
    app["persistent"] = list(persistent)
    for index, value in enumerate(app["scratch"]):
        below = f"{path}.scratch[{index}]"
        normal = in_project(report, below, value)
        if any(normal and overlap(normal, other) for other in persistent):
            report.add(below, f'"{normal}" is persistent already; keep one of them')
        elif normal and not re.fullmatch(r"[A-Za-z0-9._/@+-]+", normal):
            report.add(below, f"{show(below, value)} is not valid; write letters, digits and ._/@+-")
        app["scratch"][index] = normal or value
    urls: dict[str, str] = {}
    for index, entry in enumerate(app["static"]):
        below = f"{path}.static[{index}]"
        if not report.touches(f"{below}.url"):
            entry["url"] = _static_url(report, entry["url"], f"{below}.url", urls)
        if not report.touches(f"{below}.path"):
            entry["path"] = in_project(report, f"{below}.path", entry["path"])
            kinds = {"persistent": persistent, "scratch": app["scratch"]}
            for kind, folders in kinds.items():
                if not any(entry["path"] and overlap(entry["path"], folder) for folder in folders):
                    continue
                report.add(
                    f"{below}.path",
                    f'"{entry["path"]}" is {kind}, and the proxy must not read what the app writes; '
                    "let the app serve it, or name another folder",
                )
        names.check_range(report, f"{below}.max_age", entry["max_age"], 0, 10 * 365 * _DAY, "seconds")


def _static_url(report: Report, value: str, path: str, urls: dict[str, str]) -> str:
    url = value.rstrip("/") if value.startswith("/") else value
    if value.strip("/") == "" and value:
        report.add(path, '"/" would hide the whole app; write a path below it, e.g. "/static"')
    elif not names.is_url_path(url):
        report.add(path, f'{show(path, value)} is not a path; write e.g. "/static"')
    else:
        for other, where in urls.items():
            if overlap(url, other):
                report.add(
                    path, f'"{url}" overlaps with {where.split(".", 1)[1]} ("{other}"); write another path'
                )
        urls[url] = path
    return url


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
