"""Health, readiness, metrics, version and logs of a server with two workers."""

import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from board import metrics
from tests.cluster import Cluster
from tests.conftest import Database
from tests.server import Server, environment, serve
from tests.test_api import create
from tests.test_live import open_on_every_worker


def value(text: str, name: str) -> float:
    """A sample of the metrics' text."""
    found = re.findall(rf"^{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE)
    assert len(found) <= 1, f"{name} is there {len(found)} times"
    return float(found[0]) if found else 0.0


def wait_until(what: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


def test_health_and_version(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.head("/healthz").status_code == 200
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/version").json() == {
        "name": "board", "version": "1.0.0", "release": "r1", "schema_revision": "0002",
    }  # fmt: skip


def test_metrics_add_up_over_workers(server: Server, client: httpx.Client) -> None:
    name = 'board_http_requests_total{method="GET",route="/api/posts/{post_id}",status="200"}'
    post = create(client)
    before = value(server.get("/metrics").text, name)
    pids: set[int] = set()
    sent = 0
    while len(pids) < 2:
        for _ in range(10):
            server.get(f"/api/posts/{post['id']}", headers={"x-request-id": "count-these"}).raise_for_status()
            sent += 1
        pids = {line["pid"] for line in server.wait_for(request_id="count-these", message="request")}
    # Whichever worker is asked, the answer is the same.
    for _ in range(6):
        assert value(server.get("/metrics").text, name) == before + sent
    text = server.get("/metrics").text
    assert value(text, 'board_jobs{state="queued"}') == 1
    assert value(text, "board_http_requests_in_progress") == 1
    assert 'route="unmatched"' in server.get("/metrics").text or server.get("/nothing").status_code == 404


def test_metrics_survive_a_killed_worker(database: Database, tmp_path: Path) -> None:
    more = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "made" / "here")}
    name = 'board_http_requests_total{method="GET",route="/version",status="200"}'
    with serve(environment(database.url, tmp_path, **more), tmp_path / "log") as server, ExitStack() as stack:
        for _ in range(10):
            server.get("/version")
        open_on_every_worker(server, stack)
        before = value(server.get("/metrics").text, "board_live_clients")
        assert before >= 2
        victim = server.wait_for(message="started")[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(server.wait_for(message="started")) == 3)
        text = server.get("/metrics").text
        assert 0 < value(text, "board_live_clients") < before
        assert value(text, name) == 10


def test_metrics_folder_is_emptied_once_a_server(tmp_path: Path) -> None:
    old, alive = tmp_path / "counter_999999999.db", tmp_path / f"counter_{os.getpid()}.db"
    old.touch()
    alive.touch()
    metrics.prepare_folder(tmp_path)
    assert not old.exists()
    assert alive.exists()
    # A worker of the same server died meanwhile: its counts belong to the sum.
    old.touch()
    metrics.prepare_folder(tmp_path)
    assert old.exists()


def test_metrics_are_not_for_the_public(server: Server, database: Database, tmp_path: Path) -> None:
    assert server.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 404
    token = "Qm7vT2xLr9KpZ4wNc8YbHd3JfSg6Va5E"
    with serve(environment(database.url, tmp_path, METRICS_TOKEN=token), tmp_path / "log", 1) as guarded:
        assert guarded.get("/metrics").status_code == 401
        assert guarded.get("/metrics", headers={"authorization": f"Bearer {token}x"}).status_code == 401
        headers = {"authorization": f"Bearer {token}", "x-forwarded-for": "192.0.2.1"}
        assert "board_http_requests_total" in guarded.get("/metrics", headers=headers).text


def test_database_down_and_up_again(server: Server, client: httpx.Client, postgres: Cluster) -> None:
    if not postgres.ours:
        pytest.skip("cannot stop somebody else's Postgres")
    with ExitStack() as stack:
        socket = open_on_every_worker(server, stack)[0]
        postgres.stop()
        try:
            for _ in range(4):
                answer = server.get("/readyz")
                assert answer.status_code == 503
                assert answer.json()["reason"] == "the database does not answer"
                assert server.get("/healthz").status_code == 200
            assert server.get("/metrics").status_code == 200
            answer = server.get("/api/posts")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            page = server.get("/", headers={"accept": "text/html"})
            assert "cannot reach its database" in page.text
        finally:
            postgres.start()
        wait_until(lambda: all(server.get("/readyz").status_code == 200 for _ in range(6)))
        # The feed is listening again and tells its clients to look for what they missed.
        assert socket.recv(timeout=15) == '{"type": "resync"}'
    assert "Traceback" not in server.log.read_text()


def test_a_locked_table_is_not_ready_for_two_seconds_only(
    server: Server, database: Database, clean: None
) -> None:
    with psycopg.connect(database.owner_url) as owner:
        owner.execute("LOCK TABLE posts")
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.get("/readyz").status_code, range(16)))
        assert set(answers) == {503}
        assert time.monotonic() - began < 8
    wait_until(lambda: server.get("/readyz").status_code == 200)


def test_starts_without_a_database(tmp_path: Path) -> None:
    url = "postgresql://board:Zx81@127.0.0.1:1/board"
    with serve(environment(url, tmp_path), tmp_path / "log", workers=1) as server:
        assert server.get("/healthz").status_code == 200
        assert server.get("/readyz").status_code == 503
    assert "Zx81" not in server.log.read_text()


def test_not_ready_before_migrations(make_database: Callable[[], Database], tmp_path: Path) -> None:
    with serve(environment(make_database().url, tmp_path), tmp_path / "log", workers=1) as server:
        answer = server.get("/readyz")
        assert answer.status_code == 503
        assert "run the migrations" in answer.json()["reason"]
        assert server.get("/version").json()["schema_revision"] is None
        assert server.get("/api/posts").status_code == 500
        line = server.wait_for(message="request failed")[0]
        assert "UndefinedTable" in line["exception"]
        assert line["request_id"]


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        ("abcd-1234_.x", True),
        ("a" * 128, True),
        ("short", False),
        ("a" * 129, False),
        ("with space in it", False),
    ],
)
def test_request_id(client: httpx.Client, server: Server, given: str, accepted: bool) -> None:
    answer = client.get("/api/posts", headers={"x-request-id": given})
    echoed = answer.headers["x-request-id"]
    assert (echoed == given) is accepted
    assert re.fullmatch("[A-Za-z0-9._-]{8,128}", echoed)
    line = server.wait_for(request_id=echoed, message="request")[0]
    assert (line["method"], line["path"], line["status"], line["level"]) == ("GET", "/api/posts", 200, "info")
    assert line["ms_to_first_byte"] > 0


def test_request_id_reaches_every_line(database: Database, tmp_path: Path) -> None:
    env = environment(database.url, tmp_path, LOG_SQL="true")
    with serve(env, tmp_path / "log", workers=1) as server:
        rid = "follow-me-everywhere"
        server.get("/api/posts?limit=1", headers={"x-request-id": rid}).raise_for_status()
        server.wait_for(logger="uvicorn.access", request_id=rid)
        lines = [line for line in server.lines() if line.get("request_id") == rid]
        assert {line["logger"] for line in lines} >= {"uvicorn.access", "sqlalchemy.engine.Engine"}
        # In production the values of queries are not logged.
        secret = "a private matter nobody should read in a log"
        httpx.post(f"{server.url}/api/posts", json={"author": "Ada", "text": secret}).raise_for_status()
        assert "private matter" not in server.log.read_text()


def test_probes_leave_no_lines(client: httpx.Client, server: Server) -> None:
    client.get("/healthz", headers={"x-request-id": "quiet-probe"})
    client.get("/version", headers={"x-request-id": "loud-request"})
    server.wait_for(request_id="loud-request", message="request")
    assert not [line for line in server.lines() if line.get("request_id") == "quiet-probe"]
