"""A Redis for each app that wants one: two apps that use the same keys, and neither sees the other's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from testhost import Host

from tests.e2e.test_check_mode import untouched
from tests.support.kit import ROOT, Kit

SOURCE = str(ROOT / "tests/fixtures/redisapp")
BROKER = "redis://${redis.user}:${redis.password}@${redis.host}:${redis.port}/1"
BORN = "/etc/berth/redis"


def app(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "domains": [f"{name}.localhost"],
        "source": {"path": SOURCE},
        "database": {"enabled": False},
        "processes": [{"name": "web", "workers": 1}],
        "redis": {"enabled": True, **more},
        "env": {"BROKER": {"template": BROKER}},
    }


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host without Redis, a check run on it that changes nothing, then two apps with a Redis each."""
    host = boot("redis", provisioned=True)
    kit = Kit(tmp_path_factory.mktemp("redis"), host, apps=[app("one", memory="32M"), app("two-b")])
    before = kept(kit)
    predicted = kit.play("site.yml", "--check", "--diff")
    assert predicted.count("failed") == 0
    assert kept(kit) ^ before == set()
    kit.play("site.yml")
    return kit


def kept(kit: Kit) -> set[str]:
    """Without WAL, which is archived by the clock."""
    return {line for line in untouched(kit) if not line.startswith("/var/lib/pgbackrest/")}


def born(kit: Kit, name: str, what: str) -> str:
    return kit.host.sh(f"cat {BORN}/{name}/{what}").strip()


def count(kit: Kit, name: str) -> Any:
    return kit.json(f"https://{name}.localhost/count", "-X", "POST")


def may(kit: Kit, command: str) -> str:
    return str(kit.json(f"https://one.localhost/may?command={command.replace(' ', '+')}")["said"])


def pid(kit: Kit, name: str) -> str:
    return kit.host.sh(f"systemctl show -p MainPID --value redis-server@{name}")


def maxmemory(kit: Kit, name: str) -> int:
    port, admin = born(kit, name, "port"), born(kit, name, "admin")
    said = kit.host.sh(
        f"REDISCLI_AUTH={admin} redis-cli -p {port} --user berth config get maxmemory 2>/dev/null"
    )
    return int(said.split()[-1])


def test_a_second_run_changes_nothing(kit: Kit) -> None:
    run = kit.play("site.yml")
    assert run.changed == 0, run.output
    assert kit.play("site.yml", "--check", "--diff").changed == 0


def test_unmodified_apps_use_any_key_and_meet_only_their_own(kit: Kit) -> None:
    for name in ("one", "two-b"):
        assert count(kit, name) == {
            "given": 1, "built": 1, "user": "default", "keys": ["count"], "channel": 0, "clients": True,
        }  # fmt: skip
    assert count(kit, "one")["given"] == 2
    assert kit.json("https://two-b.localhost/count") == {"given": "1", "built": "1"}


def test_a_neighbour_does_not_get_in(kit: Kit) -> None:
    own, other = born(kit, "one", "port"), born(kit, "two-b", "port")
    assert own != other
    # The app's own password, at its own and at the neighbour's, which no packet of it reaches.
    assert kit.json(f"https://one.localhost/ask?port={own}")["said"] == "True"
    refused = kit.json(f"https://one.localhost/ask?port={other}")["said"]
    assert re.match(f"Error \\d+ connecting to localhost:{other}", refused), refused
    ping = f"REDISCLI_AUTH={born(kit, 'one', 'password')} redis-cli -p {other} ping 2>&1"
    assert "WRONGPASS" in kit.host.sh(ping)
    for path in (f"{BORN}/two-b/password", "/etc/redis/redis-two-b.conf", "/var/lib/redis/two-b"):
        said = kit.host.sh(
            f"setpriv --reuid=one --regid=one --init-groups ls -l {path}/. {path} 2>&1 || true"
        )
        assert "Permission denied" in said, path
    # Nor does one instance see the data of another.
    seen = kit.host.sh(f"ls /proc/{pid(kit, 'one')}/root/var/lib/redis")
    assert seen == "one"


def test_only_this_server_reaches_it(kit: Kit) -> None:
    lines = kit.host.sh("ss -Hltn").splitlines()
    ports = {born(kit, name, "port") for name in ("one", "two-b")}
    listening = {line.split()[3] for line in lines if line.split()[3].rsplit(":", 1)[1] in ports}
    assert listening == {f"127.0.0.1:{port}" for port in ports}
    # The distribution's own instance, which has no password, does not run.
    assert not any(line.split()[3].endswith(":6379") for line in lines)


def test_the_app_reaches_nothing_of_the_server(kit: Kit) -> None:
    for command in (
        "CONFIG SET dir /tmp", "SHUTDOWN", "REPLICAOF 127.0.0.1 6381", "SAVE", "ACL LIST", "MONITOR",
        "MODULE LIST", "MIGRATE 127.0.0.1 6381 count 0 100",
    ):  # fmt: skip
        assert "permission" in may(kit, command), command
    assert "'33554432'" in may(kit, "CONFIG GET maxmemory")
    exposure = kit.host.sh("systemd-analyze security --no-pager redis-server@one | tail -1")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", exposure)
    assert found, exposure
    assert float(found[1]) < 2.0


def test_no_more_memory_than_it_may(kit: Kit) -> None:
    assert kit.json("https://one.localhost/fill", "-X", "POST") == {"full": True}
    memory = int(kit.host.sh("awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo"))
    expected = max(64, min(memory // 16 // 16 * 16, 1024))
    assert maxmemory(kit, "two-b") == expected * 1024**2


def test_no_secret_shows(kit: Kit) -> None:
    host = kit.host
    secrets = set(host.sh(f"cat {BORN}/*/password {BORN}/*/admin").split())
    assert len(secrets) == 4
    run = kit.play("site.yml", "-vvv", "--diff")
    places = run.output + host.sh("ps axww; journalctl -q --no-pager -b | cat; cat /etc/redis/redis-*.conf")
    assert not [secret for secret in secrets if secret in places]
    modes = host.sh(f"stat -c '%a %U' {BORN} {BORN}/* {BORN}/*/*").splitlines()
    assert set(modes) == {"700 root", "600 root"}


def test_it_survives_a_restart_of_the_host(kit: Kit) -> None:
    before = {name: count(kit, name)["given"] for name in ("one", "two-b")}
    kit.host.sh("sleep 1.5")  # what is written is on disk within a second
    kit.host.restart()
    for name, number in before.items():
        answer = kit.curl(
            f"https://{name}.localhost/count", "--retry", "30", "--retry-all-errors", "--retry-delay", "1"
        )
        assert f'"given":"{number}"' in answer
    assert kit.play("site.yml").changed == 0


def test_a_stopped_one_is_started(kit: Kit) -> None:
    kit.host.sh("systemctl disable -q --now redis-server@one")
    run = kit.play("playbooks/provision.yml", "--tags", "redis")
    assert run.changed == 1
    assert count(kit, "one")["given"] > 1


def test_an_interrupted_run_and_a_changed_password_are_repaired(kit: Kit) -> None:
    first = pid(kit, "one")
    kit.host.sh(f"touch {BORN}/one/pending")
    run = kit.play("playbooks/provision.yml", "--tags", "redis", "-v")
    assert "a former run was interrupted" in " ".join(run.output.split())
    second = pid(kit, "one")
    assert second != first
    port, admin = born(kit, "one", "port"), born(kit, "one", "admin")
    kit.host.sh(f"REDISCLI_AUTH={admin} redis-cli -p {port} --user berth acl setuser default '>other'")
    kit.host.sh(f"REDISCLI_AUTH={admin} redis-cli -p {port} --user berth acl setuser default resetpass")
    kit.play("playbooks/provision.yml", "--tags", "redis")
    assert pid(kit, "one") != second
    assert kit.play("playbooks/provision.yml", "--tags", "redis").changed == 0
    assert count(kit, "one")["given"] > 1


def test_a_port_that_is_taken_is_a_sentence(kit: Kit) -> None:
    port = born(kit, "one", "port")
    kit.host.sh("systemctl stop redis-server@one")
    kit.host.sh(f"systemd-run -q --unit=squatter python3 -m http.server --bind 127.0.0.1 {port}; sleep 1")
    run = kit.play("playbooks/provision.yml", "--tags", "redis", succeed=False)
    assert f"another process listens on its port {port}" in " ".join(run.output.split())
    kit.host.sh("systemctl stop squatter")
    kit.play("playbooks/provision.yml", "--tags", "redis")
    assert count(kit, "one")["given"] > 1


def test_settings_change_while_it_runs_and_a_deploy_says_who_does_it(kit: Kit) -> None:
    instance, release = pid(kit, "one"), kit.release("one")
    kit.app("one")["redis"].update(memory="48M", policy="allkeys-lru")
    # Not by a run that leaves its role out, whatever that renews of the app, nor by a prediction of one.
    left_out = ("site.yml", "--skip-tags", "redis")
    for words in ((*left_out, "--check"), left_out, ("playbooks/deploy.yml", "-e", "app=one")):
        refused = kit.play(*words, succeed=False)
        assert "The Redis settings of one changed" in " ".join(refused.output.split())
    assert kit.play("site.yml", "--check").changed > 0
    kit.play("site.yml")
    assert maxmemory(kit, "one") == 48 * 1024**2
    # Neither the instance nor the app was restarted.
    assert (pid(kit, "one"), kit.release("one")) == (instance, release)
    assert kit.json("https://one.localhost/fill", "-X", "POST") == {"full": False}
    assert kit.play("site.yml").changed == 0


def test_status_shows_it(kit: Kit) -> None:
    run = kit.play("playbooks/status.yml", "-e", "json=true")
    assert len(re.findall(r"\bredis\W+active\b", run.output)) == 2, run.output
    kit.host.sh("systemctl stop redis-server@one")
    assert "Redis inactive" in kit.play("playbooks/status.yml").output
    kit.host.sh("systemctl start redis-server@one")


@pytest.mark.long
def test_without_it_the_instance_runs_until_no_release_needs_it(kit: Kit) -> None:
    one = kit.app("one")
    one["redis"]["enabled"] = False
    one["env"] = {"REDIS_URL": "redis://127.0.0.1:6379/0", "BROKER": "redis://127.0.0.1:6379/0"}
    one["health"] = {"path": "/openapi.json"}
    kit.play("site.yml")
    # The release before needs it, should one go back to it.
    kit.play("playbooks/rollback.yml", "-e", "app=one")
    assert count(kit, "one")["user"] == "default"
    kit.play("site.yml")
    one["keep_releases"] = 2
    for number in range(2):
        one["env"]["NUMBER"] = number
        kit.play("playbooks/deploy.yml", "-e", "app=one")
    # What still retires is not pruned.
    kit.host.sh(
        "for try in $(seq 90); do"
        " [ $(systemctl list-units -q --plain 'one-web@*.service' | wc -l) = 1 ] && exit; sleep 1;"
        " done; exit 1"
    )
    one["env"]["NUMBER"] = 2
    kit.play("playbooks/deploy.yml", "-e", "app=one")
    assert len(kit.host.sh("ls /srv/one/releases").split()) == 2
    assert kit.play("playbooks/provision.yml", "--tags", "redis").changed == 1
    assert kit.host.sh("systemctl is-active redis-server@one || true") == "inactive"
    assert kit.host.sh("ls /var/lib/redis/one"), "its data is gone"
    assert kit.play("site.yml").changed == 0


def test_removed_and_purged(kit: Kit) -> None:
    kit.play("playbooks/remove.yml", "-e", "app=two-b", "-e", "confirm=two-b")
    assert kit.host.sh("systemctl is-active redis-server@two-b || true") == "inactive"
    port = born(kit, "two-b", "port")
    kit.play("site.yml")
    # Brought back, with its data.
    assert born(kit, "two-b", "port") == port
    assert count(kit, "two-b")["given"] > 1
    kit.play("playbooks/remove.yml", "-e", "app=two-b", "-e", "confirm=two-b", "-e", "purge=true")
    left = kit.host.sh(
        f"ls -d {BORN}/two-b /var/lib/redis/two-b /etc/redis/redis-two-b.conf "
        "/etc/systemd/system/*two-b* /etc/systemd/system/*/*two-b* 2>/dev/null || true"
    )
    assert left == ""
    again = kit.play("playbooks/remove.yml", "-e", "app=two-b", "-e", "confirm=two-b", "-e", "purge=true")
    assert again.changed == 0
