"""What a deploy would bring, told without bringing it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reports import diff, history
from ansible.module_utils.berth.runtime import naming, units

from tests.support.entry import board
from tests.support.git import unconfined

APP = board(
    source={"subdir": "", "path": "/x"},
    env={"TITLE": "old", "GONE": "x"},
    secrets=[],
    processes=[{"name": "web", "workers": 2}, {"name": "worker", "command": "w"}],
    jobs=[],
    persistent=["uploads"],
    limits={"tasks": 512},
    database={"enabled": True, "name": "board"},
    migrations={"command": "", "enabled": True},
)
REVISION = (
    '"""Add likes."""\nrevision = "2"\ndown_revision = "1"\n\n\ndef upgrade():\n    op.drop_table("t")\n'
)


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is where the live release left it."""
    monkeypatch.setattr(history.database.Database, "__init__", lambda *_: None)
    monkeypatch.setattr(history.database.Database, "ask", lambda *_: None)


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    """A server with a live release."""
    place = Paths("board", tmp_path / "server")
    live = place.release("20261121T000000Z-aaaaaaa")
    for name, text in {
        "main.py": "one",
        "gone.py": "x",
        "same.py": "same",
        ".berth/run/web": "sh",
        "__pycache__/main.pyc": "x",
        "release.json": json.dumps(
            {"app": APP, "healthy": True, "schema": {"to": "1"}, "version": "aaaaaaa"}
        ),
    }.items():
        (live / name).parent.mkdir(parents=True, exist_ok=True)
        (live / name).write_text(text)
    (live / "uploads").symlink_to(tmp_path)
    units.replace_link(place.web_sock, naming.socket(place, live.name))
    return place


def asked(folder: Path, app: dict[str, Any], **more: Any) -> dict[str, Any]:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {
        "app": app,
        "digest": "b" * 64,
        "files": diff.manifest(folder, names),
        "scripts": diff.scripts(folder, app),
        **more,
    }


def described(place: Paths, args: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = diff.describe(place, args)["answer"]
    return answer


def test_a_folder(place: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for name, text in {
        "main.py": "two",
        "same.py": "same",
        "new.py": "n",
        ".env": "SECRET=1",
        "uploads/seed": "s",
        "alembic.ini": "[alembic]\nscript_location = migrations\n",
        "migrations/versions/1.py": 'revision = "1"\ndown_revision = None\n',
        "migrations/versions/2_likes.py": REVISION,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    app = {**APP, "env": {"TITLE": "hunter2", "NEW": "y"}, "limits": {**APP["limits"], "tasks": 600}}
    app["processes"] = [{**APP["processes"][0], "workers": 3}]
    answer = described(place, asked(folder, app, secrets=["KEY"]))
    assert [line for line in answer["files"] if "migrations" not in line and "ini" not in line] == [
        "D gone.py",
        "M main.py",
        "A new.py",
    ]
    changes = {one["key"]: (one["from"], one["to"]) for one in answer["settings"]}
    assert changes == {
        "env.GONE": ("(not shown)", "(none)"),
        "env.NEW": ("(none)", "(not shown)"),
        "env.TITLE": ("(not shown)", "(not shown)"),
        "limits.tasks": ("512", "600"),
        "processes.web.workers": ("2", "3"),
        **{
            f"processes.worker.{key}": (str(value), "(none)")
            for key, value in APP["processes"][1].items()
            if key != "name"
        },
        "secrets.KEY": ("(not shown)", "(not shown)"),
    }
    assert "hunter2" not in json.dumps(answer)
    assert "2_likes.py: Add likes.  ! drops table t" in answer["text"]
    assert "Migrations from schema 1 (1):" in answer["text"]


def test_nothing_to_bring(place: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, text in {"main.py": "one", "gone.py": "x", "same.py": "same"}.items():
        (folder / name).write_text(text)
    answer = described(place, asked(folder, {**APP, "source": {**APP["source"], "path": "/y"}}))
    assert "nothing would change" in answer["text"]


def test_before_the_first_deploy(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    answer = described(Paths("board", tmp_path / "server"), asked(folder, APP))
    assert answer["text"] == "board: nothing is live; a deploy brings bbbbbbb as a whole."


def test_a_repository(place: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unconfined(monkeypatch)
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*args: str) -> str:
        who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
        done = subprocess.run(
            ["git", *who, *args], cwd=repository, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (repository / "main.py").write_text("one")
    git("add", ".")
    git("commit", "-qm", "First")
    first = git("rev-parse", "HEAD")
    (repository / "main.py").write_text("two")
    git("commit", "-qam", "Say two")
    live = place.release("20261121T000000Z-aaaaaaa") / "release.json"
    app = {**APP, "source": {**APP["source"], "path": "", "git": str(repository)}}
    live.write_text(json.dumps({"app": app, "healthy": True, "schema": {"to": ""}, "version": first}))
    before = sorted(str(path) for path in place.root.rglob("*"))
    answer = described(place, {"app": app, "secrets": []})
    assert sorted(str(path) for path in place.root.rglob("*")) == before
    assert len(answer["commits"]) == 1
    assert answer["commits"][0].endswith("Ann: Say two")
    assert answer["files"] == ["M main.py"]
    assert answer["settings"] == []
