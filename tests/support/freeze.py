"""Stopping a run in its tracks, at any of its steps.

The product has no hooks for this. A watcher on the host reads the journal and freezes the engine (SIGSTOP)
where the step is announced that a test is about.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from collections.abc import Callable

from tests.support.kit import Kit
from tests.support.pace import patience

WATCHER = r"""
import ctypes, glob, os, select, signal, sys, time
app, point, delay, after = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4] == "after"
step = "switch" if point == "renamed" else point
state, link = f"/var/lib/berth/{app}/", f"/srv/{app}/web.sock"
offset, before = os.path.getsize(state + "journal.jsonl"), os.readlink(link)
deadline, engine = time.monotonic() + 300, 0
# It sleeps until a file changes (inotify): who is always awake is not woken in time on a busy machine.
kernel = ctypes.CDLL(None)
events = kernel.inotify_init()
for folder, what in (state, 0x02), (os.path.dirname(link), 0x80):
    assert kernel.inotify_add_watch(events, folder.encode(), what) >= 0
os.nice(-20)
print(os.path.basename(before).removesuffix(".sock"), flush=True)


def holder():
    for fd in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(fd) == state + "lock":
                return int(fd.split("/")[2])
        except OSError:
            pass
    return 0


def written(what):
    with open(state + "journal.jsonl", "rb") as handle:
        handle.seek(offset)
        return b'"step":"%s","state":"%s"' % (step.encode(), what) in handle.read()


def reached():
    return os.readlink(link) != before if point == "renamed" else written(b"end" if after else b"begin")


def stopped():
    with open("/proc/%d/stat" % engine) as handle:
        return handle.read().rpartition(")")[2].split()[0] == "T"


def late():
    if after:  # the next step
        with open(state + "journal.jsonl", "rb") as handle:
            handle.seek(offset)
            return handle.read().rstrip().rpartition(b'"step":')[2].split(b'"')[1] != step.encode()
    return written(b"end") or point == "switch" and os.readlink(link) != before


while time.monotonic() < deadline:
    if select.select([events], [], [], 1)[0]:
        os.read(events, 1 << 16)
    engine = engine or holder()
    if engine and reached():
        time.sleep(delay)
        try:
            os.kill(engine, signal.SIGSTOP)
            while not stopped():
                time.sleep(0.001)
        except OSError:  # it has ended
            print(engine, "late", flush=True)
        else:
            print(engine, "late" if late() else "", flush=True)
        break
    if engine and not os.path.exists("/proc/%d" % engine):
        break
"""


@dataclasses.dataclass
class Frozen:
    process: subprocess.Popen[str]
    engine: str
    before: str
    """The release that was live when the run began."""


def freeze(
    kit: Kit,
    app: str,
    point: str,
    delay: float,
    again: Callable[[], None],
    *command: str,
    after: bool = False,
) -> Frozen:
    """Start a run and stop its engine in its tracks.

    `delay` seconds into a step, right after the rename, or `after` a step, before the next one begins.

    On a busy machine the signal may come when the engine is past it. Then the run may end as it likes,
    `again` makes something to do, and the next one is watched.
    """
    for _ in range(5):
        watcher = subprocess.Popen(
            [
                "docker",
                "exec",
                "-i",
                kit.host.container,
                "python3",
                "-",
                app,
                point,
                str(delay),
                "after" if after else "",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        watcher.stdin.write(WATCHER)
        watcher.stdin.close()
        before = watcher.stdout.readline().strip()
        assert before
        process = kit.start(*command)
        engine, _, late = watcher.stdout.readline().strip().partition(" ")
        watcher.stdout.close()
        watcher.wait(timeout=patience(10))
        if not engine:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{command} never came to {point}: {process.communicate()[0]}")
        if not late:
            return Frozen(process, engine, before)
        kit.host.sh(f"kill -CONT {engine}", check=False)
        process.communicate(timeout=patience(120))
        again()
    raise AssertionError(f"the engine could not be stopped at {point}: it was past it five times")
