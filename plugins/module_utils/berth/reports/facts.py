"""What a status is judged by: asked of the system, each question with a short limit of its own.

Whatever cannot be told in time is left out and named under `unknown`: one slow disk, one app in trouble or a
hanging systemd hides nothing else. Reads only, needs no lock; the shapes are those of `berth status --json`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ReleaseError
from ..host import command
from ..paths import Paths
from ..payload import retire
from ..runtime import gate, naming, noted
from ..runtime import units as runtime
from ..services import table as services
from ..store import journal, lock, presence, proxy, releases, settings
from . import certificate

Facts = dict[str, Any]
T = TypeVar("T")

# Seconds for one question, and for all about one app.
_PATIENCE = 5.0
_FOR_SIZES = 3.0
_FOR_APP = 30.0
# An old restart is no news: what systemd counted and killed is asked for so many seconds back.
HOUR = 3600
_AT_WORK = ("active", "activating", "deactivating", "reloading")


class Questions:
    """Asks each question apart from the others, and collects what had no answer."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def __call__(self, what: str, ask: Callable[[], T], default: Any, seconds: float = _PATIENCE + 1) -> T:
        """The answer; `default` and a sentence where it does not come in time, or is an error."""
        return self.all({what: ask}, default, seconds)[what]

    def all(self, asked: dict[str, Callable[[], T]], default: Any, seconds: float) -> dict[str, T]:
        """Several at once. A thread that never comes back (a dead network disk) ends with the engine."""
        answers: dict[str, T] = {}
        problems: dict[str, str] = {}

        def run(what: str, ask: Callable[[], T]) -> None:
            try:
                answers[what] = ask()
            except Exception as problem:  # noqa: BLE001 - one question's trouble is no other's
                said = problem.sentence if isinstance(problem, ReleaseError) else _words(problem)
                problems[what] = said.rstrip(".")

        threads = {
            what: threading.Thread(target=run, args=(what, ask), daemon=True) for what, ask in asked.items()
        }
        for thread in threads.values():
            thread.start()
        end = time.monotonic() + seconds
        found: dict[str, T] = {}
        for what, thread in threads.items():
            thread.join(max(0.0, end - time.monotonic()))
            found[what] = answers.get(what, default)
            if what not in answers:
                late = f"no answer within {seconds:.0f} s"
                self.unknown.append(f"{what} is unknown: {problems.get(what, late)}.")
        return found


def _words(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}" if not isinstance(problem, OSError) else str(problem)


# Of the server ----------------------------------------------------------------------------------------------


def server(root: Path = Path("/")) -> Facts:
    """What all apps stand on."""
    ask = Questions()
    front = ask("What the proxy is", lambda: proxy.read(root), proxy.Applied())
    found: Facts = {
        "host": os.uname().nodename,
        "proxy": ask(front.program or "The proxy", lambda: _proxy(front.unit), ""),
        "proxy_program": front.program,
        "proxy_unit": front.unit,
        **_for_all(root, ask),
        "disks": [],
        "memory": ask("The memory", _memory, {}),
        "reboot": ask("Whether a reboot is pending", lambda: _reboot(root), ""),
    }
    for disk in ask.all({f"The disk at {path}": _disk(path) for path in _PLACES}, {}, _PATIENCE).values():
        if disk and disk["id"] not in [one["id"] for one in found["disks"]]:
            found["disks"].append(disk)
    for disk in found["disks"]:
        disk.pop("id")
    return {**found, "unknown": ask.unknown}


_PLACES = ("/", "/srv", "/var/lib/berth", "/var/lib/postgresql", "/var/log")


def _disk(path: str) -> Callable[[], Facts]:
    def ask() -> Facts:
        if not Path(path).exists():
            return {}
        state = os.statvfs(path)
        inodes = round(100 * (1 - state.f_favail / state.f_files)) if state.f_files else 0
        # What is reserved for root is of no use to an app.
        usable = state.f_blocks - state.f_bfree + state.f_bavail
        return {
            "id": Path(path).stat().st_dev,
            "path": path,
            "free_mb": state.f_bavail * state.f_frsize >> 20,
            "used_percent": round(100 * (1 - state.f_bavail / usable)) if usable else 0,
            "inodes_used_percent": inodes,
        }

    return ask


def _proxy(unit: str) -> str:
    """Empty on a server that has no proxy of Berth's yet."""
    return (runtime.state(naming.distributions(unit), _PATIENCE) or "unknown") if unit else ""


def _for_all(root: Path, ask: Questions) -> Facts:
    """How the services are that all apps share."""
    return {
        service.name: ask(service.program, partial(service.state, root), "") for service in services.shared()
    }


def _activity(name: str) -> Callable[[], str]:
    return lambda: runtime.state(naming.distributions(name), _PATIENCE)


def _memory() -> Facts:
    lines = Path("/proc/meminfo").read_text().splitlines()
    known = {line.split(":")[0]: int(line.split()[1]) >> 10 for line in lines if line.endswith("kB")}
    return {"total_mb": known["MemTotal"], "available_mb": known["MemAvailable"]}


def _reboot(root: Path) -> str:
    """Why a reboot is pending; empty where none is."""
    if (root / "run/reboot-required").exists():
        return "an update asks for it"
    newest = newest_kernel(os.uname().release, (path.name for path in (root / "boot").glob("vmlinuz-*")))
    return f"{newest} is installed and {os.uname().release} runs" if newest else ""


def newest_kernel(running: str, files: Iterable[str]) -> str:
    """The newest installed kernel of the running one's kind, where that is another one."""
    kind = re.sub(r"\d+", "", running.partition("-")[2])

    def order(name: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", name)]

    names = [file.removeprefix("vmlinuz-") for file in files]
    alike = [name for name in names if re.sub(r"\d+", "", name.partition("-")[2]) == kind]
    newest = max(alike, key=order, default=running)
    return newest if order(newest) > order(running) else ""


def held_locks(proc: Path = Path("/proc")) -> set[str]:
    """Files that a process has locked. Trying a lock, even for a moment, would refuse a deploy."""
    held = set()
    for line in (proc / "locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" not in words or not words[4].isdecimal():
            continue
        for link in (proc / words[4] / "fd").glob("*"):
            with contextlib.suppress(OSError):
                held.add(str(link.readlink()))
    return held


# Of one app -------------------------------------------------------------------------------------------------


def apps(wanted: dict[str, str], root: Path = Path("/")) -> tuple[list[Facts], list[str]]:
    """Each app, by what the inventory says of it (present, absent, orphan), and what had no answer."""
    ask = Questions()
    past = ask(
        "What restarted or ran out of memory in the last hour", lambda: noted.events(HOUR, _PATIENCE), []
    )
    held = ask("Who holds locks", held_locks, set())
    whole = Questions()
    asked = {name: _asking(name, root, said, past, held) for name, said in wanted.items()}
    found = whole.all(asked, {}, _FOR_APP)
    problems = {text.partition(" is unknown: ")[0]: text for text in whole.unknown}
    return [
        found[name] or {**_nothing(name, said), "unknown": [problems[name]]} for name, said in wanted.items()
    ], ask.unknown


def _asking(name: str, root: Path, wanted: str, past: list[Facts], held: set[str]) -> Callable[[], Facts]:
    # A name that is none is that entry's trouble alone, so it is looked at there.
    return lambda: app(Paths(name, root), wanted, past, held)


def _nothing(name: str, wanted: str) -> Facts:
    """What is said of an app of which nothing is here."""
    return {
        "app": name, "wanted": wanted, "here": False, "release": "", "record": False, "version": "",
        "live_since": "", "age": "", "url": "", "schema": "", "previous": [], "releases_mb": None,
        "socket": None, "public": None, "certificate": None, "processes": [], "jobs": [],
        **{service.name: "" for service in services.alone(name)},
        "retiring": [], "lock": None, "cut_off": None, "left": [], "unknown": [],
    }  # fmt: skip


def app(paths: Paths, wanted: str, past: list[Facts], held: set[str]) -> Facts:
    """All that is known of one app."""
    ask = Questions()
    live = ask("What is live", lambda: releases.live(paths), "")
    records = ask("What is released", lambda: releases.records(paths), {})
    record = records.get(live, {})
    description = record.get("app") or {}
    found = _nothing(paths.app, wanted)
    found.update(
        here=ask("Whether it is set up", lambda: presence.here(paths), bool(live)),
        release=live,
        record=bool(description),
        version=record.get("version", ""),
        live_since=record.get("live_since", ""),
        age=lock.age(record.get("live_since", "")) if record else "",
        schema=(record.get("schema") or {}).get("to", ""),
        previous=releases.candidates(records, live),
        lock=ask("Who holds its lock", lambda: _holder(paths, held), None),
    )
    end = ask("Whether a run was cut off", lambda: journal.unfinished(paths), None)
    # Of one that was removed, nobody finishes the last run.
    if end and found["here"] and not found["lock"]:
        found["left"] = end.get("left") or []
        if end.get("state") != "left":
            found["cut_off"] = {key: end.get(key, "") for key in ("release", "step", "at")}
    names = ask("Which units it has", lambda: _names(paths), {})
    states = ask(
        "The state of its units",
        lambda: noted.states([one for name in names.values() for one in name], _PATIENCE),
        {},
    )
    found["processes"] = _processes(paths, description, live, states, past)
    found["jobs"] = ask("The state of its jobs", lambda: _jobs(paths, description, live, names, states), [])
    found["retiring"] = ask("What retires", lambda: _retiring(paths, live, names, states), [])
    for service in services.alone(paths.app):
        if description and service.used(description):
            what, key = f"Its {service.program}", service.name
            found[key] = ask(what, _activity(service.unit(paths.app)), "unknown")
    if live:
        _routes(paths, ask, found, record, live)
        found["releases_mb"] = _size(paths)
    return {**found, "unknown": ask.unknown}


def _routes(paths: Paths, ask: Questions, found: Facts, record: Facts, live: str) -> None:
    """What the release answers on its own socket, and what comes through the proxy."""
    known = settings.served(paths, record.get("app") or {}, live)
    domain = str((known.get("domains") or [""])[0])
    path = str(record.get("health_path") or "/")
    probe = gate.probe(naming.socket(paths, live), {"domains": [domain or "localhost"], **known}, path)
    status = ask("What the release answers", lambda: probe.ask(_PATIENCE), None)
    well = None if status is None else probe.good(status)
    found["socket"] = {"path": probe.path or path, "status": status, "well": well}
    front = ask("The app's site", lambda: proxy.read(paths.root), proxy.Applied())
    site = front.sites.get(paths.app, {})
    if not domain or not site:
        return
    found["url"] = f"https://{domain}"
    found["public"], shown = ask(
        "The public route", lambda: _public(probe, domain, path), ({"status": None, "well": None}, b"")
    )
    found["public"]["url"] = f"https://{domain}{path}"
    if shown:
        found["certificate"] = ask(
            "The certificate",
            lambda: _certificate(shown, str(site.get("tls", "")), front.authority),
            None,
        )


def _public(probe: gate.Probe, domain: str, path: str) -> tuple[Facts, bytes]:
    silent = {"status": 0, "well": False}
    try:
        reply = gate.ask_public(domain, path, _PATIENCE)
    except ssl.SSLError as error:
        return {**silent, "problem": "certificate", "said": error.reason or "TLS alert"}, b""
    except (OSError, http.client.HTTPException) as error:
        return {**silent, "problem": "silent", "said": str(error) or "no answer"}, b""
    well = gate.open_to_all(probe, reply.status)
    return {"status": reply.status, "well": well, "problem": "", "said": ""}, reply.certificate


def _certificate(der: bytes, wanted: str, authority: str) -> Facts:
    known = certificate.read(der, authority)
    now = datetime.now(timezone.utc)
    return {
        "expires": known.ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "days_left": (known.ends - now).days,
        "soon": known.ends_soon(now),
        "issuer": known.issuer,
        "own": known.own,
        "wanted": wanted,
    }


def _size(paths: Paths) -> int | None:
    """MB of its releases and their environments; None where counting takes long. Never of its data."""
    folders = [str(folder) for folder in (paths.releases, paths.envs) if folder.is_dir()]
    with contextlib.suppress(ReleaseError, ValueError, IndexError):
        done = command.run(["du", "-xskc", *folders], timeout=_FOR_SIZES)
        return round(int(done.out.splitlines()[-1].split()[0]) / 1024) if folders else None
    return None


def _holder(paths: Paths, held: set[str]) -> Facts | None:
    if str(paths.state / "lock") not in held:
        return None
    holder = lock.holder(paths)
    known = {key: holder.get(key, "") for key in ("user", "host", "since", "version")}
    return {**known, "age": lock.age(holder.get("since", ""))}


def _names(paths: Paths) -> dict[str, list[str]]:
    """Its unit files by release, and with each job's timer the last runs under other releases."""
    return naming.instances(paths)


def ago(when: str) -> float | None:
    """Seconds since a time stamp."""
    try:
        since = datetime.strptime(when, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return (datetime.now(timezone.utc) - since).total_seconds()


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _processes(
    paths: Paths, description: Facts, live: str, states: dict[str, Facts], past: list[Facts]
) -> list[Facts]:
    """The live release's web, relay and workers."""
    if not live:
        return []
    names = naming.services(naming.serving(paths, live))
    names += naming.workers(description, live) if description else []
    rows = []
    for name in names:
        state = states.get(name, {})
        up = ago(noted.moment(state.get("ExecMainStartTimestamp", "")))
        mine = [one for one in past if one["unit"] == name]
        memory = [one["ago"] for one in mine if one["memory"]]
        restarts = [one["ago"] for one in mine if not one["memory"]]
        rows.append(
            {
                "name": naming.stem(name).removeprefix(f"{paths.app}-"),
                "unit": name,
                "state": state.get("ActiveState", "unknown"),
                "waits_to_restart": state.get("SubState") == "auto-restart",
                "result": state.get("Result", ""),
                "exit_status": _number(state.get("ExecMainStatus", "")),
                "up_seconds": None if up is None else max(0, round(up)),
                "restarts": _number(state.get("NRestarts", "")),
                "restarts_last_hour": len(restarts),
                "out_of_memory_last_hour": len(memory),
                "out_of_memory_seconds_ago": min(memory, default=None),
                "memory_mb": _number(state.get("MemoryCurrent", "")) >> 20,
            }
        )
    return rows


def _jobs(
    paths: Paths, description: Facts, live: str, names: dict[str, list[str]], states: dict[str, Facts]
) -> list[Facts]:
    """Each job of the live release: when it runs next, and how its last run ended, of whichever release."""
    rows = []
    services = naming.services(unit for units in names.values() for unit in units)
    for stem in naming.unit_stems(description)["jobs"] if description and live else []:
        timer = states.get(naming.timer(stem, live), {})
        runs = [unit for unit in services if naming.stem(unit) == stem]
        job = stem.removeprefix(f"{paths.app}-")
        due = noted.moment(timer.get("NextElapseUSecRealtime", ""))
        row: Facts = {"name": job, "timer": timer.get("ActiveState", "unknown"), "next": due}
        stamp = 0.0
        with contextlib.suppress(OSError):
            stamp = naming.stamp(paths, naming.timer(stem, live)).stat().st_mtime
        known = last_run([states[unit] for unit in runs if unit in states], stamp)
        if not known:
            known = _last_noted(runs) if runs and 0 < stamp < _started() else _run()
        rows.append({**row, **known})
    return rows


def last_run(runs: list[Facts], stamp: float) -> Facts | None:
    """How the last run of a job ended, of its units' properties and of when its timer ran last (seconds).

    None where systemd does not know: a unit forgets with a reboot.
    """
    done = [one for one in runs if noted.moment(one.get("ExecMainStartTimestamp", ""))]
    if not done:
        return None
    last = max(done, key=lambda one: noted.moment(one["ExecMainStartTimestamp"]))
    began = noted.moment(last["ExecMainStartTimestamp"])
    running = last.get("ActiveState") in _AT_WORK
    failed = last.get("ActiveState") == "failed"
    # Older than the timer's last run: that one ended well, or its unit would still say otherwise.
    if failed and stamp - datetime.fromisoformat(f"{began[:-1]}+00:00").timestamp() > 2:
        return _run(datetime.fromtimestamp(stamp, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))
    result = last.get("Result", "") if failed else ""
    status = _number(last.get("ExecMainStatus", "")) if failed else 0
    return _run(began, result=result, status=status, running=running)


def _run(last: str = "", *, result: str = "", status: int = 0, running: bool = False) -> Facts:
    return {"last": last, "failed": result, "exit_status": status, "running": running}


def _last_noted(runs: list[str]) -> Facts:
    """As the journal tells it, of the time before a reboot; nothing where it does not tell in time."""
    found: list[Facts] = []
    with contextlib.suppress(ReleaseError):
        found = noted.ends(runs, 40 * 24 * HOUR, _PATIENCE)
    if not found:
        return _run()
    when = datetime.fromtimestamp(time.time() - found[0]["ago"], timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _run(when, result=found[0]["failed"])


def _started() -> float:
    """When systemd started, which is when it knew nothing of any run."""
    ticks = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _retiring(paths: Paths, live: str, names: dict[str, list[str]], states: dict[str, Facts]) -> list[Facts]:
    """Releases of which a process still runs and that are not live."""
    rows = []
    for release, units in names.items():
        if release == live:
            continue
        mine = [states.get(unit, {}) for unit in naming.services(units)]
        working = [one for one in mine if one.get("ActiveState") in _AT_WORK]
        if not working:
            continue
        waits = naming.retiring(paths.app, release)
        state = runtime.state(waits, _PATIENCE)
        rows.append(
            {
                "release": release,
                "memory_mb": sum(_number(one.get("MemoryCurrent", "")) for one in working) >> 20,
                "connections": retire.connections(str(naming.socket(paths, release))),
                "processes": sorted(naming.stem(one["Id"]) for one in working),
                "awaited": state in ("active", "activating"),
            }
        )
    return rows
