"""What is new goes live by itself: by the server's own timer and by a controller's clock, and not twice."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from testhost import Host

from tests.support.brokenapp import FIXTURE
from tests.support.kit import ROOT, WELL, Kit
from tests.support.pace import patience

GIT, WORK, UNIT = "/srv/shop.git", "/srv/work", "berth-redeploy@shop"
DESTRUCTIVE = """
from alembic import op
revision = "0002"
down_revision = "0001"


def upgrade():
    op.execute("ALTER TABLE things RENAME name TO title")
def downgrade():
    pass
"""


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host with a repository of its own, whose newest commit is live, and with a timer that never comes."""
    app = {
        "name": "shop",
        "domains": ["shop.localhost"],
        "source": {"git": f"file://{GIT}", "version": "main"},
        "processes": [{"name": "web", "workers": 1}],
        "database": {"scheme": "postgresql+psycopg"},
        "health": {"path": "/healthz", "timeout": WELL},
        "secrets": [{"name": "API_KEY"}],
        "redeploy": {"schedule": "2099-01-01", "jitter": 0},
    }
    vault = {"shop": {"API_KEY": "kV9zQm3TrustNoOne7xWb2LpYc5Hd8Rf"}}
    folder = tmp_path_factory.mktemp("redeploy") / "inventory"
    kit = Kit(folder, boot("redeploy", provisioned=True), apps=[app], vault=vault)
    for path in sorted(FIXTURE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            there = f"{WORK}/{path.relative_to(FIXTURE)}"
            kit.host.sh(f"mkdir -p $(dirname {there}) && cat > {there}", stdin=path.read_text())
    kit.host.sh(
        f"git init -q --bare -b main {GIT} && cd {WORK} && git init -q -b main . && "
        f"git remote add origin {GIT} && git config user.name a && git config user.email a@b && "
        "git add -A && git commit -qm first && "
        "git push -q origin main"
    )
    kit.play("site.yml")
    return kit


def commit(kit: Kit, what: str, *, force: bool = False) -> str:
    """A commit of what this shell command changes, in the repository; its id."""
    flags = "-f" if force else ""
    return kit.host.sh(
        f"cd {WORK} && ({what}) >&2 && git add -A && git commit -qm change && "
        f"git push -q {flags} origin main && git rev-parse HEAD"
    )


def tick(kit: Kit) -> tuple[int, str]:
    """Have the timer's service run once: its exit status, and what it told."""
    kit.host.sh(f"journalctl --rotate >/dev/null 2>&1; systemctl start {UNIT} || true")
    said = kit.host.sh(
        f"id=$(systemctl show -P InvocationID {UNIT}); journalctl --sync; "
        f"journalctl -o cat --no-pager _SYSTEMD_INVOCATION_ID=$id _COMM=python3"
    )
    return int(kit.host.sh(f"systemctl show -P ExecMainStatus {UNIT}")), said


def live(kit: Kit) -> str:
    """The commit that is live."""
    record: dict[str, Any] = json.loads(kit.host.sh("cat /srv/shop/current/release.json"))
    return str(record["version"])


def audited(kit: Kit) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(kit.host.sh("tail -1 /var/log/berth/audit.jsonl"))
    return line


def test_the_timer_is_set_up_once_and_waits(kit: Kit) -> None:
    assert kit.host.sh(f"systemctl is-active {UNIT}.timer") == "active"
    assert kit.host.sh("stat -c %a /etc/berth/shop/redeploy.json") == "600"
    assert kit.play("playbooks/provision.yml", "--tags", "redeploy").changed == 0


def test_nothing_new_says_nothing_in_less_than_a_second(kit: Kit) -> None:
    before = kit.release("shop")
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        assert tick(kit) == (0, "")
        seconds.append(time.monotonic() - began)
    print(f"\nnothing new: {min(seconds):.1f} s with all that looks on")
    assert min(seconds) < patience(3)
    assert kit.release("shop") == before


def test_a_commit_goes_live_by_the_timer(kit: Kit) -> None:
    new = commit(kit, "echo '# one' >> stall.py")
    status, said = tick(kit)
    assert (status, live(kit)) == (0, new)
    assert re.search(r"is live at https://shop\.localhost", said)
    assert (audited(kit)["by"], audited(kit)["result"]) == ("timer", "ok")


def test_what_fails_is_tried_once_and_told_once(kit: Kit) -> None:
    before = live(kit)
    commit(kit, "cp shop/main.py /root/main.py; echo 'raise RuntimeError(\"boom\")' >> shop/main.py")
    status, said = tick(kit)
    assert status == 1
    assert "RuntimeError: boom" in said
    assert "TrustNoOne" not in said
    assert tick(kit) == (10, "")
    assert live(kit) == before
    assert "It failed in step gate" in kit.berth("status")
    mended = commit(kit, "cp /root/main.py shop/main.py")
    assert tick(kit)[0] == 0
    assert live(kit) == mended


def test_what_needs_somebodys_word_waits_for_it(kit: Kit) -> None:
    before = live(kit)
    quoted = shlex.quote(DESTRUCTIVE)
    commit(kit, f"printf %s {quoted} > migrations/versions/0002_gone.py")
    status, said = tick(kit)
    assert status == 11
    assert "waits for somebody" in said
    assert tick(kit) == (11, "")
    forced = commit(
        kit,
        f"git reset -q --hard {before} && git commit -q --amend -m other && echo '# forced' >> stall.py",
        force=True,
    )
    status, said = tick(kit)
    assert status == 11
    assert "history was rewritten" in said
    assert live(kit) == before
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    assert live(kit) == forced
    # Behind what is live, as after a deploy of somebody's own branch.
    kit.host.sh(f"cd {WORK} && git push -qf origin {forced}~1:main")
    assert tick(kit)[0] == 11
    assert tick(kit) == (11, "")
    kit.host.sh(f"cd {WORK} && git push -qf origin {forced}:main")
    assert tick(kit) == (0, "")


def clocks() -> dict[str, str]:
    """The commands of the crontab and of the CI's schedule, as the page has them."""
    page = (ROOT / "docs/redeploy.md").read_text()
    (line,) = re.findall(r"^    \*/5 \* \* \* \*  deploy  (.*)$", page, re.MULTILINE)
    assert "%" not in line
    (block,) = re.findall(r"^```yaml\nname: redeploy\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    job = yaml.safe_load(block)["jobs"]["redeploy"]["steps"][-1]["run"]
    return {"cron": line.replace("/opt/berth", str(ROOT)), "CI": f"cd {ROOT} && {job}"}


def by_clock(kit: Kit, clock: str, home: Path) -> tuple[int, str]:
    """Run as cron runs it: in the home folder, with next to no environment."""
    kit.write()
    given = {"HOME": str(home), "PATH": "/usr/bin:/bin", "BERTH_INVENTORY": str(kit.folder)}
    done = subprocess.run(
        ["/bin/sh", "-c", clocks()[clock]],
        cwd=home,
        env=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patience(300),
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("clock", ["cron", "CI"])
def test_a_clock_elsewhere_says_nothing_and_then_deploys(
    kit: Kit, tmp_path_factory: pytest.TempPathFactory, clock: str
) -> None:
    # A short one: below it are sockets of ssh, whose names have 108 bytes at most.
    home = tmp_path_factory.mktemp("h")
    if clock == "cron":
        assert by_clock(kit, clock, home) == (0, "")
    new = commit(kit, f"echo '# {clock}' >> stall.py")
    status, said = by_clock(kit, clock, home)
    assert status == 0, said
    assert "is live at https://shop.localhost" in said
    assert live(kit) == new
    assert audited(kit)["by"] != "timer"
    # What was deployed from here is known to the timer.
    assert tick(kit) == (0, "")


def test_a_pause_holds_both_and_is_told_by_status(kit: Kit) -> None:
    assert "are paused" in kit.berth("redeploy", "shop", "--pause")
    new = commit(kit, "echo '# paused' >> stall.py")
    assert tick(kit) == (10, "")
    assert kit.berth("redeploy", "--quiet", status=10) == ""
    assert "its redeploys are paused by" in kit.berth("status")
    assert "go on" in kit.berth("redeploy", "shop", "--resume")
    assert tick(kit)[0] == 0
    assert live(kit) == new


@pytest.mark.long
def test_what_was_gone_back_from_stays_away_until_it_is_asked_for(kit: Kit) -> None:
    new = commit(kit, "echo '# back' >> stall.py")
    assert tick(kit)[0] == 0
    kit.play("playbooks/rollback.yml", "-e", "app=shop")
    assert live(kit) != new
    assert tick(kit)[0] == 10
    kit.berth("redeploy", "shop", "--retry")
    assert live(kit) == new


@pytest.mark.long
def test_tags_go_by_their_versions_and_a_moved_one_waits(kit: Kit) -> None:
    kit.app("shop")["redeploy"]["version"] = "v*"
    kit.host.sh(f"cd {WORK} && git tag v1.9.0 && git push -q --tags")
    kit.play("playbooks/provision.yml", "--tags", "redeploy")
    assert tick(kit)[0] == 0
    first = live(kit)
    new = commit(kit, "echo '# v1.10' >> stall.py; git tag -d v1.10.0 2>/dev/null || true")
    assert tick(kit) == (0, "")
    assert live(kit) == first
    kit.host.sh(f"cd {WORK} && git tag v1.10.0 && git push -q --tags")
    assert tick(kit)[0] == 0
    assert live(kit) == new
    commit(kit, "echo '# moved' >> stall.py")
    kit.host.sh(f"cd {WORK} && git tag -f v1.10.0 >&2 && git tag v2.0.0-rc1 && git push -qf --tags")
    status, said = tick(kit)
    assert status == 11
    assert "v1.10.0 was moved" in said
    assert live(kit) == new
    kit.app("shop")["redeploy"]["version"] = ""
    kit.play("playbooks/provision.yml", "--tags", "redeploy")
    assert tick(kit)[0] == 0


@pytest.mark.long
def test_a_run_that_is_stopped_or_killed_is_put_right_by_the_next(kit: Kit) -> None:
    for how in (f"systemctl stop {UNIT}", f"systemctl kill -s KILL {UNIT}"):
        before = live(kit)
        new = commit(kit, f"echo '# {how}' >> stall.py")
        kit.host.sh(
            f"systemctl start --no-block {UNIT}; "
            "until tail -1 /var/lib/berth/shop/journal.jsonl | grep gate | grep -q begin; do sleep .1; done; "
            f"{how}; sleep 1"
        )
        assert live(kit) == before
        status, said = tick(kit)
        assert (status, live(kit)) == (0, new)
        assert "was cut off in step gate" in said


@pytest.mark.long
def test_a_repository_that_is_away_is_told_the_third_time_and_a_lost_branch_at_once(kit: Kit) -> None:
    before = live(kit)
    kit.host.sh(f"mv {GIT} {GIT}.away")
    assert [tick(kit)[0] for _ in range(3)] == [0, 0, 10]
    assert tick(kit) == (10, "")
    kit.host.sh(f"mv {GIT}.away {GIT}; git -C {GIT} branch -m main other")
    status, said = tick(kit)
    assert status == 10
    assert "No branch or tag is main" in said
    kit.host.sh(f"git -C {GIT} branch -m other main")
    assert tick(kit) == (0, "")
    assert live(kit) == before


@pytest.mark.long
def test_an_app_that_goes_takes_its_timer_along(kit: Kit) -> None:
    kit.play("playbooks/remove.yml", "-e", "app=shop", "-e", "confirm=shop")
    assert kit.host.sh(f"systemctl is-active {UNIT}.timer || true") == "inactive"
    assert kit.host.sh("ls /etc/systemd/system | grep redeploy@shop || true") == ""
