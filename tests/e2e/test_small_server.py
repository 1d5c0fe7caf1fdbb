"""A server with 1 GB of memory and no swap: ten deploys in a row, a WebSocket held open on every release."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from testhost import Host

from tests.support.kit import INTERNAL_CA, ROOT, Kit
from tests.support.load import Traffic
from tests.support.pace import patience

# That the host is provisioned is not counted.
pytestmark = [pytest.mark.long, pytest.mark.timeout(patience(2400), func_only=True)]

DEPLOYS = 10
# What a worker holds beside its code. All eleven releases would take well over 1 GB.
BALLAST = 'HELD = b"x" * 25 * 2**20\n'

# A container's /proc/meminfo is its machine's, and a server's own would say what its limit leaves.
MEMINFO = r"""
import os, re, time
from pathlib import Path
own = dict(line.split(":", 2)[1:] for line in Path("/proc/1/cgroup").read_text().splitlines())
old = "memory" in own
group = own["memory" if old else ""].replace("/init.scope", "")
base = Path(f"/sys/fs/cgroup{'/memory' if old else ''}{group}")
limit = int((base / ("memory.limit_in_bytes" if old else "memory.max")).read_text())
file = os.open("/run/meminfo", os.O_RDWR | os.O_CREAT)
peak = 0
while True:
    stat = dict(line.split() for line in (base / "memory.stat").read_text().splitlines())
    used = int((base / ("memory.usage_in_bytes" if old else "memory.current")).read_text())
    cache = sum(int(stat[("total_" if old else "") + name]) for name in ("active_file", "inactive_file"))
    peak = max(peak, used - cache)
    kilo = [limit, limit - used, limit - used + cache, 0, cache, 0, 0]
    names = ("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree")
    text = "".join(f"{n + ':':15} {k // 1024:9d} kB\n" for n, k in zip(names, kilo))
    os.pwrite(file, text.encode(), 0)
    kills = (base / ("memory.oom_control" if old else "memory.events")).read_text()
    kills = re.search(r"(?m)^oom_kill (\d+)", kills)
    Path("/run/memory.json").write_text(
        '{"peak": %d, "kills": %s}' % (peak // 2**20, kills[1] if kills else -1)
    )
    time.sleep(0.2)
"""
WEBS = (
    "systemctl list-units --no-legend --plain 'loadapp-web@*.service' --state=active,deactivating"
    " | awk '{print $1}'"
)


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A small host with the app of tests/fixtures/loadapp, which holds some memory."""
    source = tmp_path_factory.mktemp("source") / "loadapp"
    shutil.copytree(ROOT / "tests/fixtures/loadapp", source, ignore=shutil.ignore_patterns("__pycache__"))
    host = boot("small", provisioned=True, publish={"443": 0}, memory="1g")
    host.sh("cat > /usr/local/bin/meminfo", stdin=MEMINFO)
    host.sh(
        "systemd-run -q --unit=meminfo python3 /usr/local/bin/meminfo;"
        "until test -s /run/meminfo; do sleep 0.1; done; mount --bind /run/meminfo /proc/meminfo"
    )
    app = {
        "name": "loadapp",
        "domains": ["loadapp.localhost"],
        "source": {"path": str(source)},
        "database": {"enabled": False},
    }
    kit = Kit(tmp_path_factory.mktemp("kit"), host, apps=[app])
    mark(kit, "0")
    kit.play("site.yml")
    return kit


def mark(kit: Kit, version: str) -> None:
    """A change of the code, and nothing else."""
    package = Path(kit.app("loadapp")["source"]["path"]) / "loadapp" / "__init__.py"
    package.write_text(f'"""Answers."""\n\nMARK = "{version}"\n{BALLAST}')


def deploy(kit: Kit, *options: str, succeed: bool = True) -> str:
    """What the run printed, without its line breaks."""
    run = kit.play("playbooks/deploy.yml", "-e", "app=loadapp", *options, succeed=succeed)
    return " ".join(run.output.split())


def test_ten_deploys_in_a_row_with_websockets_open(
    kit: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = tmp_path / "root.crt"
    authority.write_text(kit.host.sh(f"cat {INTERNAL_CA}") + "\n")
    port, sockets, said, most, stop = kit.host.published["443"], [], [], [0], threading.Event()

    def watch() -> None:
        while not stop.wait(1):
            most[0] = max(most[0], len(kit.host.sh(WEBS).split()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        few = {"http1": 1, "http2": 1, "slow": 1, "uploads": 0, "sockets": 0}
        with Traffic("loadapp.localhost", port, authority, **few, pause=0.2) as traffic:
            for number in range(1, DEPLOYS + 1):
                alone = {"http1": 0, "http2": 0, "slow": 0, "uploads": 0, "sockets": 1}
                sockets.append(Traffic("loadapp.localhost", port, authority, **alone).__enter__())
                while not sockets[-1].held.get("ws-0"):
                    time.sleep(0.1)
                mark(kit, str(number))
                said += re.findall(r"\S+ ends early|Memory is short", deploy(kit))
            deadline = time.time() + patience(60)
            while len(kit.host.sh(WEBS).split()) > 3:
                assert time.time() < deadline, "more releases than drain.releases stay"
                time.sleep(1)
            time.sleep(6)  # of the one that has just ended the last word is older than that
            now = time.time()
    finally:
        stop.set()
        watcher.join()
        for one in sockets:
            one.__exit__()
    memory = json.loads(kit.host.sh("cat /run/memory.json"))
    kept = [number for number, one in enumerate(sockets) if now - one.held["ws-0"][-1][0] < 5]
    with capsys.disabled():
        print(
            f"\n{DEPLOYS} deploys on 1 GB: {memory['peak']} MB at most, {memory['kills']} killed, "
            f"{most[0]} releases at most at a time, {len(said)} notes, WebSockets kept: {kept}\n"
            f"{traffic.report([])}"
        )
    assert memory["kills"] == 0
    assert traffic.failures == []
    assert kept == [DEPLOYS - 2, DEPLOYS - 1]
    assert kit.host.sh("systemctl list-units --no-legend --plain --state=failed") == ""


def test_what_does_not_fit_is_refused_before_anything_is_made(kit: Kit) -> None:
    little = "MemTotal: 1048576 kB\nMemFree: 9 kB\nMemAvailable: 30000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
    kit.host.sh("systemctl stop meminfo; cat > /run/meminfo", stdin=little)
    before = kit.host.sh("ls /srv/loadapp/releases")
    mark(kit, "big")
    takes = r"does not fit into memory.* takes \d+ MB and 29 MB are free.* "
    assert re.search(f"{takes}The deploy would stop here", deploy(kit, "--check"))
    assert re.search(f"{takes}Nothing was changed", deploy(kit, succeed=False))
    assert kit.host.sh("ls /srv/loadapp/releases") == before
    assert re.search(takes, deploy(kit, "-e", "force=true"))
    assert kit.release("loadapp") not in before
