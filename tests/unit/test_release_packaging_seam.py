"""What a release is packaged as is known to `packaging` and to `venv` alone, and told once.

Each exception stands here with its reason; whoever adds one asks `venv` instead, or has a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.module_utils.berth import venv
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.migrations import migrate, offline
from ansible.module_utils.berth.packaging import commands, once, prove
from ansible.module_utils.berth.packaging.tree import Tree
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.runtime.transient import Work

from plugins.filter.app import FilterModule
from tests.support.entry import board
from tests.support.words import words

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
ENGINE = PLUGINS / "module_utils/berth"
# Of a virtual environment, and of what a command of a release finds in its own environment.
WORDS = re.compile(
    r"\.venv\b|pyvenv|(?<!/usr)(?:^|/)bin/(?:python|alembic|gunicorn|uvicorn)|site-packages|PYTHON[A-Z]{3,}"
    r"|\bBERTH_(?:APP|RELEASE)\b|:/usr/local/bin|^PATH$"
)
REASONS: dict[str, tuple[str, ...]] = {
    "the environment of a program of Berth's own, which no release is in": (
        "modules/app_program",
        "module_utils/berth/reading/toml",
    ),
    "runs programs of the distribution, and gives them its own PATH": (
        "modules/apt_packages",
        "module_utils/berth/payload/backup",
        "module_utils/berth/payload/certificates",
        "module_utils/berth/payload/guard",
        "module_utils/berth/transport/agent",
    ),
}
ALLOWED = {module for modules in REASONS.values() for module in modules}


def test_nobody_else_knows_how_a_release_is_packaged() -> None:
    found = {}
    for path in sorted(PLUGINS.rglob("*.py")):
        module = path.relative_to(PLUGINS).with_suffix("").as_posix()
        if path != ENGINE / "venv.py" and not path.is_relative_to(ENGINE / "packaging"):
            found.update({(module, line): word for word, line in words(path, WORDS)})
    assert [f"{at[0]}:{at[1]}: {word}" for at, word in found.items() if at[0] not in ALLOWED] == []
    assert sorted(ALLOWED - {module for module, _ in found}) == []


def test_no_template_of_a_role_knows_it() -> None:
    texts = [path for path in ROOT.glob("roles/*/*/*") if path.suffix in (".j2", ".yml")]
    assert len(texts) > 50
    assert [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in texts
        for found in re.finditer(r"\.venv\b|PYTHON[A-Z]{3,}|\bBERTH_(?:APP|RELEASE)\b", path.read_text())
    ] == []


def test_a_new_word_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "switch.py"
    path.write_text(
        '"""What .venv/bin/python is."""\n'
        'python = folder / ".venv/bin/python"\nalembic = env / "bin/alembic"\n'
        'env = {"PATH": f"{env}/bin:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": ""}\n'
        'run(["/usr/bin/python3", "-I"], BERTH_APP=app)\nos.environ.update(PATH="/usr/sbin")\n'
    )
    assert sorted(words(path, WORDS), key=lambda one: (one[1], one[0])) == [
        (".venv", 2),
        ("/bin/python", 2),
        ("bin/alembic", 3),
        (":/usr/local/bin", 4),
        ("PATH", 4),
        ("PYTHONPATH", 4),
        ("BERTH_APP", 5),
        ("PATH", 6),
    ]


def test_a_file_of_a_package_is_told_from_one_of_the_app() -> None:
    release = Path("/srv/board/releases/r1")
    library = f"{venv.of(release)}/lib/python3.13/site-packages/sqlalchemy/orm.py:1"
    assert venv.holds(library)
    assert not venv.holds(f"{release}/venvs/main.py:1")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Of a release whose project is installed into it."""
    paths = Paths("board", tmp_path)
    release = paths.release("r1")
    (release / ".berth/site").mkdir(parents=True)
    (release / "main.py").write_text("app = 1\n")
    paths.build_home.mkdir(parents=True)
    venv.of(release).symlink_to(paths.envs / "key")
    return Tree(paths, board(build=["make"], database={}, scratch=["tmp"]), "r1")


def _build(tree: Tree) -> None:
    venv.of(tree.folder).unlink()
    commands.run(tree, venv.of(tree.folder))


COMMANDS: dict[str, Callable[[Tree], Any]] = {
    "import": lambda tree: prove.run(tree, "import main"),
    "migrations": lambda tree: migrate.run(tree.app, tree.code(), "alembic upgrade head", tree.work),
    "their SQL": lambda tree: offline.make(
        "sql", offline.Place(tree.folder, tree.work, tree.code()), "", "head"
    ),
    "build": _build,
}


def _unit(tree: Tree) -> dict[str, str]:
    """What role service writes into the units of the app."""
    folder = ROOT / "roles/service/templates"
    # As Ansible sets it up.
    jinja = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), trim_blocks=True)  # noqa: S701
    jinja.filters.update(FilterModule().filters())
    text = jinja.get_template("sandbox.j2").render(__service_app={**tree.app, "name": tree.paths.app})
    lines = re.findall(r"(?m)^Environment=(.+)$", text)
    found = dict(pair.split("=", 1) for line in lines for pair in line.split())
    return {key: value.replace("%i", tree.release) for key, value in found.items()}


@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_finds_what_the_processes_of_its_release_find(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    seen: list[Work] = []

    def transient(work: Work) -> Result:
        seen.append(work)
        return Result(0, "", "")

    monkeypatch.setattr(once, "transient", transient)
    monkeypatch.setattr(migrate.Blockers, "start", lambda _: None)
    monkeypatch.setattr(commands.untrusted, "give", lambda *_: None)
    monkeypatch.setattr(commands.source, "tidy", lambda *_: None)
    for module in ("commands", "tree"):
        monkeypatch.setattr(f"ansible.module_utils.berth.packaging.{module}.ids", lambda _: (-1, -1))
    unit = _unit(tree)
    COMMANDS[what](tree)
    env = dict(seen[0].env or {})
    start = {"PATH": unit["PATH"].replace("/srv/", f"{tree.paths.root}/srv/")}
    own = ("PYTHONUNBUFFERED", *(("PYTHONDONTWRITEBYTECODE",) if what == "build" else ()))
    wanted = {key: value for key, value in {**unit, **start}.items() if key not in own}
    assert {key: env.get(key) for key in wanted} == wanted
    assert env["PYTHONPATH"] == f"{tree.folder}:{tree.folder}/.berth/site"
    assert set(unit) | set(env) >= venv.GIVEN


def test_an_app_that_is_imported_may_write_what_it_may_later(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Work] = []
    monkeypatch.setattr(once, "transient", seen.append)
    prove.run(tree, "import main")
    assert list(seen[0].writable) == [tree.paths.data, tree.paths.home, tree.folder / "tmp"]


def test_the_lines_of_units_are_part_of_fingerprints() -> None:
    """Another letter in them restarts every app of every server on its next deploy."""
    assert FilterModule().filters()["unit_environment"]("board") == (
        "Environment=PATH=/srv/board/releases/%i/.venv/bin:/usr/local/bin:/usr/bin:/bin\n"
        "Environment=PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1\n"
        "Environment=BERTH_APP=board BERTH_RELEASE=%i"
    )
