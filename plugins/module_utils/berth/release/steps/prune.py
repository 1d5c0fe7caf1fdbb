"""Step prune: old releases and the environments that none of them uses go."""

from __future__ import annotations

from ...store import prune, releases, trim
from ..deploy import Answer, Deploy
from . import retire


def run(deploy: Deploy, _args: Answer) -> Answer:
    records = releases.records(deploy.paths)
    live = releases.live(deploy.paths)
    busy = prune.at_work(deploy.paths)
    keep = int(deploy.app["keep_releases"])
    _, gone = releases.select(records, live, keep, busy)
    for release in busy:
        if release in records and release != live and release not in gone:
            # Unless something waits for its end already.
            retire.let_go(deploy, release, records[release]["app"])
    for release in list(gone):
        if why := prune.remove_release(deploy.paths, release):
            gone.remove(release)
            deploy.leave(f"{release} cannot be removed: {why}")
    envs = prune.remove_unused_envs(deploy.paths)
    trim.begin(deploy.paths, deploy.app)
    what = f"Removed {', '.join(gone)}." if gone else "Nothing to prune."
    return {"changed": bool(gone or envs), "msg": what}
