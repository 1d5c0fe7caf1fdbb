"""Step plan_rollback: which release to go back to, and whether the database lets it."""

from __future__ import annotations

from ... import venv
from ...errors import ReleaseError
from ...packaging import pythons
from ...reports import history
from ...store import journal, releases, settings
from .. import recover
from ..deploy import Answer, Deploy, Kind
from ..plan import Action


def run(deploy: Deploy, args: Answer) -> Answer:
    deploy.kind = Kind.ROLLBACK
    records = releases.records(deploy.paths)
    deploy.previous = releases.live(deploy.paths)
    if not deploy.previous:
        text = f"{deploy.paths.app} has no live release on this server: there is nothing to roll back."
        if args.get("check"):
            return {"changed": False, "action": "nothing", "release": "", "live": "", "msg": text}
        raise ReleaseError(text)
    wish = args.get("to") or ""
    cut = journal.unfinished(deploy.paths)
    past = cut or {}
    again = past.get("kind") == "rollback" and past.get("state") != "left"
    if again and past["release"] == deploy.previous and wish in ("", deploy.previous):
        # Without this a repeated rollback would go back one release further than was meant.
        deploy.action = Action.RESUME
    if not args.get("check"):
        recover.settle(deploy, cut)
        records = releases.records(deploy.paths)
    if deploy.action == Action.RESUME:
        recover.resume(deploy, cut)
        return {
            "changed": True,
            "action": "resume",
            "release": deploy.release,
            "live": deploy.previous,
            "msg": f"{deploy.release} went live in a rollback that was cut off: finishing it.",
        }
    options = releases.candidates(records, deploy.previous)
    target = wish or releases.previous(records, deploy.previous)
    if wish == deploy.previous:
        return {
            "changed": False,
            "action": "nothing",
            "release": wish,
            "live": wish,
            "msg": f"{wish} is live.",
        }
    if not target or target not in options:
        have = ", ".join(options) or "none"
        what = (
            f"{wish} is no healthy release of {deploy.paths.app}"
            if wish
            else "There is no older healthy release"
        )
        raise ReleaseError(f"{what}; those that can be rolled back to: {have}.")
    if lost := pythons.gone(venv.of(deploy.paths.release(target))):
        raise ReleaseError(
            f"{target} cannot be started: {lost} is gone from this server, so {deploy.previous} stays live.",
            advice=f"{deploy.again()} with its version (--version, -e version=) builds it anew.",
        )
    deploy.release = target
    deploy.record = records[target]
    deploy.app = settings.served(deploy.paths, deploy.record["app"], target)
    deploy.action = Action.DEPLOY
    now = history.today(records[deploy.previous])
    verdict = history.judge(history.revisions(deploy.paths, records), target, deploy.record, now)
    if not verdict.safe and not args.get("force"):
        raise ReleaseError(
            f"{verdict.sentence} A rollback never runs migrations backwards, so "
            f"{deploy.previous} stays live.",
            advice="deploy a corrected version; or go back all the same: -e force=true (--force).",
        )
    deploy.notes.append(verdict.sentence + ("" if verdict.safe else " Forced."))
    deploy.notes += filter(None, [history.rows_since(records, target)])
    if left := settings.unserved(deploy.paths, deploy.app):
        deploy.notes.append(f"The proxy leaves {', '.join(left)} to the app: static names it no more.")
    return {
        "changed": True,
        "action": "deploy",
        "release": target,
        "live": deploy.previous,
        "msg": " ".join([f"{target} replaces {deploy.previous}.", *deploy.notes]),
    }
