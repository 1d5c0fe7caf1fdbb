"""Step rehearse: the new code's migrations, run by their own command on a copy of the live rows."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from ...errors import ReleaseError
from ...migrations import lint, objects, offline, rehearsal
from ...packaging.tree import Tree
from ...reading import tables
from ...reports import rehearsals
from ...store import journal
from .. import recover
from ..deploy import Answer, Deploy
from . import migrate

Facts = dict[str, Any]


def run(deploy: Deploy, args: Answer) -> Answer:
    """What came of it, a migration that fails included; afterwards the release is gone."""
    found = _rehearse(deploy, float(args.get("wait") or 0))
    recover.discard(deploy)
    deploy.undone = True
    seconds = round(time.monotonic() - deploy.began, 1)
    reason = {"step": "rehearse", "reason": found["problem"]} if found["problem"] else {}
    with deploy.spare("The audit line"):
        journal.audit(deploy.paths, **deploy.audit("failed" if reason else "ok", seconds, **reason))
    return {
        "changed": False,
        "answer": found,
        "table": rehearsals.table(found),
        "verdict": rehearsals.verdict(found),
    }


def _rehearse(deploy: Deploy, wait: float) -> Facts:
    tree = Tree(deploy.paths, deploy.app, deploy.release)
    seen = migrate.look(deploy)
    found = rehearsals.begin(deploy.paths.app, str(deploy.record["version"]), deploy.notes)
    if not seen:
        decision = tables.decide(tree.project, deploy.folder, deploy.app["migrations"])
        return {**found, "nothing": f"No migrations: {decision.why.rstrip('.')}."}
    before = seen.before
    found |= {"command": seen.decision.command, "schema": {"from": before, "to": before}}
    deploy.record["schema"] = {"from": before, "to": before}
    if not seen.pending:
        return {**found, "nothing": f"The schema is at {before}, and there are no new revisions."}
    pending = migrate.revisions(deploy, before)
    found["migrations"] = [one.as_dict() for one in pending]
    with rehearsal.Copy(deploy.paths, deploy.app, wait) as copy:
        found["copy"] = {
            key: copy.facts[key] for key in ("backup", "bytes", "seconds", "last_commit", "notes")
        }
        there = copy.database()
        known = dataclasses.replace(seen, asked=there, beside=copy.beside)
        began = time.monotonic()
        try:
            migrate.attempt(deploy, tree, known, pending, repeatable=False)
        except ReleaseError as error:
            advice = tables.makes_itself(tree.project, before) or error.advice
            found |= rehearsals.failure(error, advice)
        found["seconds"] = round(time.monotonic() - began, 1)
        told = copy.told()
        if told["full"] or (told["ended"] and not found["problem"]):
            # What the migration says of it is that its server went away.
            raise ReleaseError(rehearsals.ENDED_FULL if told["full"] else rehearsals.ENDED)
        if not found["problem"]:
            found["schema"]["to"] = there.revision()
            if broken := objects.broken(there.objects() or (), deploy.app["database"]["name"]):
                found["left"] = [rehearsals.left(broken)]
    known_revisions = found["migrations"] if seen.digest else []
    return {**found, **_judged(deploy, seen, told, known_revisions)}


def _judged(deploy: Deploy, seen: migrate.Look, told: Facts, pending: list[Facts]) -> Facts:
    """What the statements that ran would do to the live release."""
    files = {one["id"]: rehearsals.stem(one) for one in pending}
    done = {one["revision"] for one in told["revisions"]}
    # What came after the last one belongs to one that was not finished; or to a command of the app's own.
    rest = next((one for one in files if one not in done), "")
    for one in [*told["schema"], *told["statements"]]:
        one["revision"] = one["revision"] or rest
    files[""] = "migrations.command"
    made = offline.linted(deploy.paths, deploy.app, rehearsals.sql(told["schema"]))
    # What there is nothing live on harms nobody.
    known = lint.weighty(made.found or (), seen.asked.sizes(made.found or ())) if seen.before else []
    refused = deploy.app["migrations"]["destructive"] == "refuse"
    notes = [made.note] if made.note else []
    notes += ["Not all statements were linted: there were too many, or too long ones."] * told["left_out"]
    return {
        "notes": [*deploy.notes, *notes],
        "lint": [{**one.as_dict(), "sentence": one.sentence(files)} for one in known],
        "refused": refused and any(one.kind == lint.DESTRUCTIVE for one in known),
        "revisions": [
            {**one, "file": files.get(one["revision"], one["revision"])} for one in told["revisions"]
        ],
        "statements": told["statements"],
        "locks": told["locks"],
    }
