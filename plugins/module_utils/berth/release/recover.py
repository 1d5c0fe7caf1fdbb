"""After a run that failed, or that was cut off: the old release goes on, or what went live is proved."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from ..diagnosis import cause
from ..errors import ReleaseError
from ..host import untrusted
from ..migrations import database
from ..reports import history
from ..runtime import gate, health, jobs, naming, units
from ..store import journal, prune, redeploys, releases, settings
from .deploy import Deploy, Kind
from .plan import Action
from .steps import retire, switch, verify


def settle(deploy: Deploy, cut: dict[str, Any] | None) -> None:
    """Finish or undo what a run that was killed left behind."""
    if not cut:
        return
    units.end_transient(deploy.paths.app)
    app = deploy.app or deploy.previous_app()
    if cut.get("step") == "migrate" and app and app["database"]["enabled"]:
        with contextlib.suppress(ReleaseError, OSError):
            database.Database(app).free()
    if not deploy.repository:
        untrusted.remove(deploy.paths.stage)
    lost = str(cut.get("release", ""))
    mine: list[str] = []
    if deploy.previous:
        units.replace_link(deploy.paths.current, deploy.paths.release(deploy.previous))
        mine = naming.beside_web(deploy.previous_app(), deploy.previous)
        units.enable(deploy.paths, [naming.web(deploy.paths.app, deploy.previous), *mine])
    for release, record in releases.records(deploy.paths).items():
        if release == deploy.previous:
            continue
        if not releases.served(record):
            prune.remove_release(deploy.paths, release)
            continue
        beside = naming.beside_web(record["app"], release)
        units.disable(deploy.paths, [naming.web(deploy.paths.app, release), *beside])
        still = [name for name, state in units.states(beside).items() if state in ("active", "deactivating")]
        alone = set(naming.alone(record["app"], release))
        units.stop([name for name in still if name not in alone])
        units.stop([name for name in still if name in alone], patience=units.to_end(record["app"]))
        if units.states([naming.web(deploy.paths.app, release)]).popitem()[1] == "active":
            retire.let_go(deploy, release, record["app"])
    if deploy.action == Action.DEPLOY and mine:
        # The engine was killed before it started them, and the deploy that follows may fail.
        jobs.hand_over(deploy.paths, deploy.previous_app(), deploy.previous, deploy.previous_app())
        started = units.ask_to_start(mine)
        if started.code != 0:
            said = started.lines[0] if started.lines else f"exit status {started.code}"
            deploy.notes.append(f"Not all of {deploy.previous} could be started again: {said}.")
    prune.sweep(deploy.paths)
    if deploy.action != Action.DEPLOY:
        prune.remove_unused_envs(deploy.paths)
    forth = bool(journal.read_record(deploy.paths.release(lost)).get("withdrawn")) if lost else False
    went_back = cut.get("kind") == "rollback" and lost == deploy.previous and not forth
    if went_back and cut.get("old") not in (None, "", lost):
        with deploy.spare("That a release was gone back from"):
            releases.withdraw(deploy.paths, str(cut["old"]))
    if deploy.action != Action.RESUME:
        # Or its own steps close the journal: cut off again before the first, it would be forgotten.
        with deploy.spare("The journal of this run"):
            journal.note(deploy.paths, deploy.previous, "settle", "end", lost=lost)
    if not lost:
        return
    gone = not deploy.paths.release(lost).exists()
    went = "is live" if lost == deploy.previous else "was removed" if gone else "is not live"
    if cut.get("state") == "left":
        return  # that run has said so
    deploy.notes.append(f"The run before was cut off in step {cut.get('step')}: its release {lost} {went}.")
    with deploy.spare("The audit line"):
        journal.audit(
            deploy.paths,
            what="settle",
            by=deploy.by(),
            step=cut.get("step", ""),
            result="kept" if lost == deploy.previous else "undone",
            **{"from": cut.get("old", ""), "to": lost},
        )


def resume(deploy: Deploy, cut: dict[str, Any] | None) -> None:
    """Go on where a run was cut off after its switch: what it replaced is what a failure goes back to."""
    records = releases.records(deploy.paths)
    deploy.release, deploy.record = deploy.previous, records[deploy.previous]
    deploy.app = settings.served(deploy.paths, deploy.record["app"], deploy.release)
    old = str(cut.get("old", "")) if cut and cut.get("release") == deploy.release else ""
    if not records.get(old, {}).get("healthy"):
        old = releases.previous(records, deploy.release)
    deploy.previous = old


def undo(deploy: Deploy, step: str, error: ReleaseError) -> None:
    """A step failed: the old release goes on (or goes back), and the new one ends.

    Whatever fails on the way is told after the first cause, and keeps no other part from being done.
    """
    live, release = deploy.previous, deploy.release
    went_live = deploy.switched or deploy.action == Action.RESUME
    again = Apart(error)
    moved = ""
    with again("The schema could not be looked at"):
        moved = _schema_moved(deploy)
    deploy.switched = went_live  # so that a full disk does not stop the way back
    if went_live and live and live != release:
        with again("The release before it could not be started"):
            _wake(deploy, live, deploy.previous_app())
        if again.failed:
            # Better one that failed its proof than one that does not answer at all.
            again.stays = True
            error.also.append(f"So {release} stays live, unproved.")
            with again("Its processes could not be started"):
                units.start(naming.workers(deploy.app, release))
                jobs.change_over(deploy.paths, deploy.app, release, live, deploy.previous_app())
        else:
            _take_back(deploy, again)
    elif went_live and not live:
        with again("The way to it could not be closed"):
            deploy.paths.web_sock.unlink(missing_ok=True)
            deploy.paths.current.unlink(missing_ok=True)
    if not went_live or not live:
        with again(f"{release} could not be ended"):
            end_unproved(deploy)
        if (
            deploy.kind != Kind.ROLLBACK
            and deploy.action in (Action.DEPLOY, Action.RESUME)
            and release not in ("", live)
        ):
            with again(f"{release} could not be removed"):
                discard(deploy, spare_env=not cause.is_full(error.sentence))
    if deploy.action != Action.RESTART and not again.stays:
        error.also.append(_what_serves(deploy, went_live))
        error.also += filter(None, [moved])
    seconds = round(time.monotonic() - deploy.began, 1)
    with again("The audit line could not be written"):
        journal.audit(deploy.paths, **deploy.audit("failed", seconds, step=step, reason=error.sentence))
    if deploy.fingerprint and deploy.kind == Kind.DEPLOY and deploy.action in (Action.DEPLOY, Action.RESUME):
        with again("That it failed could not be noted"):
            redeploys.failed(
                deploy.paths,
                deploy.fingerprint,
                commit=deploy.identity,
                step=step,
                reason=error.sentence,
                passing=cause.passes(error.sentence),
                waits=error.waits,
            )
    deploy.switched, deploy.undone = False, True
    with again("The journal could not be written"):
        deploy.note(step, "failed", reason=error.sentence)


def discard(deploy: Deploy, *, spare_env: bool = True) -> None:
    """Remove the release, which was never live. What was installed for it the next try needs, unless the disk
    is full; a good deploy removes that."""
    spare = prune.env_of(deploy.paths, deploy.release) if spare_env else ""
    prune.remove_release(deploy.paths, deploy.release)
    prune.remove_unused_envs(deploy.paths, spare)


class Apart:
    """Parts of a work that are done whatever becomes of the others; problems are added to the first error."""

    def __init__(self, error: ReleaseError) -> None:
        self.error = error
        self.failed = False
        self.stays = False

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        self.failed = False
        try:
            yield
        except Exception as problem:  # noqa: BLE001 - the first cause must reach the user, and the rest be done
            self.failed = True
            said = problem.sentence if isinstance(problem, ReleaseError) else f"{problem}"
            self.error.also.append(f"{what}: {said.rstrip('.')}.")


def _take_back(deploy: Deploy, again: Apart) -> None:
    """From a release that went live and failed its proof: it has clients, so it ends as any other does."""
    live, app, release = deploy.previous, deploy.previous_app(), deploy.release
    if deploy.kind == Kind.DEPLOY:
        with again("That it was taken back could not be noted"):
            releases.withdraw(deploy.paths, release)
    with again("Going back met a problem"):
        switch.go_live(deploy, live, app, release, deploy.app)
    with again(f"The processes of {live} could not be started"):
        verify.take_over(deploy, live, app, release, deploy.app)
    with again(f"The jobs of {live} could not be started"):
        jobs.change_over(deploy.paths, app, live, release, deploy.app)
    with again(f"{release} runs on"):
        retire.let_go(deploy, release, deploy.app)


def _schema_moved(deploy: Deploy) -> str:
    """A migration is not undone: what it means for the release that serves now."""
    before = str((deploy.record.get("schema") or {}).get("from", ""))
    if deploy.kind != Kind.DEPLOY or not deploy.record.get("migrations"):
        return ""
    now = history.today(deploy.record)
    if now == before:
        return ""
    if not deploy.previous:
        return f"The schema stays at {now}."
    records = releases.records(deploy.paths)
    known = history.revisions(deploy.paths, records)
    return history.judge(known, deploy.previous, records.get(deploy.previous, {}), now).sentence


def _what_serves(deploy: Deploy, went_live: bool) -> str:
    if not deploy.previous:
        return "Nothing was live before, so nothing serves."
    return f"{deploy.previous} {'is live again' if went_live else 'serves on'}."


def end_unproved(deploy: Deploy) -> None:
    """What was started and never went live. A release to go back to may have clients of its own left."""
    if deploy.release in ("", deploy.previous, releases.live(deploy.paths)):
        return
    if deploy.kind == Kind.ROLLBACK:
        if units.states([deploy.web]).get(deploy.web) in ("active", "activating"):
            retire.let_go(deploy, deploy.release, deploy.app)
        return
    units.kill(naming.serving(deploy.paths, deploy.release))


def _wake(deploy: Deploy, release: str, app: dict[str, Any]) -> None:
    """The release to go back to may have been stopped: by the end of its retirement, or by a reboot."""
    web = naming.web(deploy.paths.app, release)
    retirement = naming.retiring(deploy.paths.app, release)
    if units.states([retirement]).get(retirement) == "active":
        units.stop([retirement])
    states = units.states(naming.serving(deploy.paths, release)[:2])
    if set(states.values()) == {"active"}:
        return
    past = units.begin(deploy.paths, release)
    path = journal.read_record(deploy.paths.release(release)).get("health_path", "")
    served = settings.served(deploy.paths, app, release)
    probe = health.probe(naming.socket(deploy.paths, release), served, path)
    once = {**app["health"], "successes": 1, "hold": 0}
    about = cause.About(str(deploy.paths.release(release)), called=f"{release}, to go back to,")
    gate.wait_healthy(probe, web, once, about, past)
