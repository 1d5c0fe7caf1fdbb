"""The steps in their order. The engine, the tasks of role release and check mode go by this table.

A new step is a file beside this one, a line here, and a task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from ..deploy import Answer, Deploy
from . import (
    build,
    exchange,
    fetch,
    finish,
    gate,
    migrate,
    plan,
    plan_rehearsal,
    plan_rollback,
    prune,
    rehearse,
    remove,
    restore_point,
    retire,
    settings,
    start,
    switch,
    verify,
)


class Phase(Enum):
    """Where on its way a run is."""

    DECIDE = auto()  # asked in check mode, too, and looks only
    MAKE = auto()  # a deploy's: a rollback has its release, and a rehearsal takes the first two of them
    REHEARSE = auto()  # a rehearsal's alone, after what makes a release; then that goes
    GO_LIVE = auto()
    AFTER = auto()  # the switch is done: what is left is finished even when the run is gone


@dataclass(frozen=True)
class Step:
    name: str
    run: Callable[[Deploy, Answer], Answer]
    phase: Phase
    # The arguments that its task gives; and `body`, the files of a source that is a folder.
    takes: tuple[str, ...]
    # What check mode says of it when the plan is to deploy; the others report, wait or tidy up.
    changes: bool = False
    # The verb to run once more where it failed.
    again: str = "deploy"


STEPS = (
    Step("settings", settings.run, Phase.DECIDE, ("app", "vault", "provisioned")),
    Step("plan", plan.run, Phase.DECIDE, ("app", "version", "force")),
    Step("plan_rollback", plan_rollback.run, Phase.DECIDE, ("name", "to", "force"), again="rollback"),
    Step("plan_rehearsal", plan_rehearsal.run, Phase.DECIDE, ("app", "version"), again="rehearse"),
    Step("remove", remove.run, Phase.DECIDE, ("name", "purge", "declared"), again="remove"),
    Step("exchange", exchange.run, Phase.DECIDE, ("name", "mode", "force", "table")),
    Step("fetch", fetch.run, Phase.MAKE, ("app", "body"), changes=True),
    Step("build", build.run, Phase.MAKE, ("name",), changes=True),
    Step("restore_point", restore_point.run, Phase.MAKE, ("name",)),
    Step("migrate", migrate.run, Phase.MAKE, ("name",)),
    Step("rehearse", rehearse.run, Phase.REHEARSE, ("name", "wait"), again="rehearse"),
    Step("start", start.run, Phase.GO_LIVE, ("name",), changes=True),
    Step("gate", gate.run, Phase.GO_LIVE, ("name",)),
    Step("switch", switch.run, Phase.GO_LIVE, ("name",), changes=True),
    Step("verify", verify.run, Phase.AFTER, ("name",)),
    Step("retire", retire.run, Phase.AFTER, ("name",)),
    Step("prune", prune.run, Phase.AFTER, ("name",)),
    Step("finish", finish.run, Phase.AFTER, ("name",)),
)


def of(*phases: Phase) -> tuple[Step, ...]:
    return tuple(step for step in STEPS if step.phase in phases)


def find(name: str) -> Step | None:
    return next((step for step in STEPS if step.name == name), None)
