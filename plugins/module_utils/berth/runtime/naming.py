"""What units are called and where their files lie: nobody else spells such a name, or takes one apart."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..paths import UNITS, Paths
from ..services import table

# Work of a run, each in a unit that is gone with it.
WORKS = ("build", "seed", "prove", "sql", "migrate", "copy")
_STAMPS = Path("var/lib/systemd/timers")
_SERVICE, _SOCKET, _TIMER = ".service", ".socket", ".timer"


def unit_stems(app: dict[str, Any]) -> dict[str, list[str]]:
    """The unit names of an app without instance: web, the other services, and the timers with their jobs."""
    name = app["name"]
    services = []
    for process in app["processes"]:
        if process["name"] == "web":
            continue
        for number in range(1, process["instances"] + 1):
            services.append(process_stem(name, process["name"], number))
    jobs = [f"{name}-{job['name']}" for job in app["jobs"]]
    return {"web": [f"{name}-web"], "services": services, "jobs": jobs}


def process_stem(app: str, process: str, number: int) -> str:
    return f"{app}-{process}" if number == 1 else f"{app}-{process}-{number}"


def template_files(app: dict[str, Any]) -> list[str]:
    """The unit files role service must have written before this app can be released."""
    stems = unit_stems(app)
    web = f"{app['name']}-web"
    files = [f"{web}@{_SOCKET}"] + ([f"{web}-relay@{_SERVICE}"] if relayed(app) else [])
    files += [f"{stem}@{_SERVICE}" for stem in [*stems["web"], *stems["services"], *stems["jobs"]]]
    return files + [f"{stem}@{_TIMER}" for stem in stems["jobs"]]


def relayed(app: dict[str, Any]) -> bool:
    """Whether its web command makes a socket itself, so that a relay stands between root's and that one."""
    return any(process["name"] == "web" and "{socket}" in process["command"] for process in app["processes"])


def instance_file(template: str, release: str) -> str:
    """`board-web@.service` becomes `board-web@<release>.service`."""
    return template.replace("@.", f"@{release}.", 1)


def web(app: str, release: str) -> str:
    return service(f"{app}-web", release)


def serving(paths: Paths, release: str) -> list[str]:
    """What serves a release, in the order in which it ends: a connection to its socket would wake the web."""
    relay = service(f"{paths.app}-web-relay", release)
    names = [f"{paths.app}-web@{release}{_SOCKET}", web(paths.app, release), relay]
    return [name for name in names if name == names[1] or (paths.units / name).exists()]


def beside_web(app: dict[str, Any], release: str) -> list[str]:
    """Workers and timers: what runs for the live release only."""
    return workers(app, release) + timers(app, release)


def workers(app: dict[str, Any], release: str) -> list[str]:
    return [service(stem, release) for stem in unit_stems(app)["services"]]


def timers(app: dict[str, Any], release: str) -> list[str]:
    return [timer(stem, release) for stem in unit_stems(app)["jobs"]]


def alone(app: dict[str, Any], release: str) -> list[str]:
    """Units of processes of which there must never be two, those of another release included."""
    single = {
        process_stem(app["name"], process["name"], 1)
        for process in app["processes"]
        if process["instances"] == 1 and not process["overlap"]
    }
    return [name for name in beside_web(app, release) if stem(name) in single]


def retiring(app: str, release: str) -> str:
    """What waits for the end of a release."""
    return f"{transient('retire', app)}-{release}{_SERVICE}"


def holding(app: str) -> str:
    """What has requests wait, a new one each time: an earlier one may still pass on a WebSocket."""
    return f"{transient('hold', app)}-{time.time_ns()}{_SERVICE}"


def service(stem: str, release: str) -> str:
    return f"{stem}@{release}{_SERVICE}"


def timer(stem: str, release: str) -> str:
    return f"{stem}@{release}{_TIMER}"


def stem(unit: str) -> str:
    """`board-worker@<release>.service` becomes `board-worker`."""
    return unit.partition("@")[0]


def services(names: Iterable[str]) -> list[str]:
    """Those that have processes."""
    return [name for name in names if name.endswith(_SERVICE)]


def starters(names: Iterable[str]) -> list[str]:
    """Those that start others."""
    return [name for name in names if name.endswith((_TIMER, _SOCKET))]


def transient(work: str, app: str) -> str:
    """A unit for one piece of work, as it is called when it is made: without a suffix."""
    return f"berth-{work}-{app}"


def works(app: str) -> list[str]:
    """The units of all the work of a run."""
    return [f"{transient(work, app)}{_SERVICE}" for work in WORKS]


def distributions(name: str) -> str:
    """A unit that came with a package."""
    return f"{name}{_SERVICE}"


def by_the_clock(name: str) -> str:
    """What starts a unit of Berth's own, which belongs to no app."""
    return f"{name}{_TIMER}"


def drop_in(unit: str, root: Path = Path("/")) -> Path:
    """What Berth adds to a unit that came with a package."""
    return root / UNITS.relative_to("/") / f"{unit}.d/50-berth.conf"


def units_after(app: Mapping[str, Any]) -> str:
    """The units that an app's processes and jobs start after, as a unit file names them."""
    return " ".join(distributions(name) for service in table.ALL for name in service.after(app))


def socket(paths: Paths, release: str) -> Path:
    """Where the proxy and the gate find a release; one of an earlier Berth made its socket itself."""
    unit = paths.units / f"{paths.app}-web@{release}{_SOCKET}"
    return paths.root_socket(release) if unit.exists() else paths.own_socket(release)


def stamp(paths: Paths, timer: str) -> Path:
    """Where systemd notes the last run of a timer."""
    return paths.root / _STAMPS / f"stamp-{timer}"


def stamps(paths: Paths, stem: str) -> list[Path]:
    """Those of a job's timers, of all releases."""
    return list((paths.root / _STAMPS).glob(f"stamp-{stem}@*{_TIMER}"))


def templates(paths: Paths) -> list[str]:
    """The unit files of this app that its releases are copies of."""
    return [path.name for path in paths.units.glob(f"{paths.app}-*@.*") if owned(path, paths.app)]


def instances(paths: Paths) -> dict[str, list[str]]:
    """The unit files of every release of this app. Files say whose they are: `a-b-web@…` is not app a's."""
    found: dict[str, list[str]] = {}
    for path in sorted(paths.units.glob(f"{paths.app}-*@*.*")):
        release = path.name.partition("@")[2].rpartition(".")[0]
        if release and path.suffix in (_SERVICE, _SOCKET, _TIMER) and owned(path, paths.app):
            found.setdefault(release, []).append(path.name)
    return found


def owned(path: Path, app: str) -> bool:
    """Whether a unit file carries the app's mark."""
    try:
        return bool(re.search(rf"^# Berth app: {re.escape(app)}$", path.read_text(), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return False


def half_written(paths: Paths, apps: Iterable[str]) -> list[Path]:
    """Of this app: `.a-b-web@…` is app a-b's, where there is one of `apps`: the contract lets one be."""
    others = tuple(f".{name}-" for name in apps if name.startswith(f"{paths.app}-"))
    found = [
        path
        for pattern in (f".{paths.app}-*@*.new", f"*.wants/.{paths.app}-*@*.new")
        for path in paths.units.glob(pattern)
    ]
    return [path for path in found if not path.name.startswith(others)]
