"""Step gate: the release has to be well on its own socket before anybody is sent to it."""

from __future__ import annotations

from ...errors import ReleaseError, run_of
from ...packaging import start_scripts
from ...runtime import gate
from ..deploy import Answer, Deploy
from ..plan import Action


def run(deploy: Deploy, _args: Answer) -> Answer:
    probe = deploy.probe()
    # Once healthy, one good answer is proof enough.
    once = {"successes": 1, "hold": 0} if deploy.record.get("healthy") else {}
    try:
        gate.wait_healthy(
            probe, deploy.web, {**deploy.app["health"], **once}, deploy.about(), deploy.past, _crew(deploy)
        )
    except ReleaseError as error:
        if deploy.action == Action.RESTART:
            error.advice = f"{error.advice} {_ways_out(deploy)}"
        raise
    start_scripts.grow(deploy.folder, deploy.web)
    deploy.record["health_path"] = probe.path
    if not deploy.record.get("healthy"):
        deploy.save()
    return {"changed": False, "msg": f"{probe.path} on the new socket is well."}


def _crew(deploy: Deploy) -> gate.Crew | None:
    """The workers to wait for before the switch; a command of one's own may have any number."""
    if not deploy.record.get("target") or "GUNICORN_CMD_ARGS" in deploy.app["env"]:
        return None
    # What was well once is gone back to with those that are there in time.
    return gate.Crew(start_scripts.crew(deploy.folder), needed=not deploy.record.get("healthy"))


def _ways_out(deploy: Deploy) -> str:
    name = deploy.paths.app
    return (
        f"It was left as it is: {run_of('deploy', name, force=True)} builds the same source anew, and "
        f"{run_of('rollback', name)} goes back."
    )
