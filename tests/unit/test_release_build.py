"""What a build copies, in which order it decides, and what it falls back to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command, untrusted
from ansible.module_utils.berth.migrations import database, migrate, objects
from ansible.module_utils.berth.packaging import (
    environments,
    frozen,
    once,
    prove,
    pythons,
    site,
    start_scripts,
    tree,
)
from ansible.module_utils.berth.packaging.environments import Environments
from ansible.module_utils.berth.packaging.tree import Tree
from ansible.module_utils.berth.packaging.uv import Uv
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reading import dependencies, interpreters
from ansible.module_utils.berth.release import plan
from ansible.module_utils.berth.release.deploy import Deploy, Kind
from ansible.module_utils.berth.release.steps import build as build_step
from ansible.module_utils.berth.release.steps import fetch
from ansible.module_utils.berth.release.steps import migrate as migrate_step
from ansible.module_utils.berth.sources import source
from ansible.module_utils.berth.store import journal, lock, settings

from tests.support.entry import board
from tests.support.tree import write

APP = board(jobs=[], migrations={})
MAIN = "from fastapi import FastAPI\n\napp = FastAPI()\n"
MODULES = '[submodule "shared"]\n\tpath = libs/shared\n\turl = https://git.example.com/shared.git\n'


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """An app that was prepared, and the source of its release r2."""
    place = Paths("board", tmp_path)
    for folder in (place.release("r2"), place.units, place.state, place.etc, place.frozen, place.marks):
        folder.mkdir(parents=True)
    provisioned = f'{{"digest": "{settings.provision_digest(APP)}"}}'
    place.provisioned.write_text(provisioned)
    for name in ("env", "migrate.env"):
        (place.etc / name).write_text('A="old"\n')
    for name in ("board-web@.service", "board-web@.socket"):
        (place.units / name).write_text("[Unit]\n")
    (place.release("r2") / "main.py").write_text(MAIN)
    for module in (environments, frozen, tree):
        monkeypatch.setattr(module, "ids", lambda _: (-1, -1))
    return place


@pytest.fixture
def deploy(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """A deploy before its build, whose installing does nothing."""
    run = Deploy(paths, {"user": "me", "host": "here"})
    run.app, run.release, run.identity = APP, "r2", "d"
    monkeypatch.setattr(site, "install", lambda *_: None)
    monkeypatch.setattr(start_scripts, "write", lambda *_, **__: None)
    for name in ("seal", "publish"):
        monkeypatch.setattr(Tree, name, lambda *_: None)
    monkeypatch.setattr(
        Environments, "choose", lambda _: ("3.13", "/usr/bin/python3.13", dependencies.Installer("none", ""))
    )
    monkeypatch.setattr(Environments, "get", lambda *_: ("e", True))
    monkeypatch.setattr(prove, "choose", lambda _builder, found, _live: found[0])
    return run


def test_a_fingerprint_is_of_what_the_release_holds(
    paths: Paths, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """site.yml runs beside a deploy: before the copies are made, and while they are."""
    keep = frozen.keep_settings

    def provision(*_: Any) -> None:
        (paths.etc / "env").write_text('A="new"\n')

    def keep_settings(one: Tree) -> None:
        with pytest.raises(ReleaseError, match="Another run"), lock.hostwide(paths.root, 0):
            pass
        keep(one)

    monkeypatch.setattr(Tree, "seal", provision)
    monkeypatch.setattr(frozen, "keep_settings", keep_settings)
    deploy.fingerprint = plan.fingerprint(APP, "d", *plan.server_side(paths, APP))
    build_step.run(deploy, {})
    assert "new" in paths.env("r2").read_text()
    assert deploy.record["fingerprint"] == plan.fingerprint(APP, "d", *plan.server_side(paths, APP))


def test_a_rehearsal_takes_the_settings_that_are_there_and_brings_no_units(
    paths: Paths, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is started, and what the server was prepared with may be older than the inventory."""

    def server_side(*_: Any) -> None:
        raise ReleaseError("They changed.")

    monkeypatch.setattr(plan, "server_side", server_side)
    deploy.kind = Kind.REHEARSAL
    build_step.run(deploy, {})
    assert paths.migrate_env("r2").read_text() == 'A="old"\n'
    assert not list(paths.units.glob("*@r2.*"))


def test_a_redis_that_is_read_and_that_nobody_sets_is_told(paths: Paths, deploy: Deploy) -> None:
    reading = "import os\nREDIS = os.getenv('REDIS_URL', 'redis://localhost')\n"
    (paths.release("r2") / "main.py").write_text(MAIN + reading)
    build_step.run(deploy, {})
    assert deploy.notes == [
        "REDIS_URL (main.py:5) is read for Redis, and nothing sets it: write redis: {enabled: true}."
    ]


def test_what_a_source_keeps_elsewhere_is_told(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The build fails later, or does not, and nobody would think of a submodule."""
    deploy.release = "r3"
    monkeypatch.setattr(fetch.disk, "begin", lambda _: None)
    monkeypatch.setattr(source, "tidy", lambda *_: [])
    monkeypatch.setattr(
        source, "unpack", lambda _, folder: write(folder, {"main.py": MAIN, ".gitmodules": MODULES})
    )
    with (tmp_path / "body").open("w+b") as body:
        answer = fetch.run(deploy, {"body": body})
    assert deploy.notes
    assert "libs/shared" in answer["msg"]


def test_without_an_application_nothing_is_installed(
    paths: Paths, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(*_: Any) -> None:
        raise AssertionError("it was built")

    monkeypatch.setattr(Environments, "get", install)
    (paths.release("r2") / "main.py").write_text("x = 1\n")
    with pytest.raises(ReleaseError, match="No FastAPI application was found"):
        build_step.run(deploy, {})


def test_where_the_app_could_change_its_own_code_nothing_is_installed(
    paths: Paths, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(*_: Any) -> None:
        raise AssertionError("it was built")

    monkeypatch.setattr(Environments, "get", install)
    (paths.release("r2") / "main.py").unlink()
    write(paths.release("r2"), {"src/main.py": MAIN})
    deploy.app = {**APP, "persistent": ["src"], "processes": [{**APP["processes"][0], "app": "src.main:app"}]}
    with pytest.raises(ReleaseError, match="persistent: src holds"):
        build_step.run(deploy, {})


@pytest.fixture
def here(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Environments:
    """One whose Python was updated since environment `old` was made."""
    version = ["3.13.5"]
    monkeypatch.setattr(environments, "run", lambda *_, **__: command.Result(0, version[0], ""))
    monkeypatch.setattr(untrusted, "take", lambda *_: [])
    monkeypatch.setattr(once, "as_builder", lambda *_: command.Result(0, "", ""))
    (paths.release("r2") / "requirements.txt").write_text("fastapi\n")
    one = Environments(Tree(paths, APP, "r2"))
    installer = one.tree.installer()
    monkeypatch.setattr(Environments, "_install", lambda *_: None)
    old, _ = one.get("/usr/bin/python3.13", installer)
    (paths.envs / old / "bin").mkdir()
    (paths.envs / old / "bin/python").symlink_to("/proc/self/exe")
    version[0] = "3.13.6"
    return one


def _no_index(*_: Any) -> None:
    raise ReleaseError("Installing the dependencies failed: no index.")


def test_the_environment_of_before_serves_on_where_a_new_one_cannot_be_made(
    here: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Environments, "_install", _no_index)
    before = {path.name for path in here.paths.envs.iterdir()} - {"lists"}
    key, fresh = here.get("/usr/bin/python3.13", here.tree.installer())
    assert ({key}, fresh) == (before, False)
    assert "Python was updated" in here.notes[0]
    assert "the one of before serves on" in here.notes[0]
    # Another minor version is not served on with.
    monkeypatch.setattr(pythons, "gone", lambda _: "python3.13")
    with pytest.raises(ReleaseError, match="no index"):
        here.get("/usr/bin/python3.13", here.tree.installer())


def test_a_source_is_closed_from_its_first_moment(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def unpack(_body: Any, folder: Path) -> None:
        seen.append(folder.stat().st_mode & 0o777)
        (folder / "main.py").write_text(MAIN)

    monkeypatch.setattr(source, "unpack", unpack)
    run = Deploy(paths, {})
    run.app, run.release = APP, "r3"
    fetch.run(run, {"body": contextlib.closing(SimpleNamespace(close=lambda: None))})
    seen.append(paths.release("r3").stat().st_mode & 0o777)
    assert seen == [0o700, 0o750]


class Schema:
    """A database that stays where it is."""

    def __init__(self, _app: Any) -> None: ...

    def revision(self) -> str:
        return "7"

    def ask(self) -> str:
        return "7"

    def objects(self) -> frozenset[objects.Thing]:
        return frozenset()

    @contextlib.contextmanager
    def timeouts(self, lock: int, statement: int) -> Iterator[None]:
        assert (lock, statement) == (2, 900)
        yield

    @contextlib.contextmanager
    def advisory_lock(self) -> Iterator[None]:
        yield


def test_a_migration_command_that_moved_nothing_is_told(
    paths: Paths, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy.app = board(database={}, migrations={"command": "python seed.py"})
    monkeypatch.setattr(database, "Database", Schema)
    monkeypatch.setattr(migrate, "run", lambda *_, **__: 1)
    deploy.record = {"target": ""}
    answer = migrate_step.run(deploy, {})
    assert answer["changed"] is False
    assert deploy.notes == ["migrations.command ran (python seed.py); the schema stays at 7."]
    assert journal.read_record(paths.release("r2"))["schema"]["to"] == "7"


@pytest.mark.parametrize("said", ["", "ssl|libssl.so.3: cannot open shared object file: No such file"])
def test_a_python_is_asked_for_its_libraries_before_it_stays(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    listing = '[{"version": "3.12.1", "implementation": "cpython", "variant": "default"}]'

    def uv(_uv: Any, words: list[str], place: Path, **_: Any) -> command.Result:
        if words[1] == "install":
            (place / "cpython-3.12.1-linux/bin").mkdir(parents=True)
            (place / "cpython-3.12.1-linux/bin/python3.12").touch(0o755)
        return command.Result(0, listing, "")

    folder = paths.root / "pythons"
    folder.mkdir()
    monkeypatch.setattr(pythons, "FOLDER", folder)
    monkeypatch.setattr(pythons, "locked", contextlib.nullcontext)
    monkeypatch.setattr(pythons, "managed", dict)
    monkeypatch.setattr(Uv, "run", uv)
    monkeypatch.setattr(untrusted, "take", lambda *_: [])
    monkeypatch.setattr(once, "as_builder", lambda *_: command.Result(0, said, ""))
    here = Environments(Tree(paths, APP, "r2"))
    wish = interpreters.PythonWish("3.12", "", "python.version")
    if said:
        with pytest.raises(ReleaseError, match=r"cannot import ssl: .*system_packages: \[libssl3\]"):
            here._bring_python(wish)
    else:
        assert here._bring_python(wish)[0] == "3.12"
    assert (folder / "3.12").exists() is (not said), "it is brought anew once the library is there"
