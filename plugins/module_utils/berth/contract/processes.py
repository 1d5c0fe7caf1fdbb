"""The processes and jobs of one app, which become units of one name space."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from . import names as names
from .files import in_project
from .problem import Report, show
from .schedule import check_schedule
from .server import check_size

_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
# Threads count as tasks: a worker may use the 40 of the pool for functions without async, and some more.
_TASKS_OF_A_WORKER = 48


def check_processes(
    report: Report, processes: list[dict[str, Any]], path: str, given: Collection[str]
) -> list[dict[str, Any]]:
    """The processes, web first, which is there where it was left out."""
    for index, process in enumerate(processes):
        below = f"{path}[{index}]"
        if report.touches(f"{below}.name"):
            continue
        _unit_name(report, process["name"], f"{below}.name")
        names.check_line(report, f"{below}.command", process["command"])
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
    names.check_range(report, f"{path}.stop_timeout", process["stop_timeout"], 1, names.DAY, "seconds")


def check_job(report: Report, job: dict[str, Any], path: str) -> None:
    """One job: its name, its command and its clock."""
    if not report.touches(f"{path}.name"):
        _unit_name(report, job["name"], f"{path}.name")
        if job["name"] == "web":
            report.add(f"{path}.name", '"web" is the name of the web process; give the job another name')
    if not report.touches(f"{path}.command"):
        if job["command"].strip():
            names.check_line(report, f"{path}.command", job["command"])
        else:
            report.add(
                f"{path}.command", 'is empty; write the command to run, e.g. "python -m board.nightly"'
            )
    if not report.touches(f"{path}.schedule"):
        check_schedule(report, f"{path}.schedule", job["schedule"])
    names.check_range(report, f"{path}.timeout", job["timeout"], 1, 7 * names.DAY, "seconds")
    check_size(report, f"{path}.memory", job["memory"])


def _unit_name(report: Report, name: str, path: str) -> None:
    rule = f'write lower-case letters, digits and dashes, a letter first, e.g. "{names.slug(name)}"'
    names.check_pattern(report, path, name, names.UNIT, rule)


def check_unit_names(report: Report, app: dict[str, Any], path: str) -> None:
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


def check_tasks(report: Report, app: dict[str, Any], path: str, given: Collection[str]) -> None:
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
