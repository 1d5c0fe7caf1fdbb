"""A server that is deleted, built anew on a bare host from what lies at another one, and the vault."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support.kit import INTERNAL_CA, Kit, board_copy, kill
from tests.support.pace import patience
from tests.support.storage import make

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

KEY = "of-all-that-lies-elsewhere-4711"
DATA = "/srv/board/data/attachments"
SECRETS = "/etc/berth/board/secrets.json"
REDIS = (
    'REDISCLI_AUTH=$(cat /etc/berth/redis/board/admin) redis-cli -p "$(cat /etc/berth/redis/board/port)" '
    "--user berth"
)
# A row each quarter of a second.
WRITER = """
runuser -u postgres -- psql -qd board -c 'create table lost (n serial, at timestamptz default now())'
cat > /run/writer.sh <<'END'
while :; do runuser -u postgres -- psql -qd board -c 'insert into lost default values'; sleep .25; done
END
systemd-run -q --unit writer sh /run/writer.sh
"""


MANY = "".join(f"create table many.t{number} (text text);" for number in range(150))
RELAY = "/var/lib/berth/backup/offsite/storage.relay.json"
# Where no server answers.
NOBODY = "192.0.2.1"


def ask(host: Host, query: str) -> str:
    return host.sh(f'runuser -u postgres -- psql -XAtqd board -c "{query}"').strip()


@pytest.fixture(scope="module")
def storage(boot: Callable[..., Host]) -> Host:
    return boot("onto-storage")


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], storage: Host, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host with an app that has a Redis, whose backups and files are at that server."""
    folder = tmp_path_factory.mktemp("onto")
    place, secrets = make(storage, folder)
    app = board_copy(folder)
    app |= {"redis": {"enabled": True}, "pooler": {"enabled": True}}
    kit = Kit(tmp_path_factory.mktemp("inventory"), boot("onto-lost", provisioned=True), apps=[app])
    kit.server["backup"] = {"offsite": [place]}
    kit.vault["server"] = {"backup": {"key": KEY, "offsite": {"storage": secrets}}}
    kit.play("site.yml")
    return kit


def address_of(host: Host) -> str:
    return host.sh("hostname -I").split()[0]


def reached(folder: Path, *hosts: Host) -> dict[str, Any]:
    """What hosts.yml says beside the address: one user whose keys and host keys suit all of them."""
    known = folder / "known_hosts"
    lines = [
        f"{address_of(host)} {key}\n"
        for host in hosts
        for key in host.sh("cat /etc/ssh/ssh_host_*_key.pub").splitlines()
    ]
    known.write_text("".join(lines))
    keys = " ".join(f"-i {host.folder / 'id_ed25519'}" for host in hosts)
    options = f"{keys} -o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
    return {"ansible_user": "root", "ansible_ssh_common_args": options}


def more(kit: Kit, rows: int) -> None:
    """Wait until the writer has written so many more."""
    until, end = int(ask(kit.host, "select max(n) from lost")) + rows, time.monotonic() + patience(60)
    while int(ask(kit.host, "select max(n) from lost")) < until:
        assert time.monotonic() < end
        time.sleep(1)


def gone(kit: Kit, folder: Path, bare: Host) -> str:
    """Cut the power of the kit's host; what reaches the bare one from now on, and its address."""
    subprocess.run(["docker", "kill", kit.host.container], check=True, capture_output=True)
    # Its own address may be somebody else's by now.
    kit.connection = {**reached(folder, bare), "ansible_host": NOBODY}
    kit.host = bare
    return address_of(bare)


def test_a_server_that_is_gone_is_built_anew_with_all_that_left_it(
    kit: Kit, boot: Callable[..., Host], tmp_path: Path
) -> None:
    lost = kit.host
    lost.sh(
        f"install -d -o board {DATA}; runuser -u board -- sh -c 'echo kept > {DATA}/kept';"
        f"{REDIS} set answer 42"
    )
    # With more files than a session of SFTP may have open.
    lost.sh("runuser -u postgres -- psql -qd board -c 'create schema many' -f -", stdin=MANY)
    secret, authority = (lost.sh(f"cat {path}") for path in (SECRETS, INTERNAL_CA))
    lost.sh(WRITER)
    kit.berth("backup", "--full")
    lost.sh("systemctl start berth-backup-offsite.service berth-backup-files.service")
    more(kit, 100)

    new = boot("onto-new")
    address = address_of(new)
    kit.connection = {**reached(tmp_path, lost, new), "ansible_host": address_of(lost)}
    onto = ("--onto", address, "--confirm", "gone")
    assert "answers on port 22" in kit.berth("restore", *onto, status=2)
    said = kit.berth("restore", "--onto", address_of(lost), "--confirm", "gone", status=2)
    assert "it has /etc/berth, /etc/postgresql/" in said
    committed, last = ask(lost, "select max(n), extract(epoch from max(at)) from lost").split("|")
    gone(kit, tmp_path, new)
    assert "must never come back" in kit.berth("restore", "--onto", address, "--", "--check")
    assert "Nothing was changed" in kit.berth("restore", "--onto", address, "--confirm", "yes", status=2)
    assert new.sh("ls -d /etc/berth /var/lib/berth* 2>&1 || true").count("No such file") == 2

    said = kit.berth("restore", *onto)
    assert re.search(r"up to the commit of \d{4}-.* before this began", said)
    assert KEY not in said
    back, until = ask(new, "select max(n), extract(epoch from max(at)) from lost").split("|")
    print(
        f"{said}\nOf {committed} rows {back} came back: the last {float(last) - float(until):.1f} s are lost."
    )
    assert int(committed) - int(back) <= 4 * patience(20)
    assert new.sh(f"cat {DATA}/kept; stat -c %U {DATA}/kept").split() == ["kept", "board"]
    assert new.sh(f"{REDIS} get answer").split()[-1] == "42"
    assert [new.sh(f"cat {path}") for path in (SECRETS, INTERNAL_CA)] == [secret, authority]
    assert new.sh("readlink /srv/board/current").strip()
    assert ":6432/" in new.sh("grep ^DATABASE_URL= /etc/berth/board/env")
    # What opened the place is nowhere but where it belongs.
    assert new.sh("ls /var/lib/berth-recovery").split().count("settings.json") == 0
    new.sh("systemctl start berth-backup-offsite.service berth-backup-files.service")
    kit.connection["ansible_host"] = address
    assert kit.berth("check-backups").strip() == "Backups are well."
    assert "it is not bare any more" in kit.berth("restore", *onto, status=2)
    assert kit.play("site.yml").changed == 0

    # The lost one comes back, and passes on nothing more.
    subprocess.run(["docker", "start", lost.container], check=True, capture_output=True)
    end = time.monotonic() + patience(120)
    # It is asked before WAL is passed on, and nobody writes there by now.
    write = "insert into lost default values; select pg_switch_wal()"
    lost.sh(f"until runuser -u postgres -- psql -qd board -c '{write}'; do sleep 1; done")
    while "goes on with it" not in (told := lost.sh(f"cat {RELAY}", check=False)):
        assert time.monotonic() < end, told
        time.sleep(1)
    assert json.loads(told)["pushed"].startswith("00000001")
    # Of files neither: what the new one stored is the newest there.
    assert lost.sh("systemctl start berth-backup-files.service && echo stored || true").strip() == ""
    assert "goes on with it" in lost.sh("cat /var/lib/berth/restic/storage.json")
    subprocess.run(["docker", "kill", lost.container], check=True, capture_output=True)


def test_whatever_goes_wrong_on_the_way_the_same_line_goes_on(
    kit: Kit, storage: Host, boot: Callable[..., Host], tmp_path: Path
) -> None:
    """Of the server that was built anew before, so that the place has the WAL of two timelines."""
    rows, bare = (
        ask(kit.host, "insert into lost default values; select count(*) from lost"),
        boot("onto-third"),
    )
    ask(kit.host, "select pg_switch_wal()")
    time.sleep(patience(15))
    address = gone(kit, tmp_path, bare)
    onto = ("--onto", address, "--confirm", "gone")
    kit.vault["server"]["backup"]["key"] = "another-key-than-that-of-before"
    assert "another key than vault.server.backup.key" in kit.berth("restore", *onto, status=2)
    kit.vault["server"]["backup"]["key"] = KEY
    storage.sh("systemctl stop ssh.socket ssh.service")
    assert re.search(r"cannot be reached.*the same line again", kit.berth("restore", *onto, status=2))
    storage.sh("systemctl start ssh.service")

    run = kit.start("playbooks/onto.yml", "-e", f"onto={address}", "-e", "confirm=gone")
    end = time.monotonic() + patience(600)
    while not bare.sh("ls -d /var/lib/postgresql/*/main.berth-rescue.json 2> /dev/null || true").strip():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.2)
    kill(run)
    bare.sh("pkill -KILL -f /usr/local/lib/berth/[r]escue.py; pkill -KILL pgbackrest; true")
    kit.berth("restore", *onto)
    assert ask(bare, "select count(*) from lost") == rows
    assert ask(bare, "select timeline_id from pg_control_checkpoint()") == "3"
    bare.sh("systemctl start berth-backup-offsite.service berth-backup-files.service")
    kit.connection["ansible_host"] = address
    assert kit.berth("check-backups").strip() == "Backups are well."
