"""Where a project is in its source, its packages and its Python come from, and what it draws at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.packaging import frozen, index, pythons
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reading import (
    front_end,
    interpreters,
    launch,
    places,
    randoms,
    targets,
)

from tests.support.entry import board
from tests.support.tree import write

MAIN = "from fastapi import FastAPI\napp = FastAPI()\n"
APP = board()


def located(root: Path, app: dict[str, Any] = APP) -> str:
    return str(places.locate(root, app).folder.relative_to(root))


def test_the_only_project_below_the_top(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "services/back-end/requirements.txt": "fastapi",
            "services/back-end/api/main.py": MAIN,
            "docs/requirements.txt": "mkdocs",
            "examples/one/requirements.txt": "fastapi",
            "examples/one/main.py": MAIN,
            "frontend/package.json": "{}",
            "tools/requirements.txt": "x",
        },
    )
    assert located(tmp_path) == "services/back-end"


def test_a_project_at_the_top_stays_there(tmp_path: Path) -> None:
    write(tmp_path, {"requirements.txt": "", "main.py": MAIN, "b/requirements.txt": "", "b/main.py": MAIN})
    assert located(tmp_path) == "."


def test_a_roof_over_a_project_is_not_the_project(tmp_path: Path) -> None:
    """Tools of the repository at its top, and a workspace without a package of its own."""
    write(tmp_path, {"requirements.txt": "ruff", "back-end/requirements.txt": "", "back-end/main.py": MAIN})
    assert located(tmp_path) == "back-end"
    served = board(processes=[{"name": "web", "command": "sh run.sh {socket}"}])
    assert located(tmp_path, served) == "."
    (tmp_path / "requirements.txt").unlink()
    (tmp_path / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = ['*']\n")
    assert located(tmp_path) == "back-end"


def test_several_projects_are_an_error_that_names_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"{name}/{file}": text
            for name in "ab"
            for file, text in (("requirements.txt", ""), ("main.py", MAIN))
        },
    )
    with pytest.raises(ReleaseError, match=r"2 projects and none at its top: a, b\. Set source\.subdir"):
        places.locate(tmp_path, APP)
    assert located(tmp_path, board(source={"subdir": "b"})) == "b"
    assert located(tmp_path, board(python={"directory": "a"})) == "."


def test_a_release_remembers_its_places(tmp_path: Path) -> None:
    write(tmp_path, {"a/b/main.py": MAIN, ".berth/x": ""})
    (tmp_path / places.PROJECT).symlink_to("../a")
    (tmp_path / places.WORK).symlink_to("../a/b")
    assert located(tmp_path) == "a"
    assert places.work(tmp_path, APP, tmp_path).folder == tmp_path / "a/b"
    (tmp_path / places.PROJECT).unlink()
    (tmp_path / places.PROJECT).symlink_to("/etc")
    assert located(tmp_path) == "."


def test_the_units_of_a_release_name_nothing_that_the_source_named(tmp_path: Path) -> None:
    paths = Paths("board", tmp_path)
    template = "[Service]\nWorkingDirectory=/srv/board/releases/%i\nType=exec\n"
    write(paths.units, {"board-web@.service": template})
    frozen.keep_unit(paths, "board-web@.service", "r1")
    # A name of the source's would be more than a name: with a line break, a directive that root obeys.
    text = (paths.units / "board-web@r1.service").read_text()
    assert text == template.replace("%i", "%i/.berth/work")


def test_where_the_server_runs(tmp_path: Path) -> None:
    write(tmp_path, {"server/main.py": MAIN, "server/other.py": ""})
    app = {**APP, "processes": [{"name": "web", "directory": "server"}]}
    assert places.work(tmp_path, app, tmp_path).folder == tmp_path / "server"
    assert [hit.target for hit in targets.find_targets(tmp_path, tmp_path, "server")] == ["main:app"]
    app["processes"][0]["directory"] = "nowhere"
    with pytest.raises(ReleaseError, match=r"processes\.web\.directory: there is no folder nowhere"):
        places.work(tmp_path, app, tmp_path)


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("cd server && uvicorn main:app", "server"),
        ("gunicorn --chdir server main:app", "server"),
        ("cd /code && uvicorn main:app", ""),
        ("cd nowhere && uvicorn main:app", ""),
        ("uvicorn main:app", ""),
    ],
)
def test_a_command_that_changes_its_folder(tmp_path: Path, line: str, folder: str) -> None:
    write(tmp_path, {"server/main.py": MAIN, "main.py": MAIN})
    assert launch.folder(line, tmp_path) == folder
    (tmp_path / "Procfile").write_text(f"web: {line}\n")
    found = targets.find_targets(tmp_path)[0]
    assert (found.target, found.directory) == ("main:app", folder)


LOCK = """
[[package]]
name = "a"
source = { registry = "https://Inside.example.com/simple/" }
[[package]]
name = "b"
source = { git = "https://git.example.com/b" }
[[package]]
name = "me"
source = { virtual = "." }
"""


def test_a_lock_that_names_another_index(tmp_path: Path) -> None:
    lock = tmp_path / "uv.lock"
    lock.write_text(LOCK)
    assert index.other(lock, None) == ""
    assert index.other(lock, index.Index("https://me:pw@inside.example.com/simple", "x")) == ""
    assert index.other(lock, index.Index("https://o.example.com/simple", "x")).startswith("https://Inside")


def test_which_index_a_server_uses(tmp_path: Path) -> None:
    assert index.configured(APP, tmp_path) is None
    write(tmp_path, {"etc/pip.conf": "[global]\nindex-url = https://u:p%40@pip.example.com/simple\n"})
    found = index.configured(APP, tmp_path)
    assert found == index.Index("https://u:p%40@pip.example.com/simple", "/etc/pip.conf")
    assert found.public == "https://pip.example.com/simple"
    text = '[[index]]\nurl = "https://more.example.com"\n'
    text += '[[index]]\nurl = "https://uv.example.com"\ndefault = true\n'
    write(tmp_path, {"etc/uv/uv.toml": text})
    assert index.configured(APP, tmp_path) == index.Index("https://uv.example.com", "/etc/uv/uv.toml")
    app = board(packages={"index_url": "https://own.example.com"})
    assert index.configured(app, tmp_path) == index.Index(
        "https://own.example.com", "server.python.index_url"
    )


def test_whether_every_requirement_has_a_hash() -> None:
    good = "# a comment\na==1 ; python_version > '3' \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
    assert index.all_hashed(good)
    assert not index.all_hashed(good + "b @ git+https://git.example.com/b@00\n")


LISTING = json.dumps(
    [
        {"implementation": "cpython", "variant": "default", "version": version}
        for version in ("3.16.0a2", "3.14.1", "3.12.3", "3.12.11", "3.11.9")
    ]
    + [{"implementation": "pypy", "variant": "default", "version": "3.13.1"}]
)


@pytest.mark.parametrize(
    ("wish", "exact"),
    [
        (interpreters.PythonWish("3.12", "", "x"), "3.12.11"),
        (interpreters.PythonWish("", ">=3.12,<3.14", "x"), "3.12.11"),
        (interpreters.PythonWish("", ">=3.14", "x"), "3.14.1"),
    ],
)
def test_which_python_uv_shall_bring(wish: interpreters.PythonWish, exact: str) -> None:
    assert pythons.choose(wish, LISTING)[1] == exact


def test_a_python_that_uv_does_not_know() -> None:
    with pytest.raises(ReleaseError, match=r"Python 3\.13 \(x\).*it knows 3\.11, 3\.12, 3\.14\."):
        pythons.choose(interpreters.PythonWish("3.13", "", "x"), LISTING)
    with pytest.raises(ReleaseError, match="no list"):
        pythons.choose(interpreters.PythonWish("3.13", "", "x"), "oops")


def test_a_half_installed_python_does_not_count(tmp_path: Path) -> None:
    place = tmp_path / "3.12"
    write(place, {"cpython-3.12.1-linux/bin/python3.12": "", "cpython-3.12.1-linux/bin/python3": ""})
    (place / "cpython-3.12-linux").symlink_to(place / "cpython-3.12.1-linux")
    assert pythons.managed(tmp_path) == {}
    (place / pythons.COMPLETE).touch()
    assert pythons.managed(tmp_path) == {(3, 12): str(place / "cpython-3.12.1-linux/bin/python3.12")}


SETTINGS = """
import os, secrets, uuid
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SIGNING_KEY = os.getenv("SIGNING_KEY", secrets.token_hex(32))
COOKIE_SECRET = os.environ.get("COOKIE_SECRET") or os.urandom(16)
PLAIN_SECRET = secrets.token_urlsafe()
REQUEST = uuid.uuid4()

class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="APP_")
    secret_key: str = secrets.token_urlsafe(32)
    jwt: str = Field(default_factory=lambda: secrets.token_urlsafe(32), alias="JWT_KEY")
    salt: str = "fixed"
    keyboard: str = "fixed"

class Row(Base):
    api_key = Column(String, default=secrets.token_hex)
    token: str = Field(default_factory=lambda: secrets.token_hex(8))

def make():
    token = secrets.token_hex()
"""


def test_random_secrets_are_found_with_their_variables(tmp_path: Path) -> None:
    write(tmp_path, {"app/settings.py": SETTINGS, "tests/x.py": SETTINGS})
    assert [(one.constant, one.name, one.where) for one in randoms.find(tmp_path)] == [
        ("SIGNING_KEY", "SIGNING_KEY", "app/settings.py:6"),
        ("COOKIE_SECRET", "COOKIE_SECRET", "app/settings.py:7"),
        ("PLAIN_SECRET", "", "app/settings.py:8"),
        ("secret_key", "APP_SECRET_KEY", "app/settings.py:13"),
        ("jwt", "JWT_KEY", "app/settings.py:14"),
    ]


def test_no_alarm_for_what_is_set(tmp_path: Path) -> None:
    write(tmp_path, {"app/settings.py": SETTINGS})
    names = ("SIGNING_KEY", "COOKIE_SECRET", "JWT_KEY")
    app = board(env={"app_secret_key": "x"}, secrets=[{"name": name} for name in names])
    assert [one.constant for one in randoms.unset(tmp_path, app)] == ["PLAIN_SECRET"]
    assert "set processes.web.workers: 1" in randoms.unset(tmp_path, app)[0].sentence()


def test_a_nested_setting_may_be_set_from_above(tmp_path: Path) -> None:
    text = "import secrets\nclass Auth(BaseModel):\n    secret: str = secrets.token_hex()\n"
    write(tmp_path, {"app/settings.py": text})
    assert randoms.unset(tmp_path, APP)[0].name == ""
    assert randoms.unset(tmp_path, board(env={"AUTH__SECRET": "x"})) == []


def test_a_front_end_beside_the_project(tmp_path: Path) -> None:
    write(tmp_path, {"front/package.json": '{"scripts": {"build": "vite build"}}', "back/main.py": MAIN})
    hints = front_end.unbuilt(tmp_path, tmp_path / "back")
    assert hints == [
        "front/package.json has a build script and nothing is built: name the commands under build."
    ]
    (tmp_path / "front/dist").mkdir()
    assert front_end.unbuilt(tmp_path, tmp_path / "back") == []


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (".", "the project"), ("src", "the code"), ("src/app", "the code"), ("db", "settings"),
        ("src/app/logs", ""), ("uploads", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["persistent", "scratch"])
def test_a_folder_of_code_is_not_made_writable(tmp_path: Path, key: str, name: str, what: str) -> None:
    parts = {
        "the project": tmp_path,
        "the code of app.main:app": tmp_path / "src/app/main.py",
        "Alembic's settings": tmp_path / "db/alembic.ini",
    }
    if what:
        with pytest.raises(ReleaseError, match=f"{key}: {name} holds .*{what}"):
            places.refuse_code(board(**{key: [name]}), tmp_path, parts)
    else:
        places.refuse_code(board(**{key: [name]}), tmp_path, parts)
