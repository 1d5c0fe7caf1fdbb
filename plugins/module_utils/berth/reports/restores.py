"""A restore to look at: what is asked for and refused, and how it went. Reads only, needs no lock."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

from ..errors import UP, ReleaseError
from ..host import command
from ..paths import APP, Paths
from ..payload import backup, restore
from ..runtime import naming, units
from ..services import external
from ..services.postgresql import AS_SUPERUSER
from ..store import journal, releases
from . import elsewhere, telling

Facts = dict[str, Any]
Finding = tuple[str, str, str, str]

UNIT = naming.distributions("berth-backup-restored")
PROGRAM = Path("/usr/local/lib/berth/restore.py")
_PATIENCE = 150.0
_DROP = "berth restore --drop (restore.yml -e drop=true)"
_NOTHING = "Nothing was changed."


def target(to_time: str, to_release: str, app: str, now: float, root: Path = Path("/")) -> Facts:
    """What somebody wrote, as a request; ReleaseError where it is none."""
    if to_time and to_release:
        raise ReleaseError(f"to_time and to_release are both given; write one of them. {_NOTHING}")
    if to_release:
        return _release(to_release, app, root)
    if app:
        raise ReleaseError(
            f"app goes with to_release; without it all databases are restored, leave it away. {_NOTHING}"
        )
    if to_time in ("", "latest"):
        return dict(restore.LATEST)
    try:
        return restore.to_time(to_time, now)
    except backup.BackupError as error:
        raise ReleaseError(f"to_time: {error}. {_NOTHING}") from None


def _release(name: str, app: str, root: Path) -> Facts:
    ask = "berth releases (releases.yml) shows which releases have one"
    if not app:
        raise ReleaseError(f"to_release: say of which app with --app NAME (-e app=NAME). {_NOTHING}")
    paths = Paths(app, root)
    records = releases.records(paths)
    point = (records.get(name) or {}).get("restore_point") or _of_failed(paths, name)
    if point:
        return restore.to_point(str(point["name"]), telling.seconds(str(point["at"])))
    database = ((records.get(name) or {}).get("app") or {}).get("database") or {}
    if external.used(database):
        text = f"the database of {app} is at {external.where(database)}, so no restore here brings it back"
    elif name in records:
        text = f"release {name} of {app} migrated nothing, so it has no restore point; {ask}"
    else:
        text = f"there is no release {name} of {app} on this server; {ask}"
    raise ReleaseError(f"to_release: {text}. {_NOTHING}")


def _of_failed(paths: Paths, name: str) -> Facts:
    """The point of a deploy that failed, of which the audit alone tells: not later than its beginning."""
    for entry in journal.entries(paths.audit):
        if entry.get("app") == paths.app and entry.get("to") == name and entry.get("restore_point"):
            begun = telling.seconds(entry["at"]) - float(entry.get("seconds") or 0)
            return {"name": entry["restore_point"], "at": backup.stamp(begun)}
    return {}


def plan(to_time: str, to_release: str, app: str, root: Path = Path("/"), place: str = "") -> Facts:
    """What would be restored, as a request and a sentence; ReleaseError where it cannot be."""
    if elsewhere.alone(root):
        raise ReleaseError(elsewhere.INSTEAD)
    if not (root / backup.SETTINGS.relative_to("/")).exists():
        raise ReleaseError(
            "There are no backups on this server, so nothing can be restored: set server.backup.enabled to "
            f"true, and {UP}."
        )
    wanted = target(to_time, to_release, app, time.time(), root)
    if place:
        wanted |= {"from": place, "said": f"{wanted['said']}, from off-site {place}"}
    if not PROGRAM.exists():
        raise ReleaseError(f"An earlier Berth set this server up, which restores nothing; {UP} first.")
    state = units.states([UNIT]).get(UNIT, "unknown")
    if state in ("active", "activating", "deactivating"):
        refuse_second(state, _kept(), wanted)
    done = command.run(_as_owner("plan"), timeout=_PATIENCE, stdin=json.dumps(wanted))
    if done.code != 0:
        said = done.lines[-1] if done.lines else str(done.code)
        raise ReleaseError(f"Nothing can be restored: {said}. {_NOTHING}")
    planned: Facts = json.loads(done.out)
    text = (
        f"Would restore all databases to {wanted['said']}, from backup {planned['backup']}: about "
        f"{planned['need'] // backup.MB} MB in {backup.RESTORED}."
    )
    return {"request": wanted, "said": text}


def refuse_second(state: str, there: Facts, wanted: Facts) -> None:
    """One at a time. One that is at work on the same target is waited for."""
    said = (there.get("request") or {}).get("said", "an unknown moment")
    if state == "activating":
        if there.get("request", {}).get("said") == wanted["said"]:
            return
        text = f"A restore to {said} is at work; wait for it, or end it: {_DROP}."
    else:
        text = f"A restored server stands here already, of {said}{_since(there)}. Drop it first: {_DROP}."
    raise ReleaseError(f"{text} {_NOTHING}")


def _as_owner(verb: str) -> list[str]:
    return [*AS_SUPERUSER, "/usr/bin/python3", "-I", str(PROGRAM), verb]


def _kept() -> Facts:
    """What the program last wrote of itself; it is asked for by its owner, whose file it is."""
    done = command.run([*AS_SUPERUSER, "cat", "/var/lib/berth/backup/restored.json"], timeout=15)
    try:
        found: Facts = json.loads(done.out) if done.code == 0 else {}
    except ValueError:
        found = {}
    return found


def describe(asked: Facts) -> Facts:
    """How the restore went that was asked for; ReleaseError where it did not."""
    made = _kept()
    if not made:
        raise ReleaseError("Nothing was restored: the server does not tell why; berth check-backups may.")
    if asked and made["request"] != asked:
        raise ReleaseError(
            f"Another restore came first, to {made['request']['said']}. Drop it ({_DROP}), and try again."
        )
    if made["problem"]:
        raise ReleaseError(f"Nothing was restored: {made['problem']}. The live server was not touched.")
    return {"answer": made, "table": table(made)}


def judge(found: Facts) -> list[Finding]:
    """A note where a restored server stands, or what a reboot left of one lies there."""
    if not found.get("there"):
        return []
    said = (found.get("request") or {}).get("said", "an unknown moment")
    size = f"it takes {found['takes'] // backup.MB} MB"
    if found.get("unit") == "activating":
        return [("restored", "note", f"a restore to {said} is at work, {size}", "")]
    if found.get("unit") == "active":
        text = f"a restored server of {said} stands here{_since(found)}, {size}"
    else:
        text = f"what was restored of {said} lies here and does not run any more, {size}"
    return [("restored", "note", text, f"{_DROP} removes it")]


def judge_kept(kept: list[Facts]) -> list[Finding]:
    """A note for each database that stays after an exchange."""
    said: list[Finding] = []
    for one in kept:
        # Comments are its owner's to write.
        app = one["app"] if APP.fullmatch(one["app"]) else "APP"
        until = f"was live until {telling.minute(one['at'])}, and is kept" if one["at"] else "is kept"
        what = "is a copy that did not go live" if one["is"] == "copied" else until
        text = f"database {one['name']} {what}; it takes {one['bytes'] // backup.MB} MB"
        said.append(("kept", "note", text, f"berth restore --drop-kept {app} ends it"))
    return said


def _since(found: Facts) -> str:
    return f" since {telling.minute(found['ended'])}" if found.get("ended") else ""


def table(made: Facts) -> str:
    """For people: what came back, how it differs from the live databases, and what to type next."""
    count = len(made["databases"])
    lines = [
        f"Restored all databases to {made['request']['said']}, from backup {made['backup']}: "
        f"{made['bytes'] // backup.MB} MB in {made['seconds']:.0f} s.",
        f"Last commit: {made['last_commit'] or 'none after the backup'}.",
        f"Rows: {made['rows']} in {made['tables']} tables of {count} database{'' if count == 1 else 's'}.",
    ]
    lines += [
        f"Schema of {one['database']}: {one['restored'] or 'no revision'} there, "
        f"{one['live'] or 'no revision'} in the live database."
        for one in made["schemas"]
    ]
    lines += [f"(note) {telling.capital(text)}." for text in made["notes"]]
    if made["differs"]:
        lines += ["", *numbers(made["differs"])]
        if made["more"]:
            lines.append(f"and {made['more']} more tables.")
    elif made["differs"] is not None:
        lines.append("Every table has as many rows as the live one.")
    return "\n".join([*lines, "", *_next(made)])


def numbers(differs: list[Facts]) -> list[str]:
    """The rows of tables, restored and live, as lines of a table."""
    rows = [["TABLE", "RESTORED", "LIVE"]]
    for one in differs:
        counts = ["none" if one[side] is None else str(one[side]) for side in ("restored", "live")]
        rows.append([f"{one['database']}: {one['table']}", *counts])
    return telling.columns(rows)


def standing() -> Facts:
    """How the restored server came to be that stands here; ReleaseError where none does."""
    made = _kept()
    if units.state(UNIT, 20) != "active" or not made or made["problem"]:
        raise ReleaseError(
            f"No restored server stands here; berth restore (restore.yml) makes one. {_NOTHING}"
        )
    return made


def _next(made: Facts) -> list[str]:
    server = f"-h {made['socket']} -p {made['port']}"
    example = next((one for one in made["differs"] or [] if one["restored"]), None)
    names = [name for name in made["databases"] if name != "postgres"] or ["postgres"]
    database = shlex.quote(example["database"] if example else names[0])
    name = shlex.quote(example["quoted"] if example else "TABLE")
    dump = f"sudo -u postgres pg_dump {server} -t {name}"
    into = f"sudo -u postgres psql -1 -v ON_ERROR_STOP=1 {database}"
    rows = f"{dump} --data-only --inserts --on-conflict-do-nothing {database} | {into}"
    whole = f"{dump} {database} | {into}"
    lines = ["Next, on the server. It stands read-only, until it is dropped or the server reboots:"]
    lines.append(f"  look at it              sudo -u postgres psql {server} {database}")
    if example and example["live"] is None:
        lines.append(f"  bring the table back    {whole}")
    else:
        lines += [
            f"  bring lost rows back    {rows}",
            f"  a table that is gone    {whole}",
        ]
    return [*lines, f"  and then                {_DROP}"]
