"""The rate limit holds over all workers together."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.conftest import Database
from tests.server import environment, serve
from tests.test_pages import submit


def test_shared_by_workers_and_fair_to_others(database: Database, clean: None, tmp_path: Path) -> None:
    # gunicorn trusts the proxy's headers from 127.0.0.1, as it trusts the proxy on a real server.
    env = environment(database.url, tmp_path, RATE_LIMIT_WRITES="5/hour")
    with serve(env, tmp_path / "log", workers=2) as server:

        def write(client: str) -> httpx.Response:
            headers = {"x-forwarded-for": client}
            return httpx.post(f"{server.url}/api/posts", json={"author": "A", "text": "b"}, headers=headers)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(write, ["192.0.2.1"] * 20))
        statuses = [answer.status_code for answer in answers]
        assert sorted(statuses) == [201] * 5 + [429] * 15
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert 600 < int(refused.headers["retry-after"]) <= 720
        assert "Please try again in" in refused.json()["detail"]
        assert write("192.0.2.2").status_code == 201
        # Reading is free, and no address is kept.
        assert server.get("/api/posts", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 200
        assert "192.0.2" not in str(database.query("SELECT key FROM rate_limits"))
        with httpx.Client(base_url=server.url, headers={"x-forwarded-for": "192.0.2.1"}) as client:
            answer = submit(client, text="Keep this")
        assert answer.status_code == 429
        assert "Keep this</textarea>" in answer.text
        # Time passes: one of five an hour comes back every 12 minutes.
        database.query("UPDATE rate_limits SET used_until = used_until - interval '13 minutes'")
        assert [write("192.0.2.1").status_code for _ in range(2)] == [201, 429]
