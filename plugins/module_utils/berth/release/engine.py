"""Answers what the playbooks ask: takes locks, runs steps, and finishes alone what a lost run had begun."""

from __future__ import annotations

import contextlib
from typing import IO

from ..errors import ReleaseError, next_run
from ..paths import Paths
from ..store import journal, public, releases, temporary
from . import recover
from .deploy import Answer, Deploy, Kind
from .perform import perform
from .questions import QUESTIONS
from .steps import table
from .steps.table import Phase


class Engine:
    """Keeps one Deploy per app while its lock is held."""

    def __init__(self) -> None:
        self.deploys: dict[str, Deploy] = {}

    def run(self, step: str, args: Answer, body: IO[bytes] | None) -> Answer:
        if step in QUESTIONS:
            return QUESTIONS[step](args, body)
        name = args["name"]
        Paths(name)  # or the sentence that this is no name
        if step == "lock":
            return self._lock(name, args)
        if step == "unlock":
            return self._unlock(name)
        known = table.find(step)
        try:
            return self._locked(step, known, name, {**args, "body": body})
        except ReleaseError as error:
            held = self.deploys.get(name)
            rehearsed = held and held.kind == Kind.REHEARSAL
            verb = Kind.REHEARSAL.verb if rehearsed else known.again if known else "deploy"
            error.advice = error.advice or f"correct it, then: {next_run(verb, name, error.sentence)}"
            raise

    def _locked(self, step: str, known: table.Step | None, name: str, args: Answer) -> Answer:
        deploy = self.deploys.get(name)
        if deploy is None:
            if not args.get("check"):
                raise ReleaseError(f"Step {step} needs the lock of {name}, and this run does not hold it.")
            deploy = self.deploys[name] = Deploy(Paths(name), {})
        if not known:
            raise ReleaseError(f"There is no step {step}.")
        if known.phase == Phase.DECIDE:
            return known.run(deploy, args)
        return perform(deploy, known.name, known.run, args)

    def _lock(self, name: str, args: Answer) -> Answer:
        if name in self.deploys:
            return {"changed": False, "msg": "This run holds the lock already."}
        deploy = Deploy(Paths(name), args["holder"])
        deploy.lock.take({**args["holder"], "since": journal.now()}, float(args.get("wait") or 0))
        self.deploys[name] = deploy
        temporary.sweep()
        # A host that lost its power while an app was held has the mark of its release laid aside.
        public.mend(deploy.paths.release(releases.live(deploy.paths)))
        return {"changed": False, "msg": f"{name} is locked for this run."}

    def _unlock(self, name: str) -> Answer:
        """The run itself may have failed between two steps, and go on with other apps."""
        deploy = self.deploys.get(name)
        finished = ""
        if deploy:
            # In sight meanwhile: a run that goes away now has to find it unfinished.
            try:
                if deploy.switched:
                    _finish(deploy)
                    finished = f"{deploy.release} was live by then, and is proved."
                elif not deploy.proved and not deploy.undone:
                    recover.end_unproved(deploy)
            except ReleaseError as error:
                finished = error.text().splitlines()[0]
            finally:
                deploy.close_repository()
                del self.deploys[name]
                deploy.lock.release()
        return {"changed": bool(finished), "msg": "The lock is free.", "finished": finished}

    def abandon(self) -> bool:
        """The run is gone: ends what was started for it, or says that there is something to finish alone."""
        deploys = list(self.deploys.values())
        for deploy in deploys:
            with deploy.renaming:
                deploy.abandoned = not deploy.switched
        if not all(deploy.abandoned for deploy in deploys):
            return False
        for deploy in deploys:
            with contextlib.suppress(Exception):
                if not deploy.proved and not deploy.undone:
                    recover.end_unproved(deploy)
        return True

    def finish_alone(self) -> None:
        """What is left after a switch, when its run is gone: the release is proved, or taken back."""
        for deploy in self.deploys.values():
            with contextlib.suppress(Exception):
                _finish(deploy)


def _finish(deploy: Deploy) -> None:
    deploy.alone = True
    for step in table.of(Phase.AFTER):
        if deploy.switched and step.name not in deploy.times:
            perform(deploy, step.name, step.run, {})
