"""A deploy notices settings that are newer than the server's, and what only site.yml can apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible.module_utils.berth import environment
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release import plan
from ansible.module_utils.berth.release.deploy import Deploy
from ansible.module_utils.berth.release.steps import settings as step
from ansible.module_utils.berth.runtime import health, naming
from ansible.module_utils.berth.services import table as services
from ansible.module_utils.berth.store import proxy, public, receipts, settings

from plugins.filter.proxy import proxy_receipt
from plugins.filter.wiring import proxy_sites, receipt
from plugins.modules import app_environment
from tests.support.entry import board

APP = board(
    domains=["board.example.com"],
    env={"TITLE": "Board"},
    secrets=[{"name": "KEY"}, {"name": "BORN", "generate": True}],
    proxy={"tls": "acme"},
    database={},
)
VAULT = {"KEY": "one"}
# Those that leave a receipt beside the proxy's.
ROLES = ("postgresql", "redis", "service")


def apply_proxy(place: Paths, **more: Any) -> None:
    """What site.yml leaves of the proxy: its sites, made from the apps, in the role's receipt."""
    applied = place.root / proxy.RECEIPT.relative_to("/")
    known = applied.read_text() if applied.exists() else ""
    applied.write_text(proxy_receipt(proxy_sites([{**APP, **more}]), known))


def apply_role(place: Paths, role: str, **more: Any) -> None:
    receipts.write(role, receipt([{**APP, **more}], role), False, place.root)


def apply_app(place: Paths, **more: Any) -> None:
    """What role app leaves, whichever roles were before it."""
    place.provisioned.write_text(json.dumps(settings.provisioned({**APP, **more})))


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    """A server that was prepared for APP and VAULT."""
    place = Paths("board", tmp_path)
    for folder in (place.etc, place.state, place.units):
        folder.mkdir(parents=True)
    (place.etc / "secrets.json").write_text(json.dumps({"KEY": "one", "BORN": "x"}))
    for role in ROLES:
        apply_role(place, role)
    apply_proxy(place)
    apply_app(place)
    for name in naming.template_files(APP):
        (place.units / name).write_text("")
    assert compare(place) == (False, [], "")
    return place


def compare(
    place: Paths,
    vault: dict[str, Any] | None = None,
    predicted: tuple[str, ...] = (),
    **more: Any,
) -> tuple[bool, list[str], str]:
    found = settings.compare(place, {**APP, **more}, VAULT if vault is None else vault, predicted)
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


def test_a_password_that_its_role_alone_has_changed_is_noticed(place: Paths) -> None:
    password = place.root / "etc/berth/postgresql/board"
    password.parent.mkdir(parents=True)
    password.write_text("first\n")
    (place.etc / "env").write_text(environment.render(services.given(APP, place.root).variables))
    assert compare(place) == (False, [], "")
    password.write_text("second\n")
    assert compare(place) == (True, [], "")
    (place.etc / "env").write_text("not what Berth writes")
    assert compare(place) == (False, [], "")


def test_a_run_that_ended_between_the_roles_is_noticed(place: Paths) -> None:
    apply_app(place, limits={"tasks": 9})
    assert compare(place, limits={"tasks": 9})[0]
    apply_role(place, "service", limits={"tasks": 9})
    assert not compare(place, limits={"tasks": 9})[0]


def test_a_missing_unit_is_noticed(place: Paths) -> None:
    (place.units / "board-web@.service").unlink()
    assert compare(place)[0]


REDIS: dict[str, Any] = {"redis": {"enabled": True, "memory": "64M"}}
DATABASE: dict[str, Any] = {"database": {**APP["database"], "name": "other"}}
BACKING: list[tuple[str, dict[str, Any], str]] = [
    ("postgresql", DATABASE, "The database settings of board changed"),
    ("redis", REDIS, "The Redis settings of board changed"),
]
backing = pytest.mark.parametrize(("role", "change", "said"), BACKING, ids=["database", "redis"])


@backing
def test_what_a_service_gives_is_for_site(place: Paths, role: str, change: dict[str, Any], said: str) -> None:
    stale, _, problem = compare(place, **change)
    assert not stale
    assert problem.startswith(said)
    assert "a deploy does not apply them" in problem
    # Check mode leaves no receipt: what that role would have applied is not missed, what others would is.
    assert compare(place, predicted=(role,), **change)[2] == ""
    assert compare(place, predicted=tuple({*ROLES, "proxy"} - {role}), **change)[2] == problem
    apply_role(place, role, **change)
    assert compare(place, **change)[2] == ""


@backing
def test_only_the_role_that_did_it_says_that_it_is_done(
    place: Paths, role: str, change: dict[str, Any], said: str
) -> None:
    """By `--skip-tags`, or because a deploy of another app renewed the env files of all."""
    apply_app(place, **change)
    apply_role(place, "service", **change)
    assert compare(place, **change)[2].startswith(said)
    apply_role(place, role)
    assert compare(place)[2] == ""


@backing
def test_check_mode_alone_predicts(place: Paths, role: str, change: dict[str, Any], said: str) -> None:
    """The step is told which roles the run has been through; without check mode they have left receipts."""
    request = {"app": {**APP, **change}, "vault": VAULT, "provisioned": {role: True, "proxy": False}}
    for check in (True, False):
        deploy = Deploy(place, {})
        step.run(deploy, {**request, "check": check})
        assert deploy.problem.startswith(said) != check
    step.run(deploy, {**request, "provisioned": {role: False, "proxy": True}, "check": True})
    assert deploy.problem.startswith(said)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"board": 7}', '{"notes": "digest"}', None])
@pytest.mark.parametrize("role", ["postgresql", "redis"])
def test_what_no_receipt_says_was_not_applied(place: Paths, role: str, text: str | None) -> None:
    """One that cannot be read is no error: the run of site.yml that it asks for writes it anew."""
    apply_role(place, "redis", **REDIS)
    path = receipts.path(role, place.root)
    path.unlink() if text is None else path.write_text(text)
    assert "a deploy does not apply them" in compare(place, **REDIS)[2]
    apply_role(place, role, **REDIS)
    assert compare(place, **REDIS)[2] == ""


def test_units_without_a_receipt_are_written_by_a_deploy(place: Paths) -> None:
    receipts.path("service", place.root).write_text("{")
    assert compare(place) == (True, [], "")


def test_redis_that_changes_or_goes_is_for_site(place: Paths) -> None:
    apply_role(place, "redis", **REDIS)
    assert "Redis" in compare(place, redis={"enabled": True, "memory": "128M"})[2]
    assert "Redis" in compare(place, redis={"enabled": False, "memory": "64M"})[2]


@pytest.mark.parametrize("key", ["database", "redis"])
def test_an_app_may_say_what_it_likes_of_a_service_that_it_has_not(place: Paths, key: str) -> None:
    apply_role(place, "postgresql", database={"enabled": False})
    change: dict[str, Any] = {
        "database": {"enabled": False},
        key: {"enabled": False, "name": "other", "memory": "64M"},
    }
    assert compare(place, **change)[2] == ""


@pytest.fixture
def earlier(place: Paths) -> Paths:
    """As a Berth without receipts of these roles left it: role app noted what they were given."""
    for role in ROLES:
        receipts.path(role, place.root).unlink()
    noted = {"digest": settings.provision_digest({**APP, **REDIS}), "database": APP["database"], **REDIS}
    place.provisioned.write_text(json.dumps(noted))
    return place


def renew(place: Paths, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """What a deploy does of which the settings are stale: roles app and service, for all apps."""
    app = {**APP, **more}

    class Module:
        params: ClassVar = {"apps": [app], "vault": {"board": VAULT}}
        check_mode = False

        def __init__(self, **_: Any) -> None: ...

        def exit_json(self, **_: Any) -> None: ...

    def files_of(*_: Any) -> dict[str, tuple[str, int, int]]:
        return {"provisioned.json": (json.dumps(settings.provisioned(app)), 0o644, 0)}

    adopt = settings.adopt
    monkeypatch.setattr(app_environment, "AnsibleModule", Module)
    monkeypatch.setattr(app_environment, "Paths", lambda name: Paths(name, place.root))
    monkeypatch.setattr(app_environment, "files_of", files_of)
    monkeypatch.setattr(settings, "adopt", lambda apps: adopt(apps, place.root))
    app_environment.main()
    apply_role(place, "service", **more)


def test_a_server_of_before_there_were_receipts_is_believed(earlier: Paths) -> None:
    assert compare(earlier, **REDIS) == (False, [], "")
    assert compare(earlier, **REDIS, **DATABASE)[2].startswith(BACKING[0][2])
    assert compare(earlier, redis={"enabled": True, "memory": "1G"})[2].startswith(BACKING[1][2])
    assert compare(earlier)[2].startswith(BACKING[1][2])
    # Before there was Redis, nothing of it was noted.
    noted = json.loads(earlier.provisioned.read_text())
    del noted["redis"]
    for one in ({**noted, "redis": {}}, noted):
        earlier.provisioned.write_text(json.dumps(one))
        assert compare(earlier)[2] == ""
        assert compare(earlier, **REDIS)[2].startswith(BACKING[1][2])


@pytest.mark.parametrize(("mark", "stale"), [("", False), ("now", False), ("another", True)])
def test_an_earlier_berth_noted_whether_units_were_made(earlier: Paths, mark: str, stale: bool) -> None:
    """Or a deploy would give roles all apps, and one that waits for `berth up` would stop all others."""
    digest = {"now": settings.provision_digest({**APP, **REDIS})}.get(mark, mark)
    if digest:
        (earlier.state / "applied").write_text(digest + "\n")
    assert compare(earlier, **REDIS)[0] is stale


def test_what_an_earlier_berth_noted_is_kept_as_receipts(
    earlier: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew(earlier, monkeypatch, **REDIS)
    assert compare(earlier, **REDIS) == (False, [], "")
    assert settings.recorded(earlier) == {"database": APP["database"], "pooler": {}, **REDIS}


@pytest.mark.parametrize(("role", "other"), [("postgresql", "redis"), ("redis", "postgresql")])
def test_what_is_new_at_a_takeover_is_not_taken_for_applied(
    earlier: Paths, monkeypatch: pytest.MonkeyPatch, role: str, other: str
) -> None:
    """Be it by `--skip-tags` in the first run, or by a deploy of another app."""
    said = next(words for name, _, words in BACKING if name == role)
    wanted = {**DATABASE, "redis": {"enabled": True, "memory": "1G"}}
    renew(earlier, monkeypatch, **wanted)
    apply_role(earlier, other, **wanted)
    assert compare(earlier, **wanted)[2].startswith(said)
    apply_role(earlier, role, **wanted)
    assert compare(earlier, **wanted)[2] == ""


def test_a_role_that_has_been_here_since_knows_better(
    earlier: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was given nothing."""
    receipts.write("redis", {}, False, earlier.root)
    assert compare(earlier, **REDIS)[2].startswith(BACKING[1][2])
    renew(earlier, monkeypatch)
    assert receipts.read("redis", earlier.root) == {}
    assert receipts.read("postgresql", earlier.root) == receipt([APP], "postgresql")
    assert compare(earlier) == (False, [], "")


def test_an_app_that_an_earlier_berth_removed_is_not_taken_for_set_up(
    earlier: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = {**json.loads(earlier.provisioned.read_text()), "digest": ""}
    earlier.provisioned.write_text(json.dumps(noted))
    renew(earlier, monkeypatch, **REDIS)
    assert compare(earlier, **REDIS)[2].startswith(BACKING[0][2])


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
    assert compare(place, predicted=("proxy",), **change)[2] == ""
    assert "a deploy does not apply them" in compare(place, predicted=ROLES, **change)[2]
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
    probe = health.probe(place.web_sock, served, "/healthz")
    assert (probe.domain, probe.host) == ("new.example.com", "app.internal")
    assert health._headers(probe.domain, probe.host)["Host"] == "app.internal"
    assert health._headers(probe.domain, probe.host)["X-Forwarded-Host"] == "new.example.com"
    assert health._headers(probe.domain, "")["Host"] == "new.example.com"


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
    (place.root / proxy.RECEIPT.relative_to("/")).unlink()
    assert compare(place, domains=["new.example.com"])[2] == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"notes": {}}', '{"board": 7}'])
def test_a_site_that_the_proxy_does_not_know_is_for_site(place: Paths, text: str) -> None:
    """A new app after `--skip-tags proxy`, or a receipt that cannot be read."""
    (place.root / proxy.RECEIPT.relative_to("/")).write_text(text)
    assert compare(place)[2].startswith("domains, static or proxy of board changed")
    assert settings.served(place, APP, "r1") == APP


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_marks_that_cannot_be_read_are_the_plans_business(place: Paths, text: str) -> None:
    place.provisioned.write_text(text)
    assert compare(place) == (False, [], "")
    with pytest.raises(ReleaseError, match="has no place on this server yet"):
        plan.server_side(place, APP)
    assert settings.recorded(place) == {"database": {}, "pooler": {}, "redis": {}}


def test_a_server_that_was_never_prepared_is_the_plans_business(tmp_path: Path) -> None:
    assert compare(Paths("board", tmp_path)) == (False, [], "")
