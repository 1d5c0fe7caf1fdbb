"""Taking an app off a server: whose name is no app's loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.berth.contract import names as contract_names
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release.engine import Engine
from ansible.module_utils.berth.release.steps import remove

NO_NAMES = ("", ".", "..", "../x", "a/b", "/", "Board", "1st", "a" * 32, "board\n", "-x", "böard")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root folder with one app and what other programs have; no command runs."""
    for name in (
        "srv/board/releases/r1/release.json",
        "srv/board/envs/x/bin/python",
        "srv/board/data/upload",
        "srv/ftp/file",
        "etc/berth/board/provisioned.json",
        "etc/berth/redis/board/port",
        "etc/berth/postgresql/board",
        "var/lib/berth/board/journal.jsonl",
        "var/lib/redis/board/dump.rdb",
        "run/board/r1.sock",
        "run/redis/x",
        "run/systemd/x",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    monkeypatch.setattr(command, "run", lambda *_args, **_more: command.Result(0, "", ""))
    return tmp_path


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("name", NO_NAMES)
def test_no_path_is_made_of_what_is_no_name(name: str) -> None:
    with pytest.raises(ReleaseError, match="is no app's name"):
        Paths(name)
    assert not contract_names.APP.fullmatch(name)


@pytest.mark.parametrize("step", ["lock", "remove", "plan", "plan_rollback", "settings", "unlock", "diff"])
def test_no_step_is_taken_for_what_is_no_name(step: str) -> None:
    with pytest.raises(ReleaseError, match="is no app's name"):
        Engine().run(step, {"name": "", "app": {}, "check": True, "purge": True, "holder": {}}, None)


@pytest.mark.parametrize("name", ["redis", "postgresql", "systemd", "ftp", "postgres", "other"])
def test_what_is_no_app_here_is_not_purged(server: Path, name: str) -> None:
    before = files(server)
    answer = remove.remove(Paths(name, server), True, {}, False)
    assert answer == {"changed": False, "msg": f"{name} is not on this server."}
    assert files(server) == before


def test_an_app_is_purged_and_nothing_else(server: Path) -> None:
    before = files(server)
    assert remove.remove(Paths("board", server), True, {}, True)["changed"]
    assert files(server) == before
    assert remove.remove(Paths("board", server), True, {}, False)["changed"]
    left = {name for name in files(server) if "board" in name}
    assert left == {"etc/berth/postgresql/board"}  # of a database that it does not have
    assert {"srv/ftp/file", "run/redis/x", "run/systemd/x"} <= files(server)
    assert not remove.remove(Paths("board", server), True, {}, False)["changed"]
