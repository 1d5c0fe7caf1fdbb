"""Bad input: one clear sentence with the place, the fault and the fix; and an untouched host."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import testhost
from testhost import Host

from tests.support.kit import Kit, demo_apps
from tests.support.pace import patience

Change = Callable[[Kit], None]


def app(index: int, **keys: Any) -> Change:
    """Set keys of one app."""

    def change(kit: Kit) -> None:
        kit.apps[index].update(keys)

    return change


def without(index: int, key: str) -> Change:
    """Take a key of one app away."""

    def change(kit: Kit) -> None:
        del kit.apps[index][key]

    return change


def top(**keys: Any) -> Change:
    """Write more variables at the top level of the inventory."""

    def change(kit: Kit) -> None:
        kit.extra.update(keys)

    return change


def source(**keys: Any) -> Change:
    """Replace the first app's source."""
    return app(0, source=keys)


BEFORE_ANY_HOST: dict[str, tuple[Change, str]] = {
    "missing domain": (without(0, "domains"), r"apps\[0\]\.domains: .*(required|missing)"),
    "typo at the top": (top(severs={}), r"severs: .*did you mean .?server"),
    "typo in an app": (app(0, heath={"path": "/"}), r"apps\[0\]\.heath: .*did you mean .?health"),
    "typo deeper": (app(0, health={"tmeout": 5}), r"apps\[0\]\.health\.tmeout: .*did you mean .?timeout"),
    "wrong type": (app(0, keep_releases="many"), r"apps\[0\]\.keep_releases: "),
    "two apps on one domain": (
        app(1, domains=["board.localhost"]),
        r"apps\[1\]\.domains.*board\.localhost.*board",
    ),
    "two apps of one name": (app(1, name="board"), r"apps\[1\]\.name: .*board"),
    "name with a space": (app(0, name="my board"), r"apps\[0\]\.name: "),
    "placeholder secret": (
        lambda kit: (
            app(0, secrets=[{"name": "SECRET_KEY"}])(kit),
            kit.vault.update(board={"SECRET_KEY": "changeme"}),
        )[0],
        r"vault\.board\.SECRET_KEY: .*placeholder",
    ),
    "vault entry missing": (app(0, secrets=[{"name": "SECRET_KEY"}]), r"vault\.board\.SECRET_KEY: "),
    "folder not there": (source(path="/nowhere/at/all"), r"apps\[0\]\.source\.path: .*/nowhere/at/all"),
    "subdir not there": (
        lambda kit: kit.apps[0]["source"].update(subdir="backend"),
        r"apps\[0\]\.source\.subdir: .*backend",
    ),
}


@pytest.mark.parametrize("case", BEFORE_ANY_HOST)
def test_the_inventory_is_refused_before_any_host_is_contacted(case: str, tmp_path: Path) -> None:
    change, message = BEFORE_ANY_HOST[case]
    # Nobody listens there: had the run tried to connect, it would say UNREACHABLE instead.
    nowhere = {"ansible_host": "127.0.0.1", "ansible_port": testhost.free_port(), "ansible_user": "root"}
    host = Host(name="nowhere", suite="", ssh_port=0, published={})
    kit = Kit(tmp_path, host, apps=copy.deepcopy(demo_apps()), connection=nowhere)
    change(kit)
    run = kit.play("site.yml", succeed=False, timeout=patience(60))
    assert re.search(message, run.output), run.output
    assert "UNREACHABLE" not in run.output
    assert "Traceback" not in run.output
    assert "changeme" not in run.output


@pytest.fixture(scope="module")
def bare(boot: Callable[..., Host]) -> Host:
    """A bare host for refusals that only a look at the host can bring."""
    host = boot("refuser")
    host.sh("useradd -m plain && install -d -m 0700 -o plain -g plain /home/plain/.ssh")
    host.sh("install -m 0600 -o plain -g plain /root/.ssh/authorized_keys /home/plain/.ssh/authorized_keys")
    return host


def untouched(host: Host) -> str:
    """What a refused run must leave as it was."""
    return host.sh(
        "dpkg-query -W | sha256sum; "
        "find /etc /srv /usr/local /var/lib/berth -newer /proc/1 2>/dev/null | sort || true"
    )


def refused(kit: Kit, message: str, *arguments: str) -> None:
    """The run ends with the message, and the host is as before."""
    before = untouched(kit.host)
    run = kit.play("site.yml", *arguments, succeed=False, timeout=patience(120))
    assert re.search(message, run.output), run.output
    assert "Traceback" not in run.output
    assert run.changed == 0
    assert untouched(kit.host) == before


def test_no_sudo(bare: Host, tmp_path: Path) -> None:
    kit = Kit(tmp_path, bare, apps=demo_apps(), connection=bare.connection("plain"))
    refused(kit, r"plain.*(sudo|root)")


def test_a_wrong_key(bare: Host, boot: Callable[..., Host], tmp_path: Path) -> None:
    other = boot("other")
    connection = {**bare.connection(), "ansible_ssh_private_key_file": str(other.folder / "id_ed25519")}
    refused(
        Kit(tmp_path, bare, apps=demo_apps(), connection=connection),
        r"(?i)key.*refused|refused.*key|Permission denied",
    )


def test_a_changed_host_key(bare: Host, boot: Callable[..., Host], tmp_path: Path) -> None:
    other = boot("other")
    public = (other.folder / "known_hosts").read_text().split()[1:]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{bare.ssh_port} {' '.join(public)}\n")
    connection = bare.connection()
    connection["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes"
    refused(Kit(tmp_path / "kit", bare, apps=demo_apps(), connection=connection), r"(?i)host key")


def test_another_distribution(bare: Host, tmp_path: Path) -> None:
    bare.sh("cp --dereference /etc/os-release /root/os-release; rm /etc/os-release")
    bare.sh("printf 'ID=fedora\\nVERSION_ID=43\\nPRETTY_NAME=\"Fedora Linux 43\"\\n' > /etc/os-release")
    try:
        refused(Kit(tmp_path, bare, apps=demo_apps()), r"(?i)fedora.*(Debian|Ubuntu)")
    finally:
        bare.sh("rm /etc/os-release; ln -s ../usr/lib/os-release /etc/os-release")


def test_too_little_memory(boot: Callable[..., Host], tmp_path: Path) -> None:
    small = boot("small", memory="512m")
    refused(Kit(tmp_path, small, apps=demo_apps()), r"(?i)512 MB.*memory|memory.*512 MB")


def test_too_little_disk(bare: Host, tmp_path: Path) -> None:
    kit = Kit(tmp_path, bare, apps=demo_apps())
    refused(kit, r"(?i)free.*disk|disk.*free|MB free", "-e", "base_minimum_disk_mb=99999999")


@pytest.mark.long
def test_an_unreachable_repository(site: Kit, tmp_path: Path) -> None:
    kit = Kit(tmp_path, site.host, apps=site.apps)
    kit.app("board")["source"] = {"git": f"ssh://git@127.0.0.1:{testhost.free_port()}/nobody/nothing.git"}
    live = kit.release("board")
    run = kit.play("playbooks/deploy.yml", "-e", "app=board", succeed=False)
    assert re.search(r"127\.0\.0\.1.*nothing\.git", run.output), run.output
    assert kit.release("board") == live


def test_an_asgi_path_that_does_not_import(site: Kit, tmp_path: Path) -> None:
    kit = Kit(tmp_path, site.host, apps=site.apps)
    kit.app("board")["processes"] = [{"name": "web", "app": "board.nowhere:app"}]
    live = kit.release("board")
    run = kit.play("site.yml", "-e", "app=board", succeed=False)
    assert re.search(r"board\.nowhere", run.output), run.output
    assert kit.release("board") == live
    assert kit.json("https://board.localhost/readyz")
    site.play("site.yml")
