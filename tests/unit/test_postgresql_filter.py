"""PostgreSQL's version, tuning and access rules."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter import postgresql


def conf(settings: dict[str, Any] | None = None, memory: int = 4096, version: int = 17) -> dict[str, str]:
    groups = postgresql.postgresql_conf(settings or {}, memory, 2, version, 50, "/etc/hba")
    names = [name for group in groups for name in group["settings"]]
    assert len(names) == len(set(names)), "a setting stands in one place only"
    return {name: value for group in groups for name, value in group["settings"].items()}


def megabytes(value: str) -> int:
    return int(value.strip("'").removesuffix("MB"))


def test_a_middling_machine() -> None:
    settings = conf()
    assert settings["shared_buffers"] == "'512MB'"
    assert settings["effective_cache_size"] == "'1536MB'"
    assert settings["maintenance_work_mem"] == "'128MB'"
    assert settings["work_mem"] == "'4MB'"
    assert settings["max_connections"] == "200"
    assert settings["listen_addresses"] == "'127.0.0.1'"
    assert settings["hba_file"] == "'/etc/hba'"


@pytest.mark.parametrize("memory", [256, 512, 1024, 2048, 8192, 65536, 1048576])
def test_memory_stays_within_its_share(memory: int) -> None:
    settings = conf(memory=memory)
    assert 32 <= megabytes(settings["shared_buffers"]) <= max(32, memory // 8)
    assert 4 <= megabytes(settings["work_mem"]) <= 64
    assert megabytes(settings["maintenance_work_mem"]) <= 2048


def test_a_new_kernel_is_no_reason_to_restart() -> None:
    assert conf(memory=3924) == conf(memory=3911)


def test_old_versions_get_settings_they_know() -> None:
    assert conf(version=14)["wal_compression"] == "'on'"
    assert conf(version=15)["wal_compression"] == "'lz4'"


def test_the_users_settings_win() -> None:
    settings = conf({"shared_buffers": "1GB", "jit": True, "random_page_cost": 4, "app.motto": "it's"})
    assert settings["shared_buffers"] == "'1GB'"
    assert settings["jit"] == "on"
    assert settings["random_page_cost"] == "4"
    assert settings["app.motto"] == "'it''s'"


def test_null_leaves_postgresqls_default() -> None:
    assert "jit" not in conf({"jit": None})


def test_connections_of_the_user_count_in_the_formulas() -> None:
    assert megabytes(conf({"max_connections": 20}, memory=16384)["work_mem"]) == 64
    assert postgresql.connection_limit([1], 200) == 190
    assert postgresql.connection_limit([1, 2, 3], 200) == 95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hba_file": "/tmp/x"}, r"postgresql_settings\.hba_file: Berth decides who may connect"),
        ({"listen_addresses": "*"}, r"listen_addresses: Berth decides that only this server can connect"),
        ({"Work Mem": "1"}, r"'Work Mem' is not a setting"),
        ({"work_mem": "1\nssl = off"}, r"work_mem: has a line break"),
        ({"work_mem": ["1MB"]}, r"work_mem: is not one value"),
        ({"max_connections": "many"}, r"max_connections: 'many' is not from 10 to 10000"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        conf(settings)


@pytest.mark.parametrize(
    ("wanted", "release", "clusters", "version"),
    [
        ("", "trixie", [], 17),
        ("", "bookworm", [], 15),
        ("16", "trixie", [], 16),
        ("", "trixie", ["/etc/postgresql/15/main"], 15),
        ("15", "trixie", ["/etc/postgresql/15/main"], 15),
        ("17", "trixie", ["/etc/postgresql/15/main", "/etc/postgresql/17/main"], 17),
        ("18", "somethingnew", [], 18),
    ],
)
def test_versions(wanted: str, release: str, clusters: list[str], version: int) -> None:
    assert postgresql.choose_version(wanted, release, clusters) == version


@pytest.mark.parametrize(
    ("wanted", "release", "clusters", "message"),
    [
        (
            "17",
            "trixie",
            ["/etc/postgresql/15/main"],
            'data is in version 15, and 17 would start without it; write server.postgresql.version: "15", or'
            " move the data first: berth upgrade-postgresql --to 17",
        ),
        (
            "15",
            "trixie",
            ["/etc/postgresql/17/main"],
            'data is in version 17, and 15 would start without it; write server.postgresql.version: "17"$',
        ),
        (
            "",
            "trixie",
            ["/etc/postgresql/15/main", "/etc/postgresql/17/main"],
            "there are clusters of 15, 17",
        ),
        ("17.2", "trixie", [], "'17.2' is not a major version"),
        ("", "somethingnew", [], "not known for somethingnew"),
    ],
)
def test_versions_that_would_lose_sight_of_data(
    wanted: str, release: str, clusters: list[str], message: str
) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        postgresql.choose_version(wanted, release, clusters)


BOARD = {
    "name": "board",
    "owner": "board_owner",
    "user": "board",
    "reader": "board_ro",
    "extensions": ["pg_trgm"],
}


def test_databases_are_complete() -> None:
    assert postgresql.check_databases([BOARD]) == [BOARD]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"name": "board", "owner": "o", "user": "u"}, r"\[1\]\.name: database board is also at"),
        ({"name": "notes", "owner": "board", "user": "u"}, r"\[1\]\.owner: role board is also at"),
        ({"name": "notes", "owner": "notes", "user": "notes"}, r"\[1\]\.user: role notes is also at"),
        ({"name": 'x" all', "owner": "o", "user": "u"}, r"\[1\]\.name: .* cannot name a database or role"),
        ({"name": "notes", "owner": "postgres", "user": "u"}, r"\[1\]\.owner: 'postgres' cannot name"),
        ({"name": "notes", "owner": "o"}, r"\[1\]\.user: '' cannot name"),
        (
            {"name": "notes", "owner": "o", "user": "u", "reader": "board"},
            r"\[1\]\.reader: role board is also at",
        ),
    ],
)
def test_databases_that_clash_or_cannot_be(second: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        postgresql.check_databases([BOARD, second])


def test_backups_of_what_changed() -> None:
    results = [
        {"changed": True, "path": "/a", "backup": "/a.1~"},
        {"changed": True, "path": "/b", "backup": ""},
        {"changed": False, "path": "/c", "backup": ""},
    ]
    assert postgresql.backups(results) == [{"path": "/a", "backup": "/a.1~"}, {"path": "/b", "backup": ""}]
