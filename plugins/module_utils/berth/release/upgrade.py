"""The move of PostgreSQL from one cluster to that of another major version, and the way back to it.

Runs on the server as a unit of its own, so that whoever asked for it may go away; killed, or after a reboot,
it begins again, and its state says how far it came:

    asked    nothing was changed; a full backup is made
    quiet    jobs, then web and workers end; the proxy answers 503 for them
    copy     pg_upgradecluster copies the old cluster, which stays as it is
    switch   the new one gets the port and starts; indexes and statistics
    prove    every app that was well is well on it, on its own socket, where nobody else is yet
    live     workers and jobs begin, archiving goes on, a full backup is made
    done     or `failed`, with the problem; `back` on the way to that

Up to `copy` a move that was cut off goes back. From `switch` on it goes forward: after a reboot, apps may
have written into the new cluster. `prove` goes back where an app is not well, unless the move was cut off.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..diagnosis import cause
from ..errors import ReleaseError
from ..host import command
from ..paths import Paths
from ..payload import backup
from ..runtime import gate, health, lasting, naming, units
from ..services import clusters
from ..services.postgresql import SERVICE
from ..store import journal, presence, releases, settings, upgrades
from ..store.lock import Lock, hostwide

UNIT = upgrades.UNIT
ENGINE = "engine.zip"
# Files of the new cluster's settings, which role postgresql has left beside the state.
SETTINGS = ("conf.d/50-berth.conf", "pg_hba.berth.conf")
# Seconds for a copy or an index, for a server to stop or start, and for jobs at work to end.
_LONG, _START, _JOBS = 24 * 3600.0, 3700.0, 600.0
_ARCHIVE = Path("/etc/pgbackrest/pgbackrest.conf")
_BACKUPS = ("full", "incremental", "dump", "drill")
# At places off the server: it is not waited for, since it may send for days. The next one makes up for it.
_OFFSITE = "offsite"
_FULL = naming.distributions("berth-backup-full")

State = dict[str, Any]


def begin(plan: State, by: str, wait: float, root: Path = Path("/")) -> None:
    """Start it with the engine's own code, of which the server keeps a copy until it is done."""
    state = {"kind": plan["kind"], "old": plan["old"], "new": plan["new"], "by": by, "wait": wait}
    known = upgrades.read(root)
    state |= {"phase": "asked", "began": journal.now(), "shut_databases": known.get("shut_databases", [])}
    if plan["kind"] == "resume":
        state = {**known, "phase": known["step"], "problem": ""}
    upgrades.write(state, root)
    # The engine is a zip in memory: https://docs.python.org/3/library/zipimport.html
    code = Path(__spec__.loader.archive).read_bytes()  # type: ignore[union-attr]
    copy = upgrades.folder(root) / ENGINE
    copy.write_bytes(code)
    run = f"import sys; sys.path.insert(0, '{copy}'); from berth.release import upgrade; upgrade.main()"
    what = f"Berth: PostgreSQL {state['old']} to {state['new']}"
    lasting.begin(UNIT, what, ["/usr/bin/python3", "-I", "-c", run], naming.distributions("postgresql"), root)


def wait() -> None:
    """Until it is done, whatever comes of it."""
    while lasting.at_work(UNIT) or upgrades.read().get("phase") not in upgrades.OVER:
        time.sleep(1)


def main() -> None:
    """As the unit runs it. It ends well: what went wrong is in the state."""
    root = Path("/")
    move = Move(upgrades.read(root), root)
    try:
        move.run()
    except ReleaseError as error:
        move.fail(error.sentence)
    except Exception as error:  # noqa: BLE001 - begun again it would meet the same
        traceback.print_exc()
        move.fail(f"something unforeseen: {type(error).__name__}: {error}")
    print(f"{move.state['phase']} {move.state.get('problem', '')}".strip(), file=sys.stderr)
    (upgrades.folder(root) / ENGINE).unlink(missing_ok=True)
    lasting.forget(UNIT, root)


class Move:
    def __init__(self, state: State, root: Path = Path("/")) -> None:
        self.state = state
        self.root = root
        self.old, self.new = int(state["old"]), int(state["new"])
        # Made by this move, and gone with it where it goes back; else it was there before.
        self.copies = state["kind"] == "upgrade"
        self.resumed = state["phase"] != "asked"

    def note(self, phase: str, **more: Any) -> None:
        self.state.update(phase=phase, at=journal.now(), **more)
        upgrades.write(self.state, self.root)
        print(f"{phase} {more.get('problem', '')}".strip(), file=sys.stderr)

    def fail(self, problem: str) -> None:
        """Where it has not gone back, the step is kept from which it can be gone on with."""
        if self.state["phase"] != "failed":
            self.note("failed", problem=problem, step=self.state["phase"], ended=journal.now())

    def say(self, text: str) -> None:
        self.state.setdefault("notes", []).append(text)

    # The whole ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        phase = self.state["phase"]
        if phase in upgrades.OVER:
            return
        if not self.resumed:
            self.back_up("before")
        with self.alone():
            if phase in ("quiet", "copy", "back"):
                self.back(self.state.get("problem") or f"it was cut off in step {phase}")
                return
            if phase != "live":
                self.forward()
            self.finish()
        self.back_up("after")
        self.note("done", ended=journal.now(), problem="")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No deploy of any app, and no role that changes what they share, until it is done."""
        who = {"user": self.state["by"], "host": "this server", "pid": UNIT, "since": journal.now()}
        who["version"] = f"PostgreSQL {self.new}"
        with contextlib.ExitStack() as stack:
            for app in presence.known(self.root):
                lock = Lock(Paths(app, self.root))
                lock.take(who, 600.0 if self.resumed else float(self.state.get("wait") or 0))
                stack.callback(lock.release)
            stack.enter_context(hostwide(self.root))
            yield

    def forward(self) -> None:
        if not self.resumed:
            try:
                self.quiet()
                self.copy_over()
            except ReleaseError as error:
                self.back(error.sentence)
                raise
        try:
            self.switch()
            self.freshen()
            self.let_into_kept(False)
            self.prove()
        except ReleaseError as error:
            # Apps may have written into the new one: only somebody who knows decides to go back.
            if not self.resumed:
                self.back(error.sentence)
            raise
        self.note("live", seconds=round(time.time() - self.state["closed"], 1))

    def finish(self) -> None:
        """It serves: nothing that fails now is a reason to go back."""
        self.start_apps()
        with self.spare("WAL is not archived"):
            self.archive()

    @contextlib.contextmanager
    def spare(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ReleaseError, OSError) as error:
            self.say(f"{what}: {str(error).rstrip('.')}")

    def back(self, problem: str) -> None:
        """The cluster from before serves again, with what it had."""
        self.note("back", problem=problem)
        # Where a job did not end, nobody was shut out yet.
        if self.state.get("shut"):
            units.stop([name for one in self.state["apps"].values() for name in one["web"]], patience=60)
        self.make_live(self.old, self.new)
        with self.spare("Databases that are kept could not be shut again"):
            self.let_into_kept(False)
        if self.copies:
            with self.spare(f"What was made of {self.new} could not be removed"):
                if self.new in clusters.versions(self.root):
                    clusters.drop(self.new)
                clusters.sweep(self.new)
        self.open_web()
        self.start_apps()
        self.note("failed", problem=problem, ended=journal.now(), back=True)

    # Ending and starting what the apps have -----------------------------------------------------------------

    def quiet(self) -> None:
        """Jobs come to their end, then nobody is let in, and all that holds connections ends."""
        apps = running(self.root)
        clock = [naming.by_the_clock(f"berth-backup-{kind}") for kind in (*_BACKUPS, _OFFSITE)]
        clock = [name for name, state in units.states(clock).items() if state == "active"]
        self.note("quiet", apps=apps, clock=clock, closed=time.time())
        timers = [name for one in apps.values() for name in one["timers"]]
        units.stop([*clock, *timers, naming.distributions(f"berth-backup-{_OFFSITE}")], patience=30)
        self.wait_for_jobs(apps)
        self.note("quiet", closed=time.time(), shut=True)
        for app in apps:
            upgrades.close(Paths(app, self.root))
        web = [name for one in apps.values() for name in one["web"]]
        beside = [name for one in apps.values() for name in [*one["workers"], *one["others"]]]
        patience = max([10.0, *(one["patience"] for one in apps.values())])
        units.ask_to_stop([*naming.starters(web), *naming.services(web), *beside])
        units.stop([*web, *beside], patience=patience)

    def wait_for_jobs(self, apps: dict[str, Any]) -> None:
        end = time.monotonic() + max(_JOBS, float(self.state.get("wait") or 0))
        jobs = [name for one in apps.values() for name in one["jobs"]]
        jobs += [naming.distributions(f"berth-backup-{kind}") for kind in _BACKUPS]
        while True:
            busy = [name for name, state in units.states(jobs).items() if state in ("active", "activating")]
            if not busy:
                return
            if time.monotonic() > end:
                raise ReleaseError(
                    f"{busy[0]} is at work and did not end in time: try again when it has, or with "
                    "--wait SECONDS (-e wait=SECONDS)."
                )
            time.sleep(0.5)

    def open_web(self) -> None:
        for app, one in self.state.get("apps", {}).items():
            if one["web"]:
                with self.spare(f"The web of {app} could not be started"):
                    units.begin(Paths(app, self.root), one["release"])

    def start_apps(self) -> None:
        """Whoever wants in gets in, and what ran beside the web runs; timers make up for what they missed."""
        known = self.state.get("apps", {})
        for app in known:
            upgrades.open_again(Paths(app, self.root))
        for app, one in known.items():
            with self.spare(f"Not all of {app} could be started"):
                units.start([*one["workers"], *one["timers"]], patience=600)
        with self.spare("Not all timers of backups could be started"):
            units.start(self.state.get("clock", []))

    def prove(self) -> None:
        """Those that were well are well; else the first cause, unless it is too late to go back."""
        self.note("prove")
        begun = {
            app: units.begin(Paths(app, self.root), one["release"])
            for app, one in self.state["apps"].items()
            if one["web"]
        }
        sick = []
        for app, past in begun.items():
            if not self.state["apps"][app]["well"]:
                self.say(f"{app} was not well before")
                continue
            try:
                self.prove_one(app, self.state["apps"][app]["release"], past)
            except ReleaseError as error:
                sick.append(error.sentence)
        if sick and not self.resumed:
            raise ReleaseError(sick[0])
        self.state["sick"] = sick

    def prove_one(self, app: str, release: str, past: units.Past) -> None:
        paths = Paths(app, self.root)
        entry, probe = probed(paths, release)
        once = {**entry["health"], "successes": 1, "hold": 0}
        about = cause.About(str(paths.release(release)), called=f"{app}, on PostgreSQL {self.new},")
        gate.wait_healthy(probe, naming.web(app, release), once, about, past)

    # The clusters -------------------------------------------------------------------------------------------

    def copy_over(self) -> None:
        self.note("copy")
        if not self.copies:
            return
        query = "select datname from pg_database where not datallowconn and datname <> 'template0'"
        self.note("copy", shut_databases=clusters.ask(query).splitlines())
        # pg_upgrade refuses one that it cannot look into, such as berth restore --undo goes back to.
        self.let_into_kept(True)
        words = ["pg_upgradecluster", "-v", str(self.new), "-m", "upgrade", "--no-start", "--keep-port"]
        done = command.run([*words, str(self.old), clusters.NAME], timeout=_LONG, cwd=Path("/"))
        print(done.out, done.err, sep="\n", file=sys.stderr)
        if done.code != 0:
            raise ReleaseError(f"pg_upgradecluster says: {clusters.reason(done)}.")
        for file in SETTINGS:
            text = (upgrades.folder(self.root) / Path(file).name).read_text()
            clusters.write(self.new, file, text)

    def switch(self) -> None:
        if not self.resumed or self.state["phase"] == "switch":
            self.note("switch")
        self.make_live(self.new, self.old)

    def make_live(self, live: int, beside: int) -> None:
        """One has the port and starts at boot, the other one is stopped and does not."""
        there = clusters.versions(self.root)
        if live not in there:
            raise ReleaseError(f"The cluster of PostgreSQL {live} is not there any more.")
        if beside in there:
            if units.states([server(beside)])[server(beside)] not in ("inactive", "failed"):
                _systemd("stop", beside)
            clusters.set_start(beside, "manual", self.root)
            if clusters.port(beside, self.root) == clusters.PORT:
                clusters.set_port(beside, clusters.spare_port(self.root))
        clusters.set_start(live, "auto", self.root)
        if clusters.port(live, self.root) != clusters.PORT:
            if units.states([server(live)])[server(live)] == "active":
                _systemd("stop", live)
            clusters.set_port(live, clusters.PORT)
        units.reload()
        point_backups(live, self.root)
        if units.states([server(live)])[server(live)] != "active":
            _systemd("start", live)
        clusters.ask("select 1")

    def freshen(self) -> None:
        """What a copy does not bring: an order of texts that another C library has, and statistics."""
        if not self.copies:
            return
        for database in databases():
            for query in stale_collations(database, self.old):
                clusters.ask(query, database, timeout=_LONG)
        words = ["-h", clusters.SOCKETS, "-p", str(clusters.PORT), "--all", "--analyze-in-stages"]
        program = clusters.program(self.new, "vacuumdb")
        clusters.must("vacuumdb fails", program, *words, timeout=_LONG)

    def let_into_kept(self, allowed: bool) -> None:
        """Of databases that took no connections when the move began, in the cluster that serves."""
        names = self.state.get("shut_databases") or []
        there = clusters.ask("select datname from pg_database").splitlines() if names else []
        for name in [one for one in there if one in names]:
            clusters.ask(f"alter database {_quoted(name)} allow_connections {str(allowed).lower()}")

    # Backups ------------------------------------------------------------------------------------------------

    def back_up(self, when: str) -> None:
        if not (self.root / backup.SETTINGS.relative_to("/")).exists():
            self.say(f"no backup was made {when} it, since there are to be none (server.backup.enabled)")
            return
        done = units.systemctl("start", _FULL, timeout=_LONG)
        if done.code == 0:
            return
        said = [line for line in units.journal(_FULL, 5) if line.startswith("No ")]
        why = said[-1].rstrip(".") if said else f"No full backup: see the journal of {_FULL}"
        if when == "before":
            raise ReleaseError(f"{why}.")
        self.say(why)

    def archive(self) -> None:
        """The repository goes on with the new cluster, and the next segment gets into it."""
        if not (self.root / backup.SETTINGS.relative_to("/")).exists():
            return
        stanza = json.loads((self.root / backup.SETTINGS.relative_to("/")).read_text())["stanza"]
        words = ("pgbackrest", f"--stanza={stanza}", "--log-level-console=error", "stanza-upgrade")
        for attempt in range(10):
            done = clusters.as_owner(*words, timeout=600)
            if done.code == 0:
                break
            # An archiver that is just at it holds the lock.
            time.sleep(1 + attempt)
        if done.code != 0:
            raise ReleaseError(f"pgbackrest says: {backup.reason(done.err + done.out)}.")
        before = int(clusters.ask("select archived_count from pg_stat_archiver"))
        clusters.ask("select pg_create_restore_point('berth-upgrade'); select pg_switch_wal()")
        end = time.monotonic() + 90
        while int(clusters.ask("select archived_count from pg_stat_archiver")) <= before:
            if time.monotonic() > end:
                raise ReleaseError("no segment got into the repository within 90 s.")
            time.sleep(0.5)


def server(version: int) -> str:
    """The unit of a cluster."""
    return naming.distributions(f"postgresql@{version}-{clusters.NAME}")


def _systemd(verb: str, version: int) -> None:
    done = units.systemctl(verb, server(version), timeout=_START)
    if done.code != 0:
        raise ReleaseError(
            f"PostgreSQL {version} does not {verb}: see /var/log/postgresql/postgresql-{version}-main.log."
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def databases() -> list[str]:
    return clusters.ask("select datname from pg_database where datallowconn order by 1").splitlines()


def stale_collations(database: str, old: int) -> list[str]:
    """What brings indexes of a database back into an order of texts that the C library has changed."""
    stale, locale = clusters.ask(
        "select coalesce(datcollversion <> pg_database_collation_actual_version(oid), false), datcollate "
        "from pg_database where datname = current_database()",
        database,
    ).split("|", 1)
    named = clusters.ask(
        "select format('alter collation %I.%I refresh version', n.nspname, c.collname) from pg_collation c "
        "join pg_namespace n on n.oid = c.collnamespace where c.collversion is not null "
        "and c.collversion <> pg_collation_actual_version(c.oid)",
        database,
    ).splitlines()
    # Before 15 no database knew by which version its indexes were ordered.
    unknown = old < 15 and not re.match(r"(C|POSIX)($|\.)", locale)
    if stale != "t" and not named and not unknown:
        return []
    quoted = _quoted(database)
    refresh = [f"alter database {quoted} refresh collation version"] if stale == "t" else []
    return [f"reindex database {quoted}", *refresh, *named]


def point_backups(version: int, root: Path = Path("/")) -> None:
    """pgBackRest and Berth's own programs look at this cluster from now on."""
    conf, known = (root / one.relative_to("/") for one in (_ARCHIVE, backup.SETTINGS))
    if not known.exists():
        return
    # Its own, and one for each place off the server, whose relay does the rest there.
    for path in (conf, *sorted(known.parent.glob("offsite-*.conf"))):
        text = path.read_text()
        wanted = re.sub(r"(?m)^pg1-path=.*$", f"pg1-path={clusters.data(version)}", text)
        if wanted != text:
            about = path.stat()
            journal.replace_text(path, wanted, 0o640, about.st_uid, about.st_gid)
    values = json.loads(known.read_text())
    if values["version"] != version:
        about, values["version"] = known.stat(), version
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        journal.replace_text(known, text, 0o640, about.st_uid, about.st_gid)


def probed(paths: Paths, release: str) -> tuple[dict[str, Any], health.Probe]:
    """A release's own entry, and how its health is asked for."""
    record = journal.read_record(paths.release(release))
    entry = settings.served(paths, record["app"], release)
    path = record.get("health_path") or ""
    return entry, health.probe(naming.socket(paths, release), entry, path)


def running(root: Path) -> dict[str, Any]:
    """Of each app that has a database: its live release, and which of its units run now."""
    found: dict[str, Any] = {}
    for app in presence.known(root):
        paths = Paths(app, root)
        release = releases.live(paths)
        record = journal.read_record(paths.release(release)) if release else {}
        if not record.get("app") or not SERVICE.used(record["app"]):
            continue
        entry = record["app"]
        stems = naming.unit_stems(entry)["jobs"]
        instances = naming.instances(paths)
        every = naming.services(name for names in instances.values() for name in names)
        serving, workers, timers = (
            naming.serving(paths, release),
            naming.workers(entry, release),
            naming.timers(entry, release),
        )
        jobs = [name for name in every if naming.stem(name) in stems]
        up = _up([*serving, *workers, *timers, *every])
        well = False
        if up.intersection(serving):
            _, probe = probed(paths, release)
            well = probe.good(probe.ask(10))
        found[app] = {
            "release": release,
            "well": well,
            "web": [name for name in serving if name in up],
            "workers": [name for name in workers if name in up],
            "timers": [name for name in timers if name in up],
            "jobs": jobs,
            # Of releases that retire: they end by this, and are not started again.
            "others": [name for name in every if name in up and name not in {*serving, *workers, *jobs}],
            "patience": max(units.to_end(entry), float(entry["drain"]["requests"]) + 15),
        }
    return found


def _up(names: list[str]) -> set[str]:
    states = units.states(names)
    return {name for name, state in states.items() if state in ("active", "activating", "reloading")}
