"""Step switch: from one moment to the next, requests go to the release."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ...errors import ReleaseError
from ...runtime import naming, units
from ...store import disk, public, releases
from ..deploy import Answer, Deploy


def run(deploy: Deploy, _args: Answer) -> Answer:
    if deploy.writing:
        disk.end(deploy.paths, deploy.writing)
    with deploy.renaming:
        if deploy.abandoned:
            raise ReleaseError("The run that asked for the switch is gone.")
        deploy.switched = True
    go_live(deploy, deploy.release, deploy.app, deploy.previous, deploy.previous_app())
    msg = f"{deploy.release} is live; the switch took {deploy.switch_ms} ms."
    return {"changed": deploy.previous != deploy.release, "switch_ms": deploy.switch_ms, "msg": msg}


def go_live(deploy: Deploy, to: str, app: dict[str, Any], old: str, old_app: dict[str, Any]) -> None:
    name = deploy.paths.app
    mine = [naming.web(name, to), *naming.beside_web(app, to)]
    # Before the rename: what the symlink points to when the power goes away starts again with the host.
    with deploy.spare("What starts after a reboot"):
        units.enable(deploy.paths, mine[:1])
    with contextlib.suppress(FileNotFoundError):  # a release of before there was such a folder
        deploy.paths.public(to).chmod(0o755)
    with deploy.spare("Which releases the proxy finds older files in"):
        known = releases.records(deploy.paths)
        before = sorted(known, key=lambda name: releases.last_live(known[name]), reverse=True)
        public.number(deploy.paths.public(to).parent, [to, *(name for name in before if name != to)])
    began = time.perf_counter()
    units.replace_link(deploy.paths.web_sock, naming.socket(deploy.paths, to))
    units.replace_link(deploy.paths.current, deploy.paths.release(to))
    deploy.switch_ms = round((time.perf_counter() - began) * 1000, 1)
    with deploy.spare("What starts after a reboot"):
        units.enable(deploy.paths, mine[1:])
    if old and old != to:
        units.disable(deploy.paths, [naming.web(name, old), *naming.beside_web(old_app, old)])
        units.ask_to_stop(naming.workers(old_app, old))
