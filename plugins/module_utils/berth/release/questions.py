"""What is answered without the lock, since it changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import IO

from ..errors import ReleaseError
from ..paths import Paths
from ..reports import backups, diff, files, history, recovery, rescues, restores, sessions, status, upgrades
from ..store import presence, redeploys, settings
from . import clocks, upgrade
from . import redeploy as unattended
from .deploy import Answer
from .steps import exchange

Body = IO[bytes] | None


def releases(args: Answer, _body: Body) -> Answer:
    found = [history.describe(Paths(name)) for name in args["apps"] or presence.deployed()]
    return {"changed": False, "apps": found, "table": history.table(found)}


def state(args: Answer, _body: Body) -> Answer:
    answer = status.describe(args["apps"], args.get("absent") or [], args.get("only") or "")
    said = {"table": status.table(answer), "verdict": status.verdict(answer)}
    return {"changed": False, "answer": answer, **said}


def saved(_args: Answer, _body: Body) -> Answer:
    return {"changed": False, **backups.describe()}


def restorable(args: Answer, _body: Body) -> Answer:
    to_time, to_release, app = (str(args.get(key) or "") for key in ("to_time", "to_release", "name"))
    place = str(args.get("place") or "")
    return {"changed": False, **restores.plan(to_time, to_release, app, place=place)}


def restored(args: Answer, _body: Body) -> Answer:
    return {"changed": False, **restores.describe(args.get("request") or {})}


def exchangeable(args: Answer, _body: Body) -> Answer:
    return {"changed": False, **exchange.every(str(args["mode"]))}


def rescuable(args: Answer, _body: Body) -> Answer:
    return {"changed": False, **rescues.plan(str(args.get("wal") or ""), str(args.get("place") or ""))}


def rescued(args: Answer, _body: Body) -> Answer:
    return {"changed": False, **rescues.describe(args["request"])}


def recoverable(_args: Answer, _body: Body) -> Answer:
    return {"changed": False, **recovery.plan()}


def recovered(args: Answer, _body: Body) -> Answer:
    request = args.get("request") or {}
    return {"changed": False, **recovery.describe(str(request.get("verb")), str(request.get("run")))}


def psql(args: Answer, _body: Body) -> Answer:
    role = str(args.get("role") or sessions.ROLES[0])
    command = sessions.psql(args["name"], role, bool(args.get("restored")), bool(args.get("terminal")))
    return {"changed": False, "command": command}


def command(args: Answer, _body: Body) -> Answer:
    job = str(args.get("job") or "")
    return {"changed": False, "command": sessions.command(args["name"], job, bool(args.get("terminal")))}


def follow(args: Answer, _body: Body) -> Answer:
    stems = [str(one).replace("/", "-") for one in args["processes"]]
    return {"changed": False, "command": sessions.follow(stems, int(args["lines"]))}


def secret(args: Answer, _body: Body) -> Answer:
    return {"changed": False, "command": sessions.secret(args["name"], str(args["secret"]))}


def upgradable(args: Answer, _body: Body) -> Answer:
    return {"changed": False, **upgrades.plan(_asked(args))}


def _asked(args: Answer) -> Answer:
    words = {key: str(args.get(key) or "").strip() for key in ("to", "confirm", "inventory")}
    return {**words, "undo": bool(args.get("undo")), "drop_old": bool(args.get("drop_old"))}


def moved(args: Answer, _body: Body) -> Answer:
    """Begins it, where it is not at work already, and waits for its end. It goes on without whoever asked."""
    planned = upgrades.plan(_asked(args))
    if not planned["go"]:
        raise ReleaseError("It was not confirmed. Nothing was changed.")
    if planned["kind"] == "drop":
        return {"changed": True, "said": upgrades.drop(planned["drop"])}
    if planned["kind"] != "wait":
        upgrade.begin(
            planned, str((args.get("holder") or {}).get("user") or "root"), float(args.get("wait") or 0)
        )
    upgrade.wait()
    # What an inventory says that does not fit (after --undo) must not be brought about.
    fits = _asked(args)["inventory"] in ("", str(planned["new"]))
    return {"changed": True, "said": upgrades.describe(_asked(args)["inventory"]), "provision": fits}


def restorable_files(args: Answer, _body: Body) -> Answer:
    name, to_time, place = (str(args.get(key) or "") for key in ("name", "to_time", "place"))
    return {"changed": False, **files.plan(name, to_time, place)}


def restored_files(args: Answer, _body: Body) -> Answer:
    return {"changed": False, **files.describe(args.get("request") or {})}


def redeploy(args: Answer, _body: Body) -> Answer:
    """Whether a deploy may begin by itself; pausing them, and having them go on."""
    paths, by, mode = Paths(args["name"]), _who(args), str(args.get("mode") or "")
    if mode == "pause":
        new = redeploys.pause(paths, by)
        return {"changed": new, "said": f"Redeploys of {paths.app} are paused{'' if new else ' already'}."}
    if mode == "resume":
        new = redeploys.resume(paths)
        return {"changed": new, "said": f"Redeploys of {paths.app} {'go on' if new else 'are not paused'}."}
    return {"changed": False, **unattended.look(paths, {**args, "retry": mode == "retry"}, by)}


def redeployed(args: Answer, _body: Body) -> Answer:
    return {
        "changed": False,
        **unattended.conclude(Paths(args["name"]), str(args.get("failed") or ""), _who(args)),
    }


def timers(args: Answer, _body: Body) -> Answer:
    """Bring the server's own timers to what the apps' entries say."""
    changes = clocks.apply(args["apps"], bool(args.get("check")))
    return {
        "changed": bool(changes),
        "changes": changes,
        "msg": f"Changed: {', '.join(changes) or 'nothing'}.",
    }


def _who(args: Answer) -> str:
    holder = args.get("holder") or {}
    return f"{holder.get('user', '?')}@{holder.get('host', '?')}"


def census(args: Answer, _body: Body) -> Answer:
    return status.census(args["apps"], args.get("absent") or [])


def secrets(args: Answer, _body: Body) -> Answer:
    vault = args.get("vault") or {}
    found = {
        app["name"]: settings.changed_secrets(Paths(app["name"]), app, vault.get(app["name"]) or {})
        for app in args["apps"]
    }
    return {"changed": False, "secrets": found}


def difference(args: Answer, body: Body) -> Answer:
    paths = Paths(args["name"])
    with body or contextlib.nullcontext():
        return {"changed": False, **diff.describe(paths, args, body)}


QUESTIONS: dict[str, Callable[[Answer, Body], Answer]] = {
    "releases": releases,
    "status": state,
    "backups": saved,
    "restorable": restorable,
    "restored": restored,
    "exchangeable": exchangeable,
    "rescuable": rescuable,
    "rescued": rescued,
    "recoverable": recoverable,
    "recovered": recovered,
    "psql": psql,
    "command": command,
    "follow": follow,
    "secret": secret,
    "upgradable": upgradable,
    "upgrade": moved,
    "restorable_files": restorable_files,
    "restored_files": restored_files,
    "redeploy": redeploy,
    "redeployed": redeployed,
    "clocks": timers,
    "census": census,
    "secrets": secrets,
    "diff": difference,
}
