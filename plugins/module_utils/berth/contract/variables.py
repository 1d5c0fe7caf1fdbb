"""The environment variables of one app: from the inventory, from secrets, and of the services it uses."""

from __future__ import annotations

from typing import Any

from ..environment import REFERENCE, SECRET, app_parts
from ..services import table as services
from . import names as names
from .problem import Report, show


def check_variables(report: Report, app: dict[str, Any], path: str) -> None:
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
        for part, name in service.variables(app).items():
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
    parts = [f"{one.prefix}.{part}" for one in services.of(app) for part in one.variables(app)]
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
