"""What must hold between apps, and between apps and the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..services import postgresql
from . import names as names
from .external import check_hosts
from .problem import Report, did_you_mean


def check_across(report: Report, server: dict[str, Any], apps: list[dict[str, Any]]) -> None:
    """Check everything that only shows when all apps are looked at together."""
    _app_names(report, server, apps)
    _domains(report, server, apps)
    _databases(report, apps)
    check_hosts(report, apps)
    _checks(report, server["backup"]["checks"], apps)
    _units(report, apps)
    _egress(report, server, apps)


def _app_names(report: Report, server: dict[str, Any], apps: list[dict[str, Any]]) -> None:
    first: dict[str, int] = {}
    for index, app in enumerate(apps):
        name = app["name"]
        if not name:
            continue
        if name in first:
            report.add(
                f"apps[{index}].name", f'"{name}" is the name of apps[{first[name]}] already; write another'
            )
        elif name == server["admin"]["name"]:
            report.add(f"apps[{index}].name", f'"{name}" is the name of server.admin already; write another')
        first.setdefault(name, index)


def _domains(report: Report, server: dict[str, Any], apps: list[dict[str, Any]]) -> None:
    first: dict[str, tuple[str, str]] = {}
    for index, app in enumerate(apps):
        if app["state"] == "absent":
            continue
        for number, domain in enumerate(app["domains"]):
            path = f"apps[{index}].domains[{number}]"
            if report.touches(path):
                continue
            if domain in first:
                name, where = first[domain]
                text = f'"{domain}" belongs to app "{name}" already ({where})'
                report.add(path, f"{text}; a domain belongs to one app, once")
                continue
            first[domain] = (app["name"], path)
            acme = app["proxy"]["tls"] == "acme" and not server["proxy"]["acme_ca"]
            if acme and names.is_private_domain(domain):
                report.add(
                    path,
                    f'"{domain}" can get no public certificate; write "tls: internal" under server.proxy '
                    f"or apps[{index}].proxy, or a public domain",
                )


def _egress(report: Report, server: dict[str, Any], apps: list[dict[str, Any]]) -> None:
    """What is closed to an app is closed by the packet filter."""
    for index, app in enumerate(apps):
        if app["egress"]["policy"] == "listed" and not server["firewall"]["enabled"]:
            report.add(
                f"apps[{index}].egress.policy",
                '"listed" needs the packet filter; write "open", or leave server.firewall.enabled on',
            )


def _databases(report: Report, apps: list[dict[str, Any]]) -> None:
    """Databases and the roles of each share one name space of roles."""
    roles: dict[str, tuple[int, str]] = {}
    for index, app in enumerate(apps):
        database = app["database"]
        if not database["enabled"] or not database["name"]:
            continue
        for kind, role in (
            ("database", database["name"]),
            ("owner role", database["owner"]),
            ("read-only role", postgresql.reader(database)),
        ):
            if role not in roles:
                roles[role] = (index, kind)
                continue
            other, other_kind = roles[role]
            if other == index or apps[other]["name"] == app["name"]:
                continue
            text = f'{kind} "{role}" is the {other_kind} of apps[{other}] already'
            report.add(f"apps[{index}].database.name", f"{text}; set database.name of one of them")
            break


def _checks(report: Report, checks: list[dict[str, Any]], apps: list[dict[str, Any]]) -> None:
    """A drill asks databases of apps."""
    known = {app["name"]: app["database"] for app in apps if app["name"] and app["database"]["enabled"]}
    for index, check in enumerate(checks):
        path, name = f"server.backup.checks[{index}]", check["app"]
        if name and name not in known:
            hint = did_you_mean(name, known) or "; write an app that has one"
            report.add(f"{path}.app", f'there is no app "{name}" with a database{hint}')
        if not check["query"].strip():
            report.add(
                f"{path}.query",
                'is empty; write SQL that answers with true, e.g. "select count(*) > 0 from users"',
            )


def _units(report: Report, apps: list[dict[str, Any]]) -> None:
    """App "a" with process "b-web" and app "a-b" would share the unit a-b-web."""
    units: dict[str, tuple[str, str]] = {}
    for index, app in enumerate(apps):
        if app["state"] == "absent":
            continue
        for kind in ("processes", "jobs"):
            for entry in app[kind]:
                for number in range(1, min(entry.get("instances", 1), 100) + 1):
                    unit = f"{app['name']}-{entry['name']}" + (f"-{number}" if number > 1 else "")
                    owner, label = units.setdefault(unit, (app["name"], f"apps[{index}].{kind}"))
                    if owner != app["name"] and app["name"] and entry["name"]:
                        report.add(
                            f"apps[{index}].{kind}",
                            f'"{entry["name"]}" would share the unit "{unit}" with {label}; '
                            "rename one of them",
                        )


def check_selected(report: Report, selected: object, apps: list[dict[str, Any]]) -> None:
    """`-e app=NAME` names an app of the inventory."""
    known = [app["name"] for app in apps if app["name"]]
    if selected is None or selected == "":
        report.add("app", "is empty; write one app's name, or leave -e app out for all of them")
    elif not isinstance(selected, str):
        report.add("app", "is not a name; write one app's name, e.g. -e app=board")
    elif selected not in known:
        hint = did_you_mean(selected, known) or "; the inventory has no apps"
        report.add("app", f'there is no app "{selected}" in this inventory{hint}')


def check_for_one(report: Report, values: Mapping[str, object], apps: list[dict[str, Any]]) -> None:
    """`-e version` and `-e force` are one app's: another's tag of that name is another's code."""
    known = [app["name"] for app in apps if app["name"]]
    if values.get("app") or len(known) < 2:
        return
    for name in ("version", "force"):
        value = values.get(name)
        if value and str(value).strip().lower() not in ("false", "no", "off", "0"):
            report.add(
                name,
                f"is meant for one app, and this inventory has {', '.join(known)}; name it as well: "
                f"-e app={known[0]}, or berth deploy {known[0]}",
            )
