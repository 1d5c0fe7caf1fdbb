"""Step settings: whether the inventory says something else than the server was prepared with."""

from __future__ import annotations

from ...store import settings
from .. import clocks
from ..deploy import Answer, Deploy


def run(deploy: Deploy, args: Answer) -> Answer:
    """Whether the inventory's settings are newer than the server's. What is wrong is told by the plan."""
    been = (args.get("provisioned") or {}) if args.get("check") else {}
    predicted = [role for role, through in been.items() if through]
    found = settings.compare(deploy.paths, args["app"], args.get("vault") or {}, predicted)
    deploy.problem = found["problem"]
    stale = bool(found["stale"] or (clocks.differs(args["app"], deploy.paths.root) and not found["problem"]))
    return {"changed": False, "stale": stale, "secrets": found["secrets"]}
