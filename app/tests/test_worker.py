"""The job queue and its worker."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from board import queue
from board.database import make_engine, make_sessions
from board.settings import PROJECT, Settings
from tests.conftest import Database
from tests.server import SECRET, Server, environment
from tests.test_api import create


def settings(database: Database) -> Settings:
    return Settings(_env_file=None, database_url=database.url, secret_key=SECRET)


def run_queue(database: Database, workers: int = 1) -> int:
    """Work on the queue until it is empty; the number of jobs done."""

    async def work() -> int:
        engine = make_engine(settings(database), pool_size=workers)
        sessions = make_sessions(engine)

        async def one() -> int:
            count = 0
            while await queue.run_one(sessions):
                count += 1
            return count

        try:
            return sum(await asyncio.gather(*(one() for _ in range(workers))))
        finally:
            await engine.dispose()

    return asyncio.run(work())


def test_analysis(client: httpx.Client, database: Database) -> None:
    create(client, text="Weaving, weaving: the loom!")
    assert run_queue(database) == 1
    post = client.get("/api/posts/1").json()
    assert (post["word_count"], post["keywords"], post["flagged"]) == (4, ["weaving", "loom"], False)
    assert "4 words" in client.get("/").text
    assert run_queue(database) == 0


def test_failures_are_tried_again_and_given_up(
    client: httpx.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(session: object, payload: dict[str, object]) -> None:
        raise ValueError("out of luck")

    monkeypatch.setitem(queue.HANDLERS, "analyse_post", fail)
    create(client)
    for attempt in range(1, queue.MAX_ATTEMPTS + 1):
        assert run_queue(database) == 1
        assert run_queue(database) == 0, "it has to wait before it is tried again"
        assert database.query("SELECT attempts, error FROM jobs") == [(attempt, "ValueError: out of luck")]
        database.query("UPDATE jobs SET run_at = now() WHERE state = 'queued'")
    assert database.query("SELECT state FROM jobs") == [("failed",)]


def test_unknown_kind_of_job(database: Database, clean: None) -> None:
    """A job of a newer release is left for that release's worker."""
    database.query("INSERT INTO jobs (kind, payload) VALUES ('from_the_future', '{}')")
    assert run_queue(database) == 0
    assert database.query("SELECT state, attempts FROM jobs") == [("queued", 0)]


def test_no_job_twice_with_two_workers(client: httpx.Client, database: Database, tmp_path: Path) -> None:
    """Two processes on one queue share the work; one of them is killed in the middle."""
    env = environment(database.url, tmp_path)
    logs = [tmp_path / "one", tmp_path / "two"]
    workers = []
    for log in logs:
        with log.open("wb") as output:
            command = [sys.executable, "-m", "board.worker"]
            workers.append(subprocess.Popen(command, cwd=PROJECT, env=env, stderr=output))
    try:
        end = time.monotonic() + 30
        while not all("worker started" in log.read_text() for log in logs):
            assert time.monotonic() < end
            time.sleep(0.05)
        database.query("INSERT INTO posts (author, text) VALUES ('Ada', 'Hello there')")
        database.query(
            """INSERT INTO jobs (kind, payload, request_id)
               SELECT 'analyse_post', '{"post_id": 1}', 'from-a-request' FROM generate_series(1, 300)"""
        )
        database.query("NOTIFY board_jobs")
        while database.query("SELECT count(*) FROM jobs WHERE state = 'done'")[0] < (100,):
            time.sleep(0.01)
        workers[0].kill()
        while database.query("SELECT count(*) FROM jobs WHERE state = 'done'") != [(300,)]:
            assert time.monotonic() < end + 30
            time.sleep(0.05)
        workers[1].send_signal(signal.SIGTERM)
        assert workers[1].wait(5) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    done = [line for line in lines if line["message"] == "job done"]
    assert len({line["job_id"] for line in done}) == len(done)
    assert len({line["pid"] for line in done}) == 2
    assert {line["request_id"] for line in done} == {"from-a-request"}
    assert database.query("SELECT max(attempts) FROM jobs") == [(1,)]
    assert lines[-1]["message"] == "worker stopped"


def test_worker_wakes_up_at_once(
    server: Server, client: httpx.Client, database: Database, tmp_path: Path
) -> None:
    env = environment(database.url, tmp_path)
    with (tmp_path / "log").open("wb") as output:
        worker = subprocess.Popen([sys.executable, "-m", "board.worker"], cwd=PROJECT, env=env, stderr=output)
    try:
        time.sleep(2.5)  # it has polled by now, and would poll again in 5 s
        answer = client.post(
            "/api/posts", json={"author": "Ada", "text": "Hi"}, headers={"x-request-id": "from-web-to-worker"}
        )
        answer.raise_for_status()
        end = time.monotonic() + 2
        while client.get("/api/posts/1").json()["word_count"] is None:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        worker.terminate()
        worker.wait(5)
    line = next(line for line in (tmp_path / "log").read_text().splitlines() if "job done" in line)
    assert json.loads(line)["request_id"] == "from-web-to-worker"
