"""Files off the server: stored at another one by SFTP, whatever an app put in their way, and brought back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support.kit import Kit, board_copy
from tests.support.pace import patience
from tests.support.storage import make

KEY = "of-all-that-lies-elsewhere-4711"
DATA = "/srv/board/data/attachments"
UNIT = "berth-backup-files.service"


@pytest.fixture(scope="module")
def storage(boot: Callable[..., Host]) -> Host:
    """Another server, with a disk that is full soon, beside a large one."""
    host = boot("storage")
    host.sh("mkdir -p /small; mountpoint -q /small || mount -t tmpfs -o size=8M,mode=777 tmpfs /small")
    return host


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], storage: Host, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A provisioned host with an app that has a Redis, whose files go to that server."""
    folder = tmp_path_factory.mktemp("files")
    place, secrets = make(storage, folder)
    app = board_copy(folder)
    app["redis"] = {"enabled": True}
    kit = Kit(tmp_path_factory.mktemp("inventory"), boot("files", provisioned=True), apps=[app])
    kit.server["backup"] = {"offsite": [place]}
    kit.vault["server"] = {"backup": {"key": KEY, "offsite": {"storage": secrets}}}
    run = kit.play("playbooks/provision.yml", "-vvv", "--diff")
    assert KEY not in run.output
    assert "OPENSSH PRIVATE" not in run.output
    end = time.monotonic() + patience(60)
    while not stored(kit)["parts"] and time.monotonic() < end:
        time.sleep(0.5)
    return kit


def stored(kit: Kit) -> dict[str, Any]:
    """What the last run noted of the place."""
    text = kit.host.sh("cat /var/lib/berth/restic/storage.json 2> /dev/null || echo '{\"parts\": {}}'")
    found: dict[str, Any] = json.loads(text)
    return found


def restic(storage: Host, *words: str) -> str:
    """restic by hand on the other server, with nothing but the key."""
    argv = " ".join(words)
    return storage.sh(f"echo '{KEY}' > /root/key; restic -r /berth/files -p /root/key --no-lock {argv}")


def store(kit: Kit, *, well: bool = True) -> dict[str, Any]:
    done = kit.host.sh(f"systemctl start {UNIT} && echo well || echo ill")
    assert done.split()[-1] == ("well" if well else "ill"), kit.host.sh(f"journalctl -n 20 -u {UNIT}")
    return stored(kit)


def test_files_come_back_beside_those_of_today(kit: Kit) -> None:
    kit.host.sh(
        f"install -d -o board {DATA}; cd {DATA}; echo kept > kept; ln -s /etc/shadow shadow;chown -h board: *"
    )
    assert not store(kit)["problem"]
    kit.host.sh(f"cd {DATA}; rm kept; echo new > today")
    said = kit.berth("restore", "--files", "board")
    folder = kit.host.sh("echo /srv/board/data.restored-*").strip()
    assert folder in said
    assert kit.host.sh(f"cat {folder}/attachments/kept; readlink {folder}/attachments/shadow").split() == [
        "kept", "/etc/shadow"
    ]  # fmt: skip
    assert kit.host.sh(f"stat -c %U {folder} {folder}/attachments/kept").split() == ["board", "board"]
    assert kit.host.sh(f"ls {DATA}").split() == ["shadow", "today"]
    back = next(line for line in said.splitlines() if "bring lost files back" in line).split("back", 1)[1]
    kit.host.sh(back.strip().replace("sudo -u board", "runuser -u board --"))
    assert kit.host.sh(f"cat {DATA}/kept").strip() == "kept"
    assert "What was restored lies in" in kit.berth("check-backups")
    # Once more would write over it.
    assert "is there already" in kit.berth("restore", "--files", "board", status=2)
    kit.host.sh(f"rm -r {folder} {DATA}")


@pytest.mark.long
def test_the_first_run_stores_all_of_it_and_the_second_changes_nothing(kit: Kit) -> None:
    found = stored(kit)
    assert set(found["parts"]) == {"server", "app board"}
    run = kit.play("playbooks/provision.yml", "--tags", "files", "--diff")
    assert run.changed == 0, run.output
    assert "sftp" not in run.output
    modes = kit.host.sh(
        "stat -c '%a %U' /etc/berth/restic.json /var/lib/berth/restic /etc/berth/contract.json"
    )
    assert modes.splitlines() == ["600 root", "700 root", "600 root"]
    answer = kit.berth("backups", "--json")
    assert KEY not in answer
    known = json.JSONDecoder().raw_decode(answer)[0]["files"]
    assert known["places"][0]["stored"]
    assert known["timer"] == "active"


@pytest.mark.long
def test_what_an_app_lays_in_the_way_leads_nowhere(kit: Kit, storage: Host) -> None:
    """Links, pipes and holes are stored as such; what is read through a link of the app's never."""
    kit.host.sh(
        f"install -d -o board {DATA}; cd {DATA}; echo kept > kept; ln -s /etc/shadow shadow;"
        "ln -s /etc folder; mkfifo pipe; truncate -s 1G hole; chown -h board: *;"
        'REDISCLI_AUTH=$(cat /etc/berth/redis/board/admin) redis-cli -p "$(cat /etc/berth/redis/board/port)"'
        " --user berth set answer 42"
    )
    found = store(kit)
    assert found["parts"]["app board"]["bytes"] > 1 << 30
    assert found["parts"]["app board"]["added"] < 10 << 20
    if not storage.sh("command -v restic || true").strip():
        storage.sh("apt-get update -qq; apt-get install -y -qq restic > /dev/null")
    listed = restic(storage, "ls -l latest --tag app:board")
    kinds = {line.split()[-1]: line[0] for line in listed.splitlines()[1:] if " -> " not in line}
    assert kinds[f"{DATA}/pipe"] == "p"
    assert kinds["/var/lib/berth/restic/redis/board.rdb"] == "-"
    assert not [name for name in kinds if name.startswith(f"{DATA}/folder/")]
    server = restic(storage, "ls latest --tag server")
    for name in ("board/secrets.json", "backup/key", "contract.json"):
        assert f"/etc/berth/{name}" in server
    assert "/etc/berth/restic.json" not in server
    # And while it is exchanged: the program's own mounts, tried as it makes them.
    text = (
        "import sys; sys.path.insert(0, '/usr/local/lib');"
        f"from pathlib import Path; from berth import mounts; mounts.guard([Path('{DATA}')]);"
        f"print(Path('{DATA}/kept').read_text(), end=''); print(open('{DATA}/folder/hostname').read())"
    )
    tried = kit.host.sh(f'unshare --mount python3 -c "{text}" 2>&1', check=False)
    assert "kept" in tried
    assert "Too many levels of symbolic links" in tried


@pytest.mark.long
def test_a_run_that_is_killed_locks_nobody_out(kit: Kit, storage: Host) -> None:
    kit.host.sh(
        f"runuser -u board -- dd if=/dev/urandom of={DATA}/large bs=1M count=60 status=none;"
        f"systemctl start --no-block {UNIT}"
    )
    storage.sh(
        'for i in $(seq 900); do [ -z "$(ls /berth/files/locks)" ] || exit 0; sleep 0.05; done; exit 1'
    )
    kit.host.sh(f"systemctl kill --signal=KILL {UNIT}; sleep 1")
    assert "cut off" in kit.berth("check-backups", status=1)
    assert not store(kit)["problem"]
    assert storage.sh("ls /berth/files/locks").split() == []


@pytest.mark.long
def test_what_is_wrong_with_a_place_is_one_sentence(kit: Kit, storage: Host) -> None:
    """In the settings, as a run would write them: wrong key, another host key, a full disk, nobody there."""
    path = Path("/etc/berth/restic.json")
    right = json.loads(kit.host.sh(f"cat {path}"))
    address = right["places"][0]["host"]

    def refused(**more: Any) -> str:
        settings = {**right, **{key: value for key, value in more.items() if key == "key"}}
        settings["places"] = [{**right["places"][0], **{k: v for k, v in more.items() if k != "key"}}]
        kit.host.sh(f"cat > {path}", stdin=json.dumps(settings))
        return str(store(kit, well=False)["problem"])

    try:
        assert "another key than vault.server.backup.key" in refused(key="quite another passphrase")
        other = storage.sh("ssh-keygen -q -t ed25519 -N '' -f /root/x; cut -d' ' -f2 /root/x.pub")
        assert "host key that is not in" in refused(known_hosts=f"{address} ssh-ed25519 {other.strip()}")
        assert "cannot be reached" in refused(port=2299)
        storage.sh("mv /berth/files /berth/away")
        assert "gone or its disk is not mounted" in refused()
        storage.sh("mv /berth/away /berth/files")
        kit.host.sh("mv /var/lib/berth/restic/storage.json /root/")
        assert "its disk is full" in refused(path="/small")
        assert "its disk is full" in kit.berth("check-backups", status=1)
    finally:
        back = f"cat > {path}; mv /root/storage.json /var/lib/berth/restic/"
        kit.host.sh(back, stdin=json.dumps(right), check=False)
    assert not store(kit)["problem"]
