"""Two apps on one host, as site.yml leaves them: what a visitor, the owner and a neighbour see."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.kit import Kit

APPS = ("board", "notes")


def test_a_second_run_changes_nothing(site: Kit) -> None:
    run = site.play("site.yml")
    assert run.changed == 0, run.output
    # Nor does it pass secrets around or use what Ansible is going to drop.
    assert "DEPRECATION" not in run.output
    assert "[WARNING]" not in run.output


@pytest.mark.parametrize("name", APPS)
def test_the_app_answers_over_https(site: Kit, name: str) -> None:
    assert "200" in site.curl(f"https://{name}.localhost/readyz", "-o", "/dev/null", "-w", "%{http_code}")
    made = site.json(
        f"https://{name}.localhost/api/posts",
        "--json",
        json.dumps({"author": name, "text": f"only {name} has this"}),
    )
    read = site.json(f"https://{name}.localhost/api/posts/{made['id']}")
    assert read["text"] == f"only {name} has this"


def test_apps_share_nothing(site: Kit) -> None:
    posts = site.curl("https://notes.localhost/api/posts")
    assert "only board has this" not in posts
    host = site.host
    for mine, other in (APPS, APPS[::-1]):
        denied = (
            f"ls /srv/{other}/data",
            f"cat /etc/berth/{other}/env",
            f"ls /srv/{other}/releases/{site.release(other)}",
            f"cat /srv/{other}/releases/{site.release(other)}/pyproject.toml",
            f"ls /run/{other}",
            f"ls /run/berth/{other}",
            # What root and the proxy connect to is nothing that the app itself could put there.
            f"touch /run/berth/{mine}/x",
            f"rm /run/berth/{mine}/{site.release(mine)}.sock",
            "cat /etc/berth/postgresql/" + other,
        )
        for command in denied:
            said = host.sh(f"setpriv --reuid={mine} --regid={mine} --init-groups {command} 2>&1 || true")
            assert "Permission denied" in said, f"{mine} may {command}: {said}"
    databases = host.sh(
        "runuser -u postgres -- psql -Atc \"SELECT has_database_privilege('board', 'notes', 'CONNECT')\""
    )
    assert databases == "f"


def test_the_release_cannot_be_written_by_its_app(site: Kit) -> None:
    for folder in (f"/srv/board/releases/{site.release('board')}", "/srv/board/current/.venv", "/srv/board"):
        said = site.host.sh(
            f"setpriv --reuid=board --regid=board --init-groups touch {folder}/x 2>&1 || true"
        )
        assert "Permission denied" in said


def test_only_the_proxy_and_ssh_listen_to_the_world(site: Kit) -> None:
    lines = site.host.sh("ss -Hltnu").splitlines()
    world = {line.split()[4] for line in lines if not re.search(r"127\.0\.0\.|\[::1\]", line.split()[4])}
    assert {address.rsplit(":", 1)[1] for address in world} <= {"22", "80", "443"}, world


def test_http_goes_to_https_and_every_domain_to_the_first(site: Kit) -> None:
    assert "https://board.localhost/x?y=1" in site.curl("http://board.localhost/x?y=1", "-I")
    head = site.curl("https://www.board.localhost/x?y=1", "-I")
    assert re.search(r"HTTP/2 30[18]", head)
    assert "location: https://board.localhost/x?y=1" in head.lower()


def test_static_files_come_from_the_proxy(site: Kit) -> None:
    page = site.curl("https://board.localhost/")
    found = re.search(r"/static/[\w./-]+\.css", page)
    assert found, page[:500]
    head = site.curl(f"https://board.localhost{found[0]}", "-I")
    assert "cache-control: public, max-age=86400" in head.lower(), "the app answered, not the proxy"


def test_the_sandbox(site: Kit) -> None:
    """systemd's own verdict on what the live units may do; 10 is everything, 0 nothing."""
    for name in APPS:
        said = site.host.sh(
            f"systemd-analyze security --no-pager '{name}-web@{site.release(name)}.service' | tail -1"
        )
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert found, said
        assert float(found[1]) <= 1.1, said


def test_an_app_cannot_look_into_another(site: Kit) -> None:
    """Not even outside of its sandbox: what is the board's is not to be had by other apps, nor by builds."""
    release = site.release("board")
    tries = [
        "ls /srv/board", "ls /srv/board/releases", "ls /srv/board/envs", "ls /srv/board/data",
        f"cat /srv/board/releases/{release}/release.json",
        f"cat /srv/board/releases/{release}/board/main.py",
        f"ls /srv/board/releases/{release}/.venv/",
        "cat /etc/berth/board/env", f"cat /etc/berth/board/releases/{release}.env",
        "ls /var/cache/berth/build/board", "ls /var/lib/berth/board", "ls /run/board", "ls /run/berth/board",
        f"curl -sS --unix-socket /run/berth/board/{release}.sock http://board/",
    ]  # fmt: skip
    for user in ("notes", "berth-build-notes", "berth-build-board"):
        for words in tries:
            if user == "berth-build-board" and "build/board" in words:
                continue
            said = site.host.sh(
                f"runuser -u {user} -- {words} >/dev/null 2>/tmp/said && echo was let in; cat /tmp/said"
            )
            assert "was let in" not in said, f"{user}: {words}"
            assert re.search("Permission denied|Could not connect|connect to", said), said


def test_an_app_has_no_door_to_what_the_host_shares(site: Kit) -> None:
    """Inside the live unit: shared memory of its own, and neither D-Bus nor Docker nor settings of others."""
    unit = f"board-web@{site.release('board')}.service"
    inside = f"nsenter -m -t $(systemctl show -P MainPID '{unit}') --"
    site.host.sh("touch /dev/shm/of-the-host; mkdir -p /run/dbus")
    assert "of-the-host" not in site.host.sh(f"{inside} ls /dev/shm")
    assert site.host.sh(f"{inside} stat -c %a /dev/shm").strip() == "1777"
    assert site.host.sh(f"{inside} stat -c %a /run/dbus /etc/berth").split() == ["0", "0"]
    assert site.host.sh(f"systemctl show -P LimitCORE '{unit}'").strip() == "0"


def test_no_secret_shows(site: Kit) -> None:
    """Neither a process list, nor the journal, nor the logs of a run hold any secret of the apps."""
    host = site.host
    secrets = set(host.sh("cat /etc/berth/postgresql/*").split())
    for name in APPS:
        secrets |= set(json.loads(host.sh(f"cat /etc/berth/{name}/secrets.json")).values())
    assert len(secrets) >= 6
    places = host.sh(
        "ps -eo args; journalctl --no-pager -o cat; cat /var/log/caddy/* /var/log/berth/* 2>/dev/null || true"
    )
    output = site.play("site.yml", "-vv", "--diff").output
    for secret in secrets:
        assert secret not in places
        assert secret not in output


def test_a_reboot_brings_everything_back(site: Kit) -> None:
    live = {name: site.release(name) for name in APPS}
    site.host.restart()
    for name in APPS:
        site.curl(
            f"https://{name}.localhost/readyz",
            "--retry",
            "30",
            "--retry-delay",
            "1",
            "--retry-all-errors",
            "-f",
        )
        assert site.release(name) == live[name]
        states = site.host.sh(f"systemctl is-active '{name}-web@{live[name]}' '{name}-worker@{live[name]}'")
        assert states.split() == ["active", "active"]
        assert "nightly" in site.host.sh(f"systemctl list-timers --no-pager '{name}-nightly@*'")
    assert site.play("site.yml").changed == 0


def test_a_job_runs(site: Kit) -> None:
    site.host.sh(f"systemctl start 'board-nightly@{site.release('board')}.service'", timeout=120)
    result = site.host.sh(f"systemctl show -p Result 'board-nightly@{site.release('board')}.service'")
    assert result == "Result=success"
