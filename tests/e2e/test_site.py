"""Two apps on one host, as site.yml leaves them: what a visitor, the owner and a neighbour see."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.berth.host import sandbox

from tests.support.kit import Kit, Run

APPS = ("board", "notes")
MULTICAST = """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("239.1.2.3", 1900))
print("sent")
"""


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


def test_a_body_that_is_too_large_is_refused_before_it_comes(site: Kit) -> None:
    def answer(*options: str) -> str:
        say = ("-o", "/dev/null", "-w", "%{http_code}", "-X", "POST")
        return site.curl("https://board.localhost/no-such-page", *say, *options)

    for http in ("--http1.1", "--http2"):
        # Nothing follows: who waited for the body would wait for long.
        assert answer(http, "-H", "Content-Length: 10000001") == "413"
        assert answer(http, "-d", "x") == "404"


def test_the_sandbox(site: Kit) -> None:
    """systemd's own verdict on what the live units may do; 10 is everything, 0 nothing."""
    for name in APPS:
        said = site.host.sh(
            f"systemd-analyze security --no-pager '{name}-web@{site.release(name)}.service' | tail -1"
        )
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert found, said
        assert float(found[1]) <= 1.0, said
    # One peer at a time, whatever the packet filter says.
    words = " ".join(shlex.quote(f"--property={line}") for line in ("User=board", *sandbox.unit()))
    send = f"systemd-run -q --wait --pipe {words} python3 - 2>&1 || true"
    assert "PermissionError" in site.host.sh(send, stdin=MULTICAST)
    assert site.host.sh(send, stdin=MULTICAST.replace("239.1.2.3", "127.0.0.1")) == "sent"


def test_an_app_cannot_look_into_another(site: Kit) -> None:
    """Not even outside of its sandbox: what is the board's is not to be had by other apps, nor by builds."""
    release = site.release("board")
    tries = [
        "ls /srv/board", "ls /srv/board/releases", "ls /srv/board/envs", "ls /srv/board/data",
        f"cat /srv/board/releases/{release}/release.json",
        f"cat /srv/board/releases/{release}/board/main.py",
        f"ls /srv/board/releases/{release}/.venv/",
        "cat /etc/berth/board/env", f"cat /etc/berth/board/releases/{release}.env",
        "ls /var/cache/berth/build/board", "ls /var/cache/berth/git/board", "ls /var/lib/berth/board",
        "ls /run/board", "ls /run/berth/board",
        f"curl -sS --unix-socket /run/berth/board/{release}.sock http://board/",
    ]  # fmt: skip
    for user in ("notes", "berth-build-notes", "berth-build-board"):
        for words in tries:
            if user == "berth-build-board" and "/var/cache/" in words:
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


# A connection as a user.
CONNECT = """
import os, pwd, socket, sys
user, address, port = sys.argv[1:]
os.setuid(pwd.getpwnam(user).pw_uid)
try:
    socket.create_connection((address, int(port)), 5).close()
    print("open")
except OSError:
    print("closed")
"""


def test_an_app_connects_to_nothing_that_is_not_its_own(site: Kit) -> None:
    host, notes = site.host, site.app("notes")

    def connects(user: str, address: str, port: int) -> str:
        return host.sh(f"python3 - {user} {address} {port}", stdin=CONNECT).strip()

    # What a cloud's server finds at this address; somebody's Redis; and two servers elsewhere.
    host.sh("ip addr add 169.254.169.254/32 dev lo")
    host.sh("systemd-run -q --unit=metadata python3 -m http.server -b 169.254.169.254 80")
    host.sh("systemd-run -q --unit=another python3 -m http.server -b 127.0.0.1 6390; sleep 1")
    here = host.sh("ip -4 route show default").split()[2]
    with socket.create_server(("", 0)) as first, socket.create_server(("", 0)) as second:
        wanted, unwanted = first.getsockname()[1], second.getsockname()[1]
        try:
            for address, port in (("169.254.169.254", 80), ("127.0.0.1", 6390)):
                assert connects("root", address, port) == "open"
                for user in ("board", "berth-build-board"):
                    assert connects(user, address, port) == "closed", (user, address)
            assert connects("board", "127.0.0.1", 5432) == "open"
            assert connects("berth-build-board", "127.0.0.1", 5432) == "closed"
            assert connects("notes", here, unwanted) == "open"
            allow = [{"to": here, "port": wanted}]
            notes["egress"] = {"policy": "listed", "allow": allow, "metadata": True}
            refused = site.play("playbooks/deploy.yml", "-e", "app=notes", succeed=False)
            assert "The egress settings of notes changed" in " ".join(refused.output.split())
            assert site.play("playbooks/provision.yml", "--tags", "firewall", "--check").changed == 1
            assert site.play("playbooks/provision.yml", "--tags", "firewall").changed == 1
            assert site.play("playbooks/deploy.yml", "-e", "app=notes").changed == 0
            assert connects("notes", here, unwanted) == "closed"
            assert connects("notes", here, wanted) == "open"
            assert connects("notes", "169.254.169.254", 80) == "open"
            assert connects("board", here, unwanted) == "open"
            site.json("https://notes.localhost/readyz")
        finally:
            notes.pop("egress", None)
            host.sh("systemctl stop metadata another; ip addr del 169.254.169.254/32 dev lo")
            site.play("playbooks/provision.yml", "--tags", "firewall")
    host.sh("nft delete table inet berth_apps")
    assert site.play("playbooks/provision.yml", "--tags", "firewall").changed == 1


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


@pytest.mark.long
def test_former_keys_and_admins_let_nobody_in(site: Kit, tmp_path: Path) -> None:
    keys = {}
    for name in ("first", "second", "stranger"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)],
            check=True,
        )
        keys[name] = (tmp_path / f"{name}.pub").read_text().strip()

    def gets_in(user: str, key: str) -> bool:
        """A login of its own, and what it may do there."""
        words = site.host.ssh("sudo", "-n", "id", "-u", user=user)
        words[words.index("-i") + 1] = str(tmp_path / key)
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or "Permission denied" in done.stderr or "closed by" in done.stderr, done
        return done.stdout.strip() == "0"

    def base(*arguments: str, succeed: bool = True) -> Run:
        """A run, and what it said without the line breaks of YAML's folding."""
        run = site.play("site.yml", "--tags", "base", *arguments, succeed=succeed)
        return dataclasses.replace(run, output=" ".join(run.output.split()))

    connection = dict(site.connection)
    try:
        site.server["admin"] = {"name": "anna", "authorized_keys": [keys["first"], keys["second"]]}
        base()
        assert gets_in("anna", "first")
        assert gets_in("anna", "second")
        site.host.sh(f"echo '{keys['stranger']}' >> /home/anna/.ssh/authorized_keys")
        site.server["admin"]["authorized_keys"] = [keys["second"]]
        foretold = base("--check", "--diff")
        assert foretold.changed == 1
        assert f"-{keys['first']}" in foretold.output
        assert gets_in("anna", "first")
        said = base().output
        assert "anna has a key that Berth did not put there: SHA256:" in said
        assert not gets_in("anna", "first")
        assert gets_in("anna", "second")
        assert gets_in("anna", "stranger")
        assert base().changed == 0
        # Another name, in a run that logs in as the one before: she stays until another login ends it.
        site.connection.update(
            ansible_user="anna", ansible_ssh_private_key_file=str(tmp_path / "second"), ansible_become=True
        )
        site.server["admin"] = {"name": "berta", "authorized_keys": [keys["second"]]}
        assert "this run logs in as anna" in base().output
        assert gets_in("anna", "second")
        assert gets_in("berta", "second")
        site.server["admin"] = {"name": "", "authorized_keys": []}
        refused = base(succeed=False)
        assert "This run logs in as anna, and server.admin names nobody any more" in refused.output
        assert refused.changed == 0
        site.server["admin"] = {"name": "berta", "authorized_keys": [keys["second"]]}
        site.connection["ansible_user"] = "berta"
        assert "anna is no admin any more" in base().output
        # Neither by the key that was Berth's nor by the stranger's: the account is locked, its files stay.
        assert not gets_in("anna", "second")
        assert not gets_in("anna", "stranger")
        assert gets_in("berta", "second")
        assert site.host.sh("id -nG anna") == "anna"
        assert site.host.sh("cat /home/anna/.ssh/authorized_keys") == keys["stranger"]
        assert base().changed == 0
        # As root again, over a connection that is still open: berta is not shut out by it.
        site.server["admin"] = {"name": "anna", "authorized_keys": [keys["first"]]}
        berta, site.connection = site.connection, dict(connection)
        refused = base(succeed=False)
        assert re.search("allowusers berta`. Log in as somebody|Permission denied", refused.output)
        assert gets_in("berta", "second")
        # Back again, and then nobody.
        site.connection = berta
        site.server["ssh"] = {"allow_users": ["root"]}
        base()
        assert gets_in("anna", "first")
        assert gets_in("berta", "second")
        site.connection = dict(connection)
        base()
        assert gets_in("anna", "first")
        assert not gets_in("berta", "second")
        del site.server["admin"]
        base()
        assert not gets_in("anna", "first")
        assert site.host.sh("ls /etc/sudoers.d/50-berth 2> /dev/null || echo gone") == "gone"
        assert base().changed == 0
    finally:
        site.connection = connection
        site.server.pop("admin", None)
        site.server.pop("ssh", None)
