"""Step exchange: an app's database becomes what was restored of it, or again what it was before that.

Of all apps a playbook goes through them one by one: `every` says which, and each is copied before the first
is exchanged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...diagnosis import cause
from ...errors import UP, ReleaseError
from ...host import command
from ...migrations import points
from ...paths import Paths
from ...payload import backup
from ...payload import exchange as program
from ...reports import restores, telling
from ...runtime import gate, health, holding, naming, units
from ...services import external, postgresql
from ...store import journal, presence, public, releases, settings
from ..deploy import Answer, Deploy

Facts = dict[str, Any]

PROGRAM = Path("/usr/local/lib/berth/exchange.py")
_LIVE = "--go-live"
OPTIONS = {
    "live": _LIVE, "copy": _LIVE, "undo": "--undo", "drop": "--drop-kept", "table": "--table TABLE --app"
}  # fmt: skip
# Databases that belong to nobody whom an exchange could have stand still.
_OWN = "postgres"
# Seconds that a copy has, and what looks and renames.
_COPY, _LOOK = 48 * 3600.0, 3600.0


def run(deploy: Deploy, args: Answer) -> Answer:
    """`mode` is live, copy, undo, drop or table. In check mode it only says what it would do."""
    mode, check = str(args["mode"]), bool(args.get("check"))
    try:
        exchange = Exchange(deploy)
        if mode == "drop":
            return exchange.drop(check)
        if mode == "table":
            return exchange.table(check, str(args.get("table") or ""))
        if mode == "copy":
            return exchange.prepare()
        return exchange.undo(check) if mode == "undo" else exchange.go_live(check, bool(args.get("force")))
    except ReleaseError as error:
        option = OPTIONS[mode]
        app = deploy.paths.app
        again = f"berth restore {option} {app} (exchange.yml -e app={app} -e mode={mode})"
        error.advice = error.advice or f"correct it, then: {again}"
        raise


def every(mode: str, root: Path = Path("/")) -> Answer:
    """The apps that `mode` is for where it is for all of them, and what it leaves alone."""
    if mode == "live":
        return _restored(root)
    found = {one.app: one.found() for one in _exchanges(root)}
    if mode == "drop":
        return {"apps": [app for app, known in found.items() if known["kept"] or known["copied"]], "said": []}
    kept = {app: known["kept"][-1] for app, known in found.items() if known["kept"]}
    newest: Facts = max(kept.values(), key=lambda one: str(one.get("at", "")), default={})
    # What went live of one restore goes back together; what did already has that said of what it was.
    of = newest.get("for") or newest.get("undone")
    return {"apps": [app for app, one in kept.items() if of and one.get("for") == of], "said": []}


def _restored(root: Path) -> Answer:
    there = [str(name) for name in restores.standing()["databases"]]
    apps, said = [], []
    for one in _exchanges(root):
        if one.database in there:
            apps.append(one.app)
        else:
            said.append(f"Database {one.database} of {one.app} was not there then, and stays as it is.")
        own = (one.database, program.copy_of(one.database))
        there = [name for name in there if name not in own and not program.is_kept(name, one.database)]
    if left := [name for name in there if name != _OWN]:
        said.append(f"Of no app, so it stays as it is: database {', '.join(left)}.")
    return {"apps": apps, "said": said}


def _exchanges(root: Path) -> Iterator[Exchange]:
    """Of each app with a database on this server."""
    for name in presence.known(root):
        paths = Paths(name, root)
        if external.here(settings.recorded(paths)["database"]):
            yield Exchange(Deploy(paths, {}))


def _named(made: Facts) -> str:
    """Which restore it is: to what, and when it was made."""
    return f"{made['request']['said']}, {made['ended']}"


class Exchange:
    """Two databases of one app that change places."""

    def __init__(self, deploy: Deploy) -> None:
        self.deploy, self.app = deploy, deploy.paths.app
        self.known = settings.recorded(deploy.paths)["database"]
        if not self.known.get("enabled"):
            raise ReleaseError(f"{self.app} has no database on this server. Nothing was changed.")
        if external.used(self.known):
            raise ReleaseError(
                f"The database of {self.app} is at {external.where(self.known)}, and what is restored here "
                "is this server's own PostgreSQL. Nothing was changed.",
                advice="docs/operations.md says how a dump of it is brought back, with pg_restore.",
            )
        if not PROGRAM.exists():
            raise ReleaseError(f"An earlier Berth set this server up, which exchanges nothing; {UP} first.")
        self.database = str(self.known["name"])
        self.owner = postgresql.role(self.known, owner=True)
        self.live = releases.live(deploy.paths)
        self.record = journal.read_record(deploy.paths.release(self.live)) if self.live else {}

    # What is asked for --------------------------------------------------------------------------------------

    def go_live(self, check: bool, force: bool) -> Answer:
        made = restores.standing()
        found = self._ask("compare", {})
        said = str(made["request"]["said"])
        if not force:
            self._refuse_schema(found["restored_schema"], found["schema"], "What was restored")
        restored = _named(made)
        newest = found["kept"][-1] if found["kept"] else {}
        if newest.get("for") == restored and not force:
            # Done by a run that was cut off after it, or asked for twice.
            since = telling.minute(str(newest.get("at", "")))
            msg = f"Database {self.database} is what was restored to {said} already, since {since}."
            return {"changed": False, "msg": f"{msg} To have it so again: --force (-e force=true)."}
        planned = self._planned(f"what was restored to {said}", found)
        if check:
            return {"changed": True, "msg": planned}
        began = time.monotonic()
        copied = self._ask("copy", self._copying(restored), _COPY, self._password())
        copying = time.monotonic() - began
        # One that served is no copy any more of what was restored.
        aside = {"is": "copied", "restored": ""}
        until = {"app": self.app, "schema": found["schema"], "for": restored}
        kept = self._exchange(copied["name"], aside, until, "go-live")
        return self._done(
            f"what was restored to {said}", kept, f"The copy took {copying:.0f} s before that. "
        )

    def prepare(self) -> Answer:
        """As far as all goes on meanwhile; `go_live` takes it from there."""
        made = restores.standing()
        restored = _named(made)
        kept = self.found()["kept"]
        if kept and kept[-1].get("for") == restored:
            return {"changed": False, "msg": f"Database {self.database} is what was restored already."}
        copied = self._ask("copy", self._copying(restored), _COPY, self._password())
        msg = f"Database {self.database} is copied; that took {copied['seconds']:.0f} s."
        return {"changed": True, "msg": msg}

    def found(self) -> Facts:
        """What is kept of earlier ones, and the copy that was made to go live with."""
        return self._ask("found", {})

    def undo(self, check: bool) -> Answer:
        found = self.found()
        if not found["kept"]:
            raise ReleaseError(f"No earlier database of {self.app} is kept, so there is nothing to undo.")
        newest = found["kept"][-1]
        what = f"the one that was live until {telling.minute(str(newest.get('at', '')))}"
        schema = newest.get("schema")
        if isinstance(schema, dict):
            self._refuse_schema(schema, found["schema"], "The kept one")
        if check:
            return {"changed": True, "msg": self._planned(what, {})}
        said = {"app": self.app, "schema": found["schema"]}
        # Which restore it is that is undone, or is live again.
        for was, becomes in (("for", "undone"), ("undone", "for")):
            if isinstance(newest.get(was), str):
                said[becomes] = newest[was]
        kept = self._exchange(newest["name"], newest, said, "undo")
        return self._done(what, kept, "")

    def drop(self, check: bool) -> Answer:
        found = self.found()
        there = [*found["kept"], *([found["copied"]] if found["copied"] else [])]
        if not there:
            return {"changed": False, "msg": f"No earlier database of {self.app} is kept."}
        if not check:
            self._ask("drop", {})
            self._audit("drop-kept", "ok", dropped=[one["name"] for one in there])
        names = ", ".join(one["name"] for one in there)
        size = sum(int(one["bytes"]) for one in there) // backup.MB
        words = f"Would drop {names}" if check else f"Dropped: {names}"
        return {"changed": True, "msg": f"{words} ({size} MB). There is no way back to what only they hold."}

    def table(self, check: bool, name: str) -> Answer:
        restores.standing()
        if check:
            return {
                "changed": True,
                "msg": f"Would copy {name} of what was restored into a schema of its own.",
            }
        made = self._ask("table", {**self._copying(""), "table": name}, _COPY, self._password())
        msg = (
            f"{made['rows']} rows of {name} are in {made['table']} of database {self.database} now, for you "
            f"to merge: berth psql {self.app} --owner. Then drop the schema."
        )
        return {"changed": True, "msg": msg}

    # Saying -------------------------------------------------------------------------------------------------

    def _refuse_schema(self, wanted: Mapping[str, str], today: Mapping[str, str], what: str) -> None:
        """The live release works with that of its migration, and with today's, where that is another one."""
        there, here = (",".join(one.values()) for one in (wanted, today))
        own = str((self.record.get("schema") or {}).get("to") or here)
        if there in (own, here) or not self.live:
            return
        fit = [
            name
            for name, record in releases.records(self.deploy.paths).items()
            if record.get("healthy") and (record.get("schema") or {}).get("to") == there
        ]
        back = (
            f"go back to it first: berth rollback {self.app} --to {fit[-1]} --force (rollback.yml)"
            if fit
            else ""
        )
        force = "add --force (-e force=true), where the live release can do with both"
        raise ReleaseError(
            f"{what} has the schema of {there or 'no revision'}"
            f"{f', as release {fit[-1]} has' if fit else ''}, and the live release works with "
            f"{own or 'no revision'}. Nothing was changed.",
            advice="; or ".join(filter(None, [back, force])) + ".",
        )

    def _planned(self, what: str, found: Facts) -> str:
        lines = [
            f"Database {self.database} becomes {what}. What was written since then is lost to {self.app}:"
        ]
        if found.get("differs"):
            lines += restores.numbers(found["differs"])
        elif found:
            lines.append("every table has as many rows as the live one, and their contents may differ.")
        else:
            lines[-1] = f"{lines[-1][:-1]}."
        if found.get("unknown"):
            lines.append(f"{found['unknown']} tables could not be counted.")
        if self.live:
            lines.append(f"Processes of {self.app} stand still for some seconds; requests wait.")
        lines.append(
            "The database that is live now is kept; --undo goes back to it, and --drop-kept ends it."
        )
        return "\n".join(lines)

    def _done(self, what: str, kept: Facts, more: str) -> Answer:
        stood = f" {self.app} stood still for {kept['stood']:.0f} s." if self.live else ""
        cut = f" Jobs that were at work were ended: {', '.join(kept['cut'])}." if kept["cut"] else ""
        msg = (
            f"Database {self.database} is {what}.{stood} {more}What was live is kept as {kept['kept']}: "
            f"berth restore --undo {self.app} goes back to it, berth restore --drop-kept {self.app} ends "
            f"it.{cut}"
        )
        return {"changed": True, "msg": msg}

    # Doing --------------------------------------------------------------------------------------------------

    def _exchange(self, other: str, was: Facts, said: Facts, what: str) -> Facts:
        """With the app standing still; back where it is not well after that. `was`: what the other one is."""
        try:
            points.make(f"{self.app}-{what}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        except ReleaseError as error:
            self.deploy.notes.append(f"No restore point was made: {error.sentence}")
        # From here on it is finished without the run that asked for it.
        self.deploy.switched = True
        try:
            swapped = self._swapped(other, said)
            try:
                self._prove(swapped["since"])
                swapped["stood"] += time.time() - swapped["since"]
            except ReleaseError as error:
                self._swapped(swapped["kept"], was, aside=other)
                self._audit(what, "failed", reason=error.sentence)
                raise ReleaseError(
                    f"{self.app} is not well with it, and has what it had before again: {error.sentence}",
                    log=error.log,
                ) from None
        finally:
            self.deploy.switched = False
        self._audit(what, "ok", kept=swapped["kept"])
        return swapped

    def _swapped(self, other: str, said: Facts, aside: str = "") -> Facts:
        request = {"other": other, "said": said, "aside": aside}
        if not self.live:
            return {**self._ask("swap", request), "cut": [], "stood": 0.0, "since": time.time()}
        mark = public.lasting(self.deploy.paths.release(self.live))
        with holding.still(self.deploy.paths, self.record["app"], self.live, mark) as held:
            swapped = self._ask("swap", request)
        return {**swapped, "cut": held.cut, "stood": held.seconds, "since": held.let_go}

    def _prove(self, since: float) -> None:
        if not self.live:
            return
        app = self.record["app"]
        served = settings.served(self.deploy.paths, app, self.live)
        path = str(self.record.get("health_path") or "")
        probe = health.probe(naming.socket(self.deploy.paths, self.live), served, path)
        about = cause.About(str(self.deploy.paths.release(self.live)), called="The live release")
        once = {**app["health"], "successes": 1, "hold": 0}
        gate.wait_healthy(probe, naming.web(self.app, self.live), once, about, units.Past(since))

    def _audit(self, what: str, result: str, **more: Any) -> None:
        journal.audit(self.deploy.paths, what=what, by=self.deploy.by(), result=result, **more)

    def _password(self) -> str:
        return postgresql.read_password(self.deploy.paths.root / postgresql.FOLDER, self.owner)

    def _copying(self, restored: str) -> Facts:
        host, port = postgresql.SERVICE.address({}, self.deploy.paths.root, owner=True)
        roles = [postgresql.role(self.known), postgresql.reader(self.known)]
        return {"owner": self.owner, "roles": roles, "host": host, "port": port, "restored": restored}

    def _ask(self, verb: str, request: Facts, patience: float = _LOOK, password: str = "") -> Facts:
        """What the program says that works as the user postgres."""
        done = command.run(
            [*postgresql.AS_SUPERUSER, "/usr/bin/python3", "-I", str(PROGRAM), verb],
            timeout=patience,
            stdin=json.dumps({"database": self.database, **request}),
            env={"PGPASSWORD": password} if password else None,
            cwd=Path("/"),
        )
        if done.code != 0:
            said = done.lines[-1] if done.lines else str(done.code)
            raise ReleaseError(f"Database {self.database} stays as it is: {said.rstrip('.')}.")
        found: Facts = json.loads(done.out)
        return found
