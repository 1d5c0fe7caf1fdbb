"""What is to be said about the facts of a status: one state word an app, and one line a finding.

Plain functions of what `facts` collected, in the shapes of `berth status --json`. A finding is `sick` (it is
not well until somebody does something), `down` (nobody is served), `unknown` (it could not be told) or a
`note`, which changes no state.
"""

from __future__ import annotations

import time

from ..errors import UP
from ..services import table as services
from . import backups, elsewhere, redeploys, telling, upgrades
from .asking import Facts
from .running import HOUR, ago

NOTE, UNKNOWN, SICK, DOWN = "note", "unknown", "sick", "down"
# States in which nothing is to be done.
FINE = ("well", "absent")
# A disk is nearly full when both are true: of a large one 10 % is plenty.
_DISK_USED, _DISK_FREE_MB = 90, 10 * 1024
_INODES_USED = 90
_MEMORY_LEFT = 0.05
# Fewer restarts in an hour are told of and are no loop.
_LOOP = 3
# Files in one sentence.
_NAMED = 3


def _finding(code: str, level: str, text: str, then: str = "") -> dict[str, str]:
    return {"code": code, "level": level, "text": text, "next": then}


def of_app(app: Facts, server: Facts) -> list[dict[str, str]]:
    """Everything that is to be said of one app, the worst first."""
    found = [_finding("unknown", UNKNOWN, text) for text in app["unknown"]]
    name = app["app"]
    if app["wanted"] == "orphan" and app["here"]:
        found.append(_finding("orphan", SICK, f"it is not in apps.yml: {LEFT_ALONE}", cure(name)))
    if app["wanted"] == "absent" and app["here"]:
        found.append(
            _finding("leaves", SICK, "its state is absent, and it is still here", f"{UP} removes it")
        )
    found += _runs(app)
    for one in app["elsewhere"]:
        found.append(_finding("elsewhere", SICK, f"its {one['what']}: {one['text']}"))
    found += [_finding(*one) for one in redeploys.judge(name, app.get("redeploy"))]
    if app["release"]:
        orphan = app["wanted"] == "orphan"
        # Whom the inventory does not name has no site.
        found += _serves(app, orphan, _logs(server)) + _processes(app) + _jobs(app) + _retiring(app)
    order = (DOWN, SICK, UNKNOWN, NOTE)
    return sorted(found, key=lambda one: order.index(one["level"]))


LEFT_ALONE = "nobody reaches it, and its workers and jobs run on"


def cure(name: str) -> str:
    """What to do about an app that the inventory does not name."""
    return (
        f"berth remove {name} takes it off and keeps its data; or put it back into apps.yml, or write it "
        "there with state: absent"
    )


def state_of(app: Facts, found: list[dict[str, str]]) -> str:
    """One word."""
    levels = {one["level"] for one in found}
    if app["wanted"] == "orphan" and app["here"]:
        return "orphan"
    if not app["release"] and not app["here"] and not app["unknown"]:
        return "absent" if app["wanted"] == "absent" else "not deployed"
    worst = next((level for level in (DOWN, SICK, UNKNOWN) if level in levels), "")
    return worst or ("well" if app["release"] else "not deployed")


def _runs(app: Facts) -> list[dict[str, str]]:
    """Runs that hold it, or that did not come to their end."""
    name, found = app["app"], []
    if holder := app["lock"]:
        who = f"{holder['user'] or 'somebody'}@{holder['host'] or 'an unknown host'}"
        found.append(_finding("locked", NOTE, f"{who} has been deploying it for {holder['age']}"))
    if cut := app["cut_off"]:
        which = f", release {cut['release']}" if cut["release"] else ""
        text = f"a run was cut off in step {cut['step']} ({_when(cut['at'])}{which})"
        found.append(_finding("cut-off", SICK, text, f"berth deploy {name} finishes or undoes it"))
    if app["left"]:
        said = "; ".join(str(one).rstrip(".") for one in app["left"])
        found.append(
            _finding("left", SICK, f"the last run could not tidy up: {said}", f"berth deploy {name}")
        )
    return found


def _serves(app: Facts, orphan: bool, logs: str) -> list[dict[str, str]]:
    """From the release's own socket to what a visitor gets."""
    name, found = app["app"], []
    if not app["record"]:
        text = f"{app['release']} is live, and its record cannot be read"
        found.append(_finding("record", SICK, text, f"berth deploy {name} puts a new release in its place"))
    inside = app["socket"] or {}
    if inside.get("well") is False:
        said = f"answers {inside['status']} on {inside['path']}" if inside["status"] else "does not answer"
        level = SICK if inside["status"] else DOWN
        found.append(_finding("health", level, f"the live release {said}", f"berth logs {name}"))
    outside = app["public"] or {}
    # What the release itself answers badly is told already.
    if outside.get("well") is False and not orphan and inside.get("well") is not False:
        found.append(_outside(outside, logs))
    shown = app["certificate"]
    if shown and not orphan:
        found += _certificate(shown, logs)
    return found


def _logs(server: Facts) -> str:
    """Where the proxy tells what is the matter."""
    return f"journalctl -u {server['proxy_unit']} on the server"


def _outside(outside: Facts, logs: str) -> dict[str, str]:
    if outside["problem"] == "certificate":
        text = f"the proxy has no certificate for {outside['url'].split('/')[2]} ({outside['said']})"
        ask = f"does the domain point to this server, and are ports 80 and 443 open? {logs} tells why"
        return _finding("public", DOWN, text, ask)
    if outside["problem"]:
        return _finding("public", DOWN, f"the proxy does not answer on port 443 ({outside['said']})", logs)
    text = f"{outside['url']} answers {outside['status']} through the proxy, and the release itself is well"
    return _finding("public", SICK, text, f"{UP}, which applies the site anew; else {logs}")


def _certificate(shown: Facts, logs: str) -> list[dict[str, str]]:
    renewal = f"{logs} tells why it is not renewed"
    if shown["days_left"] < 0:
        return [_finding("certificate", SICK, f"its certificate ended {_when(shown['expires'])}", renewal)]
    if shown["own"] and shown["wanted"] == "acme":
        text = f"its certificate is signed by {shown['issuer'] or 'itself'}, which no browser trusts"
        return [_finding("certificate", SICK, text, f"{logs} tells why")]
    if shown["soon"]:
        text = f"its certificate ends {_when(shown['expires'])} and should have been renewed"
        return [_finding("certificate", SICK, text, renewal)]
    return []


def _processes(app: Facts) -> list[dict[str, str]]:
    found = []
    for one in app["processes"]:
        logs = f"berth logs {app['app']} --process {_process(one['name'])}"
        loop = crash_loops(one)
        if one["state"] == "unknown":
            continue  # said once, for all units
        if loop:
            found.append(_finding("crash-loop", SICK, f"{one['name']} {loop}", logs))
        elif one["state"] != "active":
            why = f" ({_why(one['result'], one['exit_status'])})" if one["result"] != "success" else ""
            found.append(_finding("process", SICK, f"{one['name']} is {one['state']}{why}", logs))
        elif often := recent(one):
            text = f"{one['name']} was restarted {_times(often)} in the last hour"
            found.append(_finding("restart", NOTE, text, logs))
        if one["out_of_memory_last_hour"]:
            text = (
                f"{one['name']} ran out of memory {_times(one['out_of_memory_last_hour'])} in the last hour, "
                f"the last time {span(one['out_of_memory_seconds_ago'])} ago"
            )
            found.append(_finding("memory", SICK, text, f"raise its memory in apps.yml; {logs}"))
    if names := app["replaced"]:
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")
        text = f"its processes run on what updates have replaced ({shown})"
        cured = f"berth deploy {app['app']} --force puts processes with the updates in their place"
        found.append(_finding("replaced", NOTE, text, cured))
    for service in services.alone(app["app"]):
        key = service.name
        if app[key] not in ("", "active", "unknown"):
            logs = f"journalctl -u {service.unit(app['app'])} on the server"
            found.append(_finding(key, SICK, f"its {service.program} is {app[key]}", logs))
    return found


def recent(one: Facts) -> int:
    """Restarts in the last hour, without those from before somebody started it anew."""
    return int(min(one["restarts_last_hour"], one["restarts"]))


def crash_loops(one: Facts) -> str:
    """What a process that ends again and again does; empty where it stays up.

    Restarts count while it is in their rhythm still: five at boot, and it has been up since, are over.
    """
    if one["waits_to_restart"]:
        why = _why(one["result"], one["exit_status"])
        return f"ends and is started again ({why}; {one['restarts']} restarts)"
    often, up = recent(one), one["up_seconds"]
    if often >= _LOOP and up is not None and up < 2 * HOUR / often:
        return f"crash-loops: {often} restarts in the last hour, the last {span(up)} ago"
    return ""


def _process(name: str) -> str:
    """The relay's lines are the web's, and an instance's those of its process."""
    if name == "web-relay":
        return "web"
    stem, _, number = name.rpartition("-")
    return stem if stem and number.isdecimal() else name


def _jobs(app: Facts) -> list[dict[str, str]]:
    found = []
    for job in app["jobs"]:
        logs = f"berth logs {app['app']} --process {job['name']}"
        if job["failed"] and not job["running"]:
            text = f"{job['name']} failed {_when(job['last'])}: {_why(job['failed'], job['exit_status'])}"
            found.append(_finding("job", SICK, text, logs))
        if job["timer"] not in ("active", "unknown"):
            text = f"{job['name']} does not run by the clock: its timer is {job['timer']}"
            found.append(_finding("timer", SICK, text, f"berth deploy {app['app']} starts it"))
    return found


def _retiring(app: Facts) -> list[dict[str, str]]:
    found = []
    for one in app["retiring"]:
        what = f"{one['memory_mb']} MB of memory, {one['connections']} open connections"
        if one["awaited"]:
            text = f"{one['release']} ends its work: {what}"
            found.append(_finding("retiring", NOTE, text))
        elif any(name.endswith("-web") for name in one["processes"]) and not app["lock"]:
            text = f"{one['release']} is not live and runs on, and nothing waits for its end: {what}"
            found.append(_finding("runs-on", SICK, text, f"berth deploy {app['app']} --force ends it"))
        else:
            at = ", ".join(one["processes"])
            found.append(_finding("retiring", NOTE, f"{one['release']} ends its work: {at}, {what}"))
    return found


def of_server(server: Facts) -> list[dict[str, str]]:
    """Everything that is to be said of what all apps stand on."""
    found = [_finding("unknown", UNKNOWN, text) for text in server["unknown"]]
    if server["proxy"] not in ("", "active"):
        text = f"{server['proxy_program'] or 'the proxy'} is {server['proxy']}: no app is reached"
        found.append(_finding("proxy", DOWN, text, f"{UP} starts it; {_logs(server)}"))
    for service in services.shared():
        key = service.name
        if trouble := service.trouble(server[key]):
            found.append(_finding(key, DOWN, *trouble))
    for disk in server["disks"]:
        room = "df -h and du -xh on the server tell what fills it"
        if disk["used_percent"] >= _DISK_USED and disk["free_mb"] < _DISK_FREE_MB:
            text = (
                f"the disk at {disk['path']} is {disk['used_percent']} % full, {disk['free_mb']} MB are free"
            )
            found.append(_finding("disk", SICK, text, room))
        if disk["inodes_used_percent"] >= _INODES_USED:
            text = f"the disk at {disk['path']} has {disk['inodes_used_percent']} % of its inodes in use"
            found.append(_finding("inodes", SICK, text, "df -i and du --inodes on the server"))
    memory = server["memory"]
    if memory and memory["available_mb"] < memory["total_mb"] * _MEMORY_LEFT:
        text = f"{memory['available_mb']} of {memory['total_mb']} MB of memory are available"
        found.append(_finding("memory", SICK, text, "systemd-cgtop -m on the server tells who has it"))
    found += [_finding(*one) for one in backups.judge(server["backups"], time.time())]
    dumps = elsewhere.judge(server.get("dumps"), time.time())
    found += [_finding(*one) for one in dumps if one[1] != NOTE]
    found += [_finding(*one) for one in upgrades.judge(server.get("postgresql_move") or {})]
    if server["reboot"]:
        found.append(_finding("reboot", NOTE, f"a reboot is pending: {server['reboot']}"))
    return found


def _why(result: str, status: int) -> str:
    """systemd's word for how a process ended, in words."""
    said = {
        "exit-code": f"exit status {status}" if status else "it failed",
        "oom-kill": "it ran out of memory",
        "timeout": "it took longer than its time limit",
        "signal": f"ended by signal {status}" if status else "ended by a signal",
        "core-dump": f"it crashed with signal {status}" if status else "it crashed",
        "success": "it ended by itself",
    }
    return said.get(result, result or "no reason known")


def _when(stamp: str) -> str:
    """`at 2026-11-28 03:00 UTC, 17 h 3 min ago`."""
    seconds = ago(stamp)
    if seconds is None:
        return "at an unknown time"
    distance = f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"
    return f"at {telling.minute(stamp)}, {distance}"


def span(seconds: float) -> str:
    """The two largest units of a time."""
    parts: list[str] = []
    rest = int(seconds)
    for size, unit in ((86400, "d"), (HOUR, "h"), (60, "min"), (1, "s")):
        number, rest = divmod(rest, size)
        if number or parts:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
