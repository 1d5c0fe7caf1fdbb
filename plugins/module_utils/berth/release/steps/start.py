"""Step start: the release's web runs beside the live one, and nobody is sent to it yet."""

from __future__ import annotations

from ...runtime import naming, units
from ...store import disk
from ..deploy import Answer, Deploy


def run(deploy: Deploy, _args: Answer) -> Answer:
    retirement = naming.retiring(deploy.paths.app, deploy.release)
    if units.states([retirement])[retirement] in ("active", "activating"):
        units.stop([retirement])
    was = units.states([deploy.web])[deploy.web]
    deploy.past = units.begin(deploy.paths, deploy.release)
    deploy.since = deploy.past.since
    if not deploy.record.get("healthy"):
        # New files reach the disk while the release starts: after a power cut it must not be empty files.
        deploy.writing = disk.flush(deploy.paths, deploy.release)
    return {"changed": was != "active", "msg": f"{deploy.web} is starting."}
