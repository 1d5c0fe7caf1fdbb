"""The power goes while a release is made: what is live comes back, and the next deploy is not led astray.

Files that were written moments before may be there afterwards, and be empty. A container that is killed does
not show that, so the host's files lie on a filesystem of their own, which is cut off with all that it has not
written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support.disk import Disk
from tests.support.freeze import freeze
from tests.support.kit import WELL, Kit
from tests.support.pace import patience

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(patience(900), func_only=True),
    pytest.mark.skipif(
        os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
    ),
]

DEPLOY = ("playbooks/deploy.yml", "-e", "app=small")
GIT = "/srv/small.git"
APP: dict[str, Any] = {
    "name": "small",
    "domains": ["small.localhost"],
    "source": {"git": f"file://{GIT}", "version": "main"},
    "database": {"enabled": False},
    "processes": [{"name": "web"}, {"name": "worker", "command": "sleep infinity"}],
    "health": {"path": "/healthz", "hold": 0.5, "timeout": WELL},
    "drain": {"requests": 5, "websocket": 5},
}
CODE = """
from fastapi import FastAPI

app = FastAPI()


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"mark": "MARK"}
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    disk = Disk(tmp_path_factory.mktemp("disk"))
    yield disk
    disk.unmount()
    disk.image.unlink()


@pytest.fixture(scope="module")
def kit(disk: Disk, boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    host = boot("power", volumes=disk.volumes)
    host.sh(f"apt-get update -qq && apt-get install -y -qq git && git init -q --bare -b main {GIT}")
    kit = Kit(tmp_path_factory.mktemp("power"), host, apps=[APP])
    commit(kit, "first")
    kit.play("site.yml")
    yield kit
    host.power_off()


def commit(kit: Kit, mark: str, needs: str = "fastapi") -> None:
    """A new version in the repository, which is on the disk before anything happens."""
    script = f"""
        rm -rf /tmp/work; git clone -q {GIT} /tmp/work; cd /tmp/work
        cat > main.py
        printf '%s\\n' '{needs}' '# {mark}' > requirements.txt
        git add -A
        git -c user.name=a -c user.email=a@b commit -q -m '{mark}'
        git push -q origin HEAD:main; sync
    """
    kit.host.sh(script, stdin=CODE.replace("MARK", mark))


def power_cut(kit: Kit, disk: Disk) -> None:
    disk.cut()
    kit.host.power_off()
    disk.unmount()
    disk.mount()
    kit.host.power_on()
    # A container boots with its machine's kernel, whose boot is still the same one.
    boot = "/proc/sys/kernel/random/boot_id"
    kit.host.sh(f"cat /proc/sys/kernel/random/uuid > /run/boot_id; mount --bind /run/boot_id {boot}")


def comes_back(kit: Kit) -> str:
    """The version that answers when the power is back, without anybody's help."""
    deadline = time.monotonic() + patience(40)
    while not kit.curl("https://small.localhost/healthz", "-f", check=False):
        assert time.monotonic() < deadline, "the app does not come back by itself"
        time.sleep(0.5)
    return str(kit.json("https://small.localhost/healthz")["mark"])


def emptied(kit: Kit) -> list[str]:
    """Files of the live release and its environment that hold nothing or cannot be read, but should."""
    script = """
        cd /srv/small/current/
        for file in main.py requirements.txt release.json .berth/*.* .berth/run/*; do
          [ -s "$file" ] || echo "$file"
        done
        .venv/bin/python -I - <<'END'
import base64, csv, hashlib, importlib.metadata
for one in importlib.metadata.distributions():
    for file in one.files or []:
        path = file.locate()
        if file.hash and path.exists():
            digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                print(path)
END
    """
    return kit.host.sh(script).splitlines()


# What a run has written and not waited for, at its worst; and the moment after which the new release is live.
@pytest.mark.parametrize(
    ("point", "delay"), [("fetch", 0.02), ("build", 1.0), ("migrate", 0.0), ("start", 0.0), ("renamed", 0.0)]
)
def test_the_power_goes(kit: Kit, disk: Disk, point: str, delay: float) -> None:
    marks = [kit.json("https://small.localhost/healthz")["mark"]]

    def version() -> None:
        # Another one each time: a run that was stopped too late has brought the one before.
        marks.append(f"{point}{len(marks)}")
        # Another package each time: what uv has in its cache already is on the disk.
        commit(kit, marks[-1], f"fastapi\n{NEW[point]}")

    version()
    frozen = freeze(kit, "small", point, delay, version, *DEPLOY)
    # Long enough for ext4 to write which files there are, and not what is in them.
    time.sleep(7)
    power_cut(kit, disk)
    frozen.process.communicate(timeout=patience(120))
    live = comes_back(kit)
    assert live == (marks[-1] if point == "renamed" else marks[-2])
    assert emptied(kit) == []
    kit.play(*DEPLOY)
    assert comes_back(kit) == marks[-1]
    assert emptied(kit) == []
    assert kit.play(*DEPLOY).changed == 0


NEW = {"fetch": "rich", "build": "jinja2", "migrate": "sqlalchemy", "start": "alembic", "renamed": "pyyaml"}
