"""Units: how they are started, stopped, looked at and forgotten, and which of them come back after a reboot.

What keeps an app's processes is systemd: nothing outside this folder knows that.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host import command
from ..host.command import Result
from ..paths import Paths
from . import naming

# Long enough for an import that goes on to show.
_LOOK_AGAIN = 0.25
_WANTS = {".service": "multi-user.target.wants", ".timer": "timers.target.wants"}


def to_end(app: dict[str, Any]) -> float:
    """Seconds after which the slowest of its processes beside the web has ended or was killed."""
    return max([10.0, *(float(one["stop_timeout"]) + 5 for one in app["processes"][1:])])


def systemctl(*words: str, timeout: float = 120) -> Result:
    return command.run(["systemctl", *words], timeout=timeout)


def states(names: list[str]) -> dict[str, str]:
    """`active`, `activating`, `failed`, … of several units in one call."""
    if not names:
        return {}
    return dict(zip(names, systemctl("is-active", *names).out.split(), strict=False))


def state(unit: str, patience: float) -> str:
    """The same of one unit, told in so many seconds or not at all."""
    return systemctl("is-active", unit, timeout=patience).out.strip()


def exposures() -> dict[str, float]:
    """How much each service that runs may do, by unit, as systemd counts it: from 0 (nothing) to 10 (all)."""
    said = command.run(["systemd-analyze", "security", "--no-pager"], timeout=120).out
    rows = re.findall(r"(?m)^(\S+)[.]service\s+([0-9]+[.][0-9])", said)
    return {unit: float(value) for unit, value in rows}


def waits_to_restart(state: dict[str, str]) -> bool:
    """Whether a unit has ended and is about to be started again: since systemd 254 in two steps."""
    return state.get("SubState", "").startswith("auto-restart")


@dataclass(frozen=True)
class Past:
    """What units did before they were asked to start now: it proves nothing about this start."""

    since: float = 0.0
    restarts: dict[str, int] = field(default_factory=dict)

    def fell(self, state: dict[str, str], unit: str) -> bool:
        """Whether a unit had to be started again since then, or is about to be."""
        again = int(state.get("NRestarts") or 0) > self.restarts.get(unit, 0)
        return again or waits_to_restart(state)


def past(names: list[str]) -> Past:
    """To be called before a start. A unit that waits for its next try, or was given up, begins anew."""
    found = shown(names, "ActiveState", "SubState", "NRestarts")
    waiting = [one["Id"] for one in found if waits_to_restart(one)]
    if waiting:
        systemctl("stop", *waiting)
    ended = waiting + [one["Id"] for one in found if one.get("ActiveState") == "failed"]
    if ended:
        forget_failure(ended)
    # A unit that does not run counts from nought when it starts.
    running = [one for one in found if one.get("ActiveState") == "active"]
    return Past(time.time(), {one["Id"]: int(one.get("NRestarts") or 0) for one in running})


def shown(names: list[str], *properties: str) -> list[dict[str, str]]:
    """Properties of several units in one call, each with its Id."""
    if not names:
        return []
    return blocks(systemctl("show", f"--property=Id,{','.join(properties)}", *names).out)


def blocks(text: str) -> list[dict[str, str]]:
    """What `systemctl show` prints: a block of properties for each unit."""
    return [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in text.strip().split("\n\n")
    ]


def show(unit: str, *properties: str) -> dict[str, str]:
    """systemd's view of a unit; empty where it takes too long to tell, which must not decide anything."""
    try:
        result = systemctl("show", unit, "--property=" + ",".join(properties), timeout=20)
    except ReleaseError:
        return {}
    return blocks(result.out)[0]


def main_pid(unit: str) -> int:
    """The unit's main process; 0 where it has none, or systemd takes too long to tell."""
    return int(show(unit, "MainPID").get("MainPID") or 0)


def journal(unit: str, lines: int = 200, since: float = 0.0) -> list[str]:
    """What the unit's processes wrote last, oldest line first; nothing from before `since`.

    It only tells why: a journal that is too slow to answer must not decide anything.
    """
    query = ["journalctl", "-n", str(lines), "-o", "cat", "--no-pager", "-q", f"_SYSTEMD_UNIT={unit}"]
    if since:
        query.append(f"--since=@{since:.6f}")
    try:
        return [line for line in command.run(query, timeout=20).out.splitlines() if line.strip()]
    except ReleaseError:
        return []


def fallen(names: list[str], least: float, most: float, before_start: Past) -> str:
    """The first unit that does not stay up; empty when all do.

    Looks for `least` seconds, and on until `most` while one is still at work, as with a long import.
    """
    began = time.monotonic()
    services = naming.services(names)
    before: dict[int, int] = {}
    while names:
        now: dict[int, int] = {}
        for state in shown(services, "ActiveState", "SubState", "NRestarts", "MainPID"):
            now.update(busy(int(state.get("MainPID") or 0)))
            gone = state.get("ActiveState", "active") in ("failed", "inactive")
            if gone or before_start.fell(state, state["Id"]):
                return state["Id"]
        bad = [name for name, state in states(names).items() if state not in ("active", "activating")]
        if bad:
            return bad[0]
        passed = time.monotonic() - began
        if not services or passed >= most or (passed >= least and resting(before, now)):
            break
        before = now
        time.sleep(_LOOK_AGAIN)
    return ""


def resting(before: dict[int, int], now: dict[int, int]) -> bool:
    """Whether the same processes, all asleep, used next to no time of a processor between two looks."""
    return before.keys() == now.keys() and all(
        before[pid] >= 0 and 0 <= now[pid] - before[pid] <= 1 for pid in now
    )


def busy(pid: int) -> dict[int, int]:
    """A process and its children with the processor time that each used, in ticks; -1 for one that runs."""
    found: dict[int, int] = {}
    todo = [pid] if pid else []
    while todo:
        one = todo.pop()
        try:
            # The name in parentheses may hold anything.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except OSError:
            continue
        found[one] = -1 if fields[0] in "RD" else int(fields[11]) + int(fields[12])
        todo += map(int, children)
    return found


def begin(paths: Paths, release: str) -> Past:
    """Start a release's web and not wait for it. Its socket comes with it."""
    names = naming.serving(paths, release)
    services = naming.services(names)
    now = states(names)
    ending = {now[name] for name in services} & {"active", "deactivating"}
    if len(names) > len(services) and now[names[0]] != "active" and ending:
        # A retirement has closed the socket already: what still ends must end before there can be one again.
        return start(services, wait=False, verb="restart")
    return start([naming.web(paths.app, release)], wait=False)


def start(names: list[str], *, wait: bool = True, verb: str = "start", patience: float = 120) -> Past:
    """What they did before comes back, so that nobody holds it against them."""
    before = past(names)
    done = systemctl(verb, *([] if wait else ["--no-block"]), *names, timeout=patience) if names else None
    if done and done.code != 0:
        raise ReleaseError(
            f"Starting {', '.join(names)} failed: {done.lines[0] if done.lines else done.code}."
        )
    return before


def ask_to_start(names: list[str]) -> Result:
    """Without waiting for it, and without a word where it is refused."""
    return systemctl("start", "--no-block", *names)


def ask_to_restart(names: list[str]) -> None:
    """Without waiting for it; one that does not run is started."""
    if names:
        systemctl("restart", "--no-block", *names)


def ask_to_stop(names: list[str]) -> None:
    """Without waiting for it."""
    if names:
        systemctl("stop", "--no-block", *names)


def stop(names: list[str], patience: float = 10) -> None:
    """Ask all to stop at once; one that takes longer to finish its work does so in the background."""
    if not names:
        return
    ask_to_stop(names)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if not {"active", "deactivating", "activating"} & set(states(names).values()):
            return
        time.sleep(0.05)


def end_transient(app: str) -> None:
    """Work of a run that is gone: an engine that was killed could not stop it."""
    names = naming.works(app)
    running = [
        name for name, state in states(names).items() if state not in ("inactive", "failed", "unknown")
    ]
    stop(running)
    left = [name for name, state in states(running).items() if state not in ("inactive", "failed", "unknown")]
    if left:
        systemctl("kill", "--signal=KILL", *left)
        stop(left)


def kill(names: list[str]) -> None:
    """End units at once: what was never live has no work in flight, and one that hangs would not listen."""
    systemctl("stop", "--no-block", *names)
    systemctl("kill", "--signal=KILL", *naming.services(names))


def forget_failure(names: list[str]) -> None:
    """Of units that ended badly, nothing is said any more."""
    systemctl("reset-failed", *names)


def forget(paths: Paths, names: list[str]) -> None:
    """A release's units end, and nothing is left of them."""
    if names:
        # What would start others goes first.
        ask_to_stop(naming.starters(names))
        stop(names, patience=30)
        disable(paths, names)
        forget_failure(names)
    for name in names:
        (paths.units / name).unlink(missing_ok=True)
        # When a timer ran last; its name never comes back.
        naming.stamp(paths, name).unlink(missing_ok=True)


def forget_templates(paths: Paths, names: list[str]) -> None:
    """What an app's units were copies of, once it has no release any more."""
    for name in names:
        (paths.units / name).unlink(missing_ok=True)
    reload()


def reload() -> None:
    """What was written to or removed from unit files counts from now on."""
    systemctl("daemon-reload")


def end_for_good(unit: str) -> None:
    """Now and at boot: a unit that came with a package."""
    systemctl("disable", "--quiet", "--now", unit, timeout=300)


def forget_own(paths: Paths, unit: str) -> None:
    """It ends for good, and nothing is left of what Berth added to it."""
    end_for_good(unit)
    shutil.rmtree(naming.drop_in(unit, paths.root).parent, ignore_errors=True)
    reload()


def enable(paths: Paths, names: list[str]) -> None:
    """The symlink that `systemctl enable` makes, without the reload of every unit that it costs."""
    for name in names:
        link = _want(paths, name)
        link.parent.mkdir(exist_ok=True)
        replace_link(link, paths.units / name)


def disable(paths: Paths, names: list[str]) -> None:
    for name in names:
        if Path(name).suffix in _WANTS:
            _want(paths, name).unlink(missing_ok=True)


def enabled(paths: Paths, name: str) -> bool:
    return _want(paths, name).is_symlink()


def _want(paths: Paths, name: str) -> Path:
    return paths.units / _WANTS[Path(name).suffix] / name


def replace_link(link: Path, target: Path) -> None:
    """Point a symlink somewhere else in one rename(2)."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.new")
    temporary.symlink_to(target)
    temporary.replace(link)
