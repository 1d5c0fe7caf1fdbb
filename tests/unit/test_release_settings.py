"""A deploy notices settings that are newer than the server's, and what only site.yml can apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.runtime import gate, naming
from ansible.module_utils.berth.services import redis
from ansible.module_utils.berth.store import public, settings

from plugins.filter.proxy import proxy_receipt
from plugins.filter.wiring import proxy_sites
from tests.support.entry import board

APP = board(
    domains=["board.example.com"],
    env={"TITLE": "Board"},
    secrets=[{"name": "KEY"}, {"name": "BORN", "generate": True}],
    proxy={"tls": "acme"},
    database={},
)
VAULT = {"KEY": "one"}


def apply_proxy(place: Paths, **more: Any) -> None:
    """What site.yml leaves of the proxy: its sites, made from the apps, in the role's receipt."""
    receipt = place.root / settings.PROXY_RECEIPT
    known = receipt.read_text() if receipt.exists() else ""
    receipt.write_text(proxy_receipt(proxy_sites([{**APP, **more}]), known))


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    """A server that was prepared for APP and VAULT."""
    place = Paths("board", tmp_path)
    for folder in (place.etc, place.state, place.units, tmp_path / "etc/caddy"):
        folder.mkdir(parents=True)
    provisioned = {"digest": settings.provision_digest(APP), "database": APP["database"]}
    place.provisioned.write_text(json.dumps(provisioned))
    (place.etc / "secrets.json").write_text(json.dumps({"KEY": "one", "BORN": "x"}))
    apply_proxy(place)
    for name in naming.template_files(APP):
        (place.units / name).write_text("")
    assert compare(place) == (False, [], "")
    return place


def compare(
    place: Paths,
    vault: dict[str, Any] | None = None,
    after_site: bool = False,
    check: bool = False,
    **more: Any,
) -> tuple[bool, list[str], str]:
    found = settings.compare(place, {**APP, **more}, VAULT if vault is None else vault, after_site, check)
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
    provisioned = {"digest": settings.provision_digest(newer), "database": APP["database"]}
    place.provisioned.write_text(json.dumps(provisioned))
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
    assert "a deploy does not apply them" in problem


def test_redis_is_for_site(place: Paths) -> None:
    wanted: dict[str, Any] = {"redis": {"enabled": True, "memory": "64M"}}
    stale, _, problem = compare(place, **wanted)
    assert not stale
    assert problem.startswith("The Redis settings of board changed")
    provisioned = json.loads(place.provisioned.read_text())
    provisioned["redis"] = redis.SERVICE.settings(wanted)
    place.provisioned.write_text(json.dumps(provisioned))
    assert compare(place, **wanted)[2] == ""
    assert "Redis" in compare(place, redis={"enabled": True, "memory": "128M"})[2]
    assert "Redis" in compare(place, redis={"enabled": False, "memory": "64M"})[2]


def test_an_app_without_redis_may_say_what_it_likes_of_it(place: Paths) -> None:
    """A server prepared before there was a Redis knows nothing of it."""
    assert compare(place, redis={"enabled": False, "memory": "64M"})[2] == ""


def test_a_change_of_name_needs_a_release_that_knows_it(place: Paths) -> None:
    now = {**APP, "domains": ["new.example.com"]}
    folder = made(place, "r1")
    assert not settings.expects_another_name(place, now, "r1")  # made when releases did not say
    apply_proxy(place, domains=["new.example.com"])
    assert settings.expects_another_name(place, now, "r1")
    public.mark(folder, "board.example.com", keepalive=True)
    assert settings.expects_another_name(place, now, "r1")
    assert not settings.expects_another_name(place, APP, "r1")
    assert settings.expects_another_name(place, {**APP, **with_proxy(upstream_host="b.internal")}, "r1")


def static(url: str, path: str = "static") -> dict[str, Any]:
    return {"url": url, "path": path, "max_age": 86400}


def with_proxy(**more: Any) -> dict[str, Any]:
    return {"proxy": {**APP["proxy"], **more}}


@pytest.mark.parametrize(
    "change",
    [{"domains": ["new.example.com"]}, {"static": [static("/s")]}, with_proxy(max_body="1GB")],
    ids=["domains", "static", "proxy"],
)
def test_what_the_proxy_serves_is_for_site(place: Paths, change: dict[str, Any]) -> None:
    assert "domains, static or proxy of board changed" in compare(place, **change)[2]
    # What would have been provisioned is not missed; what should have been is, as by `--skip-tags proxy`.
    assert compare(place, after_site=True, check=True, **change)[2] == ""
    assert "a deploy does not apply them" in compare(place, after_site=True, **change)[2]
    apply_proxy(place, **change)
    assert compare(place, **change)[2] == ""
    assert settings.served(place, APP, "r1")["domains"] == change.get("domains", APP["domains"])


@pytest.mark.parametrize("key", list(APP["proxy"]))
def test_everything_that_a_site_is_made_from_is_compared(place: Paths, key: str) -> None:
    """An option of the contract that only the wiring knows would never be missed by a deploy."""
    assert compare(place, **with_proxy(**{key: "another"}))[2]


def test_a_release_is_asked_under_the_names_of_today(place: Paths) -> None:
    now: dict[str, Any] = {"domains": ["new.example.com"], **with_proxy(upstream_host="app.internal")}
    apply_proxy(place, **now)
    public.mark(made(place, "r2"), "app.internal", keepalive=True)
    served = settings.served(place, {**APP, **with_proxy(upstream_host="old.internal")}, "r2")
    assert served["proxy"] == {**APP["proxy"], "upstream_host": "app.internal"}
    probe = gate.probe(place.web_sock, served, "/healthz")
    assert (probe.domain, probe.host) == ("new.example.com", "app.internal")
    assert gate._headers(probe.domain, probe.host)["Host"] == "app.internal"
    assert gate._headers(probe.domain, probe.host)["X-Forwarded-Host"] == "new.example.com"
    assert gate._headers(probe.domain, "")["Host"] == "new.example.com"


def made(place: Paths, release: str) -> Path:
    folder: Path = place.release(release)
    (folder / ".berth").mkdir(parents=True)
    return folder


def test_a_release_from_before_a_change_of_names_is_asked_as_it_always_was(place: Paths) -> None:
    public.mark(made(place, "r1"), "board.example.com", keepalive=True)
    public.mark(made(place, "r2"), "new.example.com", keepalive=True)
    apply_proxy(place, domains=["new.example.com", "board.example.com"])
    assert settings.served(place, APP, "r1")["proxy"]["upstream_host"] == "board.example.com"
    assert settings.served(place, APP, "r1")["domains"][0] == "new.example.com"
    assert settings.served(place, APP, "r2")["proxy"]["upstream_host"] == ""
    # Applying the same once more forgets nothing.
    apply_proxy(place, domains=["new.example.com", "board.example.com"])
    assert settings.served(place, APP, "r1")["proxy"]["upstream_host"] == "board.example.com"


@pytest.mark.parametrize(
    "change",
    [{"source": {**APP["source"], "subdir": "api"}}, {"static": [static("/static", "elsewhere")]}],
)
def test_where_static_folders_are_is_for_a_deploy(place: Paths, change: dict[str, Any]) -> None:
    apply_proxy(place, static=[static("/static")])
    assert compare(place, **{"static": [static("/static")], **change})[2] == ""


def test_whose_web_process_it_is_is_for_a_deploy(place: Paths) -> None:
    """Each release says whether connections to it may be kept."""
    command: dict[str, Any] = {"processes": [{"name": "web", "command": "serve {socket}"}]}
    assert compare(place, **command)[2] == ""


def test_a_proxy_of_before_there_were_receipts_is_believed(place: Paths) -> None:
    (place.root / settings.PROXY_RECEIPT).unlink()
    assert compare(place, domains=["new.example.com"])[2] == ""


def test_a_server_that_was_never_prepared_is_the_plans_business(tmp_path: Path) -> None:
    assert compare(Paths("board", tmp_path)) == (False, [], "")
