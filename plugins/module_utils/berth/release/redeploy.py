"""Whether a deploy may begin that nobody starts by hand, and what came of it.

A controller's clock (playbooks/redeploy.yml) and the server's own timer ask the same, and both have the
ordinary steps run afterwards under the ordinary lock. Everything that stops one is said here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from .. import windows
from ..errors import UP, ReleaseError, cut, run_of
from ..host.untrusted import shown
from ..paths import Paths
from ..payload import gitwork
from ..reports import backups
from ..services import external
from ..sources import source
from ..store import journal, redeploys, releases, settings
from . import plan
from .deploy import Answer, Deploy

# Less than so much on a disk is no room for another release.
_ROOM = 1 << 30
# What does not answer is told of when it did not so often.
_SILENT = 3
# What of the backups keeps code from being deployed: a restore would lose what it does to the rows.
_BACKUPS = ("stanza", "backup", "old", "damaged", "archive", "gap")


class Outcome(str, Enum):
    """What came of a look, with the exit status that a clock gets."""

    NOTHING = "nothing"
    DEPLOYED = "deployed"
    FAILED = "failed"
    HELD = "held"  # something keeps it back, for a time or until that is put right
    WAITS = "waits"  # for somebody's word
    BEGUN = "begun"  # no end of it is known

    @property
    def status(self) -> int:
        return {"failed": 1, "begun": 1, "held": 10, "waits": 11}.get(self.value, 0)


class _Held(Exception):  # noqa: N818 - an outcome
    def __init__(self, said: str, outcome: Outcome = Outcome.HELD, *, silent: bool = False) -> None:
        super().__init__(said)
        self.said, self.outcome, self.silent = said, outcome, silent


def wanted(app: Answer) -> str:
    """The branch, tag, commit or pattern of tags that redeploys of an app follow."""
    return str((app.get("redeploy") or {}).get("version") or app["source"].get("version") or "HEAD")


def look(paths: Paths, args: Answer, by: str) -> Answer:
    """Ask for what is new, and whether it may go live now. `go`: the steps are to be run, with `commit`.

    `args`: the app, its vault's values where they are known, the digest of a folder, `retry`, and `alone`
    where there is nobody to apply settings.
    """
    app, check = args["app"], bool(args.get("check"))
    try:
        commit, tag, new = _look(paths, args)
    except _Held as held:
        news = check or redeploys.note(paths, held.outcome.value, held.said, by)
        return {
            "go": False,
            "outcome": held.outcome.value,
            "said": held.said,
            "news": news and not held.silent and held.outcome != Outcome.NOTHING,
            "status": held.outcome.status,
        }
    what = f"{commit[:7]}{f' ({shown(tag)})' if tag else ''}"
    outcome, said = (Outcome.BEGUN, f"Deploying {what}") if new else (Outcome.NOTHING, f"{what} is live")
    if not check:
        redeploys.note(paths, outcome.value, said, by, commit=commit, tag=tag)
        if not new:
            redeploys.remember(paths, commit, tag)
    return {
        "go": new,
        "outcome": outcome.value,
        "said": f"{said}.",
        "news": new,
        "status": 0,
        "commit": commit if app["source"].get("git") else "",
    }


def _look(paths: Paths, args: Answer) -> tuple[str, str, bool]:
    """The commit, its tag, and whether it is another release than what is live."""
    app, retry = args["app"], bool(args.get("retry"))
    if retry and not args.get("check"):
        redeploys.forgive(paths)
    known = redeploys.state(paths)
    commit, tag = (str(args["digest"]), "") if not app["source"].get("git") else _ask(paths, args, known)
    live = releases.live(paths)
    record = journal.read_record(paths.release(live)) if live else {}
    stands = settings.compare(paths, app, args.get("vault") or {})
    fingerprint = ""
    if not stands["stale"] and not stands["problem"]:
        try:
            fingerprint = plan.fingerprint(app, commit, *plan.server_side(paths, app))
        except ReleaseError as error:
            raise _Held(_with_advice(error)) from error
        if record.get("fingerprint") == fingerprint:
            return commit, tag, False
    if paused := known.get("paused"):
        raise _Held(f"Redeploys are paused by {paused.get('by')} since {paused.get('at')}.", silent=True)
    closed = windows.open_window(
        (app.get("redeploy") or {}).get("not_during") or [], datetime.now().astimezone()
    )
    if closed:
        raise _Held(
            f"Nothing is deployed by the clock at this time (redeploy.not_during: {closed}).", silent=True
        )
    if stands["stale"] and args.get("alone"):
        raise _Held(
            f"The settings of {paths.app} on this server are being changed, or were not applied: {UP}."
        )
    if stands["problem"]:
        raise _Held(f"{stands['problem']} Next: {UP} applies them, and deploys.")
    if not retry:
        _refuse_known(paths, known, fingerprint, commit, live)
    _refuse_older_tag(known, record, commit, tag, app)
    if live:
        _refuse_sick(paths, app, live)
    _refuse_full(paths)
    if external.here(app["database"]) and record:
        _refuse_unsaved(paths.root)
    return commit, tag, True


def _ask(paths: Paths, args: Answer, known: Answer) -> tuple[str, str]:
    """The repository; one that does not answer now and then is no news."""
    version = str(args.get("version") or wanted(args["app"]))
    try:
        with source.Repository(paths, args["app"]) as repository:
            commit, tag = repository.newest(version)
    except ReleaseError as error:
        times = int(known.get("unreachable") or 0) + 1
        if not args.get("check"):
            with redeploys.noting(paths) as now:
                now["unreachable"] = times
        raise _Held(error.sentence, Outcome.HELD if times >= _SILENT else Outcome.NOTHING) from error
    if known.get("unreachable") and not args.get("check"):
        with redeploys.noting(paths) as now:
            now.pop("unreachable", None)
    if not commit:
        kind = "tag fits" if "*" in version else "branch or tag is"
        where = source.public_url(args["app"]["source"]["git"])
        raise _Held(f"No {kind} {version} in {where}: was it deleted? What is live stays live.")
    return commit, tag


def _refuse_known(paths: Paths, known: Answer, fingerprint: str, commit: str, live: str) -> None:
    """One attempt, and no way back to what somebody went back from."""
    again = f"A new commit lifts that, or: berth redeploy {paths.app} --retry (redeploy.yml -e mode=retry)."
    if why := redeploys.quarantine(known, fingerprint):
        past = (known.get("failed") or {}).get(fingerprint) or {}
        # Whoever ran it was told when it failed.
        told = bool(past)
        if past.get("waits"):
            text = f"{commit[:7]} waits for somebody. {past['reason']} Next: {run_of('deploy', paths.app)}"
            raise _Held(text, Outcome.WAITS, silent=told)
        raise _Held(f"{commit[:7]} is not tried again. {why}. {again}", silent=told)
    for name, record in releases.records(paths).items():
        if name != live and record.get("version") == commit and record.get("withdrawn"):
            raise _Held(
                f"{commit[:7]} is not tried again: it was live as {name} and was gone back from. {again}"
            )


def _refuse_older_tag(known: Answer, record: Answer, commit: str, tag: str, followed: Answer) -> None:
    """A tag that names another commit than it did, or an older version than what is live."""
    app, version = followed["name"], wanted(followed)
    last = known.get("deployed") or {}
    before = str(last.get("tag") or "")
    if not tag or not before or record.get("version") != last.get("commit") or commit == last.get("commit"):
        return
    if before == tag:
        then = run_of("deploy", app, version=shown(tag))
        raise _Held(
            f"The tag {shown(tag)} was moved from {str(last['commit'])[:7]} to {commit[:7]}, so it waits for "
            f"somebody. What is live stays live. Next: {then}, if it is meant.",
            Outcome.WAITS,
        )
    older, newer = gitwork.version_of(before), gitwork.version_of(tag)
    if "*" in version and older and newer and newer < older:
        raise _Held(f"The newest tag, {shown(tag)}, is older than what is live ({shown(before)}).")


def _refuse_sick(paths: Paths, app: Answer, live: str) -> None:
    deploy = Deploy(paths, {})
    deploy.app, deploy.previous = app, live
    probe, code = deploy.ask_previous()
    if not probe.good(code):
        how = f"answers {code}" if code else "does not answer"
        raise _Held(
            f"The live release {live} {how}, and a failure would have to go back to it. Next: berth status "
            f"{paths.app}; {run_of('deploy', paths.app)} deploys all the same."
        )


def _refuse_full(paths: Paths) -> None:
    for place in (paths.releases, paths.state, paths.build_home):
        there = next((folder for folder in (place, *place.parents) if folder.exists()), Path("/"))
        free = shutil.disk_usage(there).free
        if free < _ROOM:
            raise _Held(
                f"The disk at {there} has {free >> 20} MB left, and a release by the clock wants "
                f"{_ROOM >> 20} MB. Next: df -h on the server tells what is full."
            )


def _refuse_unsaved(root: Path, facts: Callable[[Path], Any] = backups.facts) -> None:
    """Where backups are made, and are not as they should be."""
    try:
        found = backups.judge(facts(root), time.time())
    except ReleaseError as error:
        raise _Held(f"How the backups are cannot be told: {error.sentence}") from error
    for code, level, text, cure in found:
        if level == "sick" and code in _BACKUPS:
            raise _Held(
                f"The backups are not well, so nothing is deployed by the clock: {text}. Next: {cure}"
            )


def _with_advice(error: ReleaseError) -> str:
    return f"{error.sentence} Next: {error.advice}" if error.advice else error.sentence


# The end of it ----------------------------------------------------------------------------------------------


def conclude(paths: Paths, failed: str, by: str) -> Answer:
    """What came of a look that had the steps run. `failed`: what the run says went wrong, where it did."""
    known = redeploys.state(paths)
    last = known.get("last") or {}
    if last.get("outcome") != Outcome.BEGUN:
        outcome = Outcome(str(last.get("outcome") or "nothing"))
        return {
            "outcome": outcome.value,
            "said": str(last.get("said", "")),
            "status": outcome.status,
            "news": False,
        }
    commit, tag = str(last.get("commit", "")), str(last.get("tag", ""))
    live = releases.live(paths)
    record = journal.read_record(paths.release(live)) if live else {}
    attempts = [one for one in (known.get("failed") or {}).values() if one.get("commit") == commit]
    if not failed:
        outcome, said = Outcome.DEPLOYED, f"{live} is live"
        if record.get("version") == commit:
            redeploys.remember(paths, commit, tag)
    elif " is locked: " in failed:
        outcome, said = Outcome.HELD, failed
    elif (attempts and attempts[-1].get("waits")) or "it waits for somebody" in failed:
        outcome, said = Outcome.WAITS, failed
    else:
        outcome, said = Outcome.FAILED, failed
    news = redeploys.note(paths, outcome.value, cut(said, 1000), by, commit=commit, tag=tag)
    return {"outcome": outcome.value, "said": said, "status": outcome.status, "news": news}
