"""The steps of a deploy and of a rollback, as the playbook calls them.

State between steps lives in the process.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from ..diagnosis import cause
from ..errors import UP, ReleaseError, next_run, run_of
from ..host import command, memory, sandbox, untrusted
from ..migrations import migrate, offline, schema
from ..migrations.migrate import Decision
from ..packaging import build, prove, pythons
from ..packaging.build import Builder
from ..paths import Paths, instance_file, template_files
from ..payload import retire
from ..reading import places, pools, project, randoms
from ..reports import diff, hints, history, status
from ..runtime import gate, jobs, units
from ..sources import source
from ..store import disk, journal, prune, settings, trim
from ..store.lock import Lock, hostwide
from . import plan, recover, remove

Answer = dict[str, Any]
_PROXY_IDLE = 30
_MARGIN = 5
# Seconds after which the proxy has let go of a release that is not live any more.
_IDLE = _PROXY_IDLE + _MARGIN
# Seconds for which the processes beside the web have to stay up: at least, and while they are still at work.
_SETTLED = (1.0, 3.0)
# Seconds of waiting for what is old that a run does not mention.
_SAID = 5
# Retiring releases beside the live one, where the app says nothing.
_RETIRING = 2
# What the retirement is called of one that does not wait for WebSockets any more.
_EARLY = "End early:"
# Of pending migrations so many are told by name.
_NAMED = 10


class Deploy:
    """One app on its way from the live release to another one."""

    def __init__(self, paths: Paths, holder: dict[str, Any]) -> None:
        self.paths = paths
        self.holder = holder
        self.lock = Lock(paths)
        self.began = time.monotonic()
        self.action = "nothing"
        self.kind = "deploy"
        self.app: dict[str, Any] = {}
        self.live = ""
        self.release = ""
        self.record: dict[str, Any] = {}
        self.commit = ""
        # Open from the plan until the source is laid out.
        self.repository: source.Repository | None = None
        self.committed = ""
        # The version that was asked for instead of the inventory's.
        self.asked = ""
        self.identity = ""
        self.fingerprint = ""
        # On the far side of the rename, until the last step has ended or all is put back.
        self.switched = False
        # Nothing takes a release back that has proved itself.
        self.proved = False
        self.undone = False
        self.abandoned = False
        self.renaming = threading.Lock()
        self.left: list[str] = []
        self.alone = False
        self.notes: list[str] = []
        self.times: dict[str, float] = {}
        # What the units that are watched did before this run started them.
        self.past = units.Past()
        self.since = 0.0  # when the web was asked to start
        self.interpreter = ""
        self.problem = ""
        self.switch_ms = 0.0
        self.writing: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.paths.release(self.release)

    @property
    def web(self) -> str:
        return units.web(self.paths.app, self.release)

    @property
    def domain(self) -> str:
        return str(self.app["domains"][0])

    def live_app(self) -> dict[str, Any]:
        """The live release's own description: its process list may differ from today's."""
        app = journal.read_record(self.paths.release(self.live)).get("app") if self.live else None
        return app or self.app

    def about(self, process: str = "web") -> cause.About:
        """What a sentence about one of the release's processes has to know."""
        entry: Answer = next((one for one in self.app["processes"] if one["name"] == process), {})
        return cause.About(
            inside=str(self.folder),
            target=self.record.get("target", "") if process == "web" else "",
            found=self.record.get("target_found", ""),
            process=process,
            memory=str(entry.get("memory") or ""),
            project=str(places.locate(self.folder, self.app).folder),
            app=self.paths.app,
            lost=pythons.gone(self.folder / ".venv"),
            called="The live release" if self.action == "restart" else "The new release",
        )

    def save(self) -> None:
        journal.write_record(self.folder, self.record)

    @contextlib.contextmanager
    def spare(self, what: str) -> Iterator[None]:
        """What a full disk must not stop where people wait for a way back, or when the switch is done."""
        try:
            yield
        except OSError as problem:
            if self.kind != "rollback" and not self.switched:
                raise
            self.leave(f"{what} could not be written ({problem.strerror or problem})")

    def leave(self, what: str) -> None:
        """Told at the end, and once: the run has done what it was for, and this is left to do."""
        if what not in self.left:
            self.left.append(what)

    def note(self, step: str, state: str, **more: Any) -> None:
        """Every line tells enough to go on from it: which release, instead of which, and what kind of run."""
        with self.spare("The journal of this run"):
            journal.note(self.paths, self.release, step, state, old=self.live, kind=self.kind, **more)

    def probe(self) -> gate.Probe:
        path = self.app["health"].get("path") or self.record.get("health_path", "")
        return gate.probe(self.paths.socket(self.release), self.app, path)

    def _crew(self) -> gate.Crew | None:
        """The workers to wait for before the switch; a command of one's own may have any number."""
        if not self.record.get("target") or "GUNICORN_CMD_ARGS" in (self.app.get("env") or {}):
            return None
        # What was well once is gone back to with those that are there in time.
        return gate.Crew(build.crew(self.folder), needed=not self.record.get("healthy"))

    def _live_status(self) -> tuple[gate.Probe, int]:
        """What the live release answers on its own socket, asked once."""
        record = journal.read_record(self.paths.release(self.live))
        served = settings.served(self.paths, self.live_app(), self.live)
        probe = gate.probe(self.paths.socket(self.live), served, str(record.get("health_path") or ""))
        return probe, probe.ask(5)

    def _live_is_well(self) -> bool:
        if not self.live or self.live == self.release:
            return False
        probe, code = self._live_status()
        return probe.good(code)

    # Steps --------------------------------------------------------------------------------------------------

    def open_repository(self, check: bool = False) -> source.Repository:
        """One for all that this run asks of git."""
        if not self.repository:
            target = None if check else self.paths.stage
            self.repository = source.Repository(self.paths, self.app, target=target, write=not check)
        return self.repository

    def close_repository(self) -> None:
        if self.repository:
            self.repository.close()
            self.repository = None
            untrusted.remove(self.paths.stage)

    def plan(self, args: Answer) -> Answer:
        """What to do; the repository stays open only where it is needed again."""
        answer: Answer = {}
        try:
            answer = self._plan(args)
        finally:
            if args.get("check") or answer.get("action") != "deploy":
                self.close_repository()
        return answer

    def _plan(self, args: Answer) -> Answer:
        self.app = args["app"]
        origin = self.app["source"]
        if args.get("version"):
            if not origin.get("git"):
                raise ReleaseError(
                    f"-e version is for a git source, and {self.paths.app} is deployed from a folder."
                )
            origin["version"] = self.asked = str(args["version"])
        check = bool(args.get("check"))
        if self.problem:
            raise ReleaseError(self.problem, advice=f"{UP} applies them, and deploys.")
        self.live = prune.live_release(self.paths)
        try:
            env, texts = plan.server_side(self.paths, self.app)
        except ReleaseError:
            if not check:
                raise
            env, texts = "", []  # what site.yml would prepare first is not there yet
        if not check:
            settings.remember_applied(self.paths, self.app)
        if origin.get("git"):
            if check and not shutil.which("git"):
                self.commit = "0" * 40
            else:
                self.commit = self._commit(origin, check)
            identity = self.commit
        else:
            identity = args["digest"]
        self.identity = identity
        self.fingerprint = plan.fingerprint(self.app, identity, env, texts)
        record = journal.read_record(self.paths.release(self.live)) if self.live else {}
        wanted = [*units.serving(self.paths, self.live)[:2], *units.beside_web(self.live_app(), self.live)]
        running = bool(self.live) and all(state == "active" for state in units.states(wanted).values())
        lost = pythons.gone(self.paths.release(self.live) / ".venv") if record else ""
        force = bool(args.get("force"))
        self.action = plan.decide(record, self.fingerprint, running, force, bool(lost))
        if lost:
            self.notes.append(f"{lost} is gone from this server, so {self.live} could not be started again.")
        if self.action in ("nothing", "restart") and settings.expects_another_name(
            self.paths, self.app, self.live
        ):
            self.action = "deploy"
        sick = self._sick() if self.action == "nothing" else ""
        if sick and not check:
            self.action = "restart"
        cut = journal.unfinished(self.paths)
        if not check:
            recover.settle(self, cut)
            disk.distrust(self.paths)
            if self.action == "deploy" and record and not record.get("healthy"):
                record = self._prove_first(cut)
        if self.action == "deploy" and self.commit and not force:
            self._refuse_older(record, check)
        if self.action == "deploy" and self.live:
            self._has_room(force, check)
        self.release = self.live
        if self.action == "deploy":
            self.release = plan.release_id(identity, here=prune.list_releases(self.paths))
        elif self.action == "resume":
            recover.resume(self, cut)
        elif self.action == "restart":
            self.record = record
        if check and self.action == "deploy" and args.get("scripts"):
            self._predict(args["scripts"], record)
        msg = {
            "nothing": f"{self.live} is live and is what is wanted{sick}.",
            "restart": (
                f"{self.live} is what is wanted{sick}: waiting until it is well."
                if sick
                else f"{self.live} is what is wanted, but not all of it runs: starting it again."
            ),
            "resume": f"{self.release} went live in a run that was cut off: proving it now.",
            "deploy": f"{self.release} replaces {self.live or 'nothing'}.",
        }[self.action]
        return {
            "changed": self.action != "nothing" and not sick,
            "action": self.action,
            "release": self.release,
            "live": self.live,
            "upload": self.action == "deploy" and not origin.get("git"),
            "msg": " ".join([msg, *self.notes]),
        }

    def _refuse_older(self, record: Answer, check: bool) -> None:
        """No run goes back unasked, be it to the inventory's version or to a commit whose turn came late."""
        before = str(record.get("version", ""))
        if before in ("", self.commit) or not shutil.which("git"):
            return
        if not self.open_repository(check).is_ancestor(self.commit, before):
            return
        error = ReleaseError(plan.older(self.app["source"], self.commit, record))
        error.also = [f"{self.live} stays live.", *self.notes]
        here = prune.list_releases(self.paths)
        error.advice = plan.ways(self.paths.app, self.commit, self.asked, here, self.live)
        raise error

    def _has_room(self, force: bool, check: bool) -> None:
        """Before anything is made: where two releases do not fit, the kernel would choose what it ends."""
        need, room = memory.used(units.web(self.paths.app, self.live)), memory.free()
        began = time.monotonic()
        # What retires may be about to end: at the latest when the proxy's idle time is over.
        while not (memory.fits(need, room) or force or check) and time.monotonic() < began + _IDLE + _MARGIN:
            if not self._beside(("active", "deactivating")):
                break
            time.sleep(1)
            room = memory.free()
        waited = time.monotonic() - began
        takes = f"{self.live} takes {need // memory.MB} MB and {room // memory.MB} MB are free, swap included"
        if memory.fits(need, room):
            if memory.is_short(need, room):
                self.notes.append(f"Memory is short for two releases at a time: {takes}.")
            if waited > _SAID:
                self.notes.append(f"It waited {waited:.0f} s for memory, until an older release had ended.")
            return
        beside = len(self._beside(("active", "deactivating")))
        old = f", and {beside} older still retire (drain.releases, drain.websocket)" if beside else ""
        text = f"A second release does not fit into memory beside the live one: {takes}{old}."
        if force or check:
            self.notes.append(text if force else f"{text} The deploy would stop here.")
            return
        raise ReleaseError(
            f"{text} Nothing was changed.",
            advice=(
                "give web fewer workers, or the server more memory or swap (server.swap_mb), then: "
                f"{self._again()}; or {run_of('deploy', self.paths.app, force=True)}, at the risk that the "
                "kernel ends something."
            ),
        )

    def _sick(self) -> str:
        """What is wrong with a live release whose units run; it is never stopped for it."""
        probe, code = self._live_status()
        if probe.good(code):
            return ""
        where = f" on {probe.path}" if probe.path else ""
        return f", but it answers {code}{where}" if code else ", but it does not answer"

    def _commit(self, origin: Answer, check: bool) -> str:
        if source.is_full(origin.get("version") or ""):
            return str(origin["version"])
        try:
            return self.open_repository(check).resolve()
        except ReleaseError as error:
            # What is live needs no repository to run.
            mine = [*units.serving(self.paths, self.live)[:2], *units.beside_web(self.live_app(), self.live)]
            dead = [
                name for name, state in units.states(mine if self.live else []).items() if state != "active"
            ]
            if dead and not check:
                try:
                    units.start(dead, wait=False)
                    error.also.append(f"{self.live} is live and did not run as a whole: it was started.")
                except ReleaseError as problem:
                    error.also.append(f"{self.live} is live and does not run as a whole: {problem.sentence}")
            raise

    def _prove_first(self, cut: Answer | None) -> Answer:
        """What a cut-off run left live is proved or taken back, before this run may have to go back to it."""
        past = Deploy(self.paths, self.holder)
        past.live, past.action = self.live, "resume"
        recover.resume(past, cut)
        try:
            for step in ("start", "gate", "switch", "verify"):
                Engine._step(past, step, {}, None)
            self.notes.append(f"{past.release} is proved now.")
        except ReleaseError as error:
            self.notes.append(f"It failed its proof: {' '.join([error.sentence, *error.also])}")
        self.live = prune.live_release(self.paths)
        return journal.read_record(self.paths.release(self.live)) if self.live else {}

    def _predict(self, scripts: Answer, record: Answer) -> None:
        """In check mode, the migrations that a folder's files name; `berth diff` has their SQL."""
        found, note = diff.pending(self.app, scripts, history.today(record) if record else "")
        names = [one.label() for one in found]
        if len(names) > _NAMED:
            names[_NAMED:] = [f"{len(names) - _NAMED} more"]
        if names:
            self.notes.append(f"Migrations would run: {', '.join(names)}.")
            risky = any(one.risks for one in found) and bool(record)
            if risky and self.app["migrations"].get("destructive") == "refuse":
                self.notes.append("migrations.destructive is refuse: the deploy would stop before them.")
        elif note:
            self.notes.append(note)

    def settings(self, args: Answer) -> Answer:
        """Whether the inventory's settings are newer than the server's. What is wrong is told by the plan."""
        after_site, check = bool(args.get("after_site")), bool(args.get("check"))
        found = settings.compare(self.paths, args["app"], args.get("vault") or {}, after_site, check)
        self.problem = found["problem"]
        return {"changed": False, "stale": found["stale"], "secrets": found["secrets"]}

    def plan_rollback(self, args: Answer) -> Answer:
        self.kind = "rollback"
        releases = prune.list_releases(self.paths)
        self.live = prune.live_release(self.paths)
        if not self.live:
            text = f"{self.paths.app} has no live release on this server: there is nothing to roll back."
            if args.get("check"):
                return {"changed": False, "action": "nothing", "release": "", "live": "", "msg": text}
            raise ReleaseError(text)
        wish = args.get("to") or ""
        cut = journal.unfinished(self.paths)
        past = cut or {}
        again = past.get("kind") == "rollback" and past.get("state") != "left"
        if again and past["release"] == self.live and wish in ("", self.live):
            # Without this a repeated rollback would go back one release further than was meant.
            self.action = "resume"
        if not args.get("check"):
            recover.settle(self, cut)
            releases = prune.list_releases(self.paths)
        if self.action == "resume":
            recover.resume(self, cut)
            return {
                "changed": True,
                "action": "resume",
                "release": self.release,
                "live": self.live,
                "msg": f"{self.release} went live in a rollback that was cut off: finishing it.",
            }
        options = prune.candidates(releases, self.live)
        target = wish or prune.previous(releases, self.live)
        if wish == self.live:
            return {
                "changed": False,
                "action": "nothing",
                "release": wish,
                "live": wish,
                "msg": f"{wish} is live.",
            }
        if not target or target not in options:
            have = ", ".join(options) or "none"
            what = (
                f"{wish} is no healthy release of {self.paths.app}"
                if wish
                else "There is no older healthy release"
            )
            raise ReleaseError(f"{what}; those that can be rolled back to: {have}.")
        if lost := pythons.gone(self.paths.release(target) / ".venv"):
            raise ReleaseError(
                f"{target} cannot be started: {lost} is gone from this server, so {self.live} stays live.",
                advice=f"{self._again()} with its version (--version, -e version=) builds it anew.",
            )
        self.release = target
        self.record = releases[target]
        self.app = settings.served(self.paths, self.record["app"], target)
        self.action = "deploy"
        now = history.today(releases[self.live])
        verdict = history.judge(history.revisions(self.paths, releases), target, self.record, now)
        if not verdict.safe and not args.get("force"):
            raise ReleaseError(
                f"{verdict.sentence} A rollback never runs migrations backwards, so {self.live} stays live.",
                advice="deploy a corrected version; or go back all the same: -e force=true (--force).",
            )
        self.notes.append(verdict.sentence + ("" if verdict.safe else " Forced."))
        self.notes += filter(None, [history.rows_since(releases, target)])
        if left := settings.unserved(self.paths, self.app):
            self.notes.append(f"The proxy leaves {', '.join(left)} to the app: static names it no more.")
        return {
            "changed": True,
            "action": "deploy",
            "release": target,
            "live": self.live,
            "msg": " ".join([f"{target} replaces {self.live}.", *self.notes]),
        }

    def by(self) -> str:
        return f"{self.holder.get('user', '?')}@{self.holder.get('host', '?')}"

    def fetch(self, args: Answer, body: IO[bytes] | None) -> Answer:
        if args.get("upload_failed"):
            raise ReleaseError(
                f"The source could not be received, since the server's disk is full: {args['upload_failed']}."
            )
        disk.begin(self.paths)
        self.folder.mkdir(parents=True, mode=0o700)
        if self.commit:
            try:
                self.committed = self.open_repository().lay(self.commit)
            except BaseException:
                self.close_repository()
                raise
            # First git ends, then its tree goes where nobody else may write.
            self.open_repository().close()
            self.paths.stage.rename(self.folder)
            self.close_repository()
        elif body is not None:
            with body:
                source.unpack(body, self.folder)
        else:
            raise ReleaseError("The source did not arrive.")
        # From here on, and while it is built, root and the build user can look into it, nobody else.
        dropped = source.tidy(self.folder, Builder(self.paths, self.app, self.release).while_built)
        self.notes += source.not_brought(self.folder)
        places.work(self.folder, self.app, places.locate(self.folder, self.app).folder)
        if dropped:
            self.notes.append(
                f"Left out of the release, since it would override the settings: {', '.join(dropped)}."
            )
        return {"changed": True, "msg": " ".join(["Source is in place.", *self.notes])}

    def build(self, _args: Answer) -> Answer:
        builder = Builder(self.paths, self.app, self.release, self.committed)
        version, self.interpreter, installer = builder.choose()
        likely = str(project.web(self.app).get("app") or "")
        if not self.app.get("build"):  # whose commands may bring the code
            likely = likely or next((one.target for one in self._found(builder)), "")
        builder.refuse_code(likely)
        key, fresh = builder.environment(self.interpreter, installer)
        (self.folder / ".venv").symlink_to(self.paths.envs / key)
        built = builder.run_build(self.paths.envs / key)
        builder.install_project()
        builder.seal(self.interpreter)
        templates = template_files(self.app)
        # What is copied now may be newer than what the plan saw: site.yml does not wait for a deploy's lock.
        # While it is copied nobody writes it, so that the fingerprint is of what the release holds.
        with hostwide(self.paths.root):
            known = plan.server_side(self.paths, self.app)
            self.fingerprint = plan.fingerprint(self.app, self.identity, *known)
            builder.freeze_units()
            for template in templates:
                build.freeze_unit(self.paths, template, self.release)
        target, where = self._target(builder)
        builder.write_scripts(target, first=not self.live and self.app["database"]["enabled"])
        origin = self.app["source"]
        self.record = {
            "id": self.release,
            "created": journal.now(),
            "by": self.by(),
            "source": source.public_url(origin.get("git") or "") or origin.get("path"),
            "version": self.commit or self.release.rsplit("-", 1)[-1],
            "asked": self.asked,
            "fingerprint": self.fingerprint,
            "python": version,
            "installer": installer.kind,
            "env": key,
            "target": target,
            "target_found": where,
            "project": str(builder.project.relative_to(self.folder)),
            "directory": str(builder.work.relative_to(self.folder)),
            "units": [instance_file(template, self.release) for template in templates],
            "schema": {"from": "", "to": ""},
            "connections": self._connections(builder),
            "healthy": False,
            "app": self.app,
        }
        self.save()
        installed = "a new environment" if fresh else "the environment of an earlier release"
        what = f"{target} ({where}), " if target else ""
        lock = f"{installer.file}, " if installer.file else ""
        notes = builder.notes + built
        notes += [f"{one.sentence()}." for one in randoms.unset(builder.project, self.app)]
        notes += [f"{said}." for said in hints.of_redis(self.app, builder.project)]
        self.notes += notes
        msg = " ".join([f"{what}Python {version}, {lock}{installed}.", *notes])
        return {"changed": True, "msg": msg}

    def _connections(self, builder: Builder) -> int:
        """How many database connections the release may open; a note where the server has not so many."""
        database = self.app["database"]
        if not database["enabled"]:
            return 0
        wanted = pools.demand(self.app, builder.project)
        role = database["owner" if builder.role()[0] == "owner" else "user"]
        warning = pools.check(self.app, role, wanted)
        if warning:
            self.notes.append(f"{warning}.")
        return wanted.most

    def _target(self, builder: Builder) -> tuple[str, str]:
        web = project.web(self.app)
        if web.get("command"):
            return "", "processes.web.command"
        if web.get("app"):
            return str(web["app"]), "processes.web.app"
        found = self._found(builder)
        live = journal.read_record(self.paths.release(self.live)) if self.live else {}
        chosen = prove.choose(builder, found, str(live.get("target", "")))
        if chosen.directory:
            builder.work = builder.project / chosen.directory
        return chosen.target, chosen.where

    def _found(self, builder: Builder) -> list[project.Target]:
        """The applications in the source, which a deploy asks for before it installs anything."""
        web = project.web(self.app)
        if web.get("command") or web.get("app"):
            return []
        found = project.find_targets(builder.project, self.folder, web.get("directory") or "")
        if not found:
            broken = project.syntax_error(builder.project)
            if broken:
                raise ReleaseError(
                    f"No FastAPI application was found, and a source file does not parse: {broken}."
                )
            raise ReleaseError(
                "No FastAPI application was found in the source: set processes.web.app to its "
                "module:attribute, such as "
                "main:app."
            )
        return found

    def migrate(self, _args: Answer) -> Answer:
        builder = Builder(self.paths, self.app, self.release)
        wishes = self.app["migrations"]
        decision = migrate.decide(builder.project, self.folder, wishes)
        line = decision.command
        if not line or not self.app["database"]["enabled"]:
            role, why = builder.role()
            said = f" The app runs as the database's owner: it {why}." if role == "owner" else ""
            now = history.today({"app": self.app})
            self.record["schema"] = {"from": now, "to": now}
            return {"changed": False, "msg": f"No migrations: {decision.why}.{said}"}
        # A custom command is not understood, so it always runs.
        digest = "" if wishes.get("command") else migrate.scripts_digest(decision.directory, self.folder)
        database = migrate.Database(self.app)
        before = database.revision()
        self.record["schema"] = {"from": before, "to": before}
        self.record["migrations"] = {"command": line, "digest": digest}
        live = journal.read_record(self.paths.release(self.live)) if self.live else {}
        known = live.get("migrations", {}).get("digest")
        if digest and before and digest == known and before == live.get("schema", {}).get("to"):
            after = before
            msg = f"The schema is at {after}, and there are no new revisions."
        else:
            self._prove_import(builder)
            pending = self._revisions(before)
            self._may_run(pending if before else [])
            history.remember(self.paths, pending)
            if digest and pending:
                self._keep_sql(builder, decision, before)
            files = [Path(one.file).name for one in pending]
            repeatable = bool(before or digest) and migrate.is_transactional(
                decision.directory, self.folder, files
            )
            path = ":".join(str(folder) for folder in builder.python_path())
            try:
                with database.advisory_lock():
                    tries = migrate.run(
                        self.paths, self.app, self.release, line, decision.directory, path,
                        lambda: repeatable and database.ask() == before,
                        shared=builder.role()[0] == "owner",
                    )  # fmt: skip
            except ReleaseError as error:
                if advice := migrate.makes_itself(builder.project, before):
                    error.advice = f"{advice}, then: {self._again()}"
                raise
            after = database.revision()
            often = f" It waited for a lock, and was tried {tries} times." if tries > 1 else ""
            msg = f"{line}: schema from {before or 'none'} to {after or 'none'}.{often}"
            if before == after and wishes.get("command"):
                self.notes.append(f"migrations.command ran ({line}); the schema stays at {after or 'none'}.")
        self.record["schema"] = {"from": before, "to": after}
        if before != after:
            steps = self._revisions(before, after)
            history.remember(self.paths, steps)
            self.record["schema"]["revisions"] = [one.as_dict() for one in steps]
            risky = [one.label() for one in steps if one.risks] if before else []
            if risky and wishes.get("destructive") != "allow":
                self.notes.append(f"Going back to an earlier release will need force: {', '.join(risky)}.")
        self.save()
        return {"changed": before != after, "msg": msg}

    def _may_run(self, pending: list[schema.Revision]) -> None:
        """What takes something away from the live release needs a word first, where that is wished."""
        risky = [one.label() for one in pending if one.risks]
        if risky and self.app["migrations"].get("destructive") == "refuse":
            raise ReleaseError(
                f"{', '.join(risky)}: the live release may not survive it, and migrations.destructive is "
                "refuse. The database is unchanged.",
                advice=f"set migrations.destructive: warn for this deploy, then: {self._again()}",
            )

    def _revisions(self, before: str, after: str = "") -> list[schema.Revision]:
        """What the new code's files say about the way between; nothing where they cannot be found."""
        known = history.known_to(self.folder, self.app)
        return schema.between(known, before, after or ",".join(schema.heads(known)))

    def _keep_sql(self, builder: Builder, decision: Decision, before: str) -> None:
        """What the database is about to get goes into the record; or why that cannot be told."""
        place = offline.Place(
            self.folder, decision.directory, self.folder / ".venv", builder.python_path(), self.release
        )
        unit, end = f"berth-sql-{self.paths.app}", decision.command.split()[-1]
        found = offline.make(self.paths, unit, place, before, end)
        kept = {"sql": found.text, "note": found.note}
        self.record["migrations"].update({key: text for key, text in kept.items() if text})

    def _prove_import(self, builder: Builder) -> None:
        """Before the schema changes for it, the app must import, as its user and with its settings."""
        target = self.record.get("target")
        if not target:
            return
        module = target.split(":")[0]
        result = command.transient(
            f"berth-prove-{self.paths.app}",
            [str(self.folder / ".venv/bin/python"), "-c", f"import {module}"],
            user=self.paths.app,
            sandbox=sandbox.proof(),
            writable=[self.paths.data, self.paths.home],
            timeout=120,
            cwd=builder.work,
            env={
                "PATH": f"{self.folder}/.venv/bin:/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": ":".join(str(folder) for folder in builder.python_path()),
                "PYTHONDONTWRITEBYTECODE": "1",
                "BERTH_RELEASE": self.release,
                "BERTH_APP": self.paths.app,
            },
            env_file=self.paths.env(self.release),
        )  # fmt: skip
        if result.code != 0:
            state = {"ExecMainStatus": str(result.code)}
            raise ReleaseError(
                f"{target} ({self.record['target_found']}) cannot be imported: "
                f"{cause.explain(result.lines, state, self.about())}. The database is unchanged.",
                log=result.lines[-20:],
            )

    def start(self, _args: Answer) -> Answer:
        retirement = units.retiring(self.paths.app, self.release)
        if units.states([retirement])[retirement] in ("active", "activating"):
            units.stop([retirement])
        was = units.states([self.web])[self.web]
        self.past = units.begin(self.paths, self.release)
        self.since = self.past.since
        if not self.record.get("healthy"):
            # New files reach the disk while the release starts: after a power cut it must not be empty files.
            self.writing = disk.flush(self.paths, self.release)
        return {"changed": was != "active", "msg": f"{self.web} is starting."}

    def gate(self, _args: Answer) -> Answer:
        probe = self.probe()
        # Once healthy, one good answer is proof enough.
        once = {"successes": 1, "hold": 0} if self.record.get("healthy") else {}
        try:
            gate.wait_healthy(
                probe, self.web, {**self.app["health"], **once}, self.about(), self.past, self._crew()
            )
        except ReleaseError as error:
            if self.action == "restart":
                error.advice = f"{error.advice} {self._ways_out()}"
            raise
        build.grow(self.folder, self.web)
        self.record["health_path"] = probe.path
        if not self.record.get("healthy"):
            self.save()
        return {"changed": False, "msg": f"{probe.path} on the new socket is well."}

    def switch(self, _args: Answer) -> Answer:
        if self.writing:
            disk.end(self.paths, self.writing)
        with self.renaming:
            if self.abandoned:
                raise ReleaseError("The run that asked for the switch is gone.")
            self.switched = True
        self.go_live(self.release, self.app, self.live, self.live_app())
        msg = f"{self.release} is live; the switch took {self.switch_ms} ms."
        return {"changed": self.live != self.release, "switch_ms": self.switch_ms, "msg": msg}

    def go_live(self, to: str, app: dict[str, Any], old: str, old_app: dict[str, Any]) -> None:
        name = self.paths.app
        mine = [units.web(name, to), *units.beside_web(app, to)]
        # Before the rename: what the symlink points to when the power goes away starts again with the host.
        with self.spare("What starts after a reboot"):
            units.enable(self.paths, mine[:1])
        with contextlib.suppress(FileNotFoundError):  # a release of before there was such a folder
            self.paths.public(to).chmod(0o755)
        began = time.perf_counter()
        units.replace_link(self.paths.web_sock, self.paths.socket(to))
        units.replace_link(self.paths.current, self.paths.release(to))
        self.switch_ms = round((time.perf_counter() - began) * 1000, 1)
        with self.spare("What starts after a reboot"):
            units.enable(self.paths, mine[1:])
        if old and old != to:
            units.disable(self.paths, [units.web(name, old), *units.beside_web(old_app, old)])
            units.ask_to_stop(units.workers(old_app, old))

    def take_over(self, to: str, app: dict[str, Any], old: str, old_app: dict[str, Any]) -> None:
        """The workers change too; never both releases' at once, where that would act twice."""
        mine, alone = units.workers(app, to), units.alone(app, to)
        # One that is to start again may be finishing its work since a deploy a moment ago.
        patience = 120 + units.to_end(app)
        units.start([name for name in mine if name not in alone], patience=patience)
        if old and old != to:
            self._await_end(old, old_app)
        self.past = units.start(mine, patience=patience)

    def _await_end(self, old: str, old_app: dict[str, Any]) -> None:
        beside, alone = units.workers(old_app, old), units.alone(old_app, old)
        began = time.monotonic()
        units.stop(beside, patience=0)
        units.stop(alone, patience=units.to_end(old_app))
        took = time.monotonic() - began
        if took > _SAID:
            names = ", ".join(name.partition("@")[0] for name in alone)
            self.notes.append(
                f"The new {names} started after the old one had finished its work, for {took:.0f} s "
                "(overlap: true where both may run at once)."
            )
        ended = [name for name, state in units.states(beside).items() if state == "failed"]
        if ended:
            command.systemctl("reset-failed", *ended)

    def verify(self, _args: Answer) -> Answer:
        note = gate.verify_public(
            self.domain,
            self.record.get("health_path", ""),
            self.probe(),
            self.release if self.record.get("target") else "",
            before_is_well=self._live_is_well,
        )
        if note:
            self.notes.append(note + ".")
        self.take_over(self.release, self.app, self.live, self.live_app())
        # A process that dies at its first import does so at once. What was well once is trusted.
        patience = (0.0, 0.0) if self.record.get("healthy") else _SETTLED
        failed = units.fallen(units.workers(self.app, self.release), *patience, self.past)
        if failed:
            # Before its log, which may be slow to come: two seconds later systemd starts it again.
            state = command.show(failed, "Result", "ExecMainStatus", "SubState")
            lines = command.journal(failed, since=self.past.since)
            why = cause.explain(lines, state, self.about(self._process(failed)))
            raise ReleaseError(
                f"{failed} does not stay up: {why}.",
                log=lines[-20:],
                advice=f"correct the process, then: {next_run('deploy', self.paths.app, why)}",
            )
        if not self.record.get("healthy"):
            self.notes += self._complaints()
        # Last, since a run that has begun is not taken back with its release.
        jobs.change_over(self.paths, self.app, self.release, self.live, self.live_app())
        self.proved = True
        with self.spare("That the release is well"):
            self._remember()
        return {"changed": False, "msg": note or f"https://{self.domain} answers from the new release."}

    def _remember(self) -> None:
        """The order in which releases were live is what the next rollback goes by, and what is kept."""
        releases = prune.list_releases(self.paths)
        back = bool(self.record.pop("withdrawn", ""))
        self.record["healthy"] = True
        if self.release != self.live or not self.record.get("turn"):
            self.record["turn"] = prune.next_turn(releases)
            self.record["live_since"] = journal.now()
        self.save()
        # Who goes forth again to what was gone back from takes that back, and says nothing of what is left.
        if self.kind == "rollback" and self.live != self.release and not back:
            prune.withdraw(self.paths, self.live)

    def _complaints(self) -> list[str]:
        """What processes that stay up log of errors: a queue that is not there stops no worker."""
        found = []
        for unit in [self.web, *units.workers(self.app, self.release)]:
            lines = command.journal(unit, since=self.since if unit == self.web else self.past.since)
            if why := cause.complaint(lines, self.about(self._process(unit))):
                found.append(f"{unit} runs and logs an error: {why}.")
        return found

    def _process(self, unit: str) -> str:
        names = (str(process["name"]) for process in self.app["processes"])
        fits = [name for name in names if unit.startswith(f"{self.paths.app}-{name}")]
        return max(fits, key=len, default="web")

    def _ways_out(self) -> str:
        name = self.paths.app
        return (
            f"It was left as it is: {run_of('deploy', name, force=True)} builds the same source anew, and "
            f"{run_of('rollback', name)} goes back."
        )

    def _again(self) -> str:
        return run_of("deploy", self.paths.app)

    def retire(self, _args: Answer) -> Answer:
        if not self.live or self.live == self.release:
            return {"changed": False, "msg": "Nothing to retire."}
        old = units.web(self.paths.app, self.live)
        if units.states([old]).get(old) == "inactive":
            return {"changed": False, "msg": f"{self.live} does not run any more."}
        self.let_go(self.live, self.live_app())
        early = self._make_room()
        self.notes += early
        msg = f"{self.live} ends in the background when its last connection does."
        return {"changed": True, "msg": " ".join([msg, *early])}

    def _beside(self, states: Collection[str] = ("active",)) -> list[str]:
        """Releases whose web serves beside the live one; the one that was live longest ago comes first."""
        live, releases = prune.live_release(self.paths), prune.list_releases(self.paths)
        webs = {units.web(self.paths.app, name): name for name in releases if name != live}
        found = [webs[unit] for unit, state in units.states(list(webs)).items() if state in states]
        return sorted(found, key=lambda name: prune.last_live(releases[name]))

    def _make_room(self) -> list[str]:
        """Of too many that retire the oldest wait for no WebSocket any more; what was said of each."""
        most = int(self.app["drain"].get("releases") or _RETIRING)
        beside, said = self._beside(), []
        for release in beside[: max(0, len(beside) - most)]:
            # Without a connection it ends by itself.
            count = retire.connections(str(self.paths.socket(release)))
            app = journal.read_record(self.paths.release(release)).get("app") or self.app
            if count and self.let_go(release, app, early=True):
                closed = "its open connection is" if count == 1 else f"its {count} open connections are"
                said.append(
                    f"{release} ends early, since {len(beside)} releases retire: {closed} closed, and "
                    f"requests in flight have {app['drain']['requests']} s (drain.releases is {most})."
                )
        return said

    def let_go(self, release: str, app: dict[str, Any], *, early: bool = False) -> bool:
        """Until its last connection is gone, or its time is over, whatever becomes of this run.

        `early` is when the proxy has let go of it. Says whether anything is new about its end.
        """
        unit = units.retiring(self.paths.app, release)
        limit = max(_IDLE, int(app["drain"]["requests"]), int(app["drain"]["websocket"]))
        what = f"Wait for {release} of {self.paths.app} to finish, then stop it"
        passed = 0.0
        if units.states([unit]).get(unit) in ("active", "activating"):
            known = command.show(unit, "Description", "ActiveEnterTimestampMonotonic") if early else {}
            if not early or known.get("Description", "").startswith(_EARLY):
                return False
            began = int(known.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
            passed = time.monotonic() - began if began else 0.0
            # Another takes over instead of a signal to this one: it may run the script of an earlier Berth.
            units.stop([unit])
        if early:
            limit = max(0, round(_IDLE - passed))
            what = f"{_EARLY} {what[0].lower()}{what[1:]}"
        wait = ["/usr/bin/python3", "-I", "-c", command.module_source(retire)]
        wait += [str(self.paths.socket(release)), str(self.paths.web_sock), str(_IDLE), str(limit)]
        done = command.run(
            ["systemd-run", "--quiet", "--collect", f"--unit={unit.removesuffix('.service')}",
             f"--description={what}",
             "--property=Restart=on-failure", "--property=RestartSec=5",
             # Not from a file: a full disk must not keep an old release at work.
             *wait, *units.serving(self.paths, release), *units.beside_web(app, release)]
        )  # fmt: skip
        if done.code != 0:
            raise ReleaseError(
                f"{release} could not be retired: {done.lines[0] if done.lines else done.code}."
            )
        return True

    def prune(self, args: Answer) -> Answer:
        releases = prune.list_releases(self.paths)
        live = prune.live_release(self.paths)
        busy = prune.at_work(self.paths)
        keep = int((args.get("keep")) or self.app.get("keep_releases", 5))
        _, gone = prune.select(releases, live, keep, busy)
        for release in busy:
            if release in releases and release != live and release not in gone:
                self.let_go(release, releases[release]["app"])  # unless something waits for its end already
        for release in list(gone):
            if why := prune.remove_release(self.paths, release):
                gone.remove(release)
                self.leave(f"{release} cannot be removed: {why}")
        envs = prune.remove_unused_envs(self.paths)
        if gone:
            # Or systemd remembers their units: they stay in what targets want until it reads its files again.
            command.systemctl("daemon-reload")
        trim.begin(self.paths, self.app)
        what = f"Removed {', '.join(gone)}." if gone else "Nothing to prune."
        return {"changed": bool(gone or envs), "msg": what}

    def finish(self, _args: Answer) -> Answer:
        seconds = round(time.monotonic() - self.began, 1)
        with self.spare("The audit line"):
            journal.audit(self.paths, **self.audit("ok", seconds))
        url = f"https://{self.domain}"
        took = f" (the switch took {self.switch_ms} ms)" if self.switched else ""
        left = [f"Left to the next run: {what.rstrip('.')}." for what in self.left]
        msg = " ".join([f"{self.release} is live at {url} after {seconds} s{took}.", *self.notes, *left])
        return {
            "changed": False,
            "msg": msg,
            "times": self.times,
            "seconds": seconds,
            "release": self.release,
            **({"warnings": left} if left else {}),
        }

    def audit(self, result: str, seconds: float, **more: Any) -> dict[str, Any]:
        schema = self.record.get("schema") or {}
        return {
            "what": self.action if self.action in ("restart", "resume") else self.kind,
            "by": self.by(),
            "from": self.live,
            "to": self.release,
            "schema_from": schema.get("from", ""),
            "schema_to": schema.get("to", ""),
            "seconds": seconds,
            "switch_ms": self.switch_ms,
            "result": result,
            **({"alone": True} if self.alone else {}),
            **more,
        }


# What to run again where a step of it failed, if it is not a deploy.
ADVISED = {"plan_rollback": "rollback", "remove": "remove"}


class Engine:
    """Dispatches steps; keeps one Deploy per app while its lock is held."""

    CHANGING = ("fetch", "build", "migrate", "start", "gate", "switch", "verify", "retire", "prune", "finish")

    def __init__(self) -> None:
        self.deploys: dict[str, Deploy] = {}

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
                self._finish(deploy)

    def _finish(self, deploy: Deploy) -> None:
        deploy.alone = True
        for step in self.CHANGING[self.CHANGING.index("switch") + 1 :]:
            if deploy.switched and step not in deploy.times:
                self._step(deploy, step, {}, None)

    def _unlock(self, name: str) -> Answer:
        """The run itself may have failed between two steps, and go on with other apps."""
        deploy = self.deploys.get(name)
        finished = ""
        if deploy:
            # In sight meanwhile: a run that goes away now has to find it unfinished.
            try:
                if deploy.switched:
                    self._finish(deploy)
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

    def run(self, step: str, args: Answer, body: IO[bytes] | None) -> Answer:
        if step == "releases":
            found = [history.describe(Paths(name)) for name in status.names(args["apps"])]
            return {"changed": False, "apps": found, "table": history.table(found)}
        if step == "status":
            answer = status.describe(args["apps"], args.get("absent") or [], args.get("only") or "")
            said = {"table": status.table(answer), "verdict": status.verdict(answer)}
            return {"changed": False, "answer": answer, **said}
        if step == "census":
            return status.census(args["apps"], args.get("absent") or [])
        if step == "secrets":
            vault = args.get("vault") or {}
            return {
                "changed": False,
                "secrets": {
                    app["name"]: settings.changed_secrets(
                        Paths(app["name"]), app, vault.get(app["name"]) or {}
                    )
                    for app in args["apps"]
                },
            }
        name = args["name"]
        paths = Paths(name)  # or the sentence that this is no name
        if step == "diff":
            with body or contextlib.nullcontext():
                return {"changed": False, **diff.describe(paths, args, body)}
        if step == "lock":
            return self._lock(name, args)
        if step == "unlock":
            return self._unlock(name)
        try:
            return self._locked(step, name, args, body)
        except ReleaseError as error:
            error.advice = error.advice or (
                f"correct it, then: {next_run(ADVISED.get(step, 'deploy'), name, error.sentence)}"
            )
            raise

    def _locked(self, step: str, name: str, args: Answer, body: IO[bytes] | None) -> Answer:
        deploy = self.deploys.get(name)
        if deploy is None:
            if not args.get("check"):
                raise ReleaseError(f"Step {step} needs the lock of {name}, and this run does not hold it.")
            deploy = self.deploys[name] = Deploy(Paths(name), {})
        if step in ("settings", "plan", "plan_rollback"):
            answer: Answer = getattr(deploy, step)(args)
            return answer
        if step == "remove":
            purge, check = bool(args.get("purge")), bool(args.get("check"))
            return remove.remove(deploy.paths, purge, deploy.holder, check, bool(args.get("declared")))
        if step not in self.CHANGING:
            raise ReleaseError(f"There is no step {step}.")
        return self._step(deploy, step, args, body)

    def _lock(self, name: str, args: Answer) -> Answer:
        if name in self.deploys:
            return {"changed": False, "msg": "This run holds the lock already."}
        deploy = Deploy(Paths(name), args["holder"])
        deploy.lock.take({**args["holder"], "since": journal.now()}, float(args.get("wait") or 0))
        self.deploys[name] = deploy
        prune.sweep_temporary()
        return {"changed": False, "msg": f"{name} is locked for this run."}

    @staticmethod
    def _step(deploy: Deploy, step: str, args: Answer, body: IO[bytes] | None) -> Answer:
        begin = time.monotonic()
        method: Callable[..., Answer] = getattr(deploy, step)
        try:
            deploy.note(step, "begin")
            answer = method(args, body) if step == "fetch" else method(args)
        except Exception as problem:
            error = problem if isinstance(problem, ReleaseError) else _unforeseen(problem)
            if deploy.proved:
                deploy.leave(f"{step} ({error.sentence.rstrip('.')})")
                answer = {"changed": False, "msg": error.sentence}
            else:
                recover.undo(deploy, step, error)
                if error is problem:
                    raise
                raise error from problem
        deploy.times[step] = round(time.monotonic() - begin, 3)
        # What is left is found by the next run, as after one that was cut off.
        state = "left" if deploy.left and step == "finish" else "end"
        deploy.note(step, state, seconds=deploy.times[step], **({"left": deploy.left} if deploy.left else {}))
        if step == "finish":
            deploy.switched = False
        return answer


def _unforeseen(problem: Exception) -> ReleaseError:
    if isinstance(problem, OSError) and problem.errno in (28, 122):
        return ReleaseError(f"The server's disk is full ({problem.filename or problem}).", advice=cause.ROOM)
    return ReleaseError(f"{type(problem).__name__}: {problem}")
