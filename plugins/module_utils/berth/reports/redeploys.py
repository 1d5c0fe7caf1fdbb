"""Deploys by the clock, for `berth status`: the next look, what came of the last one, what is held back."""

from __future__ import annotations

from ..paths import Paths
from ..runtime import clocks, noted
from ..store import redeploys
from . import telling
from .asking import Facts

# Code, level, sentence and cure.
Finding = tuple[str, str, str, str]


def facts(paths: Paths) -> Facts | None:
    """None of an app that nothing but people ever deployed, and well."""
    told, known = redeploys.settings(paths), redeploys.state(paths)
    if not told and not known.get("last") and not known.get("paused"):
        return None
    last = known.get("last") or {}
    return {
        "timer": clocks.running(paths.app) if told else None,
        "next": noted.moment(clocks.due(paths.app)) if told else "",
        "last": {key: str(last.get(key, "")) for key in ("at", "by", "outcome", "said")} if last else None,
        "paused": known.get("paused"),
        "failed": [
            {key: one.get(key) for key in ("commit", "at", "step", "reason", "waits", "passing")}
            for one in (known.get("failed") or {}).values()
        ],
    }


def summary(app: str, found: Facts | None) -> str:
    """One line: the next look, and what came of the last one; empty where there is none by the clock."""
    if not found or found["timer"] is None:
        return ""
    due = f"next look at {telling.minute(found['next'])}" if found["next"] else "no look to come"
    last = found["last"]
    said = f"last at {telling.minute(last['at'])}: {last['outcome']}" if last else "none yet"
    return f"Redeploys of {app}: {due}; {said}"


def judge(app: str, found: Facts | None) -> list[Finding]:
    """What is to be said of it."""
    if not found:
        return []
    said: list[Finding] = []
    if found["timer"] is False:
        said.append(("redeploy-timer", "sick", "its redeploys do not run: the timer is stopped", "berth up"))
    if paused := found["paused"]:
        text = f"its redeploys are paused by {paused.get('by')} since {telling.minute(str(paused.get('at')))}"
        said.append(("redeploy-paused", "note", text, f"berth redeploy {app} --resume"))
    last = found["last"] or {}
    if last.get("outcome") in ("failed", "held", "waits") and not paused:
        then = f"berth deploy {app}" if last["outcome"] == "waits" else f"berth redeploy {app} --retry"
        text = f"its last redeploy {_WORDS[last['outcome']]}: {last['said'].splitlines()[0]}"
        said.append(("redeploy", "note", text, then))
    return said


_WORDS = {"failed": "failed", "held": "is held back", "waits": "waits for somebody"}
