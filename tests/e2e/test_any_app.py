"""Projects as their authors left them: every installer, layout and habit, deployed unmodified on one host."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from testhost import Host

from tests.support.kit import BIN, ROOT, Kit, Run, environment

PROJECTS = ROOT / "tests/fixtures/projects"
ODD = "a \"b\" 'c' $HOME ${x} % # \\\\ {end}"

# What an inventory says of each; everything else is found.
APPS: dict[str, dict[str, Any]] = {
    "uvsrc": {
        "database": {"scheme": "postgresql+asyncpg", "variables": {"url": "SQLALCHEMY_URL"}},
        "env": {"MAIL__HOST": "mail.example.com", "ORIGINS": '["https://a.example"]', "GREETING": ODD},
        "secrets": [{"name": "MAIL__PASSWORD", "generate": True}],
    },
    "workspace": {"source": {"subdir": "packages/api"}, "database": {"enabled": False}},
    "poetry": {
        "python": {"extras": ["sessions"]},
        "database": {
            "variables": {
                "url": "", "host": "DB_HOST", "port": "DB_PORT", "name": "DB_NAME", "user": "DB_USER",
                "password": "DB_PASS",
            }
        },
    },
    "pdm": {"database": {"enabled": False}},
    "requirements": {
        "database": {"scheme": "postgresql+psycopg"},
        "processes": [{"name": "web", "workers": 3}],
    },
    "plain": {"python": {"extras": ["markdown"]}, "scratch": ["logs"]},
    "setupcfg": {
        "python": {"extras": ["sql"]},
        "build": ["mkdir -p dist", "echo built by $(id -un) > dist/page.txt"],
        "database": {"enabled": False},
    },
    "templates": {
        "database": {"scheme": "postgresql+psycopg", "variables": {"url": ""}},
        "env": {
            "APP_DB": {
                "template": "postgresql+psycopg://${db.user}:${db.password}@${db.host}:${db.port}/${db.name}"
            },
            "BROKER": {"template": "amqp://${app.name}:${secret('TOKEN')}@${app.domain}/$${x}"},
            "ODD": "${db.user} stays as it is",
        },
        "secrets": [{"name": "TOKEN", "generate": True}],
        "migrations": {"env": {"MIGRATING": "yes"}},
    },
}  # fmt: skip
# Poetry asks the index by its simple API only where the project names it as a source.
INDEX = ".".join(("pypi", "org"))
POETRY_SOURCE = (
    f'\n[[tool.poetry.source]]\nname = "simple"\nurl = "https://{INDEX}/simple/"\npriority = "primary"\n'
)
LOCKS = {
    "uvsrc": ["lock"],
    "workspace": ["lock"],
    "poetry": ["tool", "run", "--from", "poetry==2.2.1", "poetry", "lock"],
    "pdm": ["tool", "run", "--exclude-newer", "2025-06-15", "--from", "pdm==2.24.2", "pdm", "lock"],
}


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host with all of them, after one run of site.yml."""
    folder = tmp_path_factory.mktemp("any")
    shutil.copytree(PROJECTS, folder / "projects")
    with (folder / "projects/poetry/pyproject.toml").open("a") as project:
        project.write(POETRY_SOURCE)
    for name, words in LOCKS.items():
        done = subprocess.run(
            [str(BIN / "uv"), *words],
            cwd=folder / "projects" / name,
            env=environment(PDM_IGNORE_SAVED_PYTHON="1", PDM_CHECK_UPDATE="0"),
            capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    apps = []
    for name, entry in APPS.items():
        source = {"path": str(folder / "projects" / name), **entry.get("source", {})}
        apps.append({**entry, "name": name, "domains": [f"{name}.localhost"], "source": source})
    return Kit(tmp_path_factory.mktemp("inventory"), boot("any"), apps=apps)


@pytest.fixture(scope="module")
def first(kit: Kit) -> Run:
    """The run that deploys them all."""
    run = kit.play("site.yml", "-v")
    print(f"\nsite.yml with {len(APPS)} apps: {run.seconds:.0f} s")
    return run


def health(kit: Kit, name: str) -> Any:
    path = {
        "uvsrc": "health/", "workspace": "health", "poetry": "healthz", "pdm": "api/health",
        "requirements": "count", "plain": "ping", "setupcfg": "status", "templates": "readyz",
    }[name]  # fmt: skip
    return kit.json(f"https://{name}.localhost/{path}")


def said(run: Run) -> str:
    """What a run printed, without the line breaks of YAML's folding."""
    return " ".join(run.output.split())


def record(kit: Kit, name: str, key: str) -> str:
    release = kit.release(name)
    code = f"import json; print(json.load(open('/srv/{name}/releases/{release}/release.json'))['{key}'])"
    return kit.host.sh(f'python3 -c "{code}"').strip()


deployed = pytest.mark.usefixtures("first")

EXPECTED = {
    "uvsrc": ("uv", "uvsrc.main:app"),
    "workspace": ("uv", "main:app"),
    "poetry": ("poetry", "shop.asgi:application"),
    "pdm": ("pdm", "service.factory:build()"),
    "requirements": ("requirements", "app.main:app"),
    "plain": ("pyproject", "backend.web:site"),
    "setupcfg": ("setup.cfg", "old.api:app"),
    "templates": ("requirements", "main:app"),
}


@deployed
@pytest.mark.parametrize("name", EXPECTED)
def test_what_was_found(kit: Kit, name: str) -> None:
    assert (record(kit, name, "installer"), record(kit, name, "target")) == EXPECTED[name]


@deployed
def test_a_uv_project_with_a_src_layout(kit: Kit) -> None:
    answer = health(kit, "uvsrc")
    assert answer == {
        "version": "1.4.2", "user": "uvsrc", "mail": "mail.example.com", "long": 48,
        "origins": ["https://a.example"], "greeting": ODD, "client": "127.0.0.1", "workers": "2",
    }  # fmt: skip


@deployed
def test_a_workspace_with_its_lock_above(kit: Kit) -> None:
    assert health(kit, "workspace") == {"slug": "hello-world"}


def test_poetry_a_procfile_and_a_committed_env_file(kit: Kit, first: Run) -> None:
    assert health(kit, "poetry") == {"user": "poetry", "colour": "", "extra": True}
    assert "x-wrapped: yes" in kit.curl("https://poetry.localhost/healthz", "-i")
    assert "would override the settings: .env" in said(first)
    # Its dev group is not there.
    assert "uvicorn" in kit.host.sh("ls /srv/poetry/current/.venv/lib/python3*/site-packages")


@deployed
def test_pdm_and_a_factory_from_the_dockerfile(kit: Kit) -> None:
    assert health(kit, "pdm") == {"text": "2"}


def test_an_app_that_makes_its_tables_at_start(kit: Kit, first: Run) -> None:
    assert health(kit, "requirements")["visits"] == 1
    assert health(kit, "requirements")["visits"] == 2
    assert "reads no other" in said(first)
    assert "creates its tables itself (app/main.py:10)" in said(first)
    # It began with one worker, and has all of them now.
    assert int(kit.host.sh("pgrep -u requirements -fc gunicorn.conf.py")) == 1 + 3


def test_logs_in_the_code_tree(kit: Kit, first: Run) -> None:
    assert health(kit, "plain") == {"logged": True, "html": "<p><em>a</em></p>"}
    assert "has no revisions yet" in said(first)


@deployed
def test_build_commands_and_setup_cfg(kit: Kit) -> None:
    assert health(kit, "setupcfg") == {"built": "built by berth-build", "sql": True, "i": True}


@deployed
def test_templates_and_migrations_below_the_project(kit: Kit) -> None:
    assert health(kit, "templates") == {
        "things": 0,
        "broker": "amqp://templates:TOKEN@templates.localhost/${x}",
        "odd": "${db.user} stays as it is",
        "migrating": False,
    }
    assert record(kit, "templates", "schema").startswith("{'from': '', 'to': 'one'")


@deployed
def test_again_nothing_changes(kit: Kit) -> None:
    assert kit.play("site.yml").changed == 0
