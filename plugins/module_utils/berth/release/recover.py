"""After a run that failed, or that was cut off: the old release goes on, or what went live is proved."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import cause, command, gate, journal, prune, settings, units
from .errors import ReleaseError

if TYPE_CHECKING:
    from .steps import Deploy


def settle(deploy: Deploy, cut: dict[str, Any] | None) -> None:
    """Finish or undo what a run that was killed left behind."""
    if not cut:
        return
    units.end_transient(deploy.paths.app)
    lost = str(cut.get("release", ""))
    mine: list[str] = []
    if deploy.live:
        units.replace_link(deploy.paths.current, deploy.paths.release(deploy.live))
        mine = units.beside_web(deploy.live_app(), deploy.live)
        units.enable(deploy.paths, [units.web(deploy.paths.app, deploy.live), *mine])
    for release, record in prune.list_releases(deploy.paths).items():
        if release == deploy.live:
            continue
        if not record.get("healthy"):
            prune.remove_release(deploy.paths, release)
            continue
        beside = units.beside_web(record["app"], release)
        units.disable(deploy.paths, [units.web(deploy.paths.app, release), *beside])
        units.stop([name for name, state in units.states(beside).items() if state == "active"])
        if units.states([units.web(deploy.paths.app, release)]).popitem()[1] == "active":
            deploy.let_go(release, record["app"])
    if deploy.action == "deploy" and mine:
        # The engine was killed before it started them, and the deploy that follows may fail.
        command.systemctl("start", "--no-block", *mine)
    prune.sweep(deploy.paths)
    if deploy.action != "deploy":
        prune.remove_unused_envs(deploy.paths)
    journal.note(deploy.paths, deploy.live, "settle", "end", lost=lost)
    if not lost:
        return
    gone = not deploy.paths.release(lost).exists()
    went = "is live" if lost == deploy.live else "was removed" if gone else "is not live"
    deploy.notes.append(f"The run before was cut off in step {cut.get('step')}: its release {lost} {went}.")
    journal.audit(
        deploy.paths,
        what="settle",
        by=deploy.by(),
        step=cut.get("step", ""),
        result="kept" if lost == deploy.live else "undone",
        **{"from": cut.get("old", ""), "to": lost},
    )


def resume(deploy: Deploy, cut: dict[str, Any] | None) -> None:
    """Go on where a run was cut off after its switch: what it replaced is what a failure goes back to."""
    releases = prune.list_releases(deploy.paths)
    deploy.release, deploy.record = deploy.live, releases[deploy.live]
    deploy.app = settings.served(deploy.paths, deploy.record["app"], deploy.release)
    old = str(cut.get("old", "")) if cut and cut.get("release") == deploy.release else ""
    if not releases.get(old, {}).get("healthy"):
        old = prune.previous(releases, deploy.release)
    deploy.live = old


def undo(deploy: Deploy, step: str, error: ReleaseError) -> None:
    """A step failed: the old release goes on (or goes back), and of the new one its environment is left."""
    if (deploy.switched or deploy.action == "resume") and deploy.live and deploy.live != deploy.release:
        _wake(deploy, deploy.live, deploy.live_app())
        deploy.go_live(deploy.live, deploy.live_app(), deploy.release, deploy.app)
        deploy.take_over(deploy.live, deploy.live_app(), deploy.release, deploy.app)
    elif (deploy.switched or deploy.action == "resume") and not deploy.live:
        deploy.paths.web_sock.unlink(missing_ok=True)
        deploy.paths.current.unlink(missing_ok=True)
    if (
        deploy.kind == "deploy"
        and deploy.action in ("deploy", "resume")
        and deploy.release not in ("", deploy.live)
    ):
        if not deploy.switched:
            units.kill(units.serving(deploy.paths, deploy.release))
        # What was installed is no cause of it, and the next try needs it; the next good deploy removes it.
        full = cause.is_full(error.sentence)
        spare = "" if full else prune.env_of(deploy.paths, deploy.release)
        prune.remove_release(deploy.paths, deploy.release)
        prune.remove_unused_envs(deploy.paths, spare)
    elif deploy.kind == "rollback" and deploy.release != deploy.live:
        units.stop(units.serving(deploy.paths, deploy.release))
    seconds = round(time.monotonic() - deploy.began, 1)
    journal.audit(deploy.paths, **deploy.audit("failed", seconds, step=step, reason=error.sentence))
    deploy.switched = False


def _wake(deploy: Deploy, release: str, app: dict[str, Any]) -> None:
    """The release to go back to may have been stopped: by the end of its retirement, or by a reboot."""
    web = units.web(deploy.paths.app, release)
    retirement = units.retiring(deploy.paths.app, release)
    if units.states([retirement])[retirement] == "active":
        units.stop([retirement])
    if set(units.states(units.serving(deploy.paths, release)[:2]).values()) == {"active"}:
        return
    past = units.begin(deploy.paths, release)
    path = journal.read_record(deploy.paths.release(release)).get("health_path", "")
    probe = gate.probe(deploy.paths.socket(release), settings.served(deploy.paths, app, release), path)
    once = {**app["health"], "successes": 1, "hold": 0}
    about = cause.About(str(deploy.paths.release(release)), called=f"{release}, to go back to,")
    gate.wait_healthy(probe, web, once, about, past)
