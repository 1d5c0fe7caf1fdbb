"""The live feed reaches the clients of every worker process."""

import json
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conftest import Database
from tests.server import Server, environment, serve
from tests.test_api import attach, create


def receive(socket: ClientConnection) -> dict[str, Any]:
    """The next message that is about a post."""
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=15))
        if message["type"] != "resync":
            return message


def open_on_every_worker(server: Server, stack: ExitStack, workers: int = 2) -> list[ClientConnection]:
    """Open feeds until each worker process has at least one."""
    sockets: list[ClientConnection] = []
    pids: set[int] = set()
    while len(pids) < workers:
        assert len(sockets) < 60, f"only {pids} ever got a connection"
        rid = f"live-test-{len(sockets)}-{id(stack)}"
        socket = connect(server.ws_url, additional_headers={"X-Request-ID": rid})
        sockets.append(stack.enter_context(socket))
        pids.add(server.wait_for(message="live feed opened", request_id=rid)[0]["pid"])
    return sockets


def test_every_worker_hears_of_a_post(server: Server, client: httpx.Client) -> None:
    with ExitStack() as stack:
        sockets = open_on_every_worker(server, stack)
        post = create(client, text="Hello <everyone>")
        token = post.pop("edit_token")
        for socket in sockets:
            message = receive(socket)
            assert (message["type"], message["post"]) == ("post", post)
            assert 'id="post-1"' in message["html"]
            assert "Hello &lt;everyone&gt;" in message["html"]
        attach(client, {**post, "edit_token": token}, "a.txt", b"text").raise_for_status()
        assert all(receive(socket)["post"]["attachments"][0]["name"] == "a.txt" for socket in sockets)
        client.delete("/api/posts/1", headers={"x-edit-token": token}).raise_for_status()
        assert all(receive(socket) == {"type": "delete", "id": 1} for socket in sockets)


def test_a_failed_transaction_says_nothing(server: Server, client: httpx.Client, database: Database) -> None:
    with connect(server.ws_url) as socket:
        database.query("SELECT pg_notify('board_events', 'nonsense'), pg_notify('board_events', '[1]')")
        database.query("""SELECT pg_notify('board_events', '{"type": "post", "id": 12345}')""")
        create(client, text="still alive")
        assert receive(socket)["post"]["text"] == "still alive"


def test_other_sites_are_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(server.ws_url, additional_headers={"Origin": "https://evil.example"}).close()
    assert caught.value.response.status_code == 403


def test_clients_are_told_of_a_restart(database: Database, tmp_path: Any) -> None:
    with serve(environment(database.url, tmp_path), tmp_path / "log", workers=1) as server:
        with connect(server.ws_url) as socket:
            server.process.terminate()
            with pytest.raises(ConnectionClosed) as caught:
                receive(socket)
        assert server.process.wait(10) == 0
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    assert server.wait_for(message="stopped")
    assert "Traceback" not in server.log.read_text()
