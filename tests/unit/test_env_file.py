"""The environment file: whatever is in a value, systemd's parser gives it back unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth import environment
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.services import table as services
from ansible.module_utils.berth.store import settings
from hypothesis import given
from hypothesis import strategies as st

from tests.support.entry import board

SAFE = st.characters(blacklist_categories=("Cs", "Cc"), whitelist_characters="\t\n")


def systemd_parse(text: str) -> dict[str, str]:
    """systemd's parse_env_file() as it is written in C: one state per kind of quoting."""
    result: dict[str, str] = {}
    state, key, value = "PRE_KEY", "", ""
    for char in text + "\n":
        if state == "PRE_KEY":
            if char in "#;":
                state = "COMMENT"
            elif char not in " \t\n\r":
                state, key = "KEY", char
        elif state == "KEY":
            if char == "\n":
                state = "PRE_KEY"
            elif char == "=":
                state, value = "PRE_VALUE", ""
            else:
                key += char
        elif state in ("PRE_VALUE", "VALUE"):
            if char == "\n":
                result[key.strip()] = value.rstrip() if state == "VALUE" else value
                state = "PRE_KEY"
            elif char == "'" and state == "PRE_VALUE":
                state = "SINGLE"
            elif char == '"' and state == "PRE_VALUE":
                state = "DOUBLE"
            elif char == "\\":
                state = "VALUE_ESCAPE"
            elif state == "VALUE" or char not in " \t\n\r":
                state, value = "VALUE", value + char
        elif state == "VALUE_ESCAPE":
            state = "VALUE"
            value += "" if char == "\n" else char
        elif state == "SINGLE":
            if char == "'":
                state = "PRE_VALUE"
            else:
                value += char
        elif state == "DOUBLE":
            if char == '"':
                state = "PRE_VALUE"
            elif char == "\\":
                state = "DOUBLE_ESCAPE"
            else:
                value += char
        elif state == "DOUBLE_ESCAPE":
            state = "DOUBLE"
            if char in '"\\`$':
                value += char
            elif char != "\n":
                value += "\\" + char
        elif state == "COMMENT" and char == "\n":
            state = "PRE_KEY"
    return result


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True), st.text(SAFE), max_size=4))
def test_any_value_arrives_unchanged(values: dict[str, str]) -> None:
    text = environment.render(values)
    assert systemd_parse(text) == values
    assert environment.parse(text) == values


@pytest.mark.parametrize(
    "value",
    [
        "",
        " leading and trailing ",
        "\"both' quotes",
        "$HOME ${HOME} $(id) `id`",
        "100% %n %i %%",
        "# no comment ; neither",
        "a\\b\\\\c\\",
        "-----BEGIN KEY-----\nMIIB\n-----END KEY-----\n",
        json.dumps({"a": [1, 'x"y'], "b": "\\n"}),
        "日本 ☃",
    ],
)
def test_awkward_values(value: str) -> None:
    assert systemd_parse(environment.render({"X": value})) == {"X": value}


@pytest.mark.parametrize(("name", "value"), [("A-B", "x"), ("1A", "x"), ("A", "bell\a"), ("A", "nul\0")])
def test_what_systemd_would_drop_is_refused(name: str, value: str) -> None:
    with pytest.raises(ReleaseError, match="env"):
        environment.render({name: value})


def app(**more: Any) -> dict[str, Any]:
    return board(**more)


def test_values_become_text_as_yaml_writes_them() -> None:
    given_values = {"A": True, "B": 1, "C": 1.5, "D": None, "E": ["x", 1], "F": {"a": False}}
    assert {name: environment.as_text(value) for name, value in given_values.items()} == {
        "A": "true",
        "B": "1",
        "C": "1.5",
        "D": "",
        "E": '["x", 1]',
        "F": '{"a": false}',
    }


def test_a_born_secret_stays_and_the_vault_wins() -> None:
    described = app(secrets=[{"name": "KEY", "generate": True, "length": 40}, {"name": "TOKEN"}])
    first, born = environment.merge_secrets(described, {"TOKEN": "t"}, {})
    assert born == ["KEY"]
    assert len(first["KEY"]) == 40
    assert first["KEY"].isalnum()
    again, born = environment.merge_secrets(described, {"TOKEN": "u"}, first)
    assert (again["KEY"], again["TOKEN"], born) == (first["KEY"], "u", [])
    assert environment.merge_secrets(described, {"KEY": "mine", "TOKEN": "t"}, first)[0]["KEY"] == "mine"


def test_a_secret_taken_off_the_list_and_back_is_the_same() -> None:
    kept, _ = environment.merge_secrets(app(), {}, {"KEY": "old"})
    back, _ = environment.merge_secrets(app(secrets=[{"name": "KEY", "generate": True}]), {}, kept)
    assert back["KEY"] == "old"


def test_a_missing_secret_names_its_place() -> None:
    with pytest.raises(ReleaseError, match=r"vault\.board\.TOKEN"):
        environment.merge_secrets(app(secrets=[{"name": "TOKEN", "generate": False}]), {}, {})


def test_the_deploy_key_is_stored_but_not_told_to_the_app() -> None:
    described = app(source={"deploy_key": "KEY"})
    secrets, _ = environment.merge_secrets(described, {"KEY": "private"}, {})
    assert secrets == {"KEY": "private"}
    assert "KEY" not in environment.variables(described, secrets, {})


def test_the_number_of_workers_is_told_unless_the_app_says_its_own() -> None:
    web = {"name": "web", "workers": 4}
    assert environment.variables(app(processes=[web]), {}, {})["WEB_CONCURRENCY"] == "4"
    command = {**web, "command": "python serve.py {socket}"}
    assert "WEB_CONCURRENCY" not in environment.variables(app(processes=[command]), {}, {})
    own = app(processes=[web], env={"WEB_CONCURRENCY": "1"})
    assert environment.variables(own, {}, {})["WEB_CONCURRENCY"] == "1"


def test_the_database_under_the_names_the_app_reads(tmp_path: Path) -> None:
    database = {
        "name": "board",
        "scheme": "postgresql+asyncpg",
        "variables": {"url": "DB", "host": "DB_HOST", "port": "DB_PORT", "password": ""},
    }
    (tmp_path / "etc/berth/postgresql").mkdir(parents=True)
    (tmp_path / "etc/berth/postgresql/board").write_text("pw\n")
    described = app(database={"enabled": True, **database})
    assert services.given(described, tmp_path).variables == {
        "DB": "postgresql+asyncpg://board:pw@127.0.0.1:5432/board",
        "DB_HOST": "127.0.0.1",
        "DB_PORT": "5432",
    }


def test_templates_are_filled_in_and_the_rest_arrives_unchanged() -> None:
    parts = {"db.user": "board", "db.password": "pw"}
    described = app(
        domains=["b.example"],
        env={
            "A": {"template": "${db.user}:${ secret('K') }@${app.domain} $${x} $HOME ${"},
            "B": "${db.user}",
        },
        migrations={"env": {"B": {"template": "${db.password}"}}},
    )
    running = environment.variables(described, {"K": "k"}, {}, parts)
    assert running["A"] == "board:k@b.example ${x} $HOME ${"
    assert running["B"] == "${db.user}"
    assert environment.variables(described, {"K": "k"}, {}, parts, migrate=True)["B"] == "pw"


def born(root: Path, port: str) -> None:
    folder = root / "etc/berth/redis/board"
    folder.mkdir(parents=True)
    (folder / "port").write_text(f"{port}\n")
    (folder / "password").write_text("pw\n")


def test_redis_by_variables_and_by_templates(tmp_path: Path) -> None:
    described = app(
        env={"BROKER": {"template": "redis://${redis.user}:${redis.password}@${redis.host}:${redis.port}/1"}},
        redis={"enabled": True, "variables": {"url": "REDIS_URL", "port": "CACHE_PORT", "user": ""}},
    )
    born(tmp_path, "6381")
    made = environment.variables(described, {}, *services.given(described, tmp_path))
    assert made["REDIS_URL"] == "redis://:pw@127.0.0.1:6381/0"
    assert made["CACHE_PORT"] == "6381"
    assert made["BROKER"] == "redis://default:pw@127.0.0.1:6381/1"
    without = services.given(app(redis={"enabled": False}, database={"enabled": False}), tmp_path)
    assert without == ({}, {})


def test_redis_without_its_role_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="has no Redis for board") as refused:
        services.given(app(redis={"enabled": True}), tmp_path)
    assert refused.value.text().endswith("Next: berth up (site.yml) sets it up first.")
    born(tmp_path, "6380")
    assert services.given(app(redis={"enabled": True}), tmp_path).known["redis.port"] == "6380"


def test_a_change_that_needs_provisioning_changes_the_digest() -> None:
    before = settings.provision_digest(app())
    assert settings.provision_digest(app(redis={"enabled": True})) != before
    assert settings.provision_digest(app(keep_releases=3)) == before
    assert settings.provision_digest(app(env={"A": "1"})) != before
    assert settings.provision_digest(app(source={"subdir": "api"})) != before
