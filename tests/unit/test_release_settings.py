"""A deploy notices settings that are newer than the server's, and what only site.yml can apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.release import environment, gate, settings
from ansible.module_utils.berth.release.paths import Paths, template_files
from ansible.module_utils.berth.release.plan import PROVISIONED

APP: dict[str, Any] = {
    "name": "board",
    "domains": ["board.example.com"],
    "source": {"subdir": ""},
    "env": {"TITLE": "Board"},
    "secrets": [{"name": "KEY"}, {"name": "BORN", "generate": True}],
    "processes": [{"name": "web"}],
    "jobs": [],
    "static": [],
    "proxy": {"max_body": "10MB"},
    "database": {"enabled": True, "name": "board"},
}
VAULT = {"KEY": "one"}


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    """A server that was prepared for APP and VAULT."""
    place = Paths("board", tmp_path)
    for folder in (place.etc, place.state, place.units, tmp_path / "etc/caddy"):
        folder.mkdir(parents=True)
    provisioned = {"digest": environment.provision_digest(APP), "database": APP["database"]}
    (place.etc / PROVISIONED).write_text(json.dumps(provisioned))
    (place.etc / "secrets.json").write_text(json.dumps({"KEY": "one", "BORN": "x"}))
    (tmp_path / settings.CADDYFILE).write_text("board.example.com {}")
    for name in template_files(APP):
        (place.units / name).write_text("")
    assert compare(place) == (False, [], "")
    return place


def compare(place: Paths, vault: dict[str, Any] | None = None, **more: Any) -> tuple[bool, list[str], str]:
    after_site = bool(more.pop("after_site", False))
    found = settings.compare(place, {**APP, **more}, VAULT if vault is None else vault, after_site, False)
    return found["stale"], found["secrets"], found["problem"]


@pytest.mark.parametrize(
    "change",
    [
        {"env": {"TITLE": "Other"}},
        {"processes": [{"name": "web"}, {"name": "worker", "command": "w"}]},
        {"limits": {"tasks": 9}},
    ],
    ids=["env", "processes", "limits"],
)
def test_newer_settings_are_noticed(place: Paths, change: dict[str, Any]) -> None:
    assert compare(place, **change) == (True, [], "")


def test_a_changed_vault_value_alone_is_noticed_by_name(place: Paths) -> None:
    assert compare(place, {"KEY": "two"}) == (True, ["KEY"], "")
    assert compare(place, {"KEY": "one", "OTHER": "not declared"}) == (False, [], "")


def test_a_run_that_ended_between_the_roles_is_noticed(place: Paths) -> None:
    settings.remember_applied(place, APP)
    assert compare(place) == (False, [], "")
    newer = {**APP, "limits": {"tasks": 9}}
    # Role app has written its digest, role service never came to its turn.
    provisioned = {"digest": environment.provision_digest(newer), "database": APP["database"]}
    (place.etc / PROVISIONED).write_text(json.dumps(provisioned))
    assert compare(place, limits={"tasks": 9})[0]
    settings.remember_applied(place, newer)
    assert not compare(place, limits={"tasks": 9})[0]


def test_a_missing_unit_is_noticed(place: Paths) -> None:
    (place.units / "board-web@.service").unlink()
    assert compare(place)[0]


def test_the_database_is_for_site(place: Paths) -> None:
    stale, _, problem = compare(place, database={"enabled": True, "name": "other"})
    assert not stale
    assert problem.startswith("The database settings of board changed")
    assert "run site.yml" in problem


def test_redis_is_for_site(place: Paths) -> None:
    wanted = {"redis": {"enabled": True, "memory": "64M"}}
    stale, _, problem = compare(place, **wanted)
    assert not stale
    assert problem.startswith("The Redis settings of board changed")
    provisioned = json.loads((place.etc / PROVISIONED).read_text())
    provisioned["redis"] = environment.redis_settings(wanted)
    (place.etc / PROVISIONED).write_text(json.dumps(provisioned))
    assert compare(place, **wanted)[2] == ""
    assert "Redis" in compare(place, redis={"enabled": True, "memory": "128M"})[2]
    assert "Redis" in compare(place, redis={"enabled": False, "memory": "64M"})[2]


def test_an_app_without_redis_may_say_what_it_likes_of_it(place: Paths) -> None:
    """A server prepared before there was a Redis knows nothing of it."""
    assert compare(place, redis={"enabled": False, "memory": "64M"})[2] == ""


@pytest.mark.parametrize(
    "change", [{"domains": ["new.example.com"]}, {"static": [{"url": "/s"}]}, {"proxy": {"max_body": "1GB"}}]
)
def test_what_the_proxy_serves_is_for_site(place: Paths, change: dict[str, Any]) -> None:
    assert "domains, static or proxy of board changed" in compare(place, **change)[2]
    # site.yml has just applied it.
    assert compare(place, after_site=True, **change)[2] == ""
    assert compare(place, **change)[2] == ""
    assert settings.served(place, APP)["domains"] == change.get("domains", APP["domains"])


def test_a_release_is_asked_under_the_names_of_today(place: Paths) -> None:
    now: dict[str, Any] = {"domains": ["new.example.com"], "proxy": {"upstream_host": "app.internal"}}
    compare(place, after_site=True, **now)
    before = {**APP, "proxy": {"max_body": "10MB", "upstream_host": "old.internal"}}
    served = settings.served(place, before)
    assert served["proxy"] == {"max_body": "10MB", "upstream_host": "app.internal"}
    probe = gate.probe(place.web_sock, served, "/healthz")
    assert (probe.domain, probe.host) == ("new.example.com", "app.internal")
    assert gate._headers(probe.domain, probe.host)["Host"] == "app.internal"
    assert gate._headers(probe.domain, probe.host)["X-Forwarded-Host"] == "new.example.com"
    assert gate._headers(probe.domain, "")["Host"] == "new.example.com"


@pytest.mark.parametrize(
    "change",
    [{"source": {"subdir": "api"}}, {"static": [{"url": "/static", "path": "elsewhere", "max_age": 86400}]}],
)
def test_where_static_folders_are_is_for_a_deploy(place: Paths, change: dict[str, Any]) -> None:
    static = [{"url": "/static", "path": "static", "max_age": 86400}]
    compare(place, after_site=True, static=static)
    assert compare(place, **{"static": static, **change})[2] == ""


def test_a_proxy_that_was_configured_since_is_believed(place: Paths) -> None:
    (place.root / settings.CADDYFILE).write_text("new.example.com {}")
    assert compare(place, domains=["new.example.com"])[2] == ""


def test_a_server_that_was_never_prepared_is_the_plans_business(tmp_path: Path) -> None:
    assert compare(Paths("board", tmp_path)) == (False, [], "")
