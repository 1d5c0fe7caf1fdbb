"""The nightly job."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import psycopg

from board.nightly import LOCK
from board.settings import PROJECT
from tests.conftest import Database
from tests.server import environment
from tests.test_api import attach, create
from tests.test_worker import run_queue


def nightly(database: Database, folder: Path, status: int = 0, **more: str) -> list[dict[str, Any]]:
    """Run it as the timer does; its log lines."""
    done = subprocess.run(
        [sys.executable, "-m", "board.nightly"],
        cwd=PROJECT,
        env=environment(database.url, folder, **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def old_file(folder: Path, name: str) -> Path:
    path = folder / "attachments" / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("old")
    os.utime(path, (time.time() - 7200,) * 2)
    return path


def test_digest_of_yesterday(client: httpx.Client, database: Database, folder: Path) -> None:
    for author, text in (("Ada", "Looms weave"), ("Ada", "Looms again"), ("Grace", "Compilers")):
        create(client, author=author, text=text)
    attach(client, create(client, author="Today"), "a.txt", b"text").raise_for_status()
    run_queue(database)
    database.query("UPDATE posts SET created = created - interval '1 day' WHERE author <> 'Today'")
    line = nightly(database, folder)[-1]
    assert (line["message"], line["digests"], line["posts"], line["files"]) == ("nightly done", 7, 0, 0)
    assert line["request_id"].startswith("nightly-")
    digest = client.get("/api/digests").json()[0]
    assert (digest["posts"], digest["authors"], digest["words"], digest["attachments"]) == (3, 2, 5, 0)
    assert digest["keywords"][0] == "looms"
    assert "3 posts by 2 people, 5 words." in client.get("/").text
    # Running it again changes nothing.
    assert nightly(database, folder)[-1]["digests"] == 0


def test_retention_and_orphans(client: httpx.Client, database: Database, folder: Path) -> None:
    kept, gone = create(client), create(client)
    for post in (kept, gone):
        attach(client, post, "a.txt", b"text").raise_for_status()
    database.query("UPDATE posts SET created = now() - interval '31 days' WHERE id = %s", gone["id"])
    database.query("UPDATE jobs SET state = 'done', finished = now() - interval '8 days'")
    database.query(
        "INSERT INTO rate_limits VALUES ('a', now() - interval '1 s'), ('b', now() + interval '1 h')"
    )
    for path in (folder / "attachments").glob("*/*"):
        os.utime(path, (time.time() - 7200,) * 2)
    orphan, partial = old_file(folder, uuid.uuid4().hex), old_file(folder, f"{uuid.uuid4().hex}.part")
    foreign, young = old_file(folder, "ab-notes"), folder / "attachments" / "aa" / uuid.uuid4().hex
    young.parent.mkdir(exist_ok=True)
    young.write_text("being uploaded")

    line = nightly(database, folder, RETENTION_DAYS="30")[-1]
    assert (line["posts"], line["files"], line["jobs"]) == (1, 3, 2)
    assert not orphan.exists()
    assert not partial.exists()
    assert foreign.exists()
    assert young.exists()
    assert client.get(f"/api/posts/{gone['id']}").status_code == 404
    file = client.get(f"/api/posts/{kept['id']}").json()["attachments"][0]
    assert client.get(file["url"]).text == "text"
    assert database.query("SELECT key FROM rate_limits") == [("b",)]


def test_retention_zero_keeps_everything(client: httpx.Client, database: Database, folder: Path) -> None:
    create(client)
    database.query("UPDATE posts SET created = now() - interval '10 years'")
    assert nightly(database, folder, RETENTION_DAYS="0")[-1]["posts"] == 0
    assert client.get("/api/posts/1").status_code == 200


def test_says_which_file_is_missing(client: httpx.Client, database: Database, folder: Path) -> None:
    file = attach(client, create(client), "a.txt", b"text").json()
    next((folder / "attachments").glob("*/*")).unlink()
    lines = nightly(database, folder)
    assert [line["attachment"] for line in lines if line["message"] == "attachment has no file"] == [
        file["id"]
    ]
    assert client.get(file["url"]).status_code == 404


def test_never_two_at_once(database: Database, clean: None, folder: Path) -> None:
    with psycopg.connect(database.url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        assert nightly(database, folder)[-1]["message"] == "another nightly job is running, nothing done"


def test_fails_when_the_database_is_away(folder: Path) -> None:
    away = Database("", "", "postgresql://board:Zx81@127.0.0.1:1/board")
    assert nightly(away, folder, status=1)[-1]["message"] == "nightly failed"
