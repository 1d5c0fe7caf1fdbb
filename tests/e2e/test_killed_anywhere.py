"""Runs that are killed and hosts that stop, at every step: serving goes on, the next run tidies up.

A run is frozen where a case is about to do harm; then the test kills what the case is about. A host that is
killed keeps what it has written; what a power cut loses is in test_power_cut.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from testhost import Host

from tests.support.freeze import Frozen, freeze
from tests.support.kit import WELL, Kit, board_copy, kill
from tests.support.load import Load
from tests.support.pace import patience

# Ends what hangs, no more: where the machine does much else at the same time, a case takes minutes. That the
# host is provisioned is not counted, or the first case would fail for it.
LIMIT = pytest.mark.timeout(patience(900), func_only=True)

DEPLOY = ("playbooks/deploy.yml", "-e", "app=board")
ROLLBACK = ("playbooks/rollback.yml", "-e", "app=board")

# Where the engine is frozen: at a step's announcement, some seconds into it, or right after the rename.
POINTS = {
    "fetch": 0.0,
    "build": 1.0,
    "migrate": 1.5,
    "start": 0.0,
    "gate": 0.0,
    "switch": 0.0,
    "renamed": 0.0,
    "verify": 0.0,
    "retire": 0.0,
    "prune": 0.0,
    "finish": 0.0,
}

# And between two steps, while nothing is done: after the first of them.
BETWEEN = {"switched": "switch", "verified": "verify", "retired": "retire"}

# Everything on the host that a run may leave behind, as lines that say what is wrong.
LEFTOVERS = r"""
import glob, json, os, re, subprocess, fcntl
from pathlib import Path
def out(*argv): return subprocess.run(argv, capture_output=True, text=True).stdout
base = Path("/srv/board")
releases = {path.name for path in (base / "releases").iterdir()}
for name in releases:
    record = base / "releases" / name / "release.json"
    said = json.loads(record.read_text()) if record.exists() else {}
    # One that went live and was taken back ends like any other, and the first prune after that removes it.
    if not said.get("healthy") and not said.get("withdrawn"):
        print("partial release", name)
links = {(base / "releases" / name / ".venv").readlink().name for name in releases}
for env in (base / "envs").iterdir():
    if env.name not in links or not (Path("/var/lib/berth/board/envs") / env.name).exists():
        print("environment", env)
for path in Path("/etc/berth/board/releases").iterdir():
    if path.name.partition(".")[0] not in releases:
        print("env file", path)
for path in [*Path("/run/board").iterdir(), *Path("/run/berth/board").iterdir()]:
    web = f"board-web@{path.stem}.service"
    if path.stem not in releases or out("systemctl", "is-active", web).strip() != "active":
        print("socket", path)
for path in Path("/etc/systemd/system").rglob("*board-*@*"):
    release = path.name.partition("@")[2].rpartition(".")[0]
    if path.name.endswith(".new") or (release and release not in releases):
        print("unit file", path)
    elif path.parent.suffix == ".wants" and release != (base / "web.sock").readlink().stem:
        print("enabled", path)
shown = out("systemctl", "list-units", "--all", "--no-legend", "--plain", "board-*", "berth-*")
for line in shown.splitlines():
    unit = line.split()[0]
    # By the clock, or of the whole server, whatever is deployed.
    if unit.startswith(("berth-backup-", "berth-egress.", "berth-firewall.", "berth-guard.")): continue
    release = re.search(r"\d{8}T\d{6}Z-\w+", unit)
    if not release or release.group() not in releases or line.split()[2] == "failed":
        print("unit", line)
live = (base / "web.sock").readlink().stem
if (base / "current").readlink().name != live: print("current is not", live)
for unit in ("web@%s.service", "worker@%s.service", "nightly@%s.timer"):
    if out("systemctl", "is-active", "board-" + unit % live).strip() != "active":
        print("not running", unit % live)
workers = out("systemctl", "list-units", "--no-legend", "--plain", "--state=active", "board-worker@*")
if len(workers.splitlines()) != 1: print("workers:", workers)
for pattern in ("/tmp/berth-*", "/run/berth-*", "/srv/board/.*.new", "/etc/berth/board/.*"):
    for path in glob.glob(pattern): print("temporary", path)
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        if b"berth.transport.agent" in Path(path).read_bytes() and str(os.getpid()) not in path:
            print("engine", path)
    except OSError: pass
with open("/var/lib/berth/board/lock") as lock:
    try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError: print("the lock is held")
"""


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host of its own, with the board on it from a copy of its source."""
    folder = tmp_path_factory.mktemp("killed")
    app = board_copy(folder)
    app["keep_releases"] = 2
    # Every deploy here would wait for it, which is tested elsewhere.
    app["health"] = {**app["health"], "hold": 0.5, "timeout": WELL}
    # Old releases are to be gone soon, so that every prune has something to do.
    app["drain"] = {"requests": 5, "websocket": 5}
    kit = Kit(folder / "inventory", boot("killed", provisioned=True, publish={"443": 0}), apps=[app])
    kit.play("site.yml")
    return kit


@pytest.fixture(scope="module")
def authority(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.authority(tmp_path_factory.mktemp("ca"))


def source(kit: Kit) -> Path:
    return Path(kit.app("board")["source"]["path"])


def change(kit: Kit, mark: str, point: str = "") -> None:
    """A new version of the code, with something slow to do at the step that the case is about."""
    board = source(kit)
    with (board / "board" / "__init__.py").open("a") as handle:
        handle.write(f"\n# {mark}\n")
    if point == "build":
        # Another text of the requirements is another environment.
        with (board / "requirements.txt").open("a") as handle:
            handle.write(f"\n# {mark}\n")
    if point == "migrate":
        versions = board / "migrations" / "versions"
        last = max(
            re.findall(r'(?m)^revision = "(\w+)"', path.read_text())[0] for path in versions.glob("*.py")
        )
        number = f"{int(last) + 1:04d}"
        (versions / f"{number}_slow.py").write_text(
            f'revision = "{number}"\ndown_revision = "{last}"\nfrom alembic import op\n\n\n'
            f'def upgrade() -> None:\n    op.execute("select pg_sleep(3)")\n'
            f'    op.execute("alter table posts add slow_{number} int")\n\n\n'
            "def downgrade() -> None:\n    pass\n"
        )


def stop(kit: Kit, point: str, again: Callable[[], None], *command: str) -> Frozen:
    if point in BETWEEN:
        return freeze(kit, "board", BETWEEN[point], 0, again, *command, after=True)
    return freeze(kit, "board", point, POINTS[point], again, *command)


def end(kit: Kit, frozen: Frozen, victim: str) -> str:
    """Kill the one or the other; what the run printed where it could still print."""
    if victim == "ansible":
        assert list(kit.temporary.glob(folder_of(frozen.process))), "what is looked for later is not there"
        kill(frozen.process)
        go_on(kit, frozen, 60)
        return ""
    if victim == "engine":
        kit.host.sh(f"kill -9 {frozen.engine}")
    else:
        kit.host.restart()
    output = frozen.process.communicate(timeout=patience(120))[0]
    assert frozen.process.returncode != 0, output
    return output


def go_on(kit: Kit, frozen: Frozen, seconds: float) -> None:
    """Nobody holds the engine any more: it ends when it notices."""
    wait = f"timeout {patience(seconds):.0f} tail --pid={frozen.engine} -f /dev/null"
    kit.host.sh(f"kill -CONT {frozen.engine} || true; {wait}")


def leftovers(kit: Kit) -> list[str]:
    """What is there on the host and must not be; a moment is given to what ends in the background."""
    deadline = time.monotonic() + patience(4)
    while (found := kit.host.sh("python3 -", stdin=LEFTOVERS).splitlines()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def folder_of(process: subprocess.Popen[str]) -> str:
    """The name of a run's temporary folder."""
    # The number is followed by eight letters, and others may run at the same time whose number begins alike.
    return f"ansible-local-{process.pid}{8 * '?'}"


def keepers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that work in the temporary folder of a run."""
    found, mine = [], folder_of(process)
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if path.readlink().match(mine) or path.readlink().match(f"{mine} (deleted)"):
                found.append(int(path.parent.name))
    return found


def left_here(kit: Kit, process: subprocess.Popen[str]) -> list[str]:
    """What a killed run leaves on this side: its temporary folder, and its keeper, which works in there."""
    deadline = time.monotonic() + patience(5)
    while True:
        found = [str(path) for path in kit.temporary.glob(folder_of(process))]
        found += map(str, keepers(process))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def mark_of_live(kit: Kit) -> str:
    return kit.host.sh("tail -1 /srv/board/current/board/__init__.py")


# Steps differ in few ways: what is before, at and after the rename. Those that are like another one are not
# in `make test`.
TELLING = {
    "ansible": ("switch", "renamed"),
    "engine": ("build", "migrate", "start", "switch", "renamed", "retire", "finish"),
    "host": ("renamed",),
}
CASES = [
    pytest.param(
        point,
        victim,
        id=f"{point}-{victim}",
        marks=[] if point in TELLING[victim] else [pytest.mark.long],
    )
    for point in POINTS
    for victim in ("ansible", "engine", "host")
]


@LIMIT
@pytest.mark.parametrize(("point", "victim"), CASES)
def test_a_deploy_is_killed(kit: Kit, authority: Path, point: str, victim: str) -> None:
    mark = f"{point} {victim}"
    change(kit, mark, point)
    load = some_load(kit, authority)
    with load if victim != "host" else contextlib.nullcontext():
        frozen = stop(kit, point, partial(change, kit, mark, point), *DEPLOY)
        output = end(kit, frozen, victim)
        if victim == "engine":
            assert "the next run finishes or undoes" in output
        if victim == "host":
            serves_again(kit)
        live = kit.release("board")
        if (point, victim) == ("switch", "ansible"):
            # The engine was on the way to its rename: either comes first, the rename or that it notices.
            switched = live != frozen.before
        else:
            switched = list(POINTS).index(point) >= list(POINTS).index("renamed")
            assert (live != frozen.before) is switched
        if victim == "ansible" and switched:
            # The engine has done what was left by itself.
            assert leftovers(kit) == []
            assert kit.play(*DEPLOY).changed == 0
        kit.play(*DEPLOY, "-e", "wait=30")
    assert mark_of_live(kit) == f"# {mark}"
    assert kit.curl("https://board.localhost/readyz", "-f")
    if switched:
        assert kit.release("board") == live, "what was live already is finished, not done again"
    else:
        assert kit.release("board") != frozen.before
    assert leftovers(kit) == []
    assert left_here(kit, frozen.process) == []
    if victim != "host":
        print(load.tally.report())
        assert load.tally.failures == []
        assert load.tally.requests > 20
    if victim == "host":
        assert kit.play(*DEPLOY).changed == 0


def some_load(kit: Kit, authority: Path) -> Load:
    """Requests all the time, and not so many that the machine has nothing left for what is tested."""
    return Load("board.localhost", kit.host.published["443"], authority, clients=2, pause=0.05)


def serves_again(kit: Kit) -> None:
    """After the power came back, without anybody's help."""
    deadline = time.monotonic() + patience(40)
    while not kit.curl("https://board.localhost/readyz", "-f", check=False):
        assert time.monotonic() < deadline, "the app does not come back by itself"
        time.sleep(0.5)


@LIMIT
@pytest.mark.parametrize(
    "point",
    [
        "start",
        "renamed",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("switched", "verified")),
        "retired",
        pytest.param("finish", marks=pytest.mark.long),
    ],
)
def test_a_rollback_is_killed(kit: Kit, authority: Path, point: str) -> None:
    def new_release() -> None:
        change(kit, f"rollback {point}")
        kit.play(*DEPLOY)

    # Not the one with the next name: the case before this one went back from that.
    target = kit.release("board")
    new_release()
    with some_load(kit, authority) as load:
        frozen = stop(kit, point, new_release, *ROLLBACK)
        end(kit, frozen, "engine")
        kit.play(*ROLLBACK)
    # Asked twice, since the first was killed: still one release back.
    assert kit.release("board") == target
    assert leftovers(kit) == []
    assert load.tally.failures == []


@LIMIT
@pytest.mark.parametrize("victim", ["ansible", "engine"])
def test_a_bad_release_that_went_live_unproved_is_taken_back(kit: Kit, authority: Path, victim: str) -> None:
    before, worker = kit.release("board"), source(kit) / "board" / "worker.py"
    good = worker.read_text()
    worker.write_text(f'raise SystemExit("no work for the {victim} today")\n')
    with some_load(kit, authority) as load:
        end(kit, stop(kit, "renamed", lambda: None, *DEPLOY), victim)
        if victim == "engine":
            assert kit.release("board") != before
            # The next run proves it, as the one that was killed would have done, and goes back.
            failed = kit.play(*DEPLOY, succeed=False)
            assert "does not stay up" in failed.output, failed.output
    last = json.loads(kit.host.sh("tail -1 /var/log/berth/audit.jsonl"))
    assert "does not stay up" in last["reason"]
    assert last.get("alone", False) is (victim == "ansible")
    assert kit.release("board") == before
    assert leftovers(kit) == []
    assert load.tally.failures == []
    worker.write_text(good)
    kit.play(*DEPLOY)


@LIMIT
def test_workers_run_again_though_the_next_release_fails_too(kit: Kit) -> None:
    change(kit, "no workers yet")
    end(kit, stop(kit, "renamed", partial(change, kit, "no workers yet"), *DEPLOY), "engine")
    live, package = kit.release("board"), source(kit) / "board" / "__init__.py"
    good = package.read_text()
    package.write_text("import nothing_of_this_name\n")
    kit.play(*DEPLOY, succeed=False)
    assert kit.release("board") == live
    assert (
        kit.host.sh(f"systemctl is-active board-worker@{live} board-nightly@{live}.timer") == "active\nactive"
    )
    package.write_text(good)
    kit.play(*DEPLOY)
    assert leftovers(kit) == []


@LIMIT
@pytest.mark.long
def test_a_run_whose_network_is_gone_holds_nothing_for_long(kit: Kit) -> None:
    """Silence on a connection that is still open: minutes, since an engine listens for 90 s."""
    for point in ("build", "renamed"):
        mark = f"silent {point}"
        change(kit, mark, point)
        frozen = stop(kit, point, partial(change, kit, mark, point), *DEPLOY)
        held = keepers(frozen.process)
        assert held
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        go_on(kit, frozen, 150)
        kill(frozen.process)
        for pid in held:
            os.kill(pid, signal.SIGCONT)
        assert (kit.release("board") != frozen.before) is (point == "renamed")
        kit.play(*DEPLOY)
        assert mark_of_live(kit) == f"# {mark}"
        assert leftovers(kit) == []


@LIMIT
def test_two_deploys_at_once(kit: Kit) -> None:
    change(kit, "two at once")
    frozen = stop(kit, "gate", partial(change, kit, "two at once"), *DEPLOY)
    refused = kit.play(*DEPLOY, succeed=False)
    assert re.search(
        r"board is locked: \S+@\S+ \(pid \d+\) has been deploying it for \d+ s, version \S+", refused.output
    ), refused.output
    waiting = kit.start(*DEPLOY, "-e", f"wait={patience(60):.0f}")
    time.sleep(2)
    assert waiting.poll() is None
    kit.host.sh(f"kill -CONT {frozen.engine}")
    assert frozen.process.wait(timeout=patience(60)) == 0
    output = waiting.communicate(timeout=patience(60))[0]
    assert waiting.returncode == 0, output
    assert "changed=0" in output, "the second finds that what it wants is live"
    assert frozen.process.stdout is not None
    frozen.process.stdout.close()


def test_the_audit_tells_of_every_cut(kit: Kit) -> None:
    lines = kit.host.sh("cat /var/log/berth/audit.jsonl").splitlines()
    settled = [entry for entry in map(json.loads, lines) if entry["what"] == "settle"]
    assert {entry["step"] for entry in settled} >= {"build", "migrate", "start"}
    assert {entry["result"] for entry in settled} == {"kept", "undone"}
