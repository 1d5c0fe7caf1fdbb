"""Step verify: the public route answers, and the processes beside the web change over: it is proved."""

from __future__ import annotations

import time
from typing import Any

from ...diagnosis import cause
from ...errors import ReleaseError, next_run
from ...runtime import jobs, naming, public_route, units
from ...store import journal, releases
from ..deploy import SAID, Answer, Deploy, Kind

# Seconds for which the processes beside the web have to stay up: at least, and while they are still at work.
_SETTLED = (0.5, 3.0)


def run(deploy: Deploy, _args: Answer) -> Answer:
    note = public_route.verify_public(
        deploy.domain,
        deploy.record.get("health_path", ""),
        deploy.probe(),
        deploy.release if deploy.record.get("target") else "",
        before_is_well=lambda: _previous_is_well(deploy),
    )
    if note:
        deploy.notes.append(note + ".")
    take_over(deploy, deploy.release, deploy.app, deploy.previous, deploy.previous_app())
    # A process that dies at its first import does so at once. What was well once is trusted.
    patience = (0.0, 0.0) if deploy.record.get("healthy") else _SETTLED
    failed = units.fallen(naming.workers(deploy.app, deploy.release), *patience, deploy.past)
    if failed:
        # Before its log, which may be slow to come: two seconds later systemd starts it again.
        state = units.show(failed, "Result", "ExecMainStatus", "SubState")
        lines = units.journal(failed, since=deploy.past.since)
        why = cause.explain(lines, state, deploy.about(_process(deploy, failed)))
        raise ReleaseError(
            f"{failed} does not stay up: {why}.",
            log=lines[-20:],
            advice=f"correct the process, then: {next_run('deploy', deploy.paths.app, why)}",
        )
    if not deploy.record.get("healthy"):
        deploy.notes += _complaints(deploy)
    # Last, since a run that has begun is not taken back with its release.
    jobs.change_over(deploy.paths, deploy.app, deploy.release, deploy.previous, deploy.previous_app())
    deploy.proved = True
    with deploy.spare("That the release is well"):
        _remember(deploy)
    return {"changed": False, "msg": note or f"https://{deploy.domain} answers from the new release."}


def _previous_is_well(deploy: Deploy) -> bool:
    if not deploy.previous or deploy.previous == deploy.release:
        return False
    probe, code = deploy.ask_previous()
    return probe.good(code)


def take_over(deploy: Deploy, to: str, app: dict[str, Any], old: str, old_app: dict[str, Any]) -> None:
    """The workers change too; never both releases' at once, where that would act twice."""
    mine, alone = naming.workers(app, to), naming.alone(app, to)
    # One that is to start again may be finishing its work since a deploy a moment ago.
    patience = 120 + units.to_end(app)
    units.start([name for name in mine if name not in alone], patience=patience)
    if old and old != to:
        _await_end(deploy, old, old_app)
    deploy.past = units.start(mine, patience=patience)


def _await_end(deploy: Deploy, old: str, old_app: dict[str, Any]) -> None:
    beside, alone = naming.workers(old_app, old), naming.alone(old_app, old)
    began = time.monotonic()
    units.stop(beside, patience=0)
    units.stop(alone, patience=units.to_end(old_app))
    took = time.monotonic() - began
    if took > SAID:
        names = ", ".join(naming.stem(name) for name in alone)
        deploy.notes.append(
            f"The new {names} started after the old one had finished its work, for {took:.0f} s "
            "(overlap: true where both may run at once)."
        )
    ended = [name for name, state in units.states(beside).items() if state == "failed"]
    if ended:
        units.forget_failure(ended)


def _remember(deploy: Deploy) -> None:
    """The order in which releases were live is what the next rollback goes by, and what is kept."""
    records = releases.records(deploy.paths)
    back = bool(deploy.record.pop("withdrawn", ""))
    deploy.record["healthy"] = True
    if deploy.release != deploy.previous or not deploy.record.get("turn"):
        deploy.record["turn"] = releases.next_turn(records)
        deploy.record["live_since"] = journal.now()
    deploy.save()
    # Who goes forth again to what was gone back from takes that back, and says nothing of what is left.
    if deploy.kind == Kind.ROLLBACK and deploy.previous != deploy.release and not back:
        releases.withdraw(deploy.paths, deploy.previous)


def _complaints(deploy: Deploy) -> list[str]:
    """What processes that stay up log of errors: a queue that is not there stops no worker."""
    found = []
    for unit in [deploy.web, *naming.workers(deploy.app, deploy.release)]:
        lines = units.journal(unit, since=deploy.since if unit == deploy.web else deploy.past.since)
        if why := cause.complaint(lines, deploy.about(_process(deploy, unit))):
            found.append(f"{unit} runs and logs an error: {why}.")
    return found


def _process(deploy: Deploy, unit: str) -> str:
    names = (str(process["name"]) for process in deploy.app["processes"])
    fits = [name for name in names if unit.startswith(f"{deploy.paths.app}-{name}")]
    return max(fits, key=len, default="web")
