"""Projects as their authors left them: every installer, layout and habit, deployed unmodified on one host."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support import pythons
from tests.support.kit import BIN, ROOT, Kit, Run, environment
from tests.support.pace import patience

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
    # backend/ and frontend/ side by side.
    "mono": {
        "python": {"extras": ["text"], "groups": ["extra"]},
        "database": {"enabled": False},
        "secrets": [{"name": "SESSION_SALT", "generate": True}],
        "scratch": ["cache"],
        "static": [{"url": "/files", "path": "static"}],
    },
    # Its lock at the top, its server in one folder and its migrations in another; see `foreign_lock`.
    "three": {
        "database": {"scheme": "postgresql+psycopg"},
        "processes": [
            {"name": "web", "directory": "server"}, {"name": "worker", "command": "python work.py"},
        ],
        "migrations": {"directory": "database"},
    },
    "dated": {"python": {"extras": ["sql"]}, "database": {"enabled": False}},
    "brought": {"python": {"install": True}, "database": {"enabled": False}},
}  # fmt: skip
# Poetry asks the index by its simple API only where the project names it as a source.
INDEX = ".".join(("pypi", "org"))
POETRY_SOURCE = (
    f'\n[[tool.poetry.source]]\nname = "simple"\nurl = "https://{INDEX}/simple/"\npriority = "primary"\n'
)
# Where the server may take packages from, and what a lock names that was made inside of a company.
ALLOWED, COMPANY = f"https://{INDEX}/simple", "https://packages.company.invalid/simple"
REPOSITORY = "/srv/git/dated.git"
PYTHONS = "/usr/local/share/pythons"
LOCKS = {
    "mono/backend": ["lock"],
    "three": ["lock"],
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
            capture_output=True, text=True, check=False, timeout=patience(180),
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    foreign_lock(folder / "projects/three/uv.lock")
    commit(folder / "projects/dated", "2025-03-10T12:00:00+00:00", "requirements.txt", "-e .[more]\n")
    host = boot("any", provisioned=True)
    copy(host, bare(folder / "projects/dated"), REPOSITORY)
    other = pythons.other_than(host_python(host))
    if other:
        (folder / "served").mkdir()
        pythons.pack(other, folder / "served", f"file://{PYTHONS}")
        copy(host, folder / "served", PYTHONS)
        (folder / "projects/brought/.python-version").write_text(f"{other}\n")
    apps = []
    for name, entry in APPS.items():
        source = {"path": str(folder / "projects" / name), **entry.get("source", {})}
        if name == "dated":
            source = {"git": f"file://{REPOSITORY}"}
        apps.append({**entry, "name": name, "domains": [f"{name}.localhost"], "source": source})
    server = {
        "proxy": {"tls": "internal"},
        "python": {"index_url": ALLOWED, "downloads_json": f"file://{PYTHONS}/pythons.json"},
    }
    return Kit(tmp_path_factory.mktemp("inventory"), host, apps=apps, server=server)


def foreign_lock(lock: Path) -> None:
    """As it is made where packages come from a company's own index, which no server outside can reach."""
    text = lock.read_text().replace(ALLOWED, COMPANY)
    lock.write_text(re.sub(r'url = "https://[^/"]+/', 'url = "https://packages.company.invalid/files/', text))
    assert INDEX not in lock.read_text()


def commit(project: Path, day: str, name: str, text: str) -> None:
    """One file more in the project's repository, as of a day."""
    (project / name).write_text(text)
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        ["commit", "--quiet", "-m", day],
    ):
        subprocess.run(
            ["git", *identity, *words], cwd=project, check=True,
            env=environment(GIT_AUTHOR_DATE=day, GIT_COMMITTER_DATE=day),
        )  # fmt: skip


def bare(project: Path) -> Path:
    """The repository alone, in a folder that can be copied."""
    target = project.parent / f"{project.name}.git"
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", str(project), str(target)], check=True)
    return target


def copy(host: Host, folder: Path, target: str) -> None:
    """A folder of this machine to the host, readable by all."""
    packed = subprocess.run(["tar", "-C", str(folder), "-cz", "."], capture_output=True, check=True).stdout
    unpack = f"rm -rf {target} && mkdir -p {target} && base64 -d | tar -C {target} -xz --no-same-owner"
    host.sh(f"{unpack} && chmod -R a+rX {target}", stdin=base64.b64encode(packed).decode())


def host_python(host: Host) -> str:
    return host.sh("python3 -c 'import sys; print(f\"{sys.version_info[0]}.{sys.version_info[1]}\")'")


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
        "mono": "health", "three": "health", "dated": "health", "brought": "ping",
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
    "mono": ("uv", "api.main:app"),
    "three": ("uv", "main:app"),
    "dated": ("requirements", "main:app"),
    "brought": ("pyproject", "main:app"),
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
    assert health(kit, "setupcfg") == {"built": "built by berth-build-setupcfg", "sql": True, "i": True}


@deployed
def test_templates_and_migrations_below_the_project(kit: Kit, first: Run) -> None:
    assert health(kit, "templates") == {
        "things": 0,
        "broker": "amqp://templates:TOKEN@templates.localhost/${x}",
        "odd": "${db.user} stays as it is",
        "migrating": False,
        "words": 3,
    }
    assert "Added setuptools, since passlib imports pkg_resources" in said(first)
    assert record(kit, "templates", "schema").startswith("{'from': '', 'to': 'one'")


def test_a_project_below_the_top_with_groups_and_extras(kit: Kit, first: Run) -> None:
    answer = health(kit, "mono")
    assert answer["folder"] == "backend"
    assert answer["has"] == ["markdown", "slugify"]
    assert (record(kit, "mono", "project"), record(kit, "mono", "directory")) == ("backend", "backend")
    # Folders are relative to the project, wherever it is: one the proxy serves, one the app writes.
    assert kit.curl("https://mono.localhost/files/hello.txt") == "hello"
    assert "hidden" not in kit.curl("https://mono.localhost/files/.hidden")
    assert kit.host.sh("cat /srv/mono/current/backend/cache/seen") == "yes"
    assert "frontend/package.json has a build script and nothing is built" in said(first)


def test_a_random_secret_is_told_where_it_is_not_set(first: Run) -> None:
    assert "secret_key (api/settings.py:7) is drawn at random" in said(first)
    assert "- {name: SECRET_KEY, generate: true}" in said(first)
    assert "session_salt" not in said(first)


def test_three_directories(kit: Kit, first: Run) -> None:
    assert health(kit, "three") == {"things": 0, "page": "<p>a page</p>", "hello": "hello"}
    assert (record(kit, "three", "project"), record(kit, "three", "directory")) == (".", "server")
    assert "hello <p>a page</p>" in kit.host.sh("journalctl -t three-worker -o cat")
    assert f"names the index {COMPANY}: its packages came from {ALLOWED}" in said(first)


@deployed
def test_a_git_source_without_a_lock_is_pinned_to_its_day(kit: Kit) -> None:
    # The newest on 10 March 2025.
    assert health(kit, "dated") == {"fastapi": "0.115.11", "itself": "3", "more": [True, True]}


@deployed
def test_a_python_that_uv_brings(kit: Kit) -> None:
    wanted = pythons.other_than(host_python(kit.host))
    if not wanted:
        pytest.skip("this machine has no other Python than the host")
    answer = health(kit, "brought")
    assert answer["version"] == [int(part) for part in wanted.split(".")]
    assert answer["where"].startswith(f"/usr/local/lib/berth/pythons/{wanted}/")
    strangers = "find /usr/local/lib/berth/pythons ! -type l '(' ! -user root -o ! -perm -0444 ')'"
    assert kit.host.sh(strangers) == ""


@deployed
def test_again_nothing_changes(kit: Kit) -> None:
    assert kit.play("site.yml").changed == 0


@deployed
def test_detect_says_the_same_without_a_server(kit: Kit) -> None:
    told = said(kit.play("playbooks/detect.yml", "-e", "app=mono"))
    for part in (
        "project backend the only folder with a dependency file and an app (source.subdir)",
        "app api.main:app api/main.py:8",
        "hint frontend/package.json has a build script",
        "hint secret_key (api/settings.py:7) is drawn at random",
    ):
        assert part in told, told
    told = said(kit.play("playbooks/detect.yml", "-e", "app=pdm"))
    assert "hint the author runs Python 3.13 (Dockerfile:1)" in told
    told = said(kit.play("playbooks/detect.yml", "-e", "app=three"))
    assert "runs in server processes.web.directory" in told
    assert f"the lock names {COMPANY}" in told


@deployed
def test_a_refused_path_is_named_with_the_way_out(kit: Kit) -> None:
    """The app starts, and writes into its code when it is asked for the first time."""
    release = kit.release("mono")
    kit.app("mono").update(scratch=[], health={"timeout": 15})
    try:
        told = said(kit.play("playbooks/deploy.yml", "-e", "app=mono", succeed=False))
    finally:
        kit.app("mono").update(scratch=["cache"], health={})
    assert re.search(
        r"answered 500 on /health for 15 s: it tried to write to cache/seen \(.*api/main\.py:15\)", told
    )
    assert 'add "cache" to persistent (outlives releases) or scratch (ends with its release)' in told
    assert kit.release("mono") == release


@deployed
def test_a_pin_older_than_the_servers_python(kit: Kit) -> None:
    """A requirements file names no files, so the index says which Pythons there are wheels for."""
    release = kit.release("requirements")
    pins = Path(kit.app("requirements")["source"]["path"]) / "requirements.txt"
    kept = pins.read_text()
    pins.write_text(f"{kept.rstrip()}\nhttptools==0.4.0\n")
    try:
        told = said(kit.play("playbooks/deploy.yml", "-e", "app=requirements", succeed=False))
    finally:
        pins.write_text(kept)
    assert f"httptools 0.4.0 has wheels up to Python 3.10 and none for {host_python(kit.host)}" in told, told
    assert 'python: {version: "3.10", install: true}, then: berth deploy requirements' in told
    assert "system_packages: [build-essential, python3-dev]" in told
    assert kit.release("requirements") == release


@deployed
def test_several_projects_are_named(kit: Kit) -> None:
    folder = Path(kit.app("mono")["source"]["path"])
    shutil.copytree(folder / "backend", folder / "admin")
    try:
        told = said(kit.play("playbooks/deploy.yml", "-e", "app=mono", succeed=False))
    finally:
        shutil.rmtree(folder / "admin")
    assert "holds 2 projects and none at its top: admin, backend. Set source.subdir" in told


@deployed
def test_a_wrong_hash_in_a_foreign_lock(kit: Kit) -> None:
    lock = Path(kit.app("three")["source"]["path"]) / "uv.lock"
    kept = lock.read_text()
    at = kept.index('name = "starlette"\nversion')
    lock.write_text(kept[:at] + re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", kept[at:], count=2))
    try:
        told = said(kit.play("playbooks/deploy.yml", "-e", "app=three", succeed=False))
    finally:
        lock.write_text(kept)
    assert "Installing the dependencies failed" in told
    assert "starlette" in told
    assert f"what {ALLOWED} serves is not what the lock recorded" in told
    assert health(kit, "three")["things"] == 0


@deployed
def test_a_day_that_cannot_be_kept_is_told(kit: Kit, tmp_path: Path) -> None:
    """The commit is older than what it asks for, so the newest are taken, and the deploy says so."""
    project = tmp_path / "dated"
    shutil.copytree(PROJECTS / "dated", project)
    commit(project, "2025-03-11T12:00:00+00:00", "requirements.txt", "-e .[more]\nfastapi>=0.116\n")
    copy(kit.host, bare(project), REPOSITORY)
    told = said(kit.play("playbooks/deploy.yml", "-e", "app=dated"))
    assert "The dependencies are not pinned: as of 2025-03-11, the day of the commit" in told
    assert health(kit, "dated")["fastapi"] != "0.115.11"
