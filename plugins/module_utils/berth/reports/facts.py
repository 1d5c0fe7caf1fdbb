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
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from ..errors import ReleaseError
from ..host import command
from ..paths import Paths
from ..runtime import health, naming, noted, public_route, replaced
from ..runtime import units as runtime
from ..services import table as services
from ..store import journal, lock, presence, proxy, releases, settings
from . import backups, certificate, elsewhere, redeploys, running, upgrades
from .asking import PATIENCE, Facts, Questions

# Seconds for the size of releases, and for all about one app.
_FOR_SIZES = 3.0
_FOR_APP = 30.0


# Of the server ----------------------------------------------------------------------------------------------


def server(root: Path = Path("/")) -> Facts:
    """What all apps stand on."""
    ask = Questions()
    front = ask("What the proxy is", lambda: proxy.read(root), proxy.Applied())
    if proxy.here(root) and not front.unit:
        ask.unknown.append("What the proxy is is unknown: its receipt cannot be read. berth up writes it.")
    found: Facts = {
        "host": os.uname().nodename,
        "proxy": ask(front.program or "The proxy", lambda: _proxy(front.unit), ""),
        "proxy_program": front.program,
        "proxy_unit": front.unit,
        **_for_all(root, ask),
        "disks": [],
        "memory": ask("The memory", _memory, {}),
        "backups": ask("How the backups are", lambda: backups.facts(root), None),
        "dumps": ask("How dumps of databases elsewhere are", lambda: elsewhere.facts(root), None),
        "postgresql_move": ask("Whether Postgres is being moved", lambda: upgrades.facts(root), {}),
        "reboot": ask("Whether a reboot is pending", lambda: _reboot(root), ""),
    }
    for disk in ask.all({f"The disk at {path}": _disk(path) for path in _PLACES}, {}, PATIENCE).values():
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
    return (runtime.state(naming.distributions(unit), PATIENCE) or "unknown") if unit else ""


def _for_all(root: Path, ask: Questions) -> Facts:
    """How the services are that all apps share."""
    return {
        service.name: ask(service.program, partial(service.state, root), "") for service in services.shared()
    }


def _activity(name: str) -> Callable[[], str]:
    return lambda: runtime.state(naming.distributions(name), PATIENCE)


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
        "What restarted or ran out of memory in the last hour",
        lambda: noted.events(running.HOUR, PATIENCE),
        [],
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
        "redeploy": None,
        **{service.name: "" for service in services.alone(name)},
        "elsewhere": [], "replaced": [], "retiring": [], "lock": None, "cut_off": None, "left": [],
        "unknown": [],
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
        lambda: noted.states([one for name in names.values() for one in name], PATIENCE),
        {},
    )
    found["processes"] = running.processes(paths, description, live, states, past)
    units = [str(one["unit"]) for one in found["processes"]]
    found["replaced"] = ask("What updates replaced below it", lambda: replaced.files(units), [])
    found["jobs"] = ask(
        "The state of its jobs", lambda: running.jobs(paths, description, live, names, states), []
    )
    found["retiring"] = ask("What retires", lambda: running.retiring(paths, live, names, states), [])
    found["redeploy"] = ask("What its redeploys do", lambda: redeploys.facts(paths), None)
    for service in services.alone(paths.app):
        if description and service.used(description):
            what, key = f"Its {service.program}", service.name
            found[key] = ask(what, _activity(service.unit(paths.app)), "unknown")
    if description:
        for service in filter(lambda one: one.used(description), services.ALL):
            ask_there = partial(service.elsewhere, description, paths.root)
            if said := ask(f"How its {service.what} is", ask_there, ""):
                found["elsewhere"].append({"what": service.what, "text": said})
    if live:
        _routes(paths, ask, found, record, live)
        found["releases_mb"] = _size(paths)
    return {**found, "unknown": ask.unknown}


def _routes(paths: Paths, ask: Questions, found: Facts, record: Facts, live: str) -> None:
    """What the release answers on its own socket, and what comes through the proxy."""
    known = settings.served(paths, record.get("app") or {}, live)
    domain = str((known.get("domains") or [""])[0])
    path = str(record.get("health_path") or "/")
    probe = health.probe(naming.socket(paths, live), {"domains": [domain or "localhost"], **known}, path)
    status = ask("What the release answers", lambda: probe.ask(PATIENCE), None)
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


def _public(probe: health.Probe, domain: str, path: str) -> tuple[Facts, bytes]:
    silent = {"status": 0, "well": False}
    try:
        reply = public_route.ask_public(domain, path, PATIENCE)
    except ssl.SSLError as error:
        return {**silent, "problem": "certificate", "said": error.reason or "TLS alert"}, b""
    except (OSError, http.client.HTTPException) as error:
        return {**silent, "problem": "silent", "said": str(error) or "no answer"}, b""
    well = public_route.open_to_all(probe, reply.status)
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
