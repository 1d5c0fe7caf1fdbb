"""What a deploy has to do: compares what is live with what is wanted. Changes nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any

from ..errors import UP, ReleaseError, run_of
from ..paths import Paths, text_digest
from ..runtime import naming
from ..services import table as services
from ..store import applies, releases, settings

# Part of every fingerprint: raise it when a release built by an older engine must be built again.
ENGINE_VERSION = "2"


class Action(str, Enum):
    """What a run does about the live release."""

    NOTHING = "nothing"
    RESTART = "restart"  # one that does not run as a whole
    RESUME = "resume"  # one that went live in a run that was cut off before it was proved
    DEPLOY = "deploy"  # another one


def fingerprint(app: dict[str, Any], source: str, env: str, unit_texts: list[str]) -> str:
    shape = applies.part(app, applies.RELEASE)
    shape["subdir"] = shape.pop("source")["subdir"]
    return text_digest(ENGINE_VERSION, source, json.dumps(shape, sort_keys=True), env, *unit_texts)


def server_side(paths: Paths, app: dict[str, Any]) -> tuple[str, list[str]]:
    """The env files and unit templates on the server, or the sentence that says they are missing or old."""
    name = app["name"]
    try:
        digest = settings.marks(paths).get("digest")
        if not digest:
            raise ValueError("the app was never set up, or was removed")
        env = (paths.etc / "env").read_text() + "\0" + (paths.etc / "migrate.env").read_text()
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"{name} has no place on this server yet.", advice=f"{UP} prepares the server and deploys."
        ) from error
    texts = []
    for template in naming.template_files(app):
        try:
            texts.append((paths.units / template).read_text())
        except OSError as error:
            raise ReleaseError(
                f"The unit {template} is not on this server yet.", advice=f"{UP} writes it, and deploys."
            ) from error
    keys = ", ".join(service.key for service in services.ALL)
    if digest != settings.provision_digest(app):
        raise ReleaseError(
            f"The settings of {name} (env, secrets, processes, jobs, limits, {keys}) changed since the "
            "server was prepared.",
            advice=f"{UP} applies them, and deploys.",
        )
    return env, texts


def decide(live: dict[str, Any], wanted: str, running: bool, force: bool, lost: bool = False) -> Action:
    """What to do about the live release. One whose Python is `lost` can never be started again."""
    if force or lost or not live or live.get("fingerprint") != wanted:
        return Action.DEPLOY
    if not live.get("healthy"):
        return Action.RESUME
    return Action.NOTHING if running else Action.RESTART


def older(origin: dict[str, Any], commit: str, record: dict[str, Any]) -> str:
    """The sentence for a wanted commit that came before what is live, and so would take something back."""
    version = str(origin.get("version") or "HEAD")
    wanted = commit[:7] if version == commit else f"{commit[:7]} ({version})"
    before, asked = str(record.get("version", "")), str(record.get("asked") or "")
    how = f"deployed with --version {asked}" if asked not in ("", before) else "deployed"
    when = record.get("live_since") or record.get("created") or "a time that is not known"
    return (
        f"{wanted} is older than what is live ({before[:7]}, {how} by {record.get('by') or 'somebody'} "
        f"at {when})."
    )


def ways(app: str, commit: str, asked: str, records: dict[str, dict[str, Any]], live: str) -> str:
    """What to do where an older commit is refused: a release of it that is here yet, or one word more."""
    found = []
    kept = str(records[live].get("asked") or "")
    if kept and not asked:
        found.append(f"to keep what is live, write source.version: {kept}")
    same = [name for name in releases.candidates(records, live) if records[name].get("version") == commit]
    if same:
        to = {} if same[0] == releases.previous(records, live) else {"to": same[0]}
        found.append(f"to go back to it: {run_of('rollback', app, **to)}")
    found.append("to deploy it all the same: -e force=true (--force)")
    return f"{'; '.join(found)}."


_STAMP = "%Y%m%dT%H%M%SZ"


def release_id(source: str, today: datetime | None = None, here: Iterable[str] = ()) -> str:
    """Above all that are here: a clock that ran ahead and was put right must not turn their order around."""
    moment = (today or datetime.now(timezone.utc)).replace(microsecond=0)
    for name in here:
        with contextlib.suppress(ValueError):
            stamp = datetime.strptime(name.partition("-")[0], _STAMP).replace(tzinfo=timezone.utc)
            moment = max(moment, stamp + timedelta(seconds=1))
    return f"{moment.strftime(_STAMP)}-{source[:7]}"
