"""The contract: from what a user wrote to a typed, complete description of a server and its apps.

Nothing here reads a host or changes anything; the same code runs in the filter and in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .apps import check_app, check_name
from .cross import check_across, check_for_one, check_selected
from .external import hosts_of
from .offsite import check_server_secrets
from .problem import Report
from .server import check_server
from .spec import ABSENT, Spec, Walker, default_of
from .top import OWN, check_names
from .vault import check_vault

# Extra variables that say which app is meant, and what to do with it.
_CHOICES = ("app", "version", "force")
_NO_APPS = 'missing; write your apps as a list in group_vars/all/apps.yml, or "apps: []" for a server without'


@dataclass
class Names:
    """Which variables there are: the inventory's (name → place), -e's, and roles' inputs (name → role)."""

    inventory: Mapping[str, str] = field(default_factory=dict)
    extra: frozenset[str] = frozenset()
    inputs: Callable[[], Mapping[str, str]] = dict


@dataclass
class Contract:
    """What the inventory says, and what is wrong with it. Use `server` and `apps` only if nothing is."""

    server: dict[str, Any]
    apps: list[dict[str, Any]]
    problems: list[str]
    # Names of those that shall not be on the server; they are not among `apps`.
    absent: list[str] = field(default_factory=list)


def resolve(
    spec: Spec,
    values: Mapping[str, Any],
    inventory_dir: str = "",
    names: Names | None = None,
    place: Callable[[object], str] | None = None,
) -> Contract:
    """Check and complete `server` and `apps`, and check `vault` against them."""
    report = Report()
    names = names or Names(dict.fromkeys(values, ""))
    check_names(report, names.inventory, names.extra, names.inputs)
    report.places.update({name: where for name, where in names.inventory.items() if where})
    walker = Walker(report, place)
    top = (*OWN, *_CHOICES)
    written = {name: walker.get(values, name, name) if name in values else ABSENT for name in top}

    server = walker.option(spec["server"], _none_is_absent(written["server"]), "server")
    if _none_is_absent(written["apps"]) is ABSENT:
        if not report.touches("apps"):
            report.add("apps", _NO_APPS)
        apps: list[dict[str, Any]] = []
    else:
        apps = walker.option(spec["apps"], written["apps"], "apps")

    tls = server["proxy"]["tls"]
    check_server(report, server, inventory_dir, walker.given)
    for index, app in enumerate(apps):
        if app["state"] == "absent":
            _leave(report, app, f"apps[{index}]", walker, inventory_dir, tls)
            continue
        check_app(report, app, f"apps[{index}]", walker.given, inventory_dir, tls)
        app["processes"] = [default_of_process(spec) | process for process in app["processes"]]
        app["packages"] = dict(server["python"])
    check_across(report, server, apps)
    if not report.touches("vault"):
        check_vault(report, written["vault"], apps, walker)
        hosts = hosts_of(apps)
        check_server_secrets(report, written["vault"], server["backup"]["offsite"], hosts, walker)
    if written["app"] is not ABSENT and not any(problem.path == "apps" for problem in report.problems):
        check_selected(report, written["app"], apps)
    present = [app for app in apps if app["state"] != "absent"]
    check_for_one(report, {name: written[name] for name in _CHOICES if written[name] is not ABSENT}, present)
    problems = sorted(report.problems, key=lambda problem: _order(problem.path))
    absent = [app["name"] for app in apps if app["state"] == "absent"]
    return Contract(server, present, [str(problem) for problem in problems], absent)


def _leave(
    report: Report, app: dict[str, Any], path: str, walker: Walker, inventory_dir: str, tls: str
) -> None:
    """Of an app that goes, the name says all; what else is written may be as old as it likes."""
    spare = {f"{path}.domains", f"{path}.source"}
    report.problems = [one for one in report.problems if one.path not in spare]
    check_name(report, app["name"], f"{path}.name")
    # What follows from other values, such as the name of its database, which stays.
    check_app(Report(), app, path, walker.given, inventory_dir, tls)


def _order(path: str) -> tuple[int, int]:
    """Messages come in the order of the user's files. Unknown variables first: they may explain others."""
    root = path.split(".")[0].split("[")[0]
    order = (*OWN, *_CHOICES)
    index = re.match(r"apps\[(\d+)\]", path)
    return (order.index(root) + 1 if root in order else 0, int(index[1]) if index else 0)


def default_of_process(spec: Spec) -> dict[str, Any]:
    """A process with nothing but defaults."""
    options = spec["apps"]["options"]["processes"]["options"]
    return {key: default_of(option) for key, option in options.items()}


def _none_is_absent(value: Any) -> Any:
    return ABSENT if value is None else value
