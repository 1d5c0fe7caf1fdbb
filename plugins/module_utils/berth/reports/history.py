"""The releases that are here, what became of them, and which of them could be gone back to. Reads only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import venv
from ..diagnosis import cause
from ..errors import ReleaseError
from ..migrations import database, schema
from ..packaging import pythons
from ..paths import Paths
from ..reading import alembic, places
from ..runtime import health, naming, units
from ..store import journal, lock, releases, settings, shapes
from . import telling

RAN = "revisions.json"
_LINES = 20
# Seconds for the database to answer: who goes back does not wait for one that hangs.
_PATIENCE = 5.0
_DEPTH = ("alembic.ini", "*/alembic.ini", "*/*/alembic.ini")


def known_to(release: Path, app: dict[str, Any]) -> dict[str, schema.Revision]:
    """The revisions that a release's files tell of."""
    try:
        project = places.locate(release, app).folder
    except ReleaseError:
        return {}
    wish = app["migrations"]["directory"]
    found = [project / wish] if wish else [alembic.find_ini(project, release)]
    # Which of several a command of the app's own means is not known: the nearest, then.
    found += [ini.parent for pattern in _DEPTH for ini in sorted(project.glob(pattern))]
    for place in found:
        if not place or not alembic.config(place):
            continue
        try:
            here = alembic.read(place, release)
        except ReleaseError:
            continue
        if here.environment.is_dir():
            return schema.read_all(here.revisions())
    return {}


def revisions(paths: Paths, records: dict[str, dict[str, Any]]) -> dict[str, schema.Revision]:
    """Every revision that any release here knows, as the newest of them tells it."""
    known = ran(paths)
    for name in sorted(records):
        for noted in (records[name].get("schema") or {}).get("revisions") or []:
            known[noted["id"]] = schema.noted(noted)
        known.update(known_to(paths.release(name), records[name].get("app") or shapes.NOBODY))
    return known


def ran(paths: Paths) -> dict[str, schema.Revision]:
    """Revisions that were run here, whatever became of the release that brought them."""
    try:
        entries = json.loads((paths.state / RAN).read_text())
        return {entry["id"]: schema.noted(entry) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def remember(paths: Paths, revisions: list[schema.Revision]) -> None:
    """Before they run: the release that brings them may be gone when somebody asks what they did."""
    known = ran(paths)
    now = {**known, **{one.id: one for one in revisions}}
    if now != known:
        text = json.dumps([one.as_dict() for one in now.values()], ensure_ascii=False) + "\n"
        journal.replace_text(paths.state / RAN, text, 0o600)


def rows_since(records: dict[str, dict[str, Any]], target: str) -> str:
    """What the schema does not tell: rows that newer code wrote. Empty where the target has no database."""
    app = records[target].get("app") or shapes.NOBODY
    mine = releases.last_live(records[target])
    later = [record for record in records.values() if releases.last_live(record) > mine]
    since = str(min(later, key=releases.last_live).get("live_since", "")) if later else ""
    if not since or not app["database"]["enabled"]:
        return ""
    moment = since.replace("T", " ")[: len("2026-01-01 00:00")]
    return f"Rows written since {moment} UTC stay, and its code may not be able to read them."


def today(record: dict[str, Any]) -> str:
    """The schema that the database is at: asked, or as the live release left it where it cannot be asked."""
    noted = str((record.get("schema") or {}).get("to", ""))
    app = record.get("app") or shapes.NOBODY
    if not app["database"]["enabled"]:
        return noted
    try:
        asked = database.Database(app).ask(_PATIENCE)
    except (ReleaseError, OSError):
        return noted
    return noted if asked is None else asked


def judge(known: dict[str, schema.Revision], name: str, record: dict[str, Any], now: str) -> schema.Verdict:
    """Whether this release's code can run on the schema of today."""
    made_for = str((record.get("schema") or {}).get("to", ""))
    migrations = record.get("migrations")
    app = record.get("app")
    if app and not app["database"]["enabled"]:
        return schema.Verdict(f"{name} uses no database, so its code does not mind the schema.", True)
    if now or made_for:
        return schema.judge(known, name, made_for, now)
    command = (migrations or {}).get("command", "?")
    if not migrations:
        said = f"{name} was released without migrations: Berth knows nothing of its schema."
    elif migrations.get("digest"):
        said = (
            f"{command} keeps its version somewhere else than in a table alembic_version: only you can tell "
            f"whether the code of {name} runs on today's schema."
        )
    else:
        said = (
            f"The migrations of {name} are a command of its own ({command}): only you can tell whether its "
            "code runs on today's schema."
        )
    return schema.Verdict(said, True)


def describe(paths: Paths) -> dict[str, Any]:
    records = releases.records(paths)
    live = releases.live(paths)
    now = today(records.get(live, {}))
    known = revisions(paths, records)
    states = units.states([naming.web(paths.app, name) for name in records])
    rows = []
    for name in sorted(records, reverse=True):
        record = records[name]
        state = states.get(naming.web(paths.app, name), "")
        row: dict[str, Any] = {
            "release": name,
            "version": record.get("version", ""),
            "created": record.get("created", ""),
            "age": lock.age(record.get("created", "")),
            "by": record.get("by", ""),
            "live_since": record.get("live_since", ""),
            "schema": (record.get("schema") or {}).get("to", ""),
            "restore_point": record.get("restore_point"),
            "live": name == live,
            "withdrawn": record.get("withdrawn", ""),
            "health": _health(paths, name, record, name == live, state),
        }
        if record.get("healthy") and name != live:
            verdict = judge(known, name, record, now)
            row["rollback"] = {"allowed": verdict.safe, "why": verdict.sentence}
            if lost := pythons.gone(venv.of(paths.release(name))):
                row["health"] = f"{lost} is gone"
                row["rollback"] = {
                    "allowed": False,
                    "never": True,
                    "why": f"{name}: {cause.lost(lost, paths.app)}.",
                }
        rows.append(row)
    past = [entry for entry in journal.entries(paths.audit) if entry.get("app") == paths.app]
    return {
        "app": paths.app,
        "live": live,
        "schema": now,
        "previous": releases.previous(records, live),
        "releases": rows,
        "history": past[-_LINES:],
    }


def _health(paths: Paths, name: str, record: dict[str, Any], live: bool, state: str) -> str:
    if live:
        app = settings.served(paths, {"domains": ["localhost"], **record.get("app", {})}, name)
        probe = health.probe(naming.socket(paths, name), app, record.get("health_path") or "/")
        code = probe.ask(5)
        return "well" if probe.good(code) else f"answers {code}" if code else "does not answer"
    if state == "active" and releases.served(record):
        return "ends its work"
    if record.get("withdrawn"):
        return "withdrawn"
    return "was well" if record.get("healthy") else "unfinished"


def table(apps: list[dict[str, Any]]) -> str:
    """The same for people."""
    parts = []
    for app in apps:
        if not app["releases"]:
            parts.append(f"{app['app']}: nothing was released on this server yet.")
            continue
        rows = [["", app["app"].upper(), "AGE", "VERSION", "SCHEMA", "HEALTH", "GO BACK TO IT"]]
        for one in app["releases"]:
            back = "live" if one["live"] else "no"
            if "rollback" in one:
                back = "yes" if one["rollback"]["allowed"] else "only with force"
                back = "no" if one["rollback"].get("never") else back
            mark = "*" if one["live"] else "<" if one["release"] == app["previous"] else ""
            version = one["version"][:12] or "-"
            rows.append(
                [mark, one["release"], one["age"], version, one["schema"] or "-", one["health"], back]
            )
        lines = telling.columns(rows)
        for one in app["releases"]:
            if not one.get("rollback", {}).get("allowed", True):
                lines.append(one["rollback"]["why"])
        for one in app["releases"]:
            if point := one.get("restore_point"):
                at = str(point["at"]).replace("T", " ").rstrip("Z")
                where = f"restore point {point['name']} ({at} UTC, {point['lsn']})"
                lines.append(f"{one['release']} migrated; before it: {where}.")
        if app["history"]:
            lines += ["", f"The last runs ({app['app']}):"]
            lines += telling.columns([_run(entry) for entry in app["history"][-10:]])
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _run(entry: dict[str, Any]) -> list[str]:
    way = f"{entry.get('from') or 'nothing'} -> {entry.get('to') or 'nothing'}"
    seconds = f"{entry['seconds']} s" if "seconds" in entry else ""
    reason = entry.get("reason")
    where = f" in {entry.get('step', '?')}" if reason else ""
    alone = ", by the server alone" if entry.get("alone") else ""
    said = f"{entry.get('result', '')}{where}{alone}" + (f": {reason}" if reason else "")
    return ["", entry.get("at", ""), entry.get("what", ""), way, seconds, entry.get("by", ""), said]
