"""Whoever changes how people get in may be killed at any instant: the owner gets in all the same."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable

import pytest
from testhost import Host

from tests.support.kit import ROOT
from tests.support.pace import patience

pytestmark = pytest.mark.e2e

# What locks everybody out, as the module has it done: with the program that the server itself reverts with.
DRIVER = """
import sys
sys.path.insert(0, "/usr/local/lib/berth")
import guard
content = guard.base64.b64encode(b"AllowUsers nobody\\n").decode()
path = "/etc/ssh/sshd_config.d/00-try.conf"
picture = {"path": path, "content": content, "mode": 0o644, "uid": 0, "gid": 0}
print(guard.Guard("ssh").apply([picture], [["systemctl", "reload", "ssh.service"]], seconds=int(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def host(boot: Callable[..., Host]) -> Host:
    """A bare host with the guard's program and its boot hook, as the module guard installs them."""
    host = boot("guarded")
    program = (ROOT / "plugins/module_utils/berth/payload/guard.py").read_text()
    host.sh(
        "mkdir -p /usr/local/lib/berth /var/lib/berth; cat > /usr/local/lib/berth/guard.py", stdin=program
    )
    namespace: dict[str, str] = {}
    unit = (
        (ROOT / "plugins/modules/guard.py").read_text().partition("UNIT_TEXT = ")[2].partition('"""\n\n')[0]
    )
    exec(f'UNIT_TEXT = {unit}"""', namespace)  # noqa: S102 - its own text, without Ansible around it
    host.sh("cat > /etc/systemd/system/berth-guard.service", stdin=namespace["UNIT_TEXT"])
    host.sh(
        "systemctl daemon-reload; systemctl enable -q berth-guard.service; cat > /root/driver.py",
        stdin=DRIVER,
    )
    return host


def gets_in(host: Host) -> bool:
    """A connection of its own."""
    return subprocess.run(host.ssh("true"), capture_output=True, timeout=120, check=False).returncode == 0


def drive(host: Host, seconds: int, kill_after: float) -> None:
    """Apply what locks everybody out, and kill that after some seconds; it may have ended before."""
    host.sh(f"timeout -s KILL {kill_after:.3f} /usr/bin/python3 -I /root/driver.py {seconds} || true")


def unproved(host: Host) -> bool:
    return host.sh("ls /var/lib/berth/guard/ssh/pending 2>/dev/null || true") != ""


def time_is_up(host: Host) -> None:
    """What the timer does when its seconds are over, without waiting for them."""
    host.sh(
        "for unit in $(systemctl list-units --no-legend --plain 'berth-guard-ssh-*.timer' | cut -d' ' -f1); "
        'do systemctl start "${unit%.timer}.service"; systemctl stop "$unit"; done; '
        "for _ in $(seq 100); do test -e /var/lib/berth/guard/ssh/pending || break; sleep 0.2; done"
    )


def span(host: Host) -> float:
    """How long the whole change takes here, for kills to be spread over all of it."""
    started = time.monotonic()
    drive(host, 120, 60)
    time_is_up(host)
    return (time.monotonic() - started) * 0.6


def cut(host: Host, number: int, kinds: str, whole: float) -> str:
    """One kill or power cut at some instant; what the server had in the end."""
    seconds = random.uniform(0.03, whole)  # noqa: S311
    drive(host, 120, seconds)
    was = unproved(host)
    kind = kinds[number % len(kinds)]
    if kind == "p":
        host.restart()
    elif was:
        time_is_up(host)
    assert not unproved(host), (number, seconds)
    assert host.sh("ls /etc/ssh/sshd_config.d") == "", (number, seconds)
    assert gets_in(host), (number, kind, seconds)
    return f"{kind}{'u' if was else '-'}"


def test_forty_kills_and_cuts_lock_nobody_out(host: Host) -> None:
    assert gets_in(host)
    whole = span(host)
    seen = [cut(host, number, "k" * 9 + "p", whole) for number in range(40)]
    # Kills came before and after the change was there to be put back.
    assert {"k-", "ku"} <= set(seen), seen
    assert host.sh("systemctl is-failed berth-guard.service || true") != "failed"


@pytest.mark.long
def test_two_hundred_kills_and_cuts_lock_nobody_out(host: Host) -> None:
    whole = span(host)
    for number in range(200):
        cut(host, number, "kkp", whole)


@pytest.mark.long
def test_the_timer_comes_by_itself(host: Host) -> None:
    """The server is locked, nobody does anything, and within its seconds it is not any more."""
    drive(host, 40, 60)
    assert unproved(host)
    assert not gets_in(host)
    deadline = time.monotonic() + patience(60)
    while not gets_in(host):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert "no new login proved it in time" in host.sh("cat /var/lib/berth/guard/ssh/outcome.json")
