"""The app refuses unsafe settings, says all that is wrong, and never repeats a secret."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from board.database import Capacity
from board.settings import PROJECT, Rate, Settings, SettingsProblem, parse_rate, read_settings
from board.weakness import weakness
from tests.cluster import free_port
from tests.conftest import Database
from tests.server import SECRET, command, environment

GOOD = {"ENVIRONMENT": "production", "DATABASE_URL": "postgresql://board:Zx81@db/board", "SECRET_KEY": SECRET}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    for name in (*Settings.model_fields, "board_title"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)

    def reader(**values: str) -> Settings:
        for name, value in {**GOOD, **values}.items():
            monkeypatch.setenv(name, value)
        return read_settings(Settings)

    return reader


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql", "postgres"])
def test_good_settings(read: Callable[..., Settings], scheme: str) -> None:
    settings = read(DATABASE_URL=f"{scheme}://board:p%40ss@db:6432/board?sslmode=require")
    assert settings.db_url.drivername == "postgresql+psycopg"
    assert settings.db_url.password == "p@ss"
    assert settings.db_dsn == "postgresql://board:p%40ss@db:6432/board?sslmode=require"
    assert settings.attachments == PROJECT / "attachments"
    assert "p@ss" not in repr(settings)
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SECRET_KEY", "", "SECRET_KEY is missing"),
        ("SECRET_KEY", "changeme-changeme-changeme-changeme!", "placeholder"),
        ("SECRET_KEY", "my-Example-key-0123456789-abcdefghijklm", "placeholder"),
        ("SECRET_KEY", "kD83jfOqpW", "too short (10 characters, at least 32"),
        ("SECRET_KEY", "a" * 64, "easy to guess"),
        ("SECRET_KEY", "x9Kq2Lm8" * 6, "easy to guess"),
        ("SECRET_KEY", "abcdefghijklmnopqrstuvwxyz0123456789", "easy to guess"),
        ("METRICS_TOKEN", "hunter2", "METRICS_TOKEN is too short"),
        ("CORS_ORIGINS", "https://a.example,*", "CORS_ORIGINS has a wildcard"),
        ("CORS_ORIGINS", "https://*.example", "CORS_ORIGINS has a wildcard"),
        ("CORS_ORIGINS", "a.example/path", "CORS_ORIGINS must hold origins"),
        ("DEBUG", "true", "DEBUG is on"),
        ("DATABASE_URL", "", "DATABASE_URL is missing"),
        ("DATABASE_URL", "board", "DATABASE_URL is not a URL"),
        ("DATABASE_URL", "mysql://u:hunter2@db/board", "DATABASE_URL has the unknown scheme 'mysql'"),
        ("DATABASE_URL", "postgresql://u:hunter2@db", "DATABASE_URL names no database"),
        (
            "DATABASE_URL",
            "postgresql://u:changeme@db/board",
            "DATABASE_URL has a placeholder as its password",
        ),
        ("ENVIRONMENT", "prod", "ENVIRONMENT input should be 'development', 'test' or 'production'"),
        ("RATE_LIMIT_WRITES", "lots", "RATE_LIMIT_WRITES must be like 30/minute"),
        ("DB_POOL_SIZE", "many", "DB_POOL_SIZE input should be a valid integer"),
        ("MAX_ATTACHMENT_MB", "0", "MAX_ATTACHMENT_MB input should be greater than 0"),
    ],
)
def test_refusals(read: Callable[..., Settings], name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsProblem) as caught:
        read(**{name: value})
    assert len(caught.value.problems) == 1
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert value not in str(caught.value) or len(value) < 8


def test_everything_at_once(read: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsProblem) as caught:
        read(
            SECRET_KEY="secret",
            CORS_ORIGINS="*",
            DEBUG="1",
            DATABASE_URL="",
            RATE_LIMIT_WRITES="x",
            LOG_LEVEL="?",
        )
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "DATABASE_URL", "DEBUG", "SECRET_KEY", "CORS_ORIGINS", "RATE_LIMIT_WRITES", "LOG_LEVEL",
    ]  # fmt: skip
    assert "6 problems" in str(caught.value)


def test_development_is_lenient(read: Callable[..., Settings]) -> None:
    settings = read(ENVIRONMENT="development", SECRET_KEY="", CORS_ORIGINS="*", DEBUG="true")
    assert settings.debug
    assert settings.cors_origins == ("*",)


@pytest.mark.parametrize(
    "value", [SECRET, "0123456789abcdef" * 0 + "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"]
)
def test_strong_secrets(value: str) -> None:
    assert weakness(value) == ""


def test_rates() -> None:
    assert parse_rate("30/minute") == Rate(30, 60)
    assert parse_rate(" 5 / Seconds ") == Rate(5, 1)
    assert parse_rate("off") is None
    with pytest.raises(ValueError, match="30/minute"):
        parse_rate("0/minute")


@pytest.mark.parametrize("target", ["web", "worker", "nightly"])
def test_process_ends_with_a_message(tmp_path: Path, target: str) -> None:
    env = environment("", tmp_path, SECRET_KEY="hunter2-hunter2", CORS_ORIGINS="*", DEBUG="yes")
    line = command(free_port(), 1) if target == "web" else [sys.executable, "-m", f"board.{target}"]
    done = subprocess.run(line, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 3
    assert "board cannot start, 4 problems in its settings:" in done.stderr
    for name in ("DATABASE_URL", "SECRET_KEY", "CORS_ORIGINS", "DEBUG"):
        assert f"  - {name} " in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_unusable_metrics_folder_is_said_plainly(tmp_path: Path) -> None:
    env = environment("postgresql://board@db/board", tmp_path, PROMETHEUS_MULTIPROC_DIR="/proc/nowhere")
    done = subprocess.run(
        [sys.executable, "-c", "import board.main"],
        cwd=PROJECT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith("board cannot start: PROMETHEUS_MULTIPROC_DIR /proc/nowhere cannot be used")


def test_readme_and_example_know_every_setting() -> None:
    readme, example = (PROJECT / "README.md").read_text(), (PROJECT / ".env.example").read_text()
    for name in (*Settings.model_fields, "prometheus_multiproc_dir"):
        variable = "BOARD_TITLE" if name == "title" else name.upper()
        assert f"`{variable}`" in readme
        assert variable in example or variable in {
            "WEB_CONCURRENCY",
            "BERTH_RELEASE",
            "PROMETHEUS_MULTIPROC_DIR",
        }


def test_capacity() -> None:
    assert Capacity(per_worker=6, workers=2, available=97).problem == ""
    assert "need 808 connections, but the server gives this app 97" in Capacity(100, 4, 97).problem
    assert "set DB_POOL_SIZE to 10 or less" in Capacity(100, 4, 97).problem
    assert "run fewer workers" in Capacity(6, 200, 97).problem


def test_too_many_connections_refuse_to_start(database: Database, tmp_path: Path) -> None:
    env = environment(database.url, tmp_path, WEB_CONCURRENCY="4", DB_POOL_SIZE="50")
    done = subprocess.run(
        command(free_port(), 1), cwd=PROJECT, env=env, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 3
    assert "board cannot start: 4 web workers with 51 database connections each" in done.stderr
    assert "Traceback" not in done.stderr
