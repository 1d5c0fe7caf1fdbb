"""Step plan_rehearsal: which code would be deployed, and whether its migrations can be tried beforehand."""

from __future__ import annotations

import shutil

from ...errors import ReleaseError
from ...migrations import rehearsal
from ...services import external
from ...sources import source
from ...store import disk, journal, releases, settings
from .. import plan, recover
from ..deploy import Answer, Deploy, Kind
from ..plan import Action


def run(deploy: Deploy, args: Answer) -> Answer:
    answer: Answer = {}
    try:
        answer = _plan(deploy, args)
    finally:
        if args.get("check") or not answer:
            deploy.close_repository()
    return answer


def _plan(deploy: Deploy, args: Answer) -> Answer:
    deploy.kind, deploy.app = Kind.REHEARSAL, args["app"]
    app, check = deploy.app, bool(args.get("check"))
    origin = app["source"]
    if args.get("version"):
        if not origin.get("git"):
            raise ReleaseError(
                f"-e version is for a git source, and {deploy.paths.app} is deployed from a folder."
            )
        origin["version"] = deploy.asked = str(args["version"])
    if not app["database"]["enabled"]:
        raise ReleaseError(f"{deploy.paths.app} has no database on this server, so it migrates nothing here.")
    if not app["migrations"]["enabled"]:
        raise ReleaseError(
            f"Migrations of {deploy.paths.app} are switched off (migrations.enabled), so there are none to "
            "rehearse."
        )
    if external.used(app["database"]):
        raise ReleaseError(
            f"The database of {deploy.paths.app} is at {external.where(app['database'])}, and there is no "
            "backup of it here that a copy could be made from. Nothing was changed."
        )
    rehearsal.refuse()
    try:
        plan.server_side(deploy.paths, app)
    except ReleaseError:
        if not settings.marks(deploy.paths).get("digest"):
            raise
        deploy.notes.append(
            "The server's settings of the app are older than the inventory's: it is rehearsed with them, "
            "since a rehearsal applies none."
        )
    deploy.previous = releases.live(deploy.paths)
    if not origin.get("git"):
        deploy.identity = str(args["digest"])
    elif check and not shutil.which("git"):
        deploy.identity = "0" * 40
    else:
        full = source.is_full(origin.get("version") or "")
        deploy.commit = str(origin["version"]) if full else deploy.open_repository(check).resolve()
        deploy.identity = deploy.commit
    deploy.action = Action.DEPLOY
    if not check:
        recover.settle(deploy, journal.unfinished(deploy.paths))
        disk.distrust(deploy.paths)
    deploy.release = plan.release_id(deploy.identity, here=releases.records(deploy.paths))
    what = f"{deploy.identity[:7]}{f' ({deploy.asked})' if deploy.asked else ''}"
    would = "Would rehearse" if check else "Rehearsing"
    msg = f"{would} the migrations of {deploy.paths.app} {what} on a copy of its live rows."
    return {"changed": False, "msg": " ".join([msg, *deploy.notes])}
