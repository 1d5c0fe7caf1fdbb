"""The SQL of migrations: what must not be in it, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth import environment
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.migrations import offline
from ansible.module_utils.berth.packaging import once
from ansible.module_utils.berth.packaging.once import Code
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.runtime.transient import Work

from tests.support.entry import board


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A server with an app that has secrets of every kind."""
    place = Paths("board", tmp_path)
    place.etc.mkdir(parents=True)
    (place.etc / "secrets.json").write_text(json.dumps({"API_KEY": "it's 100% secret", "FLAG": "1"}))
    passwords = tmp_path / "etc/berth/postgresql"
    passwords.mkdir()
    (passwords / "board").write_text("runtimePassword\n")
    (passwords / "board_owner").write_text("ownerPassword\n")
    redis = tmp_path / "etc/berth/redis/board"
    redis.mkdir(parents=True)
    (redis / "port").write_text("6401\n")
    (redis / "password").write_text("redisPassword\n")
    variables = {
        "BROKER": "amqp://me:br%40ker@mq.example.com/x",
        "SMTP_PASSWORD": "letmeout",
        "TITLE": "Board",
        "PEM": "x",
    }
    (place.etc / "env").write_text(environment.render(variables))
    (place.etc / "migrate.env").write_text(environment.render({"MIGRATE_TOKEN": "onlyhere"}))
    return place


def place(paths: Paths) -> offline.Place:
    root = paths.root
    return offline.Place(root, root, Code(paths, "r", root / "env", [root]))


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    text = "INSERT INTO t VALUES ('it''s 100% secret', 'letmeout', 'Board', 10);\n"
    monkeypatch.setattr(once, "transient", lambda _: Result(0, text + LINTED, ""))
    made = offline.make("unit", place(paths), "", "head")
    assert made.text == "INSERT INTO t VALUES ('(hidden)', '(hidden)', 'Board', 10);\n"


REHEARSE = (
    "berth rehearse board (rehearse.yml -e app=board) gets it, by running them on a copy of the live rows."
)
LINTED = "\n\x1eLint\n[]"
WRONG = '{"line": 0, "rule_name": "syntax-error"}'
TRACE = """Traceback (most recent call last):
  File "{root}/migrations/env.py", line 9, in <module>
    connect()
OperationalError: ownerPassword was refused
"""


@pytest.mark.parametrize(
    ("result", "sql", "note"),
    [
        (Result(0, "BEGIN;\n" + LINTED, "INFO"), "BEGIN;\n", ""),
        (Result(0, "BEGIN;\n", ""), "BEGIN;\n", offline.NOT_LINTED),
        (
            Result(0, f"BEGIN;\n{LINTED[:-1]}{WRONG}]", ""),
            "BEGIN;\n",
            "They were not linted: squawk cannot read BEGIN.",
        ),
        (Result(0, "BEGIN;\n\n\x1eLint\nno", ""), "BEGIN;\n", offline.NOT_LINTED),
        (
            Result(0, f"SELECT 1;\n{'x' * offline.LIMIT}{LINTED}", ""),
            "SELECT 1;\n-- The rest is left out",
            "",
        ),
        (
            Result(1, "SELECT 1;\n" + "x" * offline.LIMIT, ""),
            "SELECT 1;\n-- The rest is left out",
            "They were not linted: they are too long.",
        ),
        (
            Result(1, "BEGIN;", TRACE),
            "",
            "Their SQL cannot be made without a database: OperationalError: (hidden) was refused "
            f"(migrations/env.py:9). {REHEARSE}",
        ),
        (
            Result(255, "", "FAILED: no."),
            "",
            f"Their SQL cannot be made without a database: FAILED: no. {REHEARSE}",
        ),
        (
            Result(127, "", ""),
            "",
            f"Their SQL cannot be made without a database: exit status 127. {REHEARSE}",
        ),
        (ReleaseError("It took too long."), "", f"Their SQL is not known: It took too long. {REHEARSE}"),
    ],
)
def test_what_comes_of_it(
    monkeypatch: pytest.MonkeyPatch, paths: Paths, tmp_path: Path, result: Any, sql: str, note: str
) -> None:
    seen: list[list[str]] = []

    def transient(work: Work) -> Result:
        seen.append(list(work.argv))
        if isinstance(result, ReleaseError):
            raise result
        return Result(result.code, result.out, result.err.replace("{root}", str(tmp_path)))

    monkeypatch.setattr(once, "transient", transient)
    made = offline.make("unit", place(paths), "", "head")
    assert made.text.startswith(sql)
    assert bool(made.text) is bool(sql)
    assert made.note == note
    assert seen[0][-4:] == [f"{tmp_path}/env/bin/alembic", "upgrade", "base:head", "--sql"]


def test_several_heads_to_start_from(paths: Paths) -> None:
    note = offline.make("unit", place(paths), "a2,b1", "heads").note
    assert note.endswith(f"cannot start from several heads. {REHEARSE}")


def test_what_ran_already_is_linted_too_and_goes_over_its_input(
    monkeypatch: pytest.MonkeyPatch, paths: Paths
) -> None:
    """It may be long, and it may hold a secret: an argument would be for all to read."""
    drops = json.dumps([{"line": 1, "rule_name": "ban-drop-column"}])
    seen: list[Work] = []

    def transient(work: Work) -> Result:
        seen.append(work)
        return Result(0, f"\n\x1eLint\n{drops}", "")

    monkeypatch.setattr(once, "transient", transient)
    monkeypatch.setattr(once.sandbox, "build", lambda *_: [])
    text = "-- Running upgrade -> 0002\nALTER TABLE t DROP c;"
    made = offline.linted(paths, board(), text)
    assert [(one.rule, one.revision, one.target) for one in made.found or ()] == [
        ("ban-drop-column", "0002", "t")
    ]
    assert seen[0].stdin == text
    assert "DROP" not in " ".join(seen[0].argv)
    assert seen[0].user == "berth-build-board"
