"""Step retire: what was live ends in the background, when its last connection does."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from ...errors import ReleaseError
from ...host import command
from ...payload import retire
from ...runtime import naming, transient, units
from ...store import journal, proxy, releases
from ..deploy import Answer, Deploy

MARGIN = 5
# What the retirement is called of one that does not wait for WebSockets any more.
_EARLY = "End early:"


def idle(deploy: Deploy) -> int:
    """Seconds after which the proxy has let go of a release that is not live any more."""
    return proxy.read(deploy.paths.root).upstream_idle + MARGIN


def run(deploy: Deploy, _args: Answer) -> Answer:
    if not deploy.previous or deploy.previous == deploy.release:
        return {"changed": False, "msg": "Nothing to retire."}
    old = naming.web(deploy.paths.app, deploy.previous)
    if units.states([old]).get(old) == "inactive":
        return {"changed": False, "msg": f"{deploy.previous} does not run any more."}
    let_go(deploy, deploy.previous, deploy.previous_app())
    early = _make_room(deploy)
    deploy.notes += early
    msg = f"{deploy.previous} ends in the background when its last connection does."
    return {"changed": True, "msg": " ".join([msg, *early])}


def beside(deploy: Deploy, states: Collection[str] = ("active",)) -> list[str]:
    """Releases whose web serves beside the live one; the one that was live longest ago comes first."""
    live, records = releases.live(deploy.paths), releases.records(deploy.paths)
    webs = {naming.web(deploy.paths.app, name): name for name in records if name != live}
    found = [webs[unit] for unit, state in units.states(list(webs)).items() if state in states]
    return sorted(found, key=lambda name: releases.last_live(records[name]))


def _make_room(deploy: Deploy) -> list[str]:
    """Of too many that retire the oldest wait for no WebSocket any more; what was said of each."""
    most = int(deploy.app["drain"]["releases"])
    retiring, said = beside(deploy), []
    for release in retiring[: max(0, len(retiring) - most)]:
        # Without a connection it ends by itself.
        count = retire.connections(str(naming.socket(deploy.paths, release)))
        app = journal.read_record(deploy.paths.release(release)).get("app") or deploy.app
        if count and let_go(deploy, release, app, early=True):
            closed = "its open connection is" if count == 1 else f"its {count} open connections are"
            said.append(
                f"{release} ends early, since {len(retiring)} releases retire: {closed} closed, and "
                f"requests in flight have {app['drain']['requests']} s (drain.releases is {most})."
            )
    return said


def let_go(deploy: Deploy, release: str, app: dict[str, Any], *, early: bool = False) -> bool:
    """Until its last connection is gone, or its time is over, whatever becomes of this run.

    `early` is when the proxy has let go of it. Says whether anything is new about its end.
    """
    unit = naming.retiring(deploy.paths.app, release)
    free = idle(deploy)
    limit = max(free, int(app["drain"]["requests"]), int(app["drain"]["websocket"]))
    what = f"Wait for {release} of {deploy.paths.app} to finish, then stop it"
    passed = 0.0
    if units.states([unit]).get(unit) in ("active", "activating"):
        known = units.show(unit, "Description", "ActiveEnterTimestampMonotonic") if early else {}
        if not early or known.get("Description", "").startswith(_EARLY):
            return False
        began = int(known.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
        passed = time.monotonic() - began if began else 0.0
        # Another takes over instead of a signal to this one: it may run the script of an earlier Berth.
        units.stop([unit])
    if early:
        limit = max(0, round(free - passed))
        what = f"{_EARLY} {what[0].lower()}{what[1:]}"
    # Not from a file: a full disk must not keep an old release at work.
    wait = ["/usr/bin/python3", "-I", "-c", command.module_source(retire)]
    wait += [str(naming.socket(deploy.paths, release)), str(deploy.paths.web_sock), str(free), str(limit)]
    ended = [*naming.serving(deploy.paths, release), *naming.beside_web(app, release)]
    done = transient.in_background(unit, what, [*wait, *ended])
    if done.code != 0:
        raise ReleaseError(f"{release} could not be retired: {done.lines[0] if done.lines else done.code}.")
    return True
