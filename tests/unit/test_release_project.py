"""Reading a project without running it: its Python, dependency files, ASGI target and what belongs to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import untrusted
from ansible.module_utils.berth.packaging.keys import env_key
from ansible.module_utils.berth.payload import gitwork
from ansible.module_utils.berth.reading import (
    dependencies,
    interpreters,
    launch,
    packages,
    places,
    project,
    tables,
)
from ansible.module_utils.berth.reading.interpreters import PythonWish, pick_python
from ansible.module_utils.berth.reading.targets import find_targets
from ansible.module_utils.berth.sources import pack, source

from tests.support import tree
from tests.support.entry import board


def write(root: Path, **files: str) -> Path:
    named = {name.replace("__", "/").replace("_py", ".py"): text for name, text in files.items()}
    return tree.write(root, named)


APP = "from fastapi import FastAPI\napp = FastAPI()\n"


def targets(root: Path) -> list[str]:
    return [hit.target for hit in find_targets(root)]


def test_the_application_nearest_the_root_comes_first(tmp_path: Path) -> None:
    write(tmp_path, board__main_py=APP, main_py=APP, board__api__v1__app_py=APP)
    assert targets(tmp_path) == ["main:app", "board.main:app", "board.api.v1.app:app"]


def test_src_layout_imports_without_src(tmp_path: Path) -> None:
    write(tmp_path, src__board__main_py=APP)
    assert targets(tmp_path) == ["board.main:app"]


def test_tests_and_migrations_hold_no_application(tmp_path: Path) -> None:
    write(tmp_path, tests__main_py=APP, migrations__env_py=APP, test_app_py=APP)
    assert targets(tmp_path) == []


def test_a_factory_of_the_usual_name_goes_first(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(
        "def create_api_app():\n    return FastAPI()\n\n\ndef create_app():\n    return FastAPI()\n"
    )
    found = [hit.target for hit in find_targets(tmp_path)]
    assert found == ["server:create_app()", "server:create_api_app()"]


def test_what_belongs_to_a_command_line_comes_last(tmp_path: Path) -> None:
    files = {
        "shop/cli/login.py": "callback = FastAPI()",
        "shop/cli.py": "app = SomeMiddleware(FastAPI())",
        "shop/server/api/main.py": "app = FastAPI()",
    }
    tree.write(tmp_path, files)
    found = [hit.target for hit in find_targets(tmp_path)]
    assert found == ["shop.server.api.main:app", "shop.cli:app", "shop.cli.login:callback"]


def test_factories_and_wrapped_applications(tmp_path: Path) -> None:
    write(
        tmp_path, main_py="from fastapi import FastAPI\ndef create_app(debug=False):\n    return FastAPI()\n"
    )
    assert targets(tmp_path) == ["main:create_app()"]
    (tmp_path / "main.py").write_text(
        "from fastapi import FastAPI\nbare = FastAPI()\napp = Middleware(FastAPI(), x=1)\n"
    )
    assert targets(tmp_path) == ["main:app", "main:bare"]


def test_a_factory_that_wants_arguments_is_no_target(tmp_path: Path) -> None:
    write(tmp_path, main_py="from fastapi import FastAPI\ndef create_app(settings):\n    return FastAPI()\n")
    assert targets(tmp_path) == []


def test_the_entry_point_in_pyproject_wins(tmp_path: Path) -> None:
    write(tmp_path, main_py=APP)
    (tmp_path / "pyproject.toml").write_text('[tool.fastapi]\nentrypoint = "other.place:api"\n')
    assert targets(tmp_path) == ["other.place:api"]


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, main_py=APP + "def (\n")
    assert targets(tmp_path) == []
    assert project.syntax_error(tmp_path).endswith("(main.py:3)")


@pytest.mark.parametrize(
    ("version", "range_", "fits"),
    [
        ((3, 13), ">=3.11", True),
        ((3, 13), ">=3.11,<3.13", False),
        ((3, 12), "~=3.11", True),
        ((3, 12), "~=3.11.2", False),
        ((3, 11), "==3.11.*", True),
        ((3, 12), "!=3.12.*", False),
        ((3, 11), ">=3.11.4", False),
        ((3, 13), "", True),
    ],
)
def test_ranges_of_python(version: tuple[int, ...], range_: str, fits: bool) -> None:
    assert interpreters.satisfies(version, range_) is fits


PYTHONS = {(3, 11): "/usr/bin/python3.11", (3, 13): "/usr/bin/python3.13"}


def test_the_newest_fitting_python_is_picked() -> None:
    assert pick_python(PythonWish("", ">=3.10", "x"), PYTHONS)[0] == "3.13"
    assert pick_python(PythonWish("", ">=3.11.4,<3.13", "x"), PYTHONS)[0] == "3.11"
    assert pick_python(PythonWish("3.11", "", "x"), PYTHONS)[1] == "/usr/bin/python3.11"


def test_a_python_that_is_not_there_is_refused() -> None:
    with pytest.raises(ReleaseError, match=r"3\.12 \(\.python-version\).*3\.11, 3\.13"):
        pick_python(PythonWish("3.12", "", ".python-version"), PYTHONS)


def test_where_the_wish_for_a_python_comes_from(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nrequires-python = ">=3.11"\n')
    assert interpreters.wanted_python(tmp_path, tmp_path, "").range == ">=3.11"
    (tmp_path / ".python-version").write_text("3.12.4\n")
    assert interpreters.wanted_python(tmp_path, tmp_path, "").version == "3.12"
    assert interpreters.wanted_python(tmp_path, tmp_path, "3.13.1").version == "3.13"
    with pytest.raises(ReleaseError, match=r"python\.version says 3\.10, and the project asks for >=3\.11"):
        interpreters.wanted_python(tmp_path, tmp_path, "3.10")


def test_installers_in_order(tmp_path: Path) -> None:
    assert dependencies.find_installer(tmp_path).kind == "none"
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    assert dependencies.find_installer(tmp_path).kind == "none"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    assert dependencies.find_installer(tmp_path).kind == "pyproject"
    (tmp_path / "requirements.txt").touch()
    assert dependencies.find_installer(tmp_path).kind == "requirements"
    (tmp_path / "uv.lock").touch()
    assert dependencies.find_installer(tmp_path).kind == "uv"


def test_an_environment_is_named_after_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r base.txt\nfastapi\n")
    (tmp_path / "base.txt").write_text("alembic\n")
    installer = dependencies.find_installer(tmp_path)
    first = env_key("3.13", installer, tmp_path, {})
    assert env_key("3.13", installer, tmp_path, {}) == first
    assert env_key("3.12", installer, tmp_path, {}) != first
    assert env_key("3.13", installer, tmp_path, {"extras": ["x"]}) != first
    (tmp_path / "base.txt").write_text("alembic==1\n")
    assert env_key("3.13", installer, tmp_path, {}) != first


def test_git_decides_what_belongs_to_a_source(tmp_path: Path) -> None:
    write(tmp_path, main_py=APP, secret__notes="x", build__out="x")
    (tmp_path / ".gitignore").write_text("secret/\nbuild/\n")
    (tmp_path / "gone.py").touch()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "gone.py"], check=True)
    (tmp_path / "gone.py").unlink()
    assert pack.list_files(tmp_path) == [".gitignore", "main.py"]


def test_without_git_the_usual_by_products_stay_behind(tmp_path: Path) -> None:
    write(tmp_path, main_py=APP, node_modules__x="x")
    (tmp_path / ".venv/lib").mkdir(parents=True)
    (tmp_path / ".venv/lib/x.py").touch()
    (tmp_path / "main.pyc").touch()
    assert pack.list_files(tmp_path) == ["main.py"]


def test_the_digest_sees_content_mode_and_name_and_no_times(tmp_path: Path) -> None:
    path = write(tmp_path, main_py=APP) / "main.py"
    first = pack.digest(tmp_path, ["main.py"])
    path.touch()
    assert pack.digest(tmp_path, ["main.py"]) == first
    path.chmod(0o755)
    assert pack.digest(tmp_path, ["main.py"]) != first
    path.chmod(0o644)
    path.write_text(APP + " ")
    assert pack.digest(tmp_path, ["main.py"]) != first


@pytest.mark.parametrize(
    ("name", "left_out"), [(".env", True), (".env.production", True), (".env.example", False), ("env", False)]
)
def test_settings_files_are_left_out(name: str, left_out: bool) -> None:
    assert pack.is_env_file(name) is left_out


def test_a_release_brings_nothing_of_the_engine_along(tmp_path: Path) -> None:
    write(tmp_path, main_py=APP)
    (tmp_path / ".berth").symlink_to("/etc")
    (tmp_path / ".venv").mkdir()
    (tmp_path / "api").mkdir()
    (tmp_path / "api/.env").touch()
    assert source.tidy(tmp_path, untrusted.Owner(os.getuid(), os.getgid())) == ["api/.env"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api", "main.py"]


def test_a_subdir_stays_inside(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no folder api"):
        places.project_folder(tmp_path, "api")
    (tmp_path / "api").symlink_to("/etc")
    with pytest.raises(ReleaseError, match="no folder api"):
        places.project_folder(tmp_path, "api")


LISTING = (
    "1111111111111111111111111111111111111111\tHEAD\n"
    "1111111111111111111111111111111111111111\trefs/heads/main\n"
    "2222222222222222222222222222222222222222\trefs/tags/v1\n"
    "3333333333333333333333333333333333333333\trefs/tags/v1^{}\n"
)


@pytest.mark.parametrize(
    ("version", "commit"),
    [
        ("HEAD", "1" * 40),
        ("main", "1" * 40),
        ("v1", "3" * 40),
        ("2222222", "2" * 40),
        ("nope", ""),
        ("4444444", ""),
    ],
)
def test_versions_of_a_repository(version: str, commit: str) -> None:
    assert gitwork.match_ref(LISTING, version) == commit


def decided(root: Path, **wishes: object) -> str:
    return str(tables.decide(root, root, board(migrations=wishes)["migrations"]).command)


def test_migrations_are_found_where_they_would_work(tmp_path: Path) -> None:
    assert decided(tmp_path) == ""
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\nurl = 50%\n")
    assert decided(tmp_path) == ""
    assert "no revisions" in tables.decide(tmp_path, tmp_path, board()["migrations"]).why
    write(tmp_path, migrations__versions__one_py="revision = '1'\n")
    assert decided(tmp_path) == "alembic upgrade head"
    assert decided(tmp_path, command="make migrate") == "make migrate"
    assert decided(tmp_path, enabled=False) == ""


def test_the_ini_may_lie_below_or_above_the_project(tmp_path: Path) -> None:
    write(tmp_path, server__schema__versions__one_py="revision = '1'\n")
    (tmp_path / "server/alembic.ini").write_text("[alembic]\nscript_location = schema\n")
    wishes = board()["migrations"]
    assert tables.decide(tmp_path, tmp_path, wishes).directory == tmp_path / "server"
    (tmp_path / "server/api").mkdir()
    assert (
        tables.decide(tmp_path / "server/api", tmp_path, board()["migrations"]).directory
        == tmp_path / "server"
    )


def test_several_heads_are_an_error_unless_they_have_labels(tmp_path: Path) -> None:
    write(tmp_path, alembic__versions__a_py="revision = 'a'\n", alembic__versions__b_py="revision = 'b'\n")
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    with pytest.raises(ReleaseError, match="2 heads \\(a, b\\)"):
        decided(tmp_path)
    for name in "ab":
        with (tmp_path / f"alembic/versions/{name}.py").open("a") as file:
            file.write(f"branch_labels = ('{name}',)\n")
    assert decided(tmp_path) == "alembic upgrade heads"


@pytest.mark.parametrize(
    ("labels", "command"),
    [
        # On the first revision of each branch, as alembic itself writes it.
        ({"a1": "a", "b1": "b"}, "alembic upgrade heads"),
        ({"a1": "a", "b2": "b"}, "alembic upgrade heads"),
        ({"a1": "a"}, ""),
        # One that they share says of neither which it is.
        ({"root": "all"}, ""),
        ({"root": "all", "a1": "a", "b1": "b"}, "alembic upgrade heads"),
    ],
)
def test_a_label_is_for_all_that_stands_on_it(tmp_path: Path, labels: dict[str, str], command: str) -> None:
    below = {"root": None, "a1": "root", "a2": "a1", "b1": "root", "b2": "b1"}
    for name, down in below.items():
        label = f"branch_labels = ({labels[name]!r},)\n" if name in labels else ""
        path = tmp_path / f"alembic/versions/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"revision = {name!r}\ndown_revision = {down!r}\n{label}")
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    if command:
        assert decided(tmp_path) == command
    else:
        with pytest.raises(ReleaseError, match="2 heads"):
            decided(tmp_path)


def test_a_database_written_in_the_ini_is_not_migrated(tmp_path: Path) -> None:
    write(tmp_path, alembic__versions__a_py="revision = 'a'\n", alembic__env_py=OFFLINE)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = alembic\nsqlalchemy.url = x://y\n")
    assert decided(tmp_path) == ""
    write(tmp_path, alembic__env_py=OFFLINE + "config.set_main_option('sqlalchemy.url', settings.url)\n")
    assert decided(tmp_path) == "alembic upgrade head"


OFFLINE = """
from alembic import context
from sqlalchemy import engine_from_config, pool
config = context.config
url = config.get_main_option("sqlalchemy.url")
connectable = engine_from_config(config.get_section(config.config_ini_section, {}), poolclass=pool.NullPool)
"""


def test_tables_that_the_app_makes_itself(tmp_path: Path) -> None:
    write(tmp_path, app__main_py="from x import Base\n\nBase.metadata.create_all(engine)\n")
    assert tables.schema_at_start(tmp_path) == "app/main.py:3"
    write(tmp_path, app__main_py='SQL = """\n  CREATE TABLE IF NOT EXISTS notes (id int)\n"""\n')
    assert tables.schema_at_start(tmp_path) == "app/main.py:2"


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("uvicorn pkg.main:app --host 0.0.0.0 --reload", "pkg.main:app"),
        ("gunicorn -k uvicorn.workers.UvicornWorker pkg.main:app", "pkg.main:app"),
        ("poetry run uvicorn --factory pkg.main:create", "pkg.main:create()"),
        ("sh -c 'alembic upgrade head && uvicorn pkg.main:app'", "pkg.main:app"),
        ("uvicorn main:app --app-dir pkg", "pkg.main:app"),
        ("fastapi run pkg/main.py --port 80", "pkg.main:"),
        ("uvicorn nowhere:app", ""),
        ("celery -A pkg.main:app worker", ""),
    ],
)
def test_the_target_of_a_command(tmp_path: Path, line: str, target: str) -> None:
    write(tmp_path, pkg__main_py=APP)
    assert launch.target(line, tmp_path) == target


def test_a_procfile_and_a_dockerfile_say_what_is_served(tmp_path: Path) -> None:
    write(tmp_path, main_py=APP, pkg__web_py=APP, pkg__other_py=APP)
    (tmp_path / "Dockerfile").write_text('FROM x\nCMD ["uvicorn", \\\n  "pkg.web:app", "--reload"]\n')
    assert targets(tmp_path)[0] == "pkg.web:app"
    (tmp_path / "Procfile").write_text("web: fastapi run pkg/other.py\n")
    assert targets(tmp_path)[:2] == ["pkg.other:app", "pkg.web:app"]


def test_a_command_that_names_src_is_taken_at_its_word(tmp_path: Path) -> None:
    """`src` is the package then: without it, relative imports of the module would fail."""
    write(tmp_path, src__main_py="from .api import router\n" + APP)
    assert launch.target("uvicorn src.main:app", tmp_path) == "src.main:app"
    assert launch.target("fastapi run src/main.py", tmp_path) == "main:"
    (tmp_path / "src/__init__.py").write_text("from .main import app\n")
    assert launch.target("fastapi run src --port 80", tmp_path) == "src:app"
    (tmp_path / "src/__init__.py").write_text("")
    assert launch.target("fastapi run src", tmp_path) == ""


def test_an_app_wrapped_in_another_module_goes_first(tmp_path: Path) -> None:
    write(tmp_path, main_py=APP, asgi_py="from main import app\nsite = GZipMiddleware(app)\n")
    assert targets(tmp_path) == ["asgi:site", "main:app"]


def test_installers(tmp_path: Path) -> None:
    def kind() -> str:
        return str(dependencies.find_installer(tmp_path, tmp_path).kind)

    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    assert kind() == "none"
    poetry = "[tool.poetry.dependencies]\nfastapi = '^0.115'\n"
    (tmp_path / "pyproject.toml").write_text(poetry)
    with pytest.raises(ReleaseError, match=r"run `poetry lock` and commit poetry\.lock"):
        kind()
    (tmp_path / "pyproject.toml").write_text(poetry + "[build-system]\n")
    assert kind() == "pyproject"
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    (tmp_path / "setup.cfg").write_text("[options]\ninstall_requires =\n  a\n  # b\n  c>1\n")
    assert kind() == "setup.cfg"
    assert dependencies.setup_requirements(tmp_path) == ["a", "c>1"]
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/production.txt").write_text("a\n")
    assert kind() == "requirements"
    for lock in ("pdm", "poetry", "uv"):
        (tmp_path / f"{lock}.lock").write_text("")
        assert kind() == lock


def test_a_workspace_lock_above_counts_for_its_members_alone(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text('[[package]]\nname = "api"\nsource = { virtual = "packages/api" }\n')
    for name in ("api", "other"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    member = dependencies.find_installer(tmp_path / "packages/api", tmp_path)
    assert (member.kind, member.package, member.folder) == ("uv", "api", tmp_path)
    assert dependencies.find_installer(tmp_path / "packages/other", tmp_path).kind == "pyproject"


def test_a_pdm_lock_as_requirements(tmp_path: Path) -> None:
    lock = tmp_path / "pdm.lock"
    lock.write_text(
        '[[package]]\nname = "a"\nversion = "1"\ngroups = ["default"]\n'
        'extras = ["x"]\nmarker = "os_name == 1"\n'
        'files = [{file = "a.whl", hash = "sha256:00"}]\n'
        '[[package]]\nname = "b"\nversion = "2"\ngroups = ["dev"]\n'
    )
    choice: dict[str, list[str]] = {"extras": [], "groups": []}
    assert dependencies.pdm_requirements(lock, choice) == ["a[x]==1 ; os_name == 1 --hash=sha256:00"]
    assert dependencies.pdm_requirements(lock, {**choice, "groups": ["dev"]})[1] == "b==2"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("^3.11", ">=3.11,<4.0"),
        ("~3.11", ">=3.11,<3.12"),
        ("3.12.*", "==3.12.*"),
        (">=3.10,<3.13", ">=3.10,<3.13"),
    ],
)
def test_a_range_as_poetry_writes_it(tmp_path: Path, asked: str, meant: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[tool.poetry.dependencies]\npython = "{asked}"\n')
    assert interpreters.wanted_python(tmp_path, tmp_path, "").range == meant


@pytest.mark.parametrize(
    ("text", "others", "extras"),
    [
        ("fastapi\n", ["fastapi"], None),
        (".\n", [], []),
        ("-e .\n", [], []),
        ("--editable=./\nrich==1 # x\n", ["rich==1 # x"], []),
        (
            "-e .[web, cli]  # ours\n-r more/base.txt\n-c pins.txt",
            ["-r HERE/more/base.txt", "-c HERE/pins.txt"],
            ["web", "cli"],
        ),
        ("-e ./libs/shop\n./other\n", ["-e ./libs/shop", "./other"], None),
    ],
)
def test_a_requirements_file_that_names_its_project(
    tmp_path: Path, text: str, others: list[str], extras: list[str] | None
) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    installer = dependencies.find_installer(tmp_path)
    assert dependencies.split_itself(installer) == ([], None)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\ndependencies = ['a']\n")
    assert dependencies.split_itself(installer) == (
        [line.replace("HERE", str(tmp_path)) for line in others],
        extras,
    )


def test_an_environment_of_a_project_that_its_requirements_name(tmp_path: Path) -> None:
    toml, listed = tmp_path / "pyproject.toml", tmp_path / "requirements.txt"
    listed.write_text("-e .\n")
    keys = set()
    for needs in ("['a']", "['a', 'b']"):
        toml.write_text(f"[project]\nname = 'x'\ndependencies = {needs}\n[build-system]\nrequires = []\n")
        installer = dependencies.find_installer(tmp_path)
        assert packages.is_package(tmp_path, installer)
        keys.add(env_key("3.13", installer, tmp_path, {}))
    assert len(keys) == 2
