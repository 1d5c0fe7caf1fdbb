"""Step plan: what a deploy has to do, and whether it may. What a cut-off run left is put right first."""

from __future__ import annotations

import shutil
import time

from ... import venv
from ...errors import UP, ReleaseError, run_of
from ...packaging import pythons
from ...reports import diff, history
from ...runtime import memory, naming, units
from ...sources import source
from ...store import disk, journal, redeploys, releases, settings
from .. import plan, recover
from ..deploy import SAID, Answer, Deploy
from ..perform import perform
from ..plan import Action
from . import retire

# Of pending migrations so many are told by name.
_NAMED = 10


def run(deploy: Deploy, args: Answer) -> Answer:
    """What to do; the repository stays open only where it is needed again."""
    answer: Answer = {}
    try:
        answer = _plan(deploy, args)
    finally:
        if args.get("check") or answer.get("action") != Action.DEPLOY:
            deploy.close_repository()
    return answer


def _plan(deploy: Deploy, args: Answer) -> Answer:
    deploy.app = args["app"]
    origin = deploy.app["source"]
    if args.get("version"):
        if not origin.get("git"):
            raise ReleaseError(
                f"-e version is for a git source, and {deploy.paths.app} is deployed from a folder."
            )
        origin["version"] = deploy.asked = str(args["version"])
    check = bool(args.get("check"))
    if deploy.problem:
        raise ReleaseError(deploy.problem, advice=f"{UP} applies them, and deploys.")
    deploy.previous = releases.live(deploy.paths)
    try:
        env, texts = plan.server_side(deploy.paths, deploy.app)
    except ReleaseError:
        if not check:
            raise
        env, texts = "", []  # what site.yml would prepare first is not there yet
    if origin.get("git"):
        if check and not shutil.which("git"):
            deploy.commit = "0" * 40
        else:
            deploy.commit = _commit(deploy, origin, check)
        identity = deploy.commit
    else:
        identity = args["digest"]
    deploy.identity = identity
    deploy.fingerprint = plan.fingerprint(deploy.app, identity, env, texts)
    record = journal.read_record(deploy.paths.release(deploy.previous)) if deploy.previous else {}
    running = bool(deploy.previous) and not _dead(deploy)
    lost = pythons.gone(venv.of(deploy.paths.release(deploy.previous))) if record else ""
    force = bool(args.get("force"))
    deploy.action = plan.decide(record, deploy.fingerprint, running, force, bool(lost))
    if lost:
        deploy.notes.append(
            f"{lost} is gone from this server, so {deploy.previous} could not be started again."
        )
    if deploy.action in (Action.NOTHING, Action.RESTART) and settings.expects_another_name(
        deploy.paths, deploy.app, deploy.previous
    ):
        deploy.action = Action.DEPLOY
    sick = _sick(deploy) if deploy.action == Action.NOTHING else ""
    if sick and not check:
        deploy.action = Action.RESTART
    cut = journal.unfinished(deploy.paths)
    if not check:
        recover.settle(deploy, cut)
        disk.distrust(deploy.paths)
        if deploy.action == Action.DEPLOY and record and not record.get("healthy"):
            record = _prove_first(deploy, cut)
    if deploy.action == Action.DEPLOY and deploy.commit and not force:
        _refuse_older(deploy, record, check)
        if deploy.unattended and not check:
            _refuse_rewritten(deploy, record)
    if deploy.action == Action.DEPLOY and deploy.previous:
        _has_room(deploy, force, check)
    deploy.release = deploy.previous
    if deploy.action == Action.DEPLOY:
        deploy.release = plan.release_id(identity, here=releases.records(deploy.paths))
        if not check:
            redeploys.begin(deploy.paths, deploy.fingerprint)
    elif deploy.action == Action.RESUME:
        recover.resume(deploy, cut)
    elif deploy.action == Action.RESTART:
        deploy.record = record
    if check and deploy.action == Action.DEPLOY and args.get("scripts"):
        _predict(deploy, args["scripts"], record)
    msg = {
        Action.NOTHING: f"{deploy.previous} is live and is what is wanted{sick}.",
        Action.RESTART: (
            f"{deploy.previous} is what is wanted{sick}: waiting until it is well."
            if sick
            else f"{deploy.previous} is what is wanted, but not all of it runs: starting it again."
        ),
        Action.RESUME: f"{deploy.release} went live in a run that was cut off: proving it now.",
        Action.DEPLOY: f"{deploy.release} replaces {deploy.previous or 'nothing'}.",
    }[deploy.action]
    return {
        "changed": deploy.action != Action.NOTHING and not sick,
        "action": deploy.action.value,
        "release": deploy.release,
        "live": deploy.previous,
        "upload": deploy.action == Action.DEPLOY and not origin.get("git"),
        "msg": " ".join([msg, *deploy.notes]),
    }


def _refuse_older(deploy: Deploy, record: Answer, check: bool) -> None:
    """No run goes back unasked, be it to the inventory's version or to a commit whose turn came late."""
    before = str(record.get("version", ""))
    if before in ("", deploy.commit) or not shutil.which("git"):
        return
    if not deploy.open_repository(check).is_ancestor(deploy.commit, before):
        return
    error = ReleaseError(plan.older(deploy.app["source"], deploy.commit, record))
    error.also = [f"{deploy.previous} stays live.", *deploy.notes]
    here = releases.records(deploy.paths)
    error.advice = plan.ways(deploy.paths.app, deploy.commit, deploy.asked, here, deploy.previous)
    if deploy.unattended and not check:
        _leave_to_somebody(deploy, error)
    raise error


def _refuse_rewritten(deploy: Deploy, record: Answer) -> None:
    """A branch goes on from what is live. Where it does not, it was rewritten, be it by an attacker."""
    before, wanted = (
        str(record.get("version", "")),
        str((deploy.app.get("redeploy") or {}).get("version") or ""),
    )
    if not source.is_full(before) or "*" in wanted:  # tags go by their versions
        return
    if deploy.open_repository().descends(before, deploy.commit):
        return
    error = ReleaseError(
        f"{deploy.commit[:7]} does not come after what is live ({before[:7]}): the branch's history was "
        f"rewritten, so it waits for somebody. {deploy.previous} stays live."
    )
    error.advice = f"if that is meant: {run_of('deploy', deploy.paths.app)}"
    _leave_to_somebody(deploy, error)
    raise error


def _leave_to_somebody(deploy: Deploy, error: ReleaseError) -> None:
    """Told once, and not tried again by a clock."""
    error.waits = True
    attempt = {"commit": deploy.commit, "step": "plan", "reason": error.sentence, "waits": True}
    redeploys.failed(deploy.paths, deploy.fingerprint, **attempt)


def _has_room(deploy: Deploy, force: bool, check: bool) -> None:
    """Before anything is made: where two releases do not fit, the kernel would choose what it ends."""
    need, room = memory.used(naming.web(deploy.paths.app, deploy.previous)), memory.free()
    began = time.monotonic()
    # What retires may be about to end: at the latest when the proxy's idle time is over.
    patience = retire.idle(deploy) + retire.MARGIN
    while not (memory.fits(need, room) or force or check) and time.monotonic() < began + patience:
        if not retire.beside(deploy, ("active", "deactivating")):
            break
        time.sleep(1)
        room = memory.free()
    waited = time.monotonic() - began
    takes = (
        f"{deploy.previous} takes {need // memory.MB} MB and {room // memory.MB} MB are free, swap included"
    )
    if memory.fits(need, room):
        if memory.is_short(need, room):
            deploy.notes.append(f"Memory is short for two releases at a time: {takes}.")
        if waited > SAID:
            deploy.notes.append(f"It waited {waited:.0f} s for memory, until an older release had ended.")
        return
    beside = len(retire.beside(deploy, ("active", "deactivating")))
    old = f", and {beside} older still retire (drain.releases, drain.websocket)" if beside else ""
    text = f"A second release does not fit into memory beside the live one: {takes}{old}."
    if force or check:
        deploy.notes.append(text if force else f"{text} The deploy would stop here.")
        return
    raise ReleaseError(
        f"{text} Nothing was changed.",
        advice=(
            "give web fewer workers, or the server more memory or swap (server.swap_mb), then: "
            f"{deploy.again()}; or {run_of('deploy', deploy.paths.app, force=True)}, at the risk that the "
            "kernel ends something."
        ),
    )


def _sick(deploy: Deploy) -> str:
    """What is wrong with a live release whose units run; it is never stopped for it."""
    probe, code = deploy.ask_previous()
    if probe.good(code):
        return ""
    where = f" on {probe.path}" if probe.path else ""
    return f", but it answers {code}{where}" if code else ", but it does not answer"


def _commit(deploy: Deploy, origin: Answer, check: bool) -> str:
    if source.is_full(origin.get("version") or ""):
        return str(origin["version"])
    try:
        return deploy.open_repository(check).resolve()
    except ReleaseError as error:
        # What is live needs no repository to run.
        dead = _dead(deploy)
        if dead and not check:
            try:
                units.start(dead, wait=False)
                error.also.append(f"{deploy.previous} is live and did not run as a whole: it was started.")
            except ReleaseError as problem:
                error.also.append(
                    f"{deploy.previous} is live and does not run as a whole: {problem.sentence}"
                )
        raise


def _dead(deploy: Deploy) -> list[str]:
    """What of the live release should run, and does not."""
    if not deploy.previous:
        return []
    beside = naming.beside_web(deploy.previous_app(), deploy.previous)
    mine = [*naming.serving(deploy.paths, deploy.previous)[:2], *beside]
    return [name for name, state in units.states(mine).items() if state != "active"]


def _prove_first(deploy: Deploy, cut: Answer | None) -> Answer:
    """What a cut-off run left live is proved or taken back, before this run may have to go back to it."""
    from . import table  # which names this step, too

    past = Deploy(deploy.paths, deploy.holder)
    past.previous, past.action = deploy.previous, Action.RESUME
    recover.resume(past, cut)
    try:
        for step in table.of(table.Phase.GO_LIVE, table.Phase.AFTER):
            if not past.proved:
                perform(past, step.name, step.run, {})
        deploy.notes.append(f"{past.release} is proved now.")
    except ReleaseError as error:
        deploy.notes.append(f"It failed its proof: {' '.join([error.sentence, *error.also])}")
    deploy.previous = releases.live(deploy.paths)
    return journal.read_record(deploy.paths.release(deploy.previous)) if deploy.previous else {}


def _predict(deploy: Deploy, scripts: Answer, record: Answer) -> None:
    """In check mode, the migrations that a folder's files name; `berth diff` has their SQL."""
    found, note = diff.pending(deploy.app, scripts, history.today(record) if record else "")
    names = [one.label() for one in found]
    if len(names) > _NAMED:
        names[_NAMED:] = [f"{len(names) - _NAMED} more"]
    if names:
        deploy.notes.append(f"Migrations would run: {', '.join(names)}.")
        risky = any(one.risks for one in found) and bool(record)
        if risky and deploy.app["migrations"]["destructive"] == "refuse":
            deploy.notes.append("migrations.destructive is refuse: the deploy would stop before them.")
    elif note:
        deploy.notes.append(note)
