"""Step finish: the audit line, and what the run says of itself at its end."""

from __future__ import annotations

import time

from ...store import journal, redeploys
from ..deploy import Answer, Deploy, Kind


def run(deploy: Deploy, _args: Answer) -> Answer:
    seconds = round(time.monotonic() - deploy.began, 1)
    with deploy.spare("The audit line"):
        journal.audit(deploy.paths, **deploy.audit("ok", seconds))
    if deploy.fingerprint and deploy.kind == Kind.DEPLOY:
        with deploy.spare("That it went well"):
            redeploys.succeeded(deploy.paths, deploy.fingerprint)
    url = f"https://{deploy.domain}"
    took = f" (the switch took {deploy.switch_ms} ms)" if deploy.switched else ""
    left = [f"Left to the next run: {what.rstrip('.')}." for what in deploy.left]
    msg = " ".join([f"{deploy.release} is live at {url} after {seconds} s{took}.", *deploy.notes, *left])
    return {
        "changed": False,
        "msg": msg,
        "times": deploy.times,
        "seconds": seconds,
        "release": deploy.release,
        **({"warnings": left} if left else {}),
    }
