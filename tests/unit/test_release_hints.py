"""What a source says of the settings that it needs, each with the key to write."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command, untrusted
from ansible.module_utils.berth.packaging import environments
from ansible.module_utils.berth.packaging.environments import Environments
from ansible.module_utils.berth.packaging.tree import Tree
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reading import dependencies, launch, reads, wheels, writes
from ansible.module_utils.berth.reading.interpreters import PythonWish
from ansible.module_utils.berth.reports import detect, hints
from ansible.module_utils.berth.runtime.transient import Work
from ansible.plugins.action import ActionBase

from plugins.action import release
from tests.support.entry import board

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MAIN = "from fastapi import FastAPI\napp = FastAPI()\n"


def app(**more: Any) -> dict[str, Any]:
    return board(**{"name": "shop", "domains": ["shop.example.com"], "database": {}, **more})


def write(folder: Path, **files: str) -> Path:
    """`a__b_py` is a/b.py."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py").replace("_yml", ".yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def told(folder: Path, work: str = "", **more: Any) -> list[str]:
    said: list[str] = hints.of_source(app(**more), folder, folder, folder / work)
    return said


# Host names ---------------------------------------------------------------------------------------

HOSTS = "from starlette.middleware.trustedhost import TrustedHostMiddleware\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('app.add_middleware(TrustedHostMiddleware, allowed_hosts=["app.internal", "x"])', "app.internal"),
        ('HOSTS = ("a.test",)\napp.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)', "a.test"),
        ('app = TrustedHostMiddleware(app, allowed_hosts=["*.internal"])', "app.internal"),
        ('m = [Middleware(TrustedHostMiddleware, allowed_hosts=["a"])]', "a"),
        ('app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*.example.com"])', ""),
        ('app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"])', ""),
        ("app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.hosts)", ""),
        ('app.add_middleware(TrustedHostMiddleware, allowed_hosts=["a", name])', ""),
        ("app.add_middleware(TrustedHostMiddleware)", ""),
    ],
)
def test_a_list_of_host_names_without_the_one_that_is_asked(tmp_path: Path, text: str, name: str) -> None:
    write(tmp_path, main_py=HOSTS + text)
    said = told(tmp_path)
    assert len(said) == bool(name)
    if name:
        assert f'write proxy: {{upstream_host: "{name}"}}' in said[0]
        assert "main.py:" in said[0]
        assert told(tmp_path, proxy={"upstream_host": name}) == []


# Processes ----------------------------------------------------------------------------------------

COMPOSE = """
x-common: &common
  command: celery -A not.a.service worker
services:
  web:
    command: uvicorn main:app --reload
  worker:
    <<: *common
    command: celery -A app.tasks worker -Q high,low -c ${CONCURRENCY:-2}
  beat:
    command: ["celery", "-A", "app.tasks", "beat"]
  queue:
    # command: arq none
    command:
      - arq
      - app.worker.WorkerSettings
      - --watch
      - app/
  mail-er:
    command: >
      uv run --no-dev
      taskiq worker app.broker:broker
  shell:
    command: sh -c "cd jobs && dramatiq tasks"
  flower:
    command: celery -A app.tasks flower
  db:
    image: postgres
volumes:
  rq: {}
"""


def test_what_works_off_a_queue_in_a_compose_file(tmp_path: Path) -> None:
    write(tmp_path, docker_compose_yml="", main_py=MAIN)
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)
    found = {one.name: one.line for one in launch.commands(tmp_path, tmp_path)}
    assert found == {
        "worker": "celery -A app.tasks worker -Q high,low -c 2",
        "beat": "celery -A app.tasks beat",
        "queue": "arq app.worker.WorkerSettings",
        "mail-er": "taskiq worker app.broker:broker",
        "shell": "cd jobs && dramatiq tasks",
    }
    said = told(tmp_path)
    assert said[0] == (
        "docker-compose.yml:9 runs worker beside the web server: write under processes: - {name: worker, "
        'command: "celery -A app.tasks worker -Q high,low -c 2"}'
    )
    # What is to be written is YAML, and means the same.
    for line, one in zip(said, launch.commands(tmp_path, tmp_path), strict=True):
        assert yaml.safe_load(line.partition("processes: ")[2])[0]["command"] == one.line
    mine = [
        {"name": "web"}, {"name": "w", "command": "python -m celery -A app.tasks worker"},
        {"name": "a", "command": "arq app.worker.WorkerSettings"},
    ]  # fmt: skip
    names = [line.split(" runs ")[1].split()[0] for line in told(tmp_path, processes=mine)]
    assert names == ["beat", "mail-er", "shell"]


def test_a_procfile_names_all_that_runs(tmp_path: Path) -> None:
    text = "web: uvicorn main:app\nrelease: alembic upgrade head\nworker: poetry run python -m app.worker\n"
    (tmp_path / "Procfile").write_text(text)
    assert [(one.name, one.line, one.where) for one in launch.commands(tmp_path, tmp_path)] == [
        ("worker", "python -m app.worker", "Procfile:3")
    ]
    assert told(tmp_path, processes=[{"name": "w", "command": "python -m app.worker"}]) == []


# Settings -----------------------------------------------------------------------------------------

SETTINGS = """
import os
from typing import ClassVar
from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

class Mail(BaseModel):
    host: str

class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="APP_")
    kind: ClassVar[str]
    _private: str
    site_name: str
    title: str = "x"
    size: int = Field(default=3)
    secret_key: str = Field(..., min_length=10)
    stripe_secret_key: str = Field()
    other: str = Field(alias="OTHER_NAME")
    either: str = Field(validation_alias=AliasChoices("ONE", "TWO"))
    mail: Mail
    nothing: str | None = None

TOKEN = os.environ["BOT_TOKEN"]
MAYBE = os.environ.get("MAYBE")
if "IN_IF" in os.environ:
    os.environ["IN_IF"]
def later():
    return os.environ["LATER"]
"""


def test_settings_without_a_default(tmp_path: Path) -> None:
    write(tmp_path, app__config_py=SETTINGS, tests__x_py=SETTINGS.replace("APP_", "T_"))
    needed = {one.name for one in reads.find(tmp_path) if one.required}
    assert needed == {
        "APP_SITE_NAME", "APP_SECRET_KEY", "APP_STRIPE_SECRET_KEY", "OTHER_NAME", "APP_MAIL", "BOT_TOKEN",
    }  # fmt: skip
    assert {"MAYBE", "LATER", "APP_TITLE", "ONE"} < {one.name for one in reads.find(tmp_path)}
    assert told(tmp_path) == [
        "APP_SECRET_KEY (app/config.py:17) has no default and no value: write secrets: [{name: "
        "APP_SECRET_KEY, generate: true}]",
        "APP_STRIPE_SECRET_KEY (app/config.py:18), BOT_TOKEN (app/config.py:24) have no default and no "
        "value: write secrets: [{name: APP_STRIPE_SECRET_KEY}, {name: BOT_TOKEN}] and the values into "
        "vault.yml",
        "APP_SITE_NAME (app/config.py:14), OTHER_NAME (app/config.py:19), APP_MAIL (app/config.py:21) have "
        "no default and no value: write env: {APP_SITE_NAME: …, OTHER_NAME: …, APP_MAIL: …}",
    ]
    secrets = [{"name": name} for name in ("APP_SECRET_KEY", "APP_STRIPE_SECRET_KEY", "BOT_TOKEN")]
    env = {"app_site_name": "x", "OTHER_NAME": "y", "APP_MAIL__HOST": "z"}
    assert told(tmp_path, env=env, secrets=secrets) == []


def test_settings_of_other_libraries(tmp_path: Path) -> None:
    decouple = (
        'from decouple import config\nA = config("A_KEY")\nB = config("B", default=1)\nC = config("C", 2)\n'
    )
    starlette = (
        'from starlette.config import Config\nc = Config(".env")\nD = c("D", cast=str)\nE = c("E", cast=str, '
        'default="")\nclass X(BaseModel):\n    f: str = c("F", str)\n'
    )
    environs = 'from environs import Env\nenv = Env()\nG = env("G")\nH = env.int("H", 3)\nI = env.str("I")\n'
    write(tmp_path, a_py=decouple, b_py=starlette, c_py=environs, d_py='config = {}\nx = config("NO")\n')
    assert {one.name for one in reads.find(tmp_path) if one.required} == {"A_KEY", "D", "F", "G", "I"}


def test_only_settings_of_pydantic_are_read_from_the_environment(tmp_path: Path) -> None:
    model = "class RedisSettings(BaseModel):\n    url: str\nclass Row(RedisSettings):\n    more: str\n"
    base = "from pydantic_settings import BaseSettings\nclass AppSettings(BaseSettings):\n    a: str\n"
    write(
        tmp_path,
        x_py=f"import os\nos.environ\n{model}",
        base_py=base,
        y_py="class B(AppSettings):\n    b: str\n",
    )
    write(tmp_path, z_py="# Settings\nclass C(NoSettings):\n    c: str\n")
    assert {one.name for one in reads.find(tmp_path)} == {"A", "B"}


PARTS = """
from pydantic_settings import BaseSettings

class Settings(BaseSettings):
    POSTGRES_SERVER: str
    POSTGRES_PORT: int = 5432
    POSTGRES_USER: str
    POSTGRES_PASSWORD: str = ""
    POSTGRES_DB: str = ""
    DB_POOL: int = 5
"""


def test_a_database_under_other_names(tmp_path: Path) -> None:
    write(tmp_path, app__config_py=PARTS)
    (said,) = told(tmp_path)
    assert said.endswith(
        'write database: {variables: {url: "", host: POSTGRES_SERVER, port: POSTGRES_PORT, user: '
        "POSTGRES_USER, password: POSTGRES_PASSWORD, name: POSTGRES_DB}}"
    )
    mine = yaml.safe_load(said.partition("write ")[2])["database"]
    assert told(tmp_path, database={"enabled": True, **mine}) == []
    write(tmp_path, app__config_py=f"{PARTS}    POSTGRES_URL: str | None = None\n")
    assert told(tmp_path) == [said], "another way to say the same"
    write(tmp_path, app__config_py=PARTS)
    # Where it reads what it is told anyway, they are another way to say the same.
    write(tmp_path, app__more_py='import os\nURL = os.getenv("DATABASE_URL")\n')
    assert "{url: DATABASE_URL, host: POSTGRES_SERVER, user: POSTGRES_USER}" in told(tmp_path)[0]
    write(tmp_path, app__config_py=PARTS.replace(": str\n", ': str = ""\n'))
    assert told(tmp_path) == []
    write(tmp_path, app__config_py=PARTS)
    # Without a database of Berth's they are settings like any other.
    assert (
        "write env: {POSTGRES_SERVER: …, POSTGRES_USER: …}" in told(tmp_path, database={"enabled": False})[0]
    )


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("database_uri: str", "write database: {variables: {url: DATABASE_URI}}"),
        ("database_url: str", ""),
        ("read_database_url: str | None = None", ""),
        ("test_database_url: str = 'x'", ""),
    ],
)
def test_the_address_of_a_database(tmp_path: Path, line: str, key: str) -> None:
    write(tmp_path, config_py=f"class S(BaseSettings):\n    {line}\n")
    said = told(tmp_path)
    assert bool(said) == bool(key)
    assert not key or key in said[0]


REDIS = """
import os
from pydantic_settings import BaseSettings

class Cache(BaseSettings):
    REDIS_CACHE_HOST: str = "localhost"
    REDIS_CACHE_PORT: int = 6379
    REDIS_QUEUE_HOST: str = "localhost"
    REDIS_MAX: int = 5
"""


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('import os\nX = os.getenv("REDIS_URL")\n', "redis: {enabled: true}"),
        (
            'import os\nX = os.environ["CELERY_BROKER_URL"]\nY = os.getenv("CELERY_RESULT_BACKEND", "redis://")\n',
            "redis: {enabled: true, variables: {url: CELERY_BROKER_URL}} and env: {CELERY_RESULT_BACKEND: "
            '{template: "${redis.url}"}}',
        ),
        (
            REDIS,
            "redis: {enabled: true, variables: {host: REDIS_CACHE_HOST, port: REDIS_CACHE_PORT}} and env: "
            '{REDIS_QUEUE_HOST: {template: "${redis.host}"}}; beside REDIS_CACHE_HOST, '
            "REDIS_QUEUE_HOST no password is read, and without one nothing gets in",
        ),
        (
            "from os import getenv\n"
            + "\n".join(f"X = getenv('REDIS_{x}')" for x in ("URL", "HOST", "PASSWORD")),
            "redis: {enabled: true}",
        ),
        ('import os\nX = os.getenv("REDIS_PREFIX")\n', ""),
        ("x = 1\n", ""),
    ],
)
def test_a_redis_that_nobody_sets(tmp_path: Path, text: str, key: str) -> None:
    write(tmp_path, app__config_py=text)
    said = told(tmp_path)
    assert [one.partition(": write ")[2] for one in said] == ([key] if key else [])


@pytest.mark.parametrize(
    ("more", "bare"),
    [
        ("", ["A_REDIS_HOST"]),
        ("A_REDIS_PASSWORD", []),
        ("A_REDIS_URL", []),
        ("B_REDIS_PASSWORD", ["A_REDIS_HOST"]),
    ],
)
def test_a_host_without_a_password_beside_it(more: str, bare: list[str]) -> None:
    names = [reads.Variable(name, "x.py:1") for name in ("A_REDIS_HOST", "A_REDIS_PORT", more) if name]
    assert hints._without_password(names) == bare


def test_a_redis_that_is_set_or_not_needed(tmp_path: Path) -> None:
    write(tmp_path, config_py='import os\nX = os.getenv("REDIS_URL", None)\n')
    assert told(tmp_path)
    assert hints.of_redis(app(), tmp_path) == []
    assert told(tmp_path, env={"REDIS_URL": "redis://mq.example.com"}) == []
    assert told(tmp_path, redis={"enabled": True, "variables": {"url": "REDIS_URL"}}) == []
    other = told(tmp_path, redis={"enabled": True, "variables": {"url": "CACHE"}})
    assert "write redis: {enabled: true, variables: {url: REDIS_URL}}" in other[0]


# Folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ('open("uploads/a.txt", "w")', "uploads"),
        ('open("uploads/a.txt")', ""),
        ('open("uploads/a.txt", mode="ab")', "uploads"),
        ('open("/tmp/x", "w")', ""),
        ('open("../x", "w")', ""),
        ('os.makedirs("media/big", exist_ok=True)', "media/big"),
        ('D = Path("media")\nD.mkdir(exist_ok=True)', "media"),
        ('D = Path("media")\ndef f(name):\n    with open(D / name, "wb") as x: ...', "media"),
        ('def f(name):\n    path = f"media/{name}"\n    open(path, "wb")', "media"),
        ('def f(u):\n    open(os.path.join("media", u.name), "wb")', "media"),
        ('Path("data/x.json").write_text("")', "data"),
        ('(Path("data") / "x.json").open("w")', "data"),
        ('async def f():\n    async with aiofiles.open("media/x", "wb"): ...', "media"),
        ('RotatingFileHandler("logs/app.log", maxBytes=1)', "logs"),
        ('logging.basicConfig(filename="logs/app.log")', "logs"),
        ('logger.add("logs/app.log")', "logs"),
        ('C = {"class": "logging.handlers.RotatingFileHandler", "filename": "logs/x"}', "logs"),
        ('B = Path(__file__).resolve().parent.parent\n(B / "media").mkdir()', "media"),
        ('L = os.path.join(os.path.dirname(os.path.abspath(__file__)), "logs")\nos.makedirs(L)', "app/logs"),
        ('B = Path(__file__).parents[1]\n(B / "a" / "b").mkdir()', "a/b"),
        ('D = os.getenv("UPLOADS", "media")\nos.makedirs(D)', "media"),
        ('D = os.getenv("UPLOADS")\nos.makedirs(D)', ""),
        ("os.makedirs(settings.media_dir)", "kept"),
        ("os.makedirs(thing.media_dir)", ""),
        ('def f(p):\n    open(p, "w")', ""),
        ('sqlite3.connect(":memory:")', ""),
        ('D = "a"\nD = "b"\nos.makedirs(D)', ""),
    ],
)
def test_a_folder_that_the_code_writes_to(tmp_path: Path, text: str, folder: str) -> None:
    write(
        tmp_path,
        app__x_py=text + "\n",
        app__config_py='class S(BaseSettings):\n    media_dir: str = "kept"\n',
    )
    assert [one.folder for one in writes.find(tmp_path, tmp_path, {})] == ([folder] if folder else [])


def test_where_it_runs_counts_and_what_is_listed_is_not_said(tmp_path: Path) -> None:
    write(tmp_path, server__x_py='os.makedirs("media/big")\nos.makedirs("media")\nopen("run.log", "a")\n')
    found = writes.find(tmp_path, tmp_path / "server", {})
    assert [one.folder for one in found] == ["server/media", "server"]
    said = told(tmp_path, "server")
    assert said[0] == (
        "server/media is written to (server/x.py:2): write persistent: [server/media] (outlives releases) or "
        "scratch: [server/media] (ends with its release)"
    )
    assert said[1].startswith("server/run.log is written beside the code (server/x.py:3), which is read-only")
    assert told(tmp_path, "server", persistent=["server/media"])[0].startswith("server/run.log")
    write(tmp_path, server__x_py='open("cache/x", "w")\n')
    assert "write scratch: [server/cache]" in told(tmp_path, "server")[0]
    assert told(tmp_path, "server", scratch=["server/cache/"]) == []


# Python and wheels --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("FROM python:3.11-slim\n", "3.11"),
        ("FROM docker.io/library/python:3.12.4-alpine AS x\n", "3.12"),
        ("ARG PY=3.10\nFROM --platform=linux/amd64 python:${PY}-slim\n", "3.10"),
        ("FROM python:3.9 AS build\nFROM python:3.11-slim\n", "3.11"),
        ("FROM python:3.11 AS base\nFROM base\n", "3.11"),
        ("FROM node:20 AS front\nFROM ghcr.io/astral-sh/uv:python3.13-bookworm-slim\n", "3.13"),
        ("FROM python:3-slim\n", ""),
        ("FROM tiangolo/uvicorn-gunicorn-fastapi:python3.11\n", "3.11"),
        ("FROM debian:12\n", ""),
    ],
)
def test_the_python_of_a_dockerfile(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    assert launch.python(tmp_path, tmp_path)[0] == version
    installer = dependencies.find_installer(tmp_path)
    said = hints.of_python(tmp_path, tmp_path, PythonWish("", "", ""), installer)
    assert len(said) == bool(version)
    if version:
        assert f'write python: {{version: "{version}", install: true}}' in said[0]
    assert hints.of_python(tmp_path, tmp_path, PythonWish("3.12", "", ""), installer) == []
    assert hints.of_python(tmp_path, tmp_path, PythonWish("", ">=3.14", ""), installer) == []


@pytest.mark.parametrize(
    ("file", "minors"),
    [
        ("a-1-py3-none-any.whl", range(8, 16)),
        ("a-1-py2.py3-none-any.whl", range(8, 16)),
        ("a-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", [12]),
        ("a-1-1-cp39-abi3-manylinux_2_28_aarch64.whl", range(9, 16)),
        ("a-1-cp311-none-manylinux_2_28_x86_64.whl", [11]),
        ("a-1-cp312-cp312-musllinux_1_1_x86_64.whl", []),
        ("a-1-cp312-cp312-win_amd64.whl", []),
        ("a-1-cp313-cp313t-manylinux_2_17_x86_64.whl", []),
        ("a-1-py310-none-any.whl", range(10, 16)),
        ("a-1.tar.gz", []),
    ],
)
def test_which_pythons_a_wheel_is_for(file: str, minors: Any) -> None:
    assert wheels.minors([file]) == frozenset(minors)


def uv_lock(*packages: str) -> str:
    return 'version = 1\n[[package]]\nname = "me"\nsource = { virtual = "." }\n' + "\n".join(packages)


OLD = """
[[package]]
name = "httptools"
version = "0.6.1"
source = { registry = "https://x.example/simple" }
wheels = [
    { url = "https://x.example/httptools-0.6.1-cp311-cp311-manylinux_2_17_x86_64.whl", hash = "sha256:0" },
    { url = "https://x.example/httptools-0.6.1-cp312-cp312-manylinux_2_17_x86_64.whl", hash = "sha256:0" },
]
"""
NEEDS = 'dependencies = [{ name = "httptools" }]\n'
POETRY = """
[[package]]
name = "httptools"
version = "0.6.1"
groups = ["main"]
files = [{file = "httptools-0.6.1-cp312-cp312-manylinux_2_17_x86_64.whl", hash = "sha256:0"}]
"""


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("uv.lock", uv_lock(NEEDS, OLD), "up to Python 3.12"),
        ("uv.lock", uv_lock(OLD), ""),  # of a group for developers
        ("uv.lock", uv_lock(NEEDS.replace('" }', '", marker = "os_name == \'nt\'" }'), OLD), ""),
        ("uv.lock", uv_lock(NEEDS, OLD.replace("cp312-cp312", "cp39-abi3")), ""),
        ("poetry.lock", POETRY, "up to Python 3.12"),
        ("poetry.lock", POETRY.replace('"main"', '"dev"'), ""),
        ("pdm.lock", POETRY.replace('"main"', '"default"'), "up to Python 3.12"),
        ("requirements.txt", "httptools==0.6.1\n", ""),
    ],
)
def test_a_lock_without_wheels_for_a_python(tmp_path: Path, file: str, text: str, said: str) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "me"\nversion = "1"\n')
    (tmp_path / file).write_text(text)
    found = wheels.hints(dependencies.find_installer(tmp_path), PythonWish("", ">=3.11", ""))
    assert found == (
        [
            "httptools 0.6.1 has wheels up to Python 3.12 and none for 3.13, which has to build from source: "
            'write python: {version: "3.12", install: true} where the server has 3.13'
        ]
        if said
        else []
    )
    assert wheels.hints(dependencies.find_installer(tmp_path), PythonWish("3.12", "", "")) == []
    assert wheels.hints(dependencies.find_installer(tmp_path), PythonWish("", ">=3.13", "")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "error: Failed to download and build `orjson==3.6.0`\n  cause: TOML parse error",
            ("orjson", "3.6.0"),
        ),
        ("  x Failed to build `http-tools==0.6.1`", ("http-tools", "0.6.1")),
        ("error: Failed to build `me @ file:///x`", None),
        ("nothing", None),
    ],
)
def test_what_uv_could_not_build(text: str, found: tuple[str, str] | None) -> None:
    assert wheels.unbuilt(text) == found


@pytest.mark.parametrize("file", ["uv.lock", "requirements.txt"])
@pytest.mark.parametrize("newest", [12, 0])
def test_a_failed_build_names_the_python_that_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, newest: int
) -> None:
    """A lock of uv names the files; for other pins the index is asked."""
    paths = Paths("shop", tmp_path)
    source = paths.release("r1")
    source.mkdir(parents=True)
    (source / "pyproject.toml").write_text('[project]\nname = "me"\nversion = "1"\n')
    lock = uv_lock(NEEDS, OLD if newest else OLD.partition("wheels")[0])
    (source / file).write_text(lock if file == "uv.lock" else "httptools==0.6.1\n")
    asked: list[list[str]] = []

    def uv(work: Work) -> command.Result:
        words = list(work.argv)
        asked.append(words)
        if words[1] == "venv":
            return command.Result(0, "", "")
        if "--dry-run" in words:
            fits = words[words.index("--python-version") + 1] == f"3.{newest}"
            return command.Result(0 if fits else 1, "", "error: has no usable wheels")
        return command.Result(
            1, "", "error: Failed to build `httptools==0.6.1`\nerror: command 'gcc' failed: No such file"
        )

    monkeypatch.setattr("ansible.module_utils.berth.packaging.once.transient", uv)
    monkeypatch.setattr("ansible.module_utils.berth.host.sandbox.ready", lambda *_: None)
    monkeypatch.setattr(environments, "run", lambda *_, **__: command.Result(0, "3.13.1", ""))
    monkeypatch.setattr(environments, "ids", lambda _: (-1, -1))
    paths.marks.mkdir(parents=True)
    tree = Tree(paths, app(), "r1")
    here = Environments(tree)
    here.uv.index = None
    with pytest.raises(ReleaseError) as failed:
        here.get("/usr/bin/python3.13", tree.installer())
    said = failed.value.text()
    assert ("httptools 0.6.1 has wheels up to Python 3.12 and none for 3.13" in said) is bool(newest)
    advice = (
        'write python: {version: "3.12", install: true}, then: berth deploy shop (deploy.yml -e app=shop)'
    )
    assert (advice in said) is bool(newest)
    assert "build-essential" in said, "whoever wants to build it still can"
    assert any("--dry-run" in words for words in asked) is (file != "uv.lock" or not newest)


# Refused, and all of it together -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"persistent": ["src"]}, "persistent: src holds the code of app.main:app"),
        ({"scratch": ["locks"]}, "scratch: locks holds what is installed"),
        ({"persistent": ["db"]}, "persistent: db holds Alembic's settings"),
        ({"persistent": ["src/app/logs"]}, ""),
        ({}, ""),
    ],
)
def test_writable_code_is_refused_before_a_deploy(tmp_path: Path, more: dict[str, Any], what: str) -> None:
    write(tmp_path, src__app__main_py=MAIN)
    for name, text in (
        ("locks/requirements.txt", ""),
        ("db/alembic.ini", "[alembic]\nscript_location = m\n"),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "db/m/versions").mkdir(parents=True)
    (tmp_path / "db/m/env.py").touch()
    entry = app(python={"directory": "locks"}, database={"enabled": False}, **more)
    refused = [row[2] for row in detect.describe(entry, tmp_path) if row[1] == "refused"]
    if not what:
        detect.refuse_code(entry, tmp_path)
        assert refused == []
        return
    with pytest.raises(ReleaseError, match=what):
        detect.refuse_code(entry, tmp_path)
    assert what in refused[0]


def test_what_else_is_wrong_with_a_source_is_said_by_the_deploy(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "pyproject.toml").symlink_to("/dev/zero")
    detect.refuse_code(app(persistent=["media"]), tmp_path)
    (tmp_path / "pyproject.toml").unlink()
    (tmp_path / "pyproject.toml").write_text("[tool.poetry.dependencies]\nfastapi = '*'\n")
    detect.refuse_code(app(persistent=["media"]), tmp_path)


def test_a_deploy_of_a_folder_asks_before_it_asks_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, app__main_py=MAIN)
    asked: list[str] = []

    class Engine:
        def call(self, step: str, _request: Any) -> dict[str, Any]:
            asked.append(step)
            return {"changed": False}

    action = release.ActionModule.__new__(release.ActionModule)
    entry = app(source={"path": str(tmp_path)}, persistent=["app/media"])
    action._task = SimpleNamespace(args={"step": "plan", "app": entry}, check_mode=False)
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    monkeypatch.setattr(action, "_engine", lambda _: Engine())
    action.run(task_vars={})
    entry["persistent"] = ["app"]
    with pytest.raises(AnsibleActionFail, match=r"persistent: app holds the code of app\.main:app"):
        action.run(task_vars={})
    assert asked == ["plan"]


def test_one_source_that_is_refused_hides_no_other(tmp_path: Path) -> None:
    write(tmp_path, a__one__main_py=MAIN, a__two__main_py=MAIN, b__main_py=MAIN)
    for name in ("a/one", "a/two", "b"):
        (tmp_path / name / "requirements.txt").write_text("fastapi\n")
    apps = [
        app(name=name, source={"path": str(tmp_path / name), "subdir": ""}, database={"enabled": False})
        for name in ("a", "b", "c")
    ]
    table, refused = release.ActionModule._detect(apps, 0)
    assert refused == ["a", "c"]
    assert "a\n  refused    The source holds 2 projects" in table
    assert "main:app" in table
    assert f"source.path: {tmp_path}/c is not a folder" in table


def test_detect_shows_the_hints(tmp_path: Path) -> None:
    write(tmp_path, main_py=MAIN + 'import os\nX = os.environ["SITE"]\nos.makedirs("media")\n')
    (tmp_path / "requirements.txt").write_text("fastapi\n")
    (tmp_path / "Dockerfile").write_text("FROM python:3.11\n")
    rows = detect.describe(app(database={"enabled": False}), tmp_path)
    said = [row[2] for row in rows if row[0] == "hint"]
    assert len(said) == 3
    assert "Python 3.11 (Dockerfile:1)" in said[0]
    assert "write env: {SITE: …}" in said[1]
    assert "write persistent: [media]" in said[2]


@pytest.mark.parametrize("name", ["redisapp", "strictapp"])
def test_projects_that_the_hosts_tests_deploy(name: str) -> None:
    said = told(FIXTURES / name)
    wanted = {"redisapp": "write redis: {enabled: true}", "strictapp": 'upstream_host: "strict.internal"'}
    assert wanted[name] in said[0]


def test_sources_may_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices, links out, files without an end, and code that no parser follows."""
    monkeypatch.setattr(untrusted, "LIMIT", 1 << 20)
    (tmp_path / "app").mkdir()
    for name in ("Procfile", "Dockerfile", "compose.yml", "app/config.py"):
        (tmp_path / name).symlink_to("/dev/zero")
    nested = (
        "x = open("
        + "(" * 5000
        + '"a", "w")\nimport os\nos.environ["A"] + BaseSettings.TrustedHostMiddleware'
    )
    (tmp_path / "app/deep.py").write_text(nested)
    (tmp_path / "app/zero.py").write_bytes(b"os.environ[\0]")
    (tmp_path / "app/loop.py").write_text("A = B\nB = A\nopen(A, 'w')\nD = D / 'x'\nD.mkdir()\n")
    (tmp_path / "app/sum.py").write_text("open(" + " + ".join(["'a'"] * 3000) + ", 'w')\n")
    assert told(tmp_path) == []
    assert (
        hints.of_python(tmp_path, tmp_path, PythonWish("", "", ""), dependencies.find_installer(tmp_path))
        == []
    )
