"""Step migrate: the database follows the new code, once the app has shown that it can be imported."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...diagnosis import cause
from ...errors import ReleaseError
from ...migrations import database, lint, migrate, objects, offline, schema
from ...packaging import prove
from ...packaging.tree import Tree
from ...reading import tables
from ...reading.tables import Decision
from ...reports import history
from ...runtime import naming
from ...store import journal
from ..deploy import Answer, Deploy

# Sentences about the SQL of one deploy.
_SHOWN = 6


@dataclass(frozen=True)
class Look:
    """What the new code and the database say before a migration."""

    decision: Decision
    asked: database.Database
    # Of the scripts; empty where a command of the app's own is not understood.
    digest: str
    # The revision that the schema is at.
    before: str
    # Whether there is something to run. A custom command is not understood, so it always runs.
    pending: bool
    # The server that it runs against, where that is not the live one.
    beside: migrate.Beside | None = None


def look(deploy: Deploy) -> Look | None:
    """None where nothing migrates; asked once a run, since nothing else changes a schema under its lock."""
    if deploy.looked is None:
        deploy.looked = _look(deploy)
    found: Look | None = deploy.looked or None
    return found


def _look(deploy: Deploy) -> Look | bool:
    tree = Tree(deploy.paths, deploy.app, deploy.release)
    wishes = deploy.app["migrations"]
    decision = tables.decide(tree.project, deploy.folder, wishes)
    if not decision.command or not deploy.app["database"]["enabled"]:
        return False
    digest = "" if wishes.get("command") else tables.scripts_digest(decision.directory, deploy.folder)
    asked = database.Database(deploy.app)
    before = asked.revision()
    live = journal.read_record(deploy.paths.release(deploy.previous)) if deploy.previous else {}
    known = live.get("migrations", {}).get("digest")
    same = digest and before and digest == known and before == live.get("schema", {}).get("to")
    return Look(decision, asked, digest, before, not same)


def run(deploy: Deploy, _args: Answer) -> Answer:
    tree = Tree(deploy.paths, deploy.app, deploy.release)
    wishes = deploy.app["migrations"]
    seen = look(deploy)
    if not seen:
        decision = tables.decide(tree.project, deploy.folder, wishes)
        role, why = tree.role()
        said = f" The app runs as the database's owner: it {why}." if role == "owner" else ""
        now = history.today({"app": deploy.app})
        deploy.record["schema"] = {"from": now, "to": now}
        return {"changed": False, "msg": f"No migrations: {decision.why}.{said}"}
    decision, asked, digest, before = seen.decision, seen.asked, seen.digest, seen.before
    line = decision.command
    deploy.record["schema"] = {"from": before, "to": before}
    deploy.record["migrations"] = {"command": line, "digest": digest}
    if not seen.pending:
        after = before
        msg = f"The schema is at {after}, and there are no new revisions."
    else:
        _prove_import(deploy, tree)
        pending = revisions(deploy, before)
        # What there is nothing live on harms nobody.
        found = _lint(deploy, tree, seen, pending) if digest and pending else None
        if before:
            _may_run(deploy, pending, found)
        history.remember(deploy.paths, pending)
        files = [Path(one.file).name for one in pending]
        repeatable = bool(before or digest) and tables.is_transactional(
            decision.directory, deploy.folder, files
        )
        try:
            with asked.advisory_lock():
                tries = attempt(deploy, tree, seen, pending, repeatable)
        except ReleaseError as error:
            if advice := tables.makes_itself(tree.project, before):
                error.advice = f"{advice}, then: {deploy.again()}"
            raise
        after = asked.revision()
        often = f" It waited for a lock, and was tried {tries} times." if tries > 1 else ""
        msg = f"{line}: schema from {before or 'none'} to {after or 'none'}.{often}"
        if before == after and wishes.get("command"):
            deploy.notes.append(f"migrations.command ran ({line}); the schema stays at {after or 'none'}.")
        if broken := objects.broken(asked.objects() or (), deploy.app):
            deploy.notes.append(broken)
    deploy.record["schema"] = {"from": before, "to": after}
    if before != after:
        steps = revisions(deploy, before, after)
        history.remember(deploy.paths, steps)
        deploy.record["schema"]["revisions"] = [one.as_dict() for one in steps]
        risky = [one.label() for one in steps if one.risks] if before else []
        if risky and wishes["destructive"] != "allow":
            deploy.notes.append(f"Going back to an earlier release will need force: {', '.join(risky)}.")
    deploy.save()
    return {"changed": before != after, "msg": msg}


def attempt(deploy: Deploy, tree: Tree, seen: Look, pending: list[schema.Revision], repeatable: bool) -> int:
    """Run the command: how often it was tried. A failure says what it left."""
    asked, before = seen.asked, seen.before
    standing = asked.objects()
    try:
        with _timeouts(deploy, tree, asked) as more:
            return migrate.run(
                deploy.app, tree.code(), seen.decision.command, seen.decision.directory,
                lambda: repeatable and asked.ask() == before and asked.objects() == standing, more,
                seen.beside,
            )  # fmt: skip
    except ReleaseError as error:
        error.also += _left(deploy, seen, pending, standing)
        raise


def _left(
    deploy: Deploy, seen: Look, pending: list[schema.Revision], standing: Collection[objects.Thing] | None
) -> list[str]:
    """What a migration that failed leaves in the database, in sentences."""
    now, things = seen.asked.ask(), seen.asked.objects()
    if now is None or things is None or standing is None:
        return ["What it left in the database cannot be told, since that does not answer."]
    came, gone = objects.since(standing, things)
    parts = [f"there is now {objects.names(came)}"] if came else []
    parts += [f"gone is {objects.names(gone)}"] if gone else []
    what = "; ".join(parts)
    if now != seen.before:
        applied = [one for one in revisions(deploy, seen.before, now) if one in pending]
        rest = [one.stem() for one in pending if one not in applied]
        said = [f"It got from schema {seen.before or 'none'} to {now or 'none'}"]
        said += [f"{', '.join(one.stem() for one in applied)} applied" if applied else ""]
        said += [f"{', '.join(rest)} not" if rest else "", what]
        sentence = "; ".join(filter(None, said)) + "."
    elif what:
        sentence = (
            f"The schema is at {now or 'none'} as before, but what was done outside of a transaction "
            f"stays, and the next try meets it: {what}."
        )
    else:
        sentence = "Nothing of it stays in the database."
    broken = objects.broken(things, deploy.app)
    return [sentence, broken] if broken else [sentence]


@contextlib.contextmanager
def _timeouts(deploy: Deploy, tree: Tree, asked: database.Database) -> Iterator[dict[str, str]]:
    """Of the role that migrates; the variables that say it where the app itself runs as that role."""
    wishes = deploy.app["migrations"]
    limits = int(wishes["lock_timeout"]), int(wishes["timeout"])
    if tree.role()[0] == "owner":
        yield {"PGOPTIONS": database.options(*limits)}
    else:
        with asked.timeouts(*limits):
            yield {}


def _may_run(
    deploy: Deploy, pending: list[schema.Revision], found: Sequence[lint.Finding] | None = None
) -> None:
    """What takes something away from the live release needs a word first, where that is wished.

    What was `found` in the SQL counts, and where that is not known what the files tell.
    """
    policy = deploy.app["migrations"]["destructive"]
    files = {one.id: one.stem() for one in pending}
    if found is None:
        risky = [one.label() for one in pending if one.risks]
        said = f"{', '.join(risky)}: the"
    else:
        risky = [one.sentence(files) for one in found if one.kind == lint.DESTRUCTIVE]
        said = f"{' '.join(risky)} The"
        deploy.notes += [one.sentence(files) for one in found if one.kind == lint.LOCKS][:_SHOWN]
        deploy.notes += risky[:_SHOWN] if policy == "warn" else []
    if risky and policy == "warn" and deploy.unattended:
        error = ReleaseError(
            f"{said} live release may not survive it, so it waits for somebody. The database is unchanged.",
            advice=f"deploy it by hand: {deploy.again()}; or set migrations.destructive: allow.",
        )
        error.waits = True
        raise error
    if risky and policy == "refuse":
        raise ReleaseError(
            f"{said} live release may not survive it, and migrations.destructive is refuse. The database is "
            "unchanged.",
            advice=f"set migrations.destructive: warn for this deploy, then: {deploy.again()}",
        )


def revisions(deploy: Deploy, before: str, after: str = "") -> list[schema.Revision]:
    """What the new code's files say about the way between; nothing where they cannot be found."""
    known = history.known_to(deploy.folder, deploy.app)
    return schema.between(known, before, after or ",".join(schema.heads(known)))


def _lint(
    deploy: Deploy, tree: Tree, seen: Look, pending: list[schema.Revision]
) -> list[lint.Finding] | None:
    """What the SQL does that the database is about to get; None where that cannot be told, which is noted.

    Both go into the record.
    """
    place = offline.Place(deploy.folder, seen.decision.directory, tree.code())
    unit, end = naming.transient("sql", deploy.paths.app), seen.decision.command.split()[-1]
    made = offline.make(unit, place, seen.before, end)
    found = None if made.found is None else lint.weighty(made.found, seen.asked.sizes(made.found))
    if made.note:
        deploy.notes.append(f"{', '.join(one.stem() for one in pending[:_SHOWN])}: {made.note}")
    kept = {"sql": made.text, "note": made.note, "lint": [one.as_dict() for one in found or ()]}
    deploy.record["migrations"].update({key: value for key, value in kept.items() if value})
    return found


def _prove_import(deploy: Deploy, tree: Tree) -> None:
    """Before the schema changes for it, the app must import, as its user and with its settings."""
    target = deploy.record.get("target")
    if not target:
        return
    module = target.split(":")[0]
    result = prove.run(tree, f"import {module}")
    if result.code != 0:
        state = {"ExecMainStatus": str(result.code)}
        raise ReleaseError(
            f"{target} ({deploy.record['target_found']}) cannot be imported: "
            f"{cause.explain(result.lines, state, deploy.about())}. The database is unchanged.",
            log=result.lines[-20:],
        )
