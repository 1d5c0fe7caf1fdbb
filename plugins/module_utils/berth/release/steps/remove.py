"""Taking an app off its server. Data, database, Redis and secrets stay unless they are purged."""

from __future__ import annotations

import json
import shutil
from typing import Any

from ...errors import UP
from ...host import command, untrusted
from ...paths import Paths
from ...runtime import clocks, naming, units
from ...services import table as services
from ...services.service import Service
from ...store import journal, prune, receipts, redeploys, releases, settings
from ..deploy import Answer, Deploy


def run(deploy: Deploy, args: Answer) -> Answer:
    purge, check = bool(args.get("purge")), bool(args.get("check"))
    return remove(deploy.paths, purge, deploy.holder, check, bool(args.get("declared")))


def remove(
    paths: Paths, purge: bool, holder: dict[str, Any], check: bool, absent: bool = False
) -> dict[str, Any]:
    """`absent`: the inventory says that it shall not be here, so no further run brings it back."""
    live = releases.live(paths)
    records = releases.records(paths)
    recorded = settings.recorded(paths)
    templates = naming.templates(paths)
    of_services = [path for service in services.ALL for path in service.traces(paths)]
    # The lock is this run's own.
    noted = [path for path in paths.state.glob("*") if path.name != "lock"]
    there = [path for path in (paths.base, paths.etc, *of_services, *noted) if path.exists()]
    ours = bool(live or records or templates or _set_up(paths))
    present = bool(live or records or templates or (purge and ours and there))
    what = ", ".join(service.what for service in services.ALL if service.keeps_data)
    kept = f" Its data, {what} and secrets are kept: -e purge=true removes them too."
    if purge:
        stays = [service.stays(recorded[service.key]) for service in services.ALL]
        kept = "".join(f" {said}" for said in stays if said)
    if not present:
        if purge and not check:
            shutil.rmtree(paths.state, ignore_errors=True)
        return {"changed": False, "msg": f"{paths.app} is not on this server."}
    if check:
        return {"changed": True, "msg": f"{paths.app} would be removed.{kept}"}
    # First: what is cut off in the middle must not be taken for whole.
    receipts.forget(paths.app, paths.root)
    units.end_transient(paths.app)
    for release in records:
        units.stop([naming.retiring(paths.app, release)], patience=1)
        prune.remove_release(paths, release)
    paths.web_sock.unlink(missing_ok=True)
    paths.current.unlink(missing_ok=True)
    prune.sweep(paths)
    untrusted.remove(paths.stage)
    prune.remove_unused_envs(paths)
    units.forget_templates(paths, templates)
    if paths.app in clocks.apps(paths.root):
        clocks.forget(paths.app, paths.root)
    (paths.etc / redeploys.FILE).unlink(missing_ok=True)
    for service in services.ALL:
        if unit := _own_unit(paths, service):
            units.end_for_good(unit)
    if purge:
        _purge(paths, recorded)
    else:
        # The next deploy must be told to run site.yml, which brings units and accounts back.
        if paths.etc.is_dir():
            text = json.dumps({"digest": "", "services": recorded}, sort_keys=True) + "\n"
            journal.replace_text(paths.provisioned, text, 0o644)
    journal.audit(
        paths,
        what="remove",
        by=f"{holder.get('user', '?')}@{holder.get('host', '?')}",
        purge=purge,
        result="ok",
        **{"from": live, "to": ""},
    )
    if absent:
        again = f" Its site is with the proxy still: {UP} takes it away." if settings.site(paths) else ""
    else:
        again = (
            f" Take it out of apps.yml, or write it there with state: absent, and run {UP}, or the next run "
            f"brings {paths.app} back."
        )
    return {"changed": True, "msg": f"{paths.app} is removed.{kept}{again}"}


def _set_up(paths: Paths) -> bool:
    """Whether Berth prepared this server for an app of that name.

    A folder of that name alone tells nothing: /etc/berth/redis and /run/systemd are no app's.
    """
    marks = (paths.provisioned, paths.state / "journal.jsonl")
    return any(path.exists() for path in marks) or (paths.releases.is_dir() and paths.envs.is_dir())


def _own_unit(paths: Paths, service: Service) -> str:
    """The unit of the app's own instance of a service; empty where there is none here."""
    name = service.unit(paths.app)
    here = name and any(path.exists() for path in service.traces(paths))
    return naming.distributions(name) if here else ""


def _purge(paths: Paths, recorded: dict[str, dict[str, Any]]) -> None:
    for service in services.ALL:
        if unit := _own_unit(paths, service):
            units.forget_own(paths, unit)
        service.purge(paths, recorded[service.key])
    for folder in (paths.base, paths.etc, paths.build_home, paths.git, paths.sockets, paths.run):
        shutil.rmtree(folder, ignore_errors=True)
    for user in (paths.app, paths.build_user):
        command.run(["userdel", user])
    # Last, since it tells that there was an app. The lock file inside is still held by this process; its
    # folder may go all the same.
    shutil.rmtree(paths.state, ignore_errors=True)
