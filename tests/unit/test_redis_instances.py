"""Redis: memory, wiring, what can change while it runs, which instance is still needed."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.module_utils.berth.services import pgbouncer, redis
from ansible.module_utils.berth.store import presence

from plugins.filter.redis import default_memory, redis_instances
from plugins.filter.wiring import redis_of_apps
from plugins.modules import redis_instances as module
from tests.unit.contract_case import resolved

MB = 1024**2
CONF = "# Ansible managed\nport ${port}\nmaxmemory 1\nappendonly yes\nuser default on #${password} ~*\n"


@pytest.mark.parametrize(
    ("memory", "megabytes"),
    [(512, 64), (1024, 64), (2000, 112), (3915, 240), (4096, 256), (16000, 992), (65536, 1024)],
)
def test_the_default_is_a_share_of_the_memory(memory: int, megabytes: int) -> None:
    assert default_memory(memory) == megabytes * MB


def test_sizes_arrive_in_bytes() -> None:
    instances = redis_instances([{"name": "a", "memory": "1.5G"}, {"name": "b", "memory": ""}], 4096)
    assert [one["memory"] for one in instances] == [1536 * MB, 256 * MB]
    assert instances[1] == {"name": "b", "memory": 256 * MB, "policy": "noeviction", "persistence": True}


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"name": "A b"}, r"redis_instances\[0\]\.name: 'A b' cannot name an instance"),
        ({"name": "a", "memory": "lots"}, r"\.memory: 'lots' is not a size; write for example 256M"),
        ({"name": "a", "memory": "4K"}, r"\.memory: 4K is too little"),
        ({"name": "a", "memory": "2G"}, r"\.memory: 2G is more than this server has \(1024 MB\)"),
    ],
)
def test_what_cannot_work_is_a_sentence(instance: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        redis_instances([instance], 1024)


def test_one_name_one_instance() -> None:
    with pytest.raises(AnsibleFilterError, match="there is an instance a already"):
        redis_instances([{"name": "a"}, {"name": "a"}], 1024)


def test_only_apps_that_ask_get_one() -> None:
    apps = resolved({"apps[1].redis": {"enabled": True, "policy": "allkeys-lru"}})["apps"]
    assert redis_of_apps(apps) == [
        {"name": "notes", "memory": "", "policy": "allkeys-lru", "persistence": True}
    ]


def test_the_configuration_holds_sums_and_a_diff_not_even_those() -> None:
    text = module.fill_in(CONF, {"port": "6380", "password": "pw", "admin": "x"})
    assert "port 6380\n" in text
    assert re.search("on #[0-9a-f]{64} ", text)
    assert "pw" not in text
    assert "on #(hidden) ~*" in module.masked(text)


@pytest.mark.parametrize(
    ("change", "live"),
    [
        (("", ""), {}),
        (("# Ansible managed", "# Another comment"), {}),
        (("maxmemory 1", "maxmemory 2"), {"maxmemory": "2"}),
        (("appendonly yes", "appendonly no"), {"appendonly": "no"}),
        (("port ${port}", "port 1"), None),
        (("#${password}", "#other"), None),
        (("appendonly yes", "appendonly yes\nappendfsync no"), None),
    ],
)
def test_what_changes_while_it_runs(change: tuple[str, str], live: dict[str, str] | None) -> None:
    assert module.live_changes(CONF, CONF.replace(*change)) == live


def test_a_release_to_go_back_to_keeps_its_redis(tmp_path: Path) -> None:
    assert not presence.uses(redis.SERVICE, "board", tmp_path)
    for name, entry in (
        ("1", {"name": "board"}),
        ("2", {"name": "board", "redis": {"enabled": True}}),
        ("3", {"name": "board", "redis": {"enabled": False}}),
    ):
        folder = tmp_path / "srv/board/releases" / name
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"app": entry}))
    (tmp_path / "srv/board/releases/4").mkdir()
    assert presence.uses(redis.SERVICE, "board", tmp_path)
    (tmp_path / "srv/board/releases/2/release.json").unlink()
    assert not presence.uses(redis.SERVICE, "board", tmp_path)


def test_no_instance_is_where_apps_look_for_the_pooler() -> None:
    """Whoever has a database may connect there."""
    assert pgbouncer.PORT not in redis.PORTS
    assert (redis.PORTS[0], redis.PORTS[-1], len(redis.PORTS)) == (6380, 7379, 999)


def test_a_port_that_something_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not module.is_free(port)
    assert module.is_free(port)


def test_the_first_error_of_an_answer_is_told() -> None:
    """A server that knows no such password; what it was asked is not repeated."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        heard: list[bytes] = []

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(4096))
                connection.sendall(b"-WRONGPASS invalid\r\n-NOAUTH required\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(module.RefusedError, match=r"^says WRONGPASS invalid$"):
            module.ask(port, "default", "secret", "PING")
        thread.join()
    assert heard == [b"*3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$6\r\nsecret\r\n*1\r\n$4\r\nPING\r\n"]
    with pytest.raises(module.RefusedError, match=f"does not answer on port {port}"):
        module.ask(port, "default", "secret", "PING")
