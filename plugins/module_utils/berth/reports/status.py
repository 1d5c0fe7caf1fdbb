"""What runs on this server and how it is, app by app. Reads only, needs no lock."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..paths import Paths
from ..services import table as services
from ..store import presence
from . import backups, elsewhere, facts, findings, redeploys, telling
from .asking import Questions
from .running import ago


def describe(present: list[str], absent: list[str], only: str = "", root: Path = Path("/")) -> dict[str, Any]:
    """The whole answer: of the apps that the inventory names, those that it does not, and the server.

    `only` is one app's name, and then the answer is about that app, whatever the inventory says of it.
    """
    wanted = dict.fromkeys(present, "present") | dict.fromkeys(absent, "absent")
    questions = Questions()
    if not only:
        lost = questions("Which apps are here", lambda: presence.unnamed(list(wanted), root), [])
        wanted |= dict.fromkeys(lost, "orphan")
    elif only not in wanted:
        wanted = {only: "orphan"}
    else:
        wanted = {only: wanted[only]}
    server = facts.server(root)
    apps, unknown = facts.apps(wanted, root)
    server["unknown"] += questions.unknown + unknown
    return judged(server, apps)


def census(present: list[str], absent: list[str], root: Path = Path("/")) -> dict[str, Any]:
    """Which apps are here that should not be: those to be taken away, and those that nobody names."""
    orphans = presence.unnamed([*present, *absent], root)
    return {
        "changed": False,
        "absent": [name for name in absent if presence.here(Paths(name, root))],
        "orphans": orphans,
        "said": [
            f"{name} is on this server and not in apps.yml: {findings.LEFT_ALONE}; {findings.cure(name)}."
            for name in orphans
        ],
    }


def judged(server: dict[str, Any], apps: list[dict[str, Any]]) -> dict[str, Any]:
    """Facts with what is to be said about them."""
    said = findings.of_server(server)
    bad = any(one["level"] != findings.NOTE for one in said)
    whole = [_judged(app, server) for app in apps]
    well = not bad and all(app["state"] in findings.FINE for app in whole)
    return {
        "state": "well" if well else "sick",
        "server": {"state": "sick" if bad else "well", **server, "findings": said},
        "apps": whole,
    }


def _judged(app: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
    said = findings.of_app(app, server)
    state = findings.state_of(app, said)
    return {"app": app["app"], "state": state, "health": _health(app), **app, "findings": said}


def _health(app: dict[str, Any]) -> str:
    """What the release itself answers."""
    socket = app["socket"]
    if not app["release"]:
        return "unknown" if app["unknown"] else "not deployed"
    if not socket or socket["well"] is None:
        return "unknown"
    if socket["well"]:
        return "well"
    return f"answers {socket['status']}" if socket["status"] else "does not answer"


def table(answer: dict[str, Any]) -> str:
    """The same for people: one line an app, columns as wide as they must be, then one line a finding."""
    rows = [["APP", "STATE", "RELEASE", "LIVE FOR", "PROCESSES", "NEXT JOB", "URL", "SIZE", "BEFORE"]]
    for app in answer["apps"]:
        if not app["release"]:
            rows.append([app["app"], app["state"], *["-"] * 7])
            continue
        size = "-" if app["releases_mb"] is None else f"{app['releases_mb']} MB"
        before = f"{len(app['previous'])} to go back to"
        running, due = _running(app), _due(app["jobs"])
        age, url = app["age"] or "-", app["url"] or "-"
        rows.append([app["app"], app["state"], app["release"], age, running, due, url, size, before])
    lines = telling.columns(rows)
    server, now = answer["server"], time.time()
    saved = [backups.summary(server["backups"], now), elsewhere.summary(server.get("dumps"), now)]
    lines += ["", *filter(None, saved)] if any(saved) else []
    lines += filter(None, [redeploys.summary(app["app"], app.get("redeploy")) for app in answer["apps"]])
    said = [_line("server", one) for one in answer["server"]["findings"]]
    said += [_line(app["app"], one) for app in answer["apps"] for one in app["findings"]]
    return "\n".join([*lines, "", *said] if said else lines)


def verdict(answer: dict[str, Any]) -> str:
    """One sentence on what is not well; empty where all is."""
    bad = [f"{app['app']} is {app['state']}" for app in answer["apps"] if app["state"] not in findings.FINE]
    if answer["server"]["state"] != "well":
        bad.insert(0, "the server is sick")
    return f"Not well: {', '.join(bad)}." if bad else ""


def _line(where: str, one: dict[str, str]) -> str:
    mark = " (note)" if one["level"] == findings.NOTE else ""
    then = f" Next: {one['next']}." if one["next"] else ""
    return f"{where}{mark}: {one['text'].rstrip('.')}.{then}"


def _running(app: dict[str, Any]) -> str:
    states = {one["name"]: one["state"] for one in app["processes"]}
    states |= {job["name"]: job["timer"] for job in app["jobs"]}
    own = {one.program: app[one.name] for one in services.alone(app["app"])}
    states |= {program: state for program, state in own.items() if state}
    bad = [f"{name} {state}" for name, state in states.items() if state != "active"]
    return ", ".join(bad) or (f"{len(states)} active" if states else "-")


def _due(jobs: list[dict[str, Any]]) -> str:
    known = [(job["next"], job["name"]) for job in jobs if job["next"]]
    if not known:
        return "-"
    when, name = min(known)
    return f"{name} in {findings.span(max(0.0, -(ago(when) or 0.0)))}"
