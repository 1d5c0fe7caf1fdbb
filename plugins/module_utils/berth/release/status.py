"""What runs on this server, app by app. Reads only, needs no lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import command, gate, lock, prune, redis, settings, units
from .journal import read_record
from .paths import APP, Paths


def names(wanted: list[str]) -> list[str]:
    """The given apps, or every app that ever was deployed here."""
    if wanted:
        return wanted
    states = Path("/var/lib/berth").glob("*")
    return sorted(
        path.name for path in states if APP.fullmatch(path.name) and (path / "journal.jsonl").exists()
    )


def describe(paths: Paths) -> dict[str, Any]:
    live = prune.live_release(paths)
    record = read_record(paths.release(live)) if live else {}
    if not record:
        return {"app": paths.app, "release": "", "health": "not deployed", "previous": []}
    app = record["app"]
    web = units.web(paths.app, live)
    beside = units.beside_web(app, live)
    own_redis = redis.Redis(paths.app).unit if (app.get("redis") or {}).get("enabled") else ""
    states = units.states([web, *beside, *filter(None, [own_redis])])
    probe = gate.probe(
        paths.socket(live), settings.served(paths, app, live), record.get("health_path") or "/"
    )
    code = probe.ask(5)
    releases = prune.list_releases(paths)
    size = command.run(["du", "-sxk", str(paths.base)], timeout=30).out.split()
    return {
        "app": paths.app,
        "release": live,
        "version": record.get("version", ""),
        "age": lock.age(record.get("live_since", "")),
        "live_since": record.get("live_since", ""),
        "health": "well" if probe.good(code) else (f"answers {code}" if code else "does not answer"),
        "web": states.get(web, "unknown"),
        "processes": {name.split("@")[0].removeprefix(f"{paths.app}-"): states[name] for name in beside},
        "redis": states[own_redis] if own_redis else "",
        "url": f"https://{probe.domain}",
        "schema": (record.get("schema") or {}).get("to", ""),
        "disk_mb": round(int(size[0]) / 1024) if size else 0,
        "previous": prune.candidates(releases, live),
        "retiring": [
            name for name in releases
            if name != live and units.states([units.web(paths.app, name)]).popitem()[1] == "active"
        ],
    }  # fmt: skip


def table(apps: list[dict[str, Any]]) -> str:
    """The same for people: one line an app, columns as wide as they must be."""
    head = ["APP", "RELEASE", "LIVE FOR", "HEALTH", "PROCESSES", "URL", "DISK", "BEFORE"]
    rows = [head]
    for app in apps:
        if not app["release"]:
            rows.append([app["app"], "-", "-", app["health"], "-", "-", "-", "-"])
            continue
        processes = {"web": app["web"], **app["processes"]}
        if app["redis"]:
            processes["Redis"] = app["redis"]
        bad = [f"{name} {state}" for name, state in processes.items() if state != "active"]
        running = ", ".join(bad) or f"{len(processes)} active"
        before = f"{len(app['previous'])} to go back to"
        disk = f"{app['disk_mb']} MB"
        rows.append(
            [app["app"], app["release"], app["age"], app["health"], running, app["url"], disk, before]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
