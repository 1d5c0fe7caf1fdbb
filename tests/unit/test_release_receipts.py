"""What a role records of its work: only what succeeded, and nothing in check mode."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.berth.store import lock, receipts

from plugins.filter.wiring import receipt
from plugins.modules import pgbouncer_pools, postgresql_databases, redis_instances, service_units
from tests.support.entry import board

GIVEN = {"board": "digest"}
ROLES = ("pgbouncer", "postgresql", "redis", "service")


def test_a_receipt_is_written_where_it_differs_and_for_root_alone(tmp_path: Path) -> None:
    assert receipts.read("redis", tmp_path) == {}
    assert receipts.write("redis", GIVEN, False, tmp_path)
    assert receipts.read("redis", tmp_path) == GIVEN
    assert receipts.path("redis", tmp_path).stat().st_mode & 0o777 == 0o600
    assert not receipts.write("redis", GIVEN, False, tmp_path)
    assert receipts.write("redis", {"notes": "other"}, False, tmp_path)
    assert receipts.read("redis", tmp_path) == {"notes": "other"}


def test_check_mode_says_so_and_writes_none(tmp_path: Path) -> None:
    assert receipts.write("redis", GIVEN, True, tmp_path)
    assert not receipts.path("redis", tmp_path).exists()


def test_a_role_that_was_given_nothing_says_that(tmp_path: Path) -> None:
    """Also where it has left none: a server of an earlier Berth is believed for as long."""
    receipts.write("redis", GIVEN, False, tmp_path)
    for role in ("redis", "postgresql"):
        assert receipts.write(role, {}, False, tmp_path)
        assert receipts.path(role, tmp_path).read_text() == "{}\n"
        assert not receipts.write(role, {}, False, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"board"', "\udcff"])
def test_one_that_cannot_be_read_says_that_nothing_was_applied(tmp_path: Path, text: str) -> None:
    receipts.write("redis", GIVEN, False, tmp_path)
    receipts.path("redis", tmp_path).write_bytes(text.encode(errors="surrogateescape"))
    assert receipts.read("redis", tmp_path) == {}
    receipts.forget("board", tmp_path)
    assert receipts.write("redis", GIVEN, False, tmp_path)


def test_what_an_app_has_not_is_in_no_receipt() -> None:
    apps = [board(), board(name="notes", database={}), board(name="shop", redis={"enabled": True})]
    found = {role: list(receipt(apps, role)) for role in ROLES}
    assert found == {
        "pgbouncer": [],
        "postgresql": ["notes"],
        "redis": ["shop"],
        "service": ["board", "notes", "shop"],
    }
    assert receipt(apps[:1], "redis") == receipt([board(redis={"memory": "64M"})], "redis")


def test_an_app_that_is_removed_is_forgotten_by_all_and_no_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"board": "a", "notes": "b"}
    for role in ROLES:
        receipts.write(role, both, False, tmp_path)
    receipts.write("admins", both, False, tmp_path)
    # Another run may be writing one meanwhile.
    locked: list[Path] = []

    def hostwide(root: Path) -> AbstractContextManager[None]:
        locked.append(root)
        found: AbstractContextManager[None] = lock.hostwide(root)
        return found

    monkeypatch.setattr(receipts, "hostwide", hostwide)
    receipts.forget("board", tmp_path)
    assert [receipts.read(role, tmp_path) for role in ROLES] == [{"notes": "b"}] * len(ROLES)
    assert json.loads(receipts.path("admins", tmp_path).read_text()) == both
    assert locked == [tmp_path] * len(ROLES)
    receipts.forget("board", tmp_path)
    assert len(locked) == len(ROLES)


class EndedError(Exception):
    """The module has said how it ended."""


class Fake:
    """As much of an Ansible module as these need."""

    check_mode = False

    def __init__(self, **params: Any) -> None:
        self.params = {"receipt": GIVEN, **params}

    def fail_json(self, **_: Any) -> None:
        raise EndedError("failed")

    def exit_json(self, **said: Any) -> None:
        raise EndedError(f"changed: {said['changed']}")

    def run_command(self, *_: Any, **__: Any) -> tuple[int, str, str]:
        return 0, "", ""


class Instance:
    """A Redis or a PgBouncer that is as it should be."""

    actions: tuple[str, ...] = ()

    def __init__(self, *_: Any) -> None: ...

    def diff(self) -> list[dict[str, str]]:
        return []

    def converge(self) -> None: ...


PARAMS: dict[ModuleType, dict[str, Any]] = {
    pgbouncer_pools: {
        "pools": [{"app": "board", "database": "board", "user": "board"}],
        "connections": 100,
        "databases": 1,
        "cores": 1,
        "configuration": "",
        "unit": "",
    },
    postgresql_databases: {
        "databases": [{"name": "board"}],
        "servers": [],
        "secrets": {},
        "look": False,
        "password_folder": "/nowhere",
    },
    redis_instances: {"instances": {"board": ""}, "drop_in": ""},
    service_units: {"units": {"board-web@.service": "[Unit]\n"}, "apps": ["board"]},
}


@pytest.fixture(params=PARAMS, ids=lambda module: module.__name__.rpartition(".")[2])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A module whose work succeeds, and changes nothing."""
    found: ModuleType = request.param
    monkeypatch.setattr(found, "AnsibleModule", lambda **_: Fake(**PARAMS[found]))
    monkeypatch.setattr(postgresql_databases, "converge", lambda *_: None)
    monkeypatch.setattr(pgbouncer_pools, "Instance", Instance)
    monkeypatch.setattr(pgbouncer_pools, "kept", lambda _: [])
    monkeypatch.setattr(pgbouncer_pools, "stored", lambda *_: {"board": ""})
    monkeypatch.setattr(redis_instances, "Instance", Instance)
    monkeypatch.setattr(redis_instances, "taken_ports", dict)
    monkeypatch.setattr(redis_instances, "stop_unused", lambda *_: [])
    monkeypatch.setattr(service_units, "FOLDER", tmp_path)
    monkeypatch.setattr(service_units, "owned_templates", lambda *_: set())
    (tmp_path / "board-web@.service").write_text("[Unit]\n")
    monkeypatch.setattr(receipts, "path", lambda role, _root=None: tmp_path / f"{role}.json")
    return found


def run(module: ModuleType) -> str:
    with pytest.raises(EndedError) as ended:
        module.main()
    return str(ended.value)


def recorded() -> list[dict[str, str]]:
    found = [receipts.read(role) for role in ROLES]
    return [receipt for receipt in found if receipt]


def test_work_that_succeeded_is_recorded_once(module: ModuleType) -> None:
    assert run(module) == "changed: True"
    assert recorded() == [GIVEN]
    assert run(module) == "changed: False"


def test_work_that_failed_leaves_the_receipt_as_it_was(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise module.WrongError("no")

    if module is service_units:
        (tmp_path / "board-web@.service").write_text("old")
        monkeypatch.setattr(service_units, "complaints", lambda *_: ["bad"])
    else:
        monkeypatch.setattr(postgresql_databases, "converge", fail)
        monkeypatch.setattr(Instance, "converge", fail)
    assert run(module) == "failed"
    assert recorded() == []


def test_check_mode_tells_of_the_receipt_and_leaves_none(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "check_mode", True)
    assert run(module) == "changed: True"
    assert recorded() == []
