"""A deploy that the server begins by itself: the ordinary steps in their order, under the ordinary lock."""

from __future__ import annotations

import os
from typing import Any

from ..errors import UP, ReleaseError, run_of
from ..paths import Paths
from ..store import redeploys, releases, settings
from . import redeploy
from .deploy import TIMER, Answer
from .engine import Engine
from .plan import Action
from .steps import table
from .steps.table import Phase


def description(paths: Paths) -> Answer:
    """The app as it was deployed last with the settings that the server has, and what is followed today.

    Nothing of an inventory is on the server but this, so code alone moves, and settings stay as they are.
    """
    told = redeploys.settings(paths)
    if not told:
        raise ReleaseError(
            f"{paths.app} has no redeploy.schedule on this server: write it in apps.yml, then {UP}."
        )
    records = releases.records(paths)
    digest = settings.marks(paths).get("digest")
    newest = sorted(records, key=lambda name: str(records[name].get("created", "")), reverse=True)
    for name in newest:
        app = records[name].get("app")
        if app and settings.provision_digest(app) == digest:
            return {**app, "redeploy": told["redeploy"], "source": told["source"]}
    if not records:
        raise ReleaseError(f"{paths.app} was never deployed: {run_of('deploy', paths.app)}.")
    raise ReleaseError(
        f"The settings of {paths.app} on this server are those of no release that is here, and the inventory "
        f"is not. Next: {run_of('deploy', paths.app)}"
    )


def tick(paths: Paths, engine: Engine) -> Answer:
    """Look, and deploy where there is something new: `status`, what is `said`, and whether that is `news`."""
    try:
        app = description(paths)
    except ReleaseError as error:
        held = redeploy.Outcome.HELD
        news = redeploys.note(paths, held.value, error.sentence, TIMER)
        return {"status": held.status, "said": error.sentence, "news": news}
    looked = redeploy.look(paths, {"app": app, "alone": True}, TIMER)
    if not looked["go"]:
        return looked
    failed, said = "", ""
    try:
        said = _deploy(engine, app, looked["commit"])
    except ReleaseError as error:
        failed = error.text()
    finally:
        left = engine.run("unlock", {"name": paths.app}, None)["finished"]
    ended = redeploy.conclude(paths, failed, TIMER)
    return {**ended, "said": " ".join(filter(None, [failed or said, left]))}


def _deploy(engine: Engine, app: Answer, commit: str) -> str:
    """What roles/release/tasks/ has for it: a test holds both together."""
    name: dict[str, Any] = {"name": app["name"]}
    holder = {
        "user": TIMER,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "version": commit,
        "unattended": True,
    }
    engine.run("lock", {**name, "holder": holder}, None)
    engine.run("settings", {**name, "app": app}, None)
    planned = engine.run("plan", {**name, "app": app, "version": commit}, None)
    if planned["action"] == Action.NOTHING:
        return str(planned["msg"])
    phases = [Phase.GO_LIVE, Phase.AFTER]
    if planned["action"] == Action.DEPLOY:
        phases.insert(0, Phase.MAKE)
    said = ""
    for step in table.of(*phases):
        said = str(engine.run(step.name, {**name, "app": app}, None).get("msg", ""))
    return said
