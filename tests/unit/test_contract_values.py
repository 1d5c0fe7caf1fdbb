"""What the contract publishes: complete, typed, plain."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tests.unit.contract_case import ROOT, SPEC, inventory, problems, resolved, resolved_app


def test_the_smallest_app_comes_out_complete() -> None:
    assert resolved_app() == {
        "name": "board",
        "domains": ["board.example.com"],
        "source": {
            "path": str(ROOT / "app"),
            "git": "",
            "version": "HEAD",
            "deploy_key": "",
            "host_keys": [],
            "subdir": "",
        },
        "python": {"version": "", "install": False, "extras": [], "groups": [], "directory": ""},
        "packages": {"index_url": "", "install_mirror": "", "downloads_json": ""},
        "system_packages": [],
        "processes": [
            {
                "name": "web",
                "app": "",
                "directory": "",
                "command": "",
                "workers": 2,
                "instances": 1,
                "stop_timeout": 90,
                "overlap": False,
                "memory": "512M",
            },
        ],
        "jobs": [],
        "env": {},
        "secrets": [],
        "database": {
            "enabled": True,
            "name": "board",
            "owner": "board_owner",
            "user": "board",
            "extensions": [],
            "role": "",
            "scheme": "postgresql",
            "variables": {
                "url": "DATABASE_URL",
                "host": "",
                "port": "",
                "name": "",
                "user": "",
                "password": "",
                "sslmode": "PGSSLMODE",
                "sslrootcert": "PGSSLROOTCERT",
            },
            "host": "",
            "port": 5432,
            "admin": "postgres",
            "maintenance_db": "postgres",
            "sslmode": "verify-full",
            "ca": "",
        },
        "pooler": {"enabled": False},
        "redis": {
            "enabled": False,
            "memory": "",
            "policy": "noeviction",
            "persistence": True,
            "variables": {"url": "REDIS_URL", "host": "", "port": "", "user": "", "password": "", "db": ""},
        },
        "migrations": {
            "command": "",
            "directory": "",
            "env": {},
            "enabled": True,
            "lock_timeout": 2,
            "lock_retries": 10,
            "timeout": 900,
            "destructive": "warn",
        },
        "build": [],
        "scratch": [],
        "health": {"path": "", "timeout": 60, "interval": 0.5, "successes": 2, "hold": 3.2},
        "static": [],
        "persistent": [],
        "proxy": {
            "max_body": "10MB",
            "read_timeout": 60,
            "write_timeout": 60,
            "upstream_host": "",
            "headers": {},
            "tls": "acme",
        },
        "drain": {"requests": 60, "websocket": 3600, "releases": 2},
        "state": "present",
        "keep_releases": 5,
        "limits": {"cpu": "", "tasks": 512, "files": 65536, "build_memory": ""},
        "redeploy": {"schedule": "", "jitter": 60, "version": "", "not_during": []},
        "egress": {"policy": "open", "allow": [], "metadata": False},
    }


def test_tasks_are_enough_for_the_workers() -> None:
    def tasks(**web: object) -> object:
        return resolved_app({"processes": [{"name": "web", **web}]})["limits"]["tasks"]

    assert tasks(workers=10) == 512
    assert tasks(workers=11) == 528
    assert tasks(workers=256) == 256 * 48
    assert tasks(workers=20, command="x {fd}") == 512


def test_a_server_nobody_described_comes_out_complete() -> None:
    expected = {
        "hostname": "",
        "timezone": "Etc/UTC",
        "locale": "C.UTF-8",
        "packages": [],
        "swap_mb": 1024,
        "journal_max": "500M",
        "admin": {"name": "", "authorized_keys": []},
        "ssh": {"enabled": True, "kex": "strong", "forwarding": True, "allow_users": []},
        "firewall": {"enabled": True, "open": [], "admin_networks": []},
        "fail2ban": {"enabled": True, "ignore": [], "proxy": False},
        "hardening": {
            **dict.fromkeys(("enabled", "units", "kernel", "network", "modules", "coredumps"), True),
            **dict.fromkeys(("shm", "sudo", "cron", "audit"), True),
        },
        "docker": {"enabled": False, "repository": "distribution", "settings": {}},
        "extra_ca_certificates": [],
        "updates": {"enabled": True, "reboot_at": ""},
        "postgresql": {"repository": "distribution", "version": "", "settings": {}},
        "backup": {
            "enabled": True,
            "full": "Sun 02:30",
            "incremental": "Mon..Sat 02:30",
            "dump": "04:00",
            "drill": "05:00",
            "checks": [],
            "retention_days": 30,
            "offsite": [],
        },
        "python": {"index_url": "", "install_mirror": "", "downloads_json": ""},
        "proxy": {"provider": "caddy", "repository": "auto", "tls": "acme", "email": "", "acme_ca": ""},
        "config": 1,
    }
    for server in (..., None, {}, {"admin": None}):
        assert resolved({"server": server})["server"] == expected


def test_every_key_of_the_schema_comes_out_and_few_more() -> None:
    more = {"database.owner", "database.user"}
    more |= {f"packages.{key}" for key in ("index_url", "install_mirror", "downloads_json")}

    def keys(value: Any, path: str = "") -> set[str]:
        if isinstance(value, dict):
            return {name for key in value for name in keys(value[key], f"{path}.{key}".strip("."))} or {path}
        return {path}

    def spec_keys(options: dict[str, Any], path: str = "") -> set[str]:
        found: set[str] = set()
        for key, option in options.items():
            below = f"{path}.{key}".strip(".")
            nested = option.get("options") if option["type"] == "dict" else None
            found |= spec_keys(nested, below) if nested else {below}
        return found

    assert keys(resolved_app()) == spec_keys(SPEC["apps"]["options"]) | more


@pytest.mark.parametrize(
    ("path", "written", "wanted"),
    [
        ("keep_releases", "7", 7),
        ("keep_releases", 7.0, 7),
        ("keep_releases", " 7 ", 7),
        ("health.interval", "0.25", 0.25),
        ("health.interval", 1, 1.0),
        ("database.enabled", "no", False),
        ("database.enabled", "False", False),
        ("database.enabled", 1, True),
        ("migrations.enabled", "yes", True),
        ("migrations.enabled", None, True),
        ("source.subdir", "./board/", "board"),
        ("persistent", ["attachments/", "./media"], ["attachments", "media"]),
        ("domains", ["Board.Example.COM."], ["board.example.com"]),
        ("python.version", "3.12", "3.12"),
        ("proxy.tls", "internal", "internal"),
        ("database.name", "other", "other"),
    ],
)
def test_values_are_converted(path: str, written: Any, wanted: Any) -> None:
    value: Any = resolved_app({path: written})
    for part in path.split("."):
        value = value[part]
    assert value == wanted
    assert type(value) is type(wanted)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("text", "text"),
        ("", ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-12, "-12"),
        (0.5, "0.5"),
        (datetime.date(2026, 1, 31), "2026-01-31"),
        (datetime.datetime(2026, 1, 31, 12, 0), "2026-01-31 12:00:00"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ('"quotes" and \\ and $HOME `x` %h', '"quotes" and \\ and $HOME `x` %h'),
        ("{{ not_a_template }}", "{{ not_a_template }}"),
        ("päivää 🚀", "päivää 🚀"),
    ],
)
def test_environment_values_become_text_unharmed(written: Any, wanted: str) -> None:
    assert resolved_app({"env": {"NAME": written}})["env"] == {"NAME": wanted}


def test_web_comes_first_and_is_added() -> None:
    worker = {"name": "worker", "command": "python -m w", "instances": "3"}
    app = resolved_app({"processes": [worker, {"name": "web", "workers": "4"}]})
    assert [(p["name"], p["workers"], p["instances"]) for p in app["processes"]] == [
        ("web", 4, 1),
        ("worker", 1, 3),
    ]
    assert [p["name"] for p in resolved_app({"processes": [worker]})["processes"]] == ["web", "worker"]


def test_what_follows_from_other_values() -> None:
    app = resolved({"apps[0].name": "my-app", "server.proxy.tls": "internal"})["apps"][0]
    assert (app["database"]["name"], app["database"]["owner"]) == ("my_app", "my_app_owner")
    assert app["database"]["user"] == "my_app"
    assert app["proxy"]["tls"] == "internal"
    assert resolved_app({"static": [{"url": "/s/", "path": "a/b/"}]})["static"] == [
        {"url": "/s", "path": "a/b", "max_age": 86400}
    ]


def test_an_anchor_used_twice_is_not_shared_afterwards() -> None:
    source = {"path": "../../app"}
    apps = resolved({"apps[0].source": source, "apps[1].source": source})["apps"]
    assert apps[0]["source"] is not apps[1]["source"]
    assert source == {"path": "../../app"}


def test_no_apps_is_an_answer_when_it_is_said() -> None:
    assert resolved({"apps": []})["apps"] == []


def test_defaults_are_not_shared_between_runs() -> None:
    resolved()["apps"][0]["env"]["CHANGED"] = "yes"
    assert resolved()["apps"][0]["env"] == {}


def test_the_right_inventory_has_no_problem() -> None:
    assert problems() == []
    assert inventory()["apps"][0]["name"] == "board"


def test_another_program_s_settings_stay_as_they_are() -> None:
    written = {"debug": True, "mtu": 1400, "dns": ["192.0.2.1"], "log-opts": {"max-file": "3"}}
    assert resolved({"server.docker.settings": written})["server"]["docker"]["settings"] == written
