"""Runs that are killed and hosts that lose power, at every step: serving goes on, the next run tidies up.

The product has no hooks for this. A watcher on the host reads the journal and freezes the engine (SIGSTOP)
where the step is announced that a case is about; then the test kills what the case is about.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from testhost import Host

from tests.support.kit import INTERNAL_CA, ROOT, Kit, demo_apps, kill
from tests.support.load import Load

pytestmark = pytest.mark.long

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

WATCHER = r"""
import glob, json, os, signal, sys, time
point, delay = sys.argv[1], float(sys.argv[2])
state, link = "/var/lib/berth/board/", "/srv/board/web.sock"
offset, before = os.path.getsize(state + "journal.jsonl"), os.readlink(link)
deadline, engine, seen = time.monotonic() + 120, 0, b""
print("watching", flush=True)


def holder():
    for fd in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(fd) == state + "lock":
                return int(fd.split("/")[2])
        except OSError:
            pass
    return 0


def reached():
    if point == "renamed":
        return os.readlink(link) != before
    global seen
    with open(state + "journal.jsonl", "rb") as handle:
        handle.seek(offset)
        lines = handle.read().splitlines()
    return any(b'"step":"%s","state":"begin"' % point.encode() in line for line in lines)


while time.monotonic() < deadline:
    if not engine:
        engine = holder()
        time.sleep(0.02)
    elif reached():
        time.sleep(delay)
        os.kill(engine, signal.SIGSTOP)
        print(engine, flush=True)
        break
    else:
        time.sleep(0.0002)
"""

# Everything on the host that a run may leave behind, as lines that say what is wrong.
LEFTOVERS = r"""
import glob, json, os, re, subprocess, fcntl
from pathlib import Path
def out(*argv): return subprocess.run(argv, capture_output=True, text=True).stdout
base = Path("/srv/board")
releases = {path.name for path in (base / "releases").iterdir()}
for name in releases:
    record = base / "releases" / name / "release.json"
    if not record.exists() or not json.loads(record.read_text())["healthy"]:
        print("partial release", name)
links = {(base / "releases" / name / ".venv").readlink().name for name in releases}
for env in (base / "envs").iterdir():
    if env.name not in links or not (env / ".complete").exists():
        print("environment", env)
for path in Path("/etc/berth/board/releases").iterdir():
    if path.name.partition(".")[0] not in releases:
        print("env file", path)
for path in Path("/run/board").iterdir():
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
        if b"berth.release.agent" in Path(path).read_bytes() and str(os.getpid()) not in path:
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
    copy = folder / "board"
    shutil.copytree(ROOT / "app", copy, ignore=shutil.ignore_patterns(".venv", "__pycache__", ".*_cache"))
    app = next(app for app in demo_apps() if app["name"] == "board")
    app["source"] = {"path": str(copy)}
    app["keep_releases"] = 2
    # Old releases are to be gone soon, so that every prune has something to do.
    app["drain"] = {"requests": 5, "websocket": 5}
    kit = Kit(folder / "inventory", boot("killed", publish={"443": 0}), apps=[app])
    kit.play("site.yml")
    return kit


@pytest.fixture(scope="module")
def authority(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "root.crt"
    path.write_text(kit.host.sh(f"cat {INTERNAL_CA}") + "\n")
    return path


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


@dataclasses.dataclass
class Frozen:
    process: subprocess.Popen[str]
    engine: str


def freeze(kit: Kit, point: str, *command: str) -> Frozen:
    """Start a run and stop its engine in its tracks at that point."""
    watcher = subprocess.Popen(
        ["docker", "exec", "-i", kit.host.container, "python3", "-", point, str(POINTS[point])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdin is not None
    assert watcher.stdout is not None
    watcher.stdin.write(WATCHER)
    watcher.stdin.close()
    assert watcher.stdout.readline().strip() == "watching"
    process = kit.start(*command)
    engine = watcher.stdout.readline().strip()
    watcher.wait(timeout=10)
    if not engine:
        kill(process)
        raise AssertionError(f"{command} never came to {point}: {process.communicate()[0]}")
    return Frozen(process, engine)


def end(kit: Kit, frozen: Frozen, victim: str) -> str:
    """Kill the one or the other; what the run printed where it could still print."""
    if victim == "ansible":
        kill(frozen.process)
        kit.host.sh(f"kill -CONT {frozen.engine}", check=False)
        return ""
    if victim == "engine":
        kit.host.sh(f"kill -9 {frozen.engine}")
    else:
        kit.host.restart()
    output = frozen.process.communicate(timeout=120)[0]
    assert frozen.process.returncode != 0, output
    return output


def leftovers(kit: Kit) -> list[str]:
    """What is there on the host and must not be; a moment is given to what ends in the background."""
    found: list[str] = []
    for _ in range(4):
        found = kit.host.sh("python3 -", stdin=LEFTOVERS).splitlines()
        if not found:
            return []
        time.sleep(1)
    return found


def left_here(process: subprocess.Popen[str]) -> list[str]:
    """What a killed run leaves on this side: its keeper, its temporary folder with the keeper's socket."""
    found: list[str] = []
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = [str(path) for path in (Path.home() / ".ansible/tmp").glob(f"ansible-local-{process.pid}*")]
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (path / "cmdline").read_bytes()
                if b"keeper.py" in words and f"{ROOT}/".encode() in words and orphan(path):
                    found.append(words.decode())
        if not found:
            break
        time.sleep(0.2)
    return found


def orphan(process: Path) -> bool:
    """Whether its parent is gone; the keepers of other tests have theirs."""
    stat = (process / "stat").read_text().rpartition(")")[2].split()
    return stat[1] == "1"


def mark_of_live(kit: Kit) -> str:
    return kit.host.sh("tail -1 /srv/board/current/board/__init__.py")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", ["ansible", "engine", "host"])
@pytest.mark.parametrize("point", POINTS)
def test_a_deploy_is_killed(kit: Kit, authority: Path, point: str, victim: str) -> None:
    before = kit.release("board")
    mark = f"{point} {victim}"
    change(kit, mark, point)
    load = Load("board.localhost", kit.host.published["443"], authority, clients=2)
    with load if victim != "host" else contextlib.nullcontext():
        frozen = freeze(kit, point, "playbooks/deploy.yml", "-e", "app=board")
        output = end(kit, frozen, victim)
        if victim == "engine":
            assert "the next run finishes or undoes" in output
        if victim == "host":
            serves_again(kit)
        live = kit.release("board")
        switched = list(POINTS).index(point) >= list(POINTS).index("renamed")
        assert (live != before) is switched
        kit.play("playbooks/deploy.yml", "-e", "app=board", "-e", "wait=30")
    assert mark_of_live(kit) == f"# {mark}"
    assert kit.curl("https://board.localhost/readyz", "-f")
    if switched:
        assert kit.release("board") == live, "what was live already is finished, not done again"
    else:
        assert kit.release("board") != before
    assert leftovers(kit) == []
    assert left_here(frozen.process) == []
    if victim != "host":
        print(load.tally.report())
        assert load.tally.failures == []
        assert load.tally.requests > 20
    if victim == "host":
        assert kit.play("playbooks/deploy.yml", "-e", "app=board").changed == 0


def serves_again(kit: Kit, seconds: float = 40) -> None:
    """After the power came back, without anybody's help."""
    deadline = time.monotonic() + seconds
    while not kit.curl("https://board.localhost/readyz", "-f", check=False):
        assert time.monotonic() < deadline, "the app does not come back by itself"
        time.sleep(0.5)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("point", ["start", "renamed", "finish"])
def test_a_rollback_is_killed(kit: Kit, authority: Path, point: str) -> None:
    change(kit, f"rollback {point}")
    kit.play("playbooks/deploy.yml", "-e", "app=board")
    releases = kit.host.sh("ls /srv/board/releases").split()
    target = releases[-2]
    with Load("board.localhost", kit.host.published["443"], authority, clients=2) as load:
        frozen = freeze(kit, point, "playbooks/rollback.yml", "-e", "app=board")
        end(kit, frozen, "engine")
        kit.play("playbooks/rollback.yml", "-e", "app=board")
    # Asked twice, since the first was killed: still one release back.
    assert kit.release("board") == target
    assert leftovers(kit) == []
    assert load.tally.failures == []
    kit.play("playbooks/deploy.yml", "-e", "app=board")


@pytest.mark.timeout(180)
def test_a_bad_release_that_went_live_unproved_is_taken_back(kit: Kit, authority: Path) -> None:
    before, worker = kit.release("board"), source(kit) / "board" / "worker.py"
    good = worker.read_text()
    worker.write_text('raise SystemExit("no work today")\n')
    with Load("board.localhost", kit.host.published["443"], authority, clients=2) as load:
        end(kit, freeze(kit, "renamed", "playbooks/deploy.yml", "-e", "app=board"), "engine")
        assert kit.release("board") != before
        # The next run proves it, as the one that was killed would have done, and goes back.
        failed = kit.play("playbooks/deploy.yml", "-e", "app=board", succeed=False)
    assert "does not stay up" in failed.output, failed.output
    assert kit.release("board") == before
    assert leftovers(kit) == []
    assert load.tally.failures == []
    worker.write_text(good)
    kit.play("playbooks/deploy.yml", "-e", "app=board")


def test_two_deploys_at_once(kit: Kit) -> None:
    change(kit, "two at once")
    frozen = freeze(kit, "gate", "playbooks/deploy.yml", "-e", "app=board")
    refused = kit.play("playbooks/deploy.yml", "-e", "app=board", succeed=False)
    assert re.search(
        r"board is locked: \S+@\S+ \(pid \d+\) has been deploying it for \d+ s, version \S+", refused.output
    ), refused.output
    waiting = kit.start("playbooks/deploy.yml", "-e", "app=board", "-e", "wait=60")
    time.sleep(2)
    assert waiting.poll() is None
    kit.host.sh(f"kill -CONT {frozen.engine}")
    assert frozen.process.wait(timeout=60) == 0
    output = waiting.communicate(timeout=60)[0]
    assert waiting.returncode == 0, output
    assert "changed=0" in output, "the second finds that what it wants is live"
    assert frozen.process.stdout is not None
    frozen.process.stdout.close()


def test_nothing_to_do_is_fast(kit: Kit) -> None:
    run = min(
        (kit.play("playbooks/deploy.yml", "-e", "app=board") for _ in range(3)), key=lambda r: r.seconds
    )
    print(f"nothing to do: {run.seconds:.1f} s")
    assert run.changed == 0
    # A loaded machine is given some room; alone it is about one second.
    assert run.seconds < 8


def test_the_audit_tells_of_every_cut(kit: Kit) -> None:
    lines = kit.host.sh("cat /var/log/berth/audit.jsonl").splitlines()
    settled = [entry for entry in map(json.loads, lines) if entry["what"] == "settle"]
    assert {entry["step"] for entry in settled} >= {"fetch", "build", "migrate", "start", "gate", "verify"}
    assert {entry["result"] for entry in settled} == {"kept", "undone"}
