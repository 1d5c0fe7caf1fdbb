"""Where migrations are, as alembic's configuration says it."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from ansible.module_utils.berth.reading import alembic, tables
from ansible.module_utils.berth.reports import history

from tests.support.entry import board

REVISION = "revision = {name!r}\ndown_revision = None\n"


def lay(root: Path, *folders: str) -> None:
    """One revision in each folder, named after it."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
        name = folder.replace("/", "_")
        (root / folder / "1_x.py").write_text(REVISION.format(name=name))


@pytest.mark.filterwarnings("ignore:.*path_separator:DeprecationWarning")
@pytest.mark.parametrize(
    ("ini", "toml", "folders", "unused"),
    [
        ("script_location = alembic", "", ["alembic/versions"], []),
        ("script_location = %(here)s/db", "", ["db/versions"], []),
        (
            "script_location = db\nversion_locations = %(here)s/one %(here)s/two",
            "",
            ["one", "two"],
            ["db/versions"],
        ),
        ("script_location = db\nversion_locations = one, two", "", ["one", "two"], ["db/versions"]),
        (
            "script_location = db\nversion_locations = one:two\nversion_path_separator = os",
            "",
            ["one", "two"],
            [],
        ),
        ("script_location = db\nversion_locations =\n  o\n  t\npath_separator = newline", "", ["o", "t"], []),
        ("script_location = db\nversion_locations = a;b\nversion_path_separator = ;", "", ["a", "b"], []),
        ("script_location = shop:db", "", ["shop/db/versions"], []),
        (
            "script_location = shop.core:db\nversion_locations = shop:v",
            "",
            ["shop/v"],
            ["shop/core/db/versions"],
        ),
        ("", 'script_location = "%(here)s/db"', ["db/versions"], []),
        ("", 'script_location = "db"\nversion_locations = ["%(here)s/one", "two"]', ["one", "two"], []),
        ("sqlalchemy.url = x", 'script_location = "db"', ["db/versions"], ["alembic/versions"]),
    ],
)
def test_what_alembic_itself_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ini: str,
    toml: str,
    folders: list[str],
    unused: list[str],
) -> None:
    lay(tmp_path, *folders, *unused)
    for folder in ("shop/core/db", "shop/db", "db", "alembic"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "env.py").touch()
    if ini:
        (tmp_path / "alembic.ini").write_text(f"[alembic]\n{ini}\n")
    if toml:
        (tmp_path / "pyproject.toml").write_text(f"[tool.alembic]\n{toml}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = Config(tmp_path / "alembic.ini", toml_file=tmp_path / "pyproject.toml")
    wanted = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    assert wanted == {folder.replace("/", "_") for folder in folders}
    assert set(alembic.read_revisions(tmp_path, tmp_path)) == wanted
    assert set(history.known_to(tmp_path, board())) == wanted
    assert alembic.read(tmp_path, tmp_path).env.exists()


def test_an_ini_inside_the_package_that_it_names(tmp_path: Path) -> None:
    package = tmp_path / "src/shop"
    lay(package, "db/versions")
    (package / "alembic.ini").write_text("[alembic]\nscript_location = shop:db\n")
    assert set(alembic.read_revisions(package, tmp_path)) == {"db_versions"}


def test_sections_that_only_a_command_names(tmp_path: Path) -> None:
    text = "".join(f"[{name}]\nscript_location = {name}\n" for name in ("main", "archive"))
    (tmp_path / "alembic.ini").write_text(text + "[loggers]\nkeys = root\n")
    assert tables.decide(tmp_path, tmp_path, board()["migrations"]).why == (
        "alembic.ini has no section [alembic] but main, archive: "
        "set migrations.command, such as: alembic -n main upgrade head"
    )


def test_no_configuration_at_all(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    assert alembic.config(tmp_path) is None
    assert tables.decide(tmp_path, tmp_path, board()["migrations"]).why == "there is no alembic.ini"
