"""Deploys, a rollback and two failing deploys under everything that clients do: nothing may fail.

Eight deploys in `make test`, twenty in the long one; `make bench-long` makes a hundred.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testhost import Host

from tests.support.kit import ROOT, WELL, Kit, Run
from tests.support.load import Traffic, Window
from tests.support.pace import patience

FIXTURE = ROOT / "tests" / "fixtures" / "loadapp"

MOST = 20
# Seconds for which the app can hold a slow request back, less what starting one may take.
HELD = 40
# Each worker's import takes so many seconds, one after the other.
TURNS = """
import fcntl, time
with open("/srv/loadapp/data/turn", "w") as turn:
    fcntl.flock(turn, fcntl.LOCK_EX)
    time.sleep({seconds})
"""
# Seconds in which the proxy may still take a connection for good that was closed with its process.
LEARNT = 0.5
# A worker beside the web that works hard for a second and dies, when the new web serves already. Slow
# requests that run by then are held.
DIES = "cd /srv/loadapp/data; timeout 1 sh -c 'while :; do :; done'; test -e hold || echo 1 > hold; exit 3"
# Each prints when it killed, and when all that it killed was gone.
KILLS = {
    "a worker": """
        date +%s.%N; kill -9 ${workers%% *}
        until [ "$(pgrep -P $main | xargs)" != "$workers" ]; do sleep 0.02; done; date +%s.%N
        """,
    "a worker out of memory": """
        date +%s.%N
        curl -s -m 60 -o /dev/null -X POST --unix-socket /srv/loadapp/web.sock http://app/hoard || true
        until [ "$(pgrep -P $main | xargs)" != "$workers" ]; do sleep 0.02; done; date +%s.%N
        """,
    "the server": """
        date +%s.%N; kill -9 $main
        while kill -0 $main $workers 2>/dev/null; do sleep 0.02; done; date +%s.%N
        """,
}
UNITS = (
    "systemctl list-units --no-legend --plain 'loadapp-web@*.service' --state=active,deactivating"
    " | awk '{print $1}'"
)


class Ship:
    """The app, its source, and what was done to it and when."""

    def __init__(self, kit: Kit, source: Path) -> None:
        self.kit = kit
        self.source = source
        self.windows: list[Window] = []
        self.releases = {"0": kit.release("loadapp")}
        """The release of each version of the code that went live."""

    @contextmanager
    def window(self) -> Iterator[None]:
        """A time in which something is done to the app."""
        began = time.time()
        yield
        self.windows.append((began, time.time()))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Slow requests do not end before this does."""
        self.kit.host.sh(f"echo {time.time()} > /srv/loadapp/data/hold")
        try:
            yield
        finally:
            self.kit.host.sh("rm /srv/loadapp/data/hold")

    def mark(self, mark: str, more: str = "") -> None:
        """A change of the code, and nothing else."""
        text = f'"""Answers that a client can check to the last byte."""\n\nMARK = "{mark}"\n{more}'
        (self.source / "loadapp" / "__init__.py").write_text(text)

    def deploy(self, mark: str, more: str = "", *, succeed: bool = True) -> Run:
        """Deploy a version of the code."""
        self.mark(mark, more)
        with self.window():
            run = self.kit.play("playbooks/deploy.yml", "-e", "app=loadapp", succeed=succeed)
        if succeed:
            self.releases[mark] = self.kit.release("loadapp")
        return run

    def running(self) -> set[str]:
        """The releases whose web process runs, or ends its work."""
        units = self.kit.host.sh(UNITS).split()
        return {re.sub(r".*@(.+)\.service", r"\1", unit) for unit in units}


@pytest.fixture(scope="module")
def ship(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Ship:
    """A host with the app of tests/fixtures/loadapp."""
    source = tmp_path_factory.mktemp("source") / "loadapp"
    shutil.copytree(FIXTURE, source, ignore=shutil.ignore_patterns("__pycache__"))
    app = {
        "name": "loadapp",
        "domains": ["loadapp.localhost"],
        "source": {"path": str(source)},
        "database": {"enabled": False},
        "health": {"timeout": WELL},
        # The WebSockets from before the first deploy are to outlive all the others.
        "drain": {"releases": MOST + 10},
    }
    host = boot("noloss", provisioned=True, publish={"443": 0})
    kit = Kit(tmp_path_factory.mktemp("kit"), host, apps=[app])
    kit.play("site.yml")
    return Ship(kit, source)


@pytest.fixture(scope="module")
def authority(ship: Ship, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CA of the host's proxy."""
    return ship.kit.authority(tmp_path_factory.mktemp("ca"))


def audited(ship: Ship) -> list[str]:
    """How each run so far ended."""
    lines = ship.kit.host.sh("cat /var/log/berth/audit.jsonl").splitlines()
    return [json.loads(line)["result"] for line in lines]


def what_was_replaced_is_gone(ship: Ship) -> None:
    """Sockets, units and folders, after all of it."""
    host = ship.kit.host
    sockets = host.sh("ls /run/berth/loadapp").split()
    assert sockets == [f"{ship.kit.release('loadapp')}.sock"]
    assert host.sh("systemctl list-units --all --no-legend --plain --state=failed 'loadapp-*'") == ""
    ship.kit.play("playbooks/deploy.yml", "-e", "app=loadapp")
    kept = set(host.sh("ls /srv/loadapp/releases").split())
    assert len(kept) == 5
    assert ship.releases["0"] not in kept


@pytest.mark.parametrize("deploys", [8, pytest.param(MOST, marks=pytest.mark.long)])
def test_nothing_fails_over_deploys_a_rollback_and_failing_deploys(
    ship: Ship, authority: Path, deploys: int
) -> None:
    port = ship.kit.host.published["443"]
    # Of what this begins with no client knows yet.
    ship.windows.clear()
    ship.deploy("0")
    ship.windows.clear()
    ship.releases = {"0": ship.kit.release("loadapp")}
    before = audited(ship)
    returned: dict[int, float] = {}
    with Traffic("loadapp.localhost", port, authority) as traffic:
        time.sleep(4)
        for number in range(1, deploys + 1):
            with ship.held():
                ship.deploy(str(number))
                returned[number] = time.time()
        took = [end - begin for begin, end in ship.windows]
        time.sleep(4)

        # A version that cannot start, and one that starts and is not well.
        ship.deploy("bad", "raise RuntimeError('out of cheese')\n", succeed=False)
        ship.kit.app("loadapp")["health"].update(path="/nowhere", timeout=3)
        ship.deploy("sick", succeed=False)
        ship.kit.app("loadapp")["health"].update(path="", timeout=WELL)
        assert ship.kit.release("loadapp") == ship.releases[str(deploys)]

        with ship.held(), ship.window():
            ship.kit.play("playbooks/rollback.yml", "-e", "app=loadapp")
        back = time.time()
        assert ship.kit.release("loadapp") == ship.releases[str(deploys - 1)]
        time.sleep(6)  # a slow request from before the rollback ends after it
        still = ship.running()
    closed = time.time()
    print(f"\n{traffic.report(ship.windows)}")
    print(f"  a deploy under this load took {min(took):.1f} to {max(took):.1f} s")

    assert traffic.failures == []
    assert len(set(ship.releases.values())) == deploys + 1
    kinds = ("h1 GET", "h1 POST", "h2 GET", "h2 POST", "h1 upload", "ws held", "ws short")
    # No load, no proof.
    assert min(traffic.sent[kind] for kind in kinds) > 100, traffic.sent
    assert min(traffic.sent[kind] for kind in ("h1 slow", "h2 slow")) > deploys, traffic.sent
    # What never was live never answered.
    assert not {answer.mark for answer in traffic.answers} & {"bad", "sick"}

    # Every deploy returned while the release before it still worked on slow requests, which then ended well.
    slow = [answer for answer in traffic.answers if answer.kind.endswith("slow")]
    for number in range(1, deploys + 1):
        if took[number - 1] > HELD:
            continue  # a machine too busy for this proof; nothing failed on it all the same
        end = returned[number]
        outlived = [a for a in slow if a.mark == str(number - 1) and a.began < end < a.ended]
        assert outlived, f"no slow request of version {number - 1} outlived deploy {number}"

    # The WebSockets opened before the first deploy were served by that release to the end.
    assert len(traffic.held) == 2
    for heard in traffic.held.values():
        assert {mark for _, mark, _ in heard} == {"0"}
        assert heard[-1][0] > back + 4, "the WebSocket fell silent"
    assert ship.releases["0"] in still

    # With its last connection gone the release ends by itself, and so do all that were replaced.
    while ship.releases["0"] in ship.running():
        assert time.time() < closed + patience(15), "the first release runs on without a connection"
        time.sleep(0.5)
    while ship.running() != {ship.kit.release("loadapp")}:
        assert time.time() < back + patience(60), ship.running()
        time.sleep(1)
    what_was_replaced_is_gone(ship)
    results = audited(ship)[len(before) :]
    assert results.count("failed") == 2
    assert results.count("ok") >= deploys + 1


@pytest.mark.long
def test_of_too_many_that_retire_the_oldest_ends_early(ship: Ship, authority: Path) -> None:
    port = ship.kit.host.published["443"]
    ship.kit.app("loadapp")["drain"] = {"releases": 2}
    while len(ship.running()) > 1:  # what earlier tests left
        time.sleep(1)
    clients: list[Traffic] = []

    def held(index: int) -> list[tuple[float, str, int]]:
        return clients[index].held.get("ws-0", [])

    try:
        with Traffic("loadapp.localhost", port, authority, sockets=0, slow=2) as traffic:
            live, early = [ship.kit.release("loadapp")], []
            for mark in ("first", "second", "third", "fourth", ""):
                # One WebSocket on each release, and one request on the first that outlives its early end.
                alone = {"http1": 0, "http2": 0, "slow": 0, "uploads": 0, "longest": 1 if not clients else 0}
                clients.append(Traffic("loadapp.localhost", port, authority, sockets=1, **alone).__enter__())
                while not held(-1):
                    time.sleep(0.1)
                if mark:
                    early += re.findall(
                        r"(\S+) ends early, since \d releases retire", ship.deploy(mark).output
                    )
                    live.append(ship.kit.release("loadapp"))
            assert set(early) == set(live[:2])
            ended = time.time() + patience(70)
            while ship.running() != set(live[2:]):
                assert time.time() < ended, (ship.running(), live)
                time.sleep(1)
            time.sleep(3)
            # Those of the newest three, the live one among them, are open; nothing else was cut.
            for index in (2, 3, 4):
                assert time.time() - held(index)[-1][0] < patience(2), index
                assert clients[index].failures == []
        assert traffic.failures == []
        assert min(traffic.sent[kind] for kind in ("h1 GET", "h1 POST", "h2 GET", "h1 upload")) > 100
        for index in range(2):
            (closed,) = clients[index].failures
            assert "1012" in closed, closed
    finally:
        for one in clients:
            one.__exit__()
    longest = [answer for answer in clients[0].answers if answer.kind == "longest"]
    print(f"\n{traffic.report(ship.windows)}\n  the longest request took {longest[0].took:.0f} s")
    assert longest[0].took > 45


@pytest.mark.long
def test_the_switch_waits_for_all_workers(ship: Ship) -> None:
    app, host = ship.kit.app("loadapp"), ship.kit.host
    before = ship.kit.release("loadapp")
    app["processes"] = [{"name": "web", "workers": 8}]
    turn = min(patience(4), 15)
    app["health"]["timeout"] = round(3 * turn)
    said = ship.deploy("few", TURNS.format(seconds=turn), succeed=False).output
    assert re.search(r"answered well, but only [1-6] of 8 workers were ready after \d+ s: raise", said), said
    assert ship.kit.release("loadapp") == before

    app["health"]["timeout"] = WELL
    ship.deploy("all", TURNS.format(seconds=turn))
    live = ship.kit.release("loadapp")
    switched = float(host.sh("stat -c %.Y /srv/loadapp/web.sock"))
    started = host.sh(
        f"journalctl -q -o short-unix _SYSTEMD_UNIT=loadapp-web@{live}.service"
        " | awk '/Application startup complete/ {print $1}'"
    ).split()
    assert len(started) == 8
    print(f"the last of 8 workers was ready {switched - max(map(float, started)):.1f} s before the switch")
    assert max(map(float, started)) < switched


def test_a_release_that_is_taken_back_ends_its_work(ship: Ship, authority: Path) -> None:
    app, host = ship.kit.app("loadapp"), ship.kit.host
    before = ship.kit.release("loadapp")
    app["processes"] = [{"name": "web"}, {"name": "worker", "command": DIES}]
    host.sh("rm -f /srv/loadapp/data/hold")
    with Traffic("loadapp.localhost", host.published["443"], authority, slow=12) as traffic:
        time.sleep(2)
        said = ship.deploy("withdrawn", succeed=False).output
        returned = time.time()
        running = ship.running()
        host.sh("rm -f /srv/loadapp/data/hold")
        time.sleep(2)
    closed = time.time()
    print(f"\n{traffic.report(ship.windows)}")

    withdrawn = re.search(r"loadapp-worker@(\S+)\.service does not stay up", re.sub(r"\s+", " ", said))
    assert withdrawn, said
    assert ship.kit.release("loadapp") == before
    assert traffic.failures == []
    # It served, and ended what it had taken on when the old one was live again.
    mine = [answer for answer in traffic.answers if answer.mark == "withdrawn"]
    assert {"h1 GET", "h1 POST", "h2 GET", "h2 POST"} <= {answer.kind for answer in mine}
    assert [a for a in mine if a.kind.endswith("slow") and a.began < returned < a.ended]
    assert withdrawn[1] in running
    while ship.running() != {before}:
        assert time.time() < closed + patience(60), ship.running()
        time.sleep(1)
    assert host.sh("ls /run/berth/loadapp") == f"{before}.sock"


def test_what_kills_a_server_costs_the_requests_in_flight(ship: Ship, authority: Path) -> None:
    app, host = ship.kit.app("loadapp"), ship.kit.host
    app["processes"] = [{"name": "web", "workers": 2, "memory": "300M"}]
    ship.deploy("killed")
    live = ship.kit.release("loadapp")
    state = f"systemctl show -P MainPID -P NRestarts loadapp-web@{live}"
    for what, script in KILLS.items():
        main = host.sh(state).split()[0]
        with Traffic("loadapp.localhost", host.published["443"], authority, sockets=0) as traffic:
            time.sleep(2)
            killing = f"main={main}; workers=$(pgrep -P $main | xargs)\n{script}"
            killed, gone = map(float, host.sh(killing, timeout=patience(120)).split())
            while not (after := [a for a in traffic.answers if a.began > gone]):
                assert time.time() < gone + patience(30), f"nothing answers since {what} was killed"
                time.sleep(0.1)
            time.sleep(3)
        late = [one for one, (began, ended) in zip(traffic.failures, traffic.broken, strict=True)
                if ended < killed or began > gone + LEARNT]  # fmt: skip
        again = min(answer.ended for answer in after) - gone
        print(
            f"\n{what}: {traffic.requests} requests, {len(traffic.failures)} failed, gone after "
            f"{gone - killed:.2f} s, what was sent then was answered {again:.2f} s later"
        )
        assert late == []
        # Two of them work in the server's place, which goes on where it can.
        now, restarts = host.sh(state).split()
        assert (now == main, restarts) == (what != "the server", str(int(what == "the server")))
        assert len(host.sh(f"pgrep -P {now}").split()) == 2
        if now == main:  # by the kernel, where the memory ran out
            log = f"journalctl -q -o cat --since @{int(killed)} _SYSTEMD_UNIT=loadapp-web@{live}.service"
            assert re.search(r"Worker \(pid:\d+\) was sent SIGKILL", host.sh(log))
