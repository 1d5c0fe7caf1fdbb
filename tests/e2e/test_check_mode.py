"""Check mode before the first run: it changes nothing, fails on nothing and predicts what then happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from testhost import Host

from tests.support.kit import Kit, demo_apps
from tests.support.wal import archived

# Everything a run could leave a trace in; logs and what a login itself touches are not the playbook's doing.
SNAPSHOT = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log -o -path /var/tmp \
  -o -path /root/.ansible -o -path /var/lib/systemd -o -path /var/lib/private \) -prune -o \
  \( -type f -o -type l \) -printf '%p %m %u:%g %s %T@ %l\n' | sort
systemctl list-unit-files --no-legend --no-pager | grep -v transient | sort
"""


@pytest.fixture(scope="module")
def bare(boot: Callable[..., Host]) -> Host:
    """The one bare host that all checks here share: none of them may change it."""
    return boot("bare")


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/provision.yml", "playbooks/deploy.yml"])
def test_check_mode_on_a_bare_host(playbook: str, bare: Host, tmp_path: Path) -> None:
    kit = Kit(tmp_path, bare, apps=demo_apps())
    before = bare.sh(SNAPSHOT)
    run = kit.play(playbook, "--check", "--diff")
    assert run.count("failed") == 0
    assert run.changed > 0, "a bare host cannot be what the inventory says already"
    after = bare.sh(SNAPSHOT)
    assert set(after.splitlines()) ^ set(before.splitlines()) == set()


VERBS = {
    "status": (),
    "releases": (),
    "diff": (),
    "logs": (),
    "rollback": ("-e", "app=board"),
    "remove": ("-e", "app=board", "-e", "confirm=board", "-e", "purge=true"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_in_check_mode_on_a_bare_host(verb: str, bare: Host, tmp_path: Path) -> None:
    kit = Kit(tmp_path, bare, apps=demo_apps())
    before = bare.sh(SNAPSHOT)
    run = kit.play(f"playbooks/{verb}.yml", "--check", "--diff", *VERBS[verb])
    # There is nothing to roll back, to remove or to look at, and each says so.
    assert (run.count("failed"), run.changed) == (0, 0), run.output
    after = bare.sh(SNAPSHOT)
    assert set(after.splitlines()) ^ set(before.splitlines()) == set()


def untouched(site: Kit) -> set[str]:
    """What a check run must leave as it is on a host at work, where some write whenever they like."""
    return {
        line
        for line in site.host.sh(SNAPSHOT).splitlines()
        if not line.startswith(("/var/lib/postgresql/", "/var/lib/caddy/", "/var/lib/fail2ban/"))
    }


def test_a_rollback_predicts_and_changes_nothing(site: Kit) -> None:
    archived(site.host)
    live, before = site.release("board"), untouched(site)
    run = site.play("playbooks/rollback.yml", "--check", "--diff", "-e", "app=board", succeed=None)
    assert site.release("board") == live
    assert untouched(site) == before
    # Whether there is an older release depends on what ran on this host before.
    assert run.changed > 0 if run.status == 0 else "no older healthy release" in run.output


def test_changed_settings_are_predicted_by_a_deploy(site: Kit) -> None:
    env = site.app("board")["env"]
    archived(site.host)
    title, before = env["BOARD_TITLE"], untouched(site)
    env["BOARD_TITLE"] = "Only predicted"
    run = site.play("playbooks/deploy.yml", "--check", "--diff", "-e", "app=board")
    env["BOARD_TITLE"] = title
    assert run.changed > 0
    assert "Only predicted" not in run.output
    assert untouched(site) == before


def test_check_mode_on_a_finished_host_predicts_nothing(site: Kit) -> None:
    run = site.play("site.yml", "--check", "--diff")
    assert run.changed == 0, run.output


def test_status_needs_nothing_to_be_there(bare: Host, tmp_path: Path) -> None:
    kit = Kit(tmp_path, bare, apps=demo_apps())
    for verb in ("status", "releases", "diff"):
        kit.play(f"playbooks/{verb}.yml")
