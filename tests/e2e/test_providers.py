"""Both providers of the proxy: from the same sites, the same for clients, apps and whoever reads the logs."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support import goaway
from tests.support.kit import ROOT, WELL, Kit
from tests.support.load import Traffic
from tests.support.pace import patience
from tests.support.websocket import held_open

FIXTURE = ROOT / "tests/fixtures/loadapp"
PROVIDERS = ("caddy", "nginx")
MORE = '''

@app.get("/seen")
async def seen(request: Request) -> dict[str, Any]:
    """Its headers, and who asks."""
    return {**request.headers, "client": request.client.host, "scheme": request.url.scheme}


@app.get("/own")
async def own() -> Response:
    """Headers that the proxy would set, set or remove."""
    headers = {"X-Frame-Options": "DENY", "X-Powered-By": "python", "X-Robots-Tag": "all", "Server": "mine"}
    return Response("<p>word </p>" * 1000, media_type="text/html", headers=headers)


@app.get("/events")
async def events() -> StreamingResponse:
    """Silent for longer than an answer may take to begin."""

    async def told() -> AsyncIterator[str]:
        yield "data: 0\\n\\n"
        await asyncio.sleep(4)
        yield "data: 1\\n\\n"

    return StreamingResponse(told(), media_type="text/event-stream")
'''
SITES = "sha1sum /etc/caddy/berth.caddyfile /etc/nginx/berth.conf 2>/dev/null || true"
CODE = ("-o", "/dev/null", "-w", "%{http_code}")


def provision(kit: Kit, provider: str) -> Any:
    kit.server["proxy"]["provider"] = provider
    return kit.play("site.yml")


@pytest.fixture(scope="module")
def server(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host with one app, at first without a proxy's words."""
    source = tmp_path_factory.mktemp("source") / "loadapp"
    shutil.copytree(FIXTURE, source, ignore=shutil.ignore_patterns("__pycache__"))
    with (source / "loadapp/main.py").open("a") as code:
        code.write(MORE)
    files = source / "files"
    (files / "deep").mkdir(parents=True)
    (files / "style.css").write_text("body {}\n")
    (files / "large.js").write_text("let word;\n" * 500)
    with gzip.open(files / "large.js.gz", "wt") as packed:
        packed.write("let packed;\n")
    (files / "deep/index.html").write_text("index\n")
    app = {
        "name": "loadapp",
        "domains": ["loadapp.localhost", "www.loadapp.localhost"],
        "source": {"path": str(source)},
        "database": {"enabled": False},
        "health": {"timeout": WELL},
        "static": [{"url": "/files", "path": "files", "max_age": 600}],
        "proxy": {
            "max_body": "1MB",
            "read_timeout": 3,
            "headers": {"X-Robots-Tag": 'no"index" $host', "X-Powered-By": ""},
        },
    }
    host = boot("providers", provisioned=True, publish={"443": 0})
    return Kit(tmp_path_factory.mktemp("providers"), host, apps=[app])


# The first one is what all other tests run behind, test_proxy.py among them.
@pytest.fixture(scope="module", params=[pytest.param("caddy", marks=pytest.mark.long), "nginx"])
def kit(request: pytest.FixtureRequest, server: Kit) -> Kit:
    provision(server, request.param)
    return server


def published(kit: Kit, key: str) -> str:
    return str(json.loads(kit.host.sh("cat /var/lib/berth/proxy.json"))["published"][key])


def ask(kit: Kit, path: str, *options: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one answer."""
    said = kit.curl(f"https://loadapp.localhost{path}", "-i", *options)
    # "Continue" is not the answer yet.
    said = re.sub(r"^(HTTP/\S+ 100 .*\n(.+\n)*\n)+", "", said.replace("\r", ""))
    head, _, body = said.partition("\n\n")
    status, *lines = head.splitlines()
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    return int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body


def test_it_is_the_one_that_was_chosen_and_a_second_run_changes_nothing(kit: Kit) -> None:
    provider = kit.server["proxy"]["provider"]
    assert published(kit, "provider") == provider
    states = {name: kit.host.sh(f"systemctl is-active {name} || true") for name in PROVIDERS}
    assert states == {name: "active" if name == provider else "inactive" for name in PROVIDERS}
    again = kit.play("site.yml")
    assert again.changed == 0, again.output
    foretold = kit.play("site.yml", "--check")
    assert foretold.changed == 0, foretold.output
    assert "well" in kit.play("playbooks/status.yml", "-e", "app=loadapp").output


def test_it_is_confined(kit: Kit) -> None:
    unit = published(kit, "unit")
    said = kit.host.sh(f"systemd-analyze security --no-pager {unit} 2> /dev/null | tail -n 1")
    assert float(re.findall(r"[0-9]+[.][0-9]", said)[-1]) <= 1.5
    kit.host.sh(f"test $(ps -o user= -p $(systemctl show -P MainPID {unit})) != root")


def test_names_lead_to_the_first_over_https_and_no_other_is_answered(kit: Kit) -> None:
    said = ("-o", "/dev/null", "-w", "%{http_code} %{redirect_url}")
    assert kit.curl("http://loadapp.localhost/x?y=1", *said) == "308 https://loadapp.localhost/x?y=1"
    assert kit.curl("https://www.loadapp.localhost/x?y=1", *said) == "308 https://loadapp.localhost/x?y=1"
    assert kit.curl("http://nobody.localhost/", *CODE, check=False).startswith("000")
    assert kit.curl("https://nobody.localhost/", *CODE, check=False).startswith("000")
    # Nor by another name than the one that the connection is for.
    mixed = kit.curl("https://loadapp.localhost/", *CODE, "-H", "Host: nobody.localhost", check=False)
    assert mixed[:3] in ("000", "421")
    assert kit.curl("https://loadapp.localhost/healthz", *CODE, "--http2") == "200"


def test_the_app_is_told_who_asks_by_the_proxy_alone(kit: Kit) -> None:
    lies = [f"X-Forwarded-{name}: forged" for name in ("For", "Host", "Proto", "Port", "Prefix", "Server")]
    lies += ["X-Real-IP: forged", "Forwarded: for=forged"]
    seen = json.loads(ask(kit, "/seen", *(word for lie in lies for word in ("-H", lie)))[2])
    assert "forged" not in json.dumps(seen)
    assert (seen["client"], seen["scheme"]) == ("127.0.0.1", "https")
    assert (seen["host"], seen["x-forwarded-host"]) == ("loadapp.localhost", "loadapp.localhost")


def test_a_request_has_one_name_everywhere(kit: Kit) -> None:
    for given, kept in (
        ("trace:1234/5678", True),
        ("short", False),
        ("has a space in it", False),
        ("", False),
    ):
        _, headers, body = ask(kit, "/seen", *(("-H", f"X-Request-Id: {given}") if given else ()))
        name = headers["x-request-id"]
        assert json.loads(body)["x-request-id"] == name
        assert (name == given) is kept
        assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{8,128}", name)
    time.sleep(1.5)
    log = kit.host.sh(f"cat {published(kit, 'logs')}/loadapp.log")
    assert name in log


def test_headers_are_set_offered_and_removed(kit: Kit) -> None:
    for http in ("--http1.1", "--http2"):
        _, plain, _ = ask(kit, "/seen", http)
        assert plain["x-frame-options"] == "SAMEORIGIN"
        assert plain["x-content-type-options"] == "nosniff"
        assert plain["referrer-policy"] == "strict-origin-when-cross-origin"
        assert "server" not in plain
        _, own, _ = ask(kit, "/own", http)
        # The app's own stays; what the inventory says wins over it.
        assert own["x-frame-options"] == "DENY"
        assert own["x-content-type-options"] == "nosniff"
        assert own["x-robots-tag"] == 'no"index" $host'
        assert {"x-powered-by", "server"} & set(own) == set()
        for path in ("/files/style.css", "/nowhere"):
            assert ask(kit, path, http)[1]["x-robots-tag"] == 'no"index" $host'


def test_answers_are_compressed(kit: Kit) -> None:
    for wanted in ("gzip", "identity"):
        _, headers, _ = ask(kit, "/own", "-H", f"Accept-Encoding: {wanted}", "-o", "/dev/null", "-D", "-")
        assert headers.get("content-encoding", "identity") == wanted
    assert (
        "accept-encoding"
        in ask(kit, "/own", "-H", "Accept-Encoding: gzip", "--compressed")[1]["vary"].lower()
    )


def test_files_come_from_the_proxy_and_hidden_ones_do_not(kit: Kit) -> None:
    status, headers, body = ask(kit, "/files/style.css")
    assert (status, body) == (200, "body {}")
    assert headers["cache-control"] == "public, max-age=600"
    assert headers["content-type"].lower() == "text/css; charset=utf-8"
    again = ask(kit, "/files/style.css", "-H", f"If-None-Match: {headers['etag']}")
    assert again[0] == 304
    # Packed already.
    packed = ask(kit, "/files/large.js", "-H", "Accept-Encoding: gzip", "--compressed")
    assert (packed[1]["content-encoding"], packed[2]) == ("gzip", "let packed;")
    assert len(ask(kit, "/files/large.js")[2]) > 4000
    # What is not there, what is hidden, and a folder is asked of the app.
    for path in ("/files/nowhere.css", "/files/.hidden", "/files/%2e%2e/keepalive", "/files", "/files/deep/"):
        status, headers, _ = ask(kit, path, "--path-as-is")
        assert (status, headers.get("cache-control")) == (404, None), path


@pytest.mark.long
def test_a_file_of_an_earlier_release_is_there_still(kit: Kit) -> None:
    source = Path(kit.app("loadapp")["source"]["path"]) / "files"
    name = f"app.{kit.server['proxy']['provider']}.js"
    (source / name).write_text("old\n")
    kit.play("playbooks/deploy.yml", "-e", "app=loadapp")
    (source / name).unlink()
    kit.play("playbooks/deploy.yml", "-e", "app=loadapp")
    status, headers, body = ask(kit, f"/files/{name}")
    assert (status, body) == (200, "old")
    assert headers["cache-control"] == "public, max-age=600"


def test_a_body_that_is_too_large_is_refused(kit: Kit) -> None:
    kit.host.sh("head -c 1000001 /dev/zero > /tmp/large; head -c 999999 /dev/zero > /tmp/fits")
    for http in ("--http1.1", "--http2"):
        assert ask(kit, "/upload", http, "-T", "/tmp/large")[0] == 413
        assert json.loads(ask(kit, "/upload", http, "-T", "/tmp/fits")[2])["length"] == 999_999
    # Before it comes: who waited for it would wait for long.
    assert ask(kit, "/echo", "--http1.1", "-X", "POST", "-H", "Content-Length: 1000001")[0] == 413
    chunked = ("--http1.1", "-X", "PUT", "-H", "Transfer-Encoding: chunked", "--data-binary", "@/tmp/large")
    assert ask(kit, "/upload", *chunked)[0] == 413


def test_an_answer_that_does_not_come_is_a_page_or_json(kit: Kit) -> None:
    status, headers, body = ask(kit, "/slow?seconds=9")
    assert (status, json.loads(body)) == (504, {"detail": "Gateway Timeout"})
    assert (headers["retry-after"], headers["cache-control"]) == ("5", "no-store")
    assert headers["x-content-type-options"] == "nosniff"
    kit.host.sh("touch /run/berth/loadapp/maintenance")
    try:
        status, headers, body = ask(kit, "/seen", "-H", "Accept: text/html")
        assert (status, headers["retry-after"]) == (503, "5")
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1" in body
        assert "Service Unavailable" in body
        assert ask(kit, "/seen")[2] == '{"detail":"Service Unavailable"}'
        # Files are no matter of the app's.
        assert ask(kit, "/files/style.css")[0] == 200
    finally:
        kit.host.sh("rm /run/berth/loadapp/maintenance")
    assert ask(kit, "/seen")[0] == 200


@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
def test_streams_come_as_the_app_writes_them(kit: Kit, http: str) -> None:
    say = ("-o", "/dev/null", "-w", "%{time_starttransfer} %{time_total}")
    for path, accept in (("/trickle?seconds=2", "*/*"), ("/events", "text/event-stream")):
        url = f"https://loadapp.localhost{path}"
        first, last = map(float, kit.curl(url, http, "-H", f"Accept: {accept}", *say).split())
        assert last - first > 1.8, path


def test_a_websocket_is_passed_on(kit: Kit, tmp_path: Path) -> None:
    with held_open(kit, tmp_path) as say:
        assert say("hello") == 1
        # Longer than an answer may take to begin.
        time.sleep(3.5)
        assert say("again") == 2


def test_an_app_is_told_that_its_client_has_left(kit: Kit) -> None:
    kit.curl("https://loadapp.localhost/wait", "--max-time", "1", check=False)
    said = f"journalctl -u 'loadapp-web@{kit.release('loadapp')}' -o cat | grep -q 'the client has left'"
    kit.host.sh(f"for _ in $(seq {round(patience(20))}); do {said} && exit; sleep 1; done; exit 1")


def test_what_takes_a_worker_down_gets_one_only(kit: Kit) -> None:
    count = f"journalctl -u loadapp-web@{kit.release('loadapp')} -o cat | grep -c 'asked to crash' || true"
    for method in ("GET", "POST"):
        # Without connections of before: over those, a GET may be asked again.
        kit.host.sh(f"systemctl restart {published(kit, 'unit')}")
        before = int(kit.host.sh(count))
        assert ask(kit, "/crash", "-X", method)[0] == 502
        assert int(kit.host.sh(count)) == before + 1
        kit.json("https://loadapp.localhost/healthz", "--retry", "9", "--retry-all-errors")


def test_the_log_is_of_one_format_and_without_secrets(kit: Kit) -> None:
    path = f"{published(kit, 'logs')}/loadapp.log"
    secrets = [
        "-H",
        "Authorization: Bearer s3cr3t",
        "-H",
        "Cookie: s=s3cr3t",
        "-H",
        "Referer: https://x/?s3cr3t",
    ]
    ask(kit, "/seen?token=s3cr3t&plain=1", *secrets)
    ask(kit, "/nowhere?plain=%22two%22", "-H", 'User-Agent: "a" \\ b')
    time.sleep(1.5)
    assert "s3cr3t" not in kit.host.sh(f"cat {path}")
    assert "s3cr3t" not in kit.host.sh(f"journalctl -o cat -u {published(kit, 'unit')}")
    # Each process writes its own as it comes to it, and others ask too.
    lines = kit.host.sh(f"grep -F '\"uri\":\"/seen?' {path} | tail -n 1; grep -F 'two%22' {path} | tail -n 1")
    first, second = map(json.loads, lines.splitlines())
    assert first["request"]["uri"].startswith("/seen?")
    assert second["request"]["uri"] == "/nowhere?plain=%22two%22"
    assert (first["status"], second["status"]) == (200, 404)
    assert second["request"]["headers"]["User-Agent"] == ['"a" \\ b']
    assert [one["level"] for one in (first, second)] == ["info", "error"]
    assert (second["msg"], second["request"]["proto"]) == ("handled request", "HTTP/2.0")
    assert {"remote_ip", "method", "host"} <= set(second["request"])
    assert isinstance(second["duration"], float)
    assert abs(second["ts"] - time.time()) < 60
    assert re.match(r'\{"level":"[a-z]+","ts":[0-9.]+,"logger":"http\.log\.access', lines)
    assert kit.host.sh(f"stat -c %a {path}") in ("600", "640")


@pytest.mark.long
def test_nothing_fails_over_a_change_of_the_sites(kit: Kit, tmp_path: Path) -> None:
    """WebSockets are what one provider keeps, and the other one's version of the distribution does not."""
    app = kit.app("loadapp")
    port, authority = kit.host.published["443"], kit.authority(tmp_path)
    few = {"http2": 0, "sockets": 0, "slow": 0, "uploads": 0}
    with (
        Traffic("loadapp.localhost", port, authority, **few) as traffic,
        goaway.Clients("loadapp.localhost", port, authority) as clients,
    ):
        time.sleep(2)
        app["domains"].append("more.loadapp.localhost")
        assert kit.play("site.yml", "--tags", "proxy").changed > 0
        app["domains"].remove("more.loadapp.localhost")
        assert kit.play("site.yml", "--tags", "proxy").changed > 0
        time.sleep(2)
    print(f"\nHTTP/2: {clients.report()}")
    assert traffic.failures == []
    assert clients.failures == []
    assert min(clients.answered, *(traffic.sent[kind] for kind in ("h1 GET", "h1 POST"))) > 50
    # Each of them has met both reloads.
    assert clients.goodbyes >= 8


def test_what_it_does_not_take_never_replaces_what_runs(kit: Kit) -> None:
    before = kit.host.sh(SITES)
    header = {"caddy": ("X-A", "{$HOME}"), "nginx": ("X-$", "a")}[kit.server["proxy"]["provider"]]
    headers = kit.app("loadapp")["proxy"]["headers"]
    headers[header[0]] = header[1]
    try:
        refused = kit.play("site.yml", succeed=False)
    finally:
        del headers[header[0]]
    assert f"headers.{header[0]}" in refused.output
    assert refused.changed == 0
    assert kit.host.sh(SITES) == before


@pytest.mark.long
def test_a_package_that_is_installed_anew_costs_no_request(server: Kit, tmp_path: Path) -> None:
    provision(server, "nginx")
    few = {"http2": 0, "sockets": 0, "slow": 0, "uploads": 0}
    port, authority = server.host.published["443"], server.authority(tmp_path)
    again = "DEBIAN_FRONTEND=noninteractive apt-get install -q -y --reinstall nginx nginx-common"
    before = server.host.sh("systemctl show -P MainPID nginx")
    with Traffic("loadapp.localhost", port, authority, **few) as traffic:
        time.sleep(2)
        server.host.sh(f"{again} libnginx-mod-http-headers-more-filter 2>&1", timeout=patience(300))
        time.sleep(2)
    assert traffic.failures == []
    assert server.host.sh("systemctl show -P MainPID nginx") != before


@pytest.mark.long
def test_a_change_of_the_provider_is_said_and_costs_a_second(server: Kit) -> None:
    """Back to the first one, while somebody asks without a pause."""
    host = server.host
    provision(server, "nginx")
    ask = (
        "curl -sk -m 5 --resolve loadapp.localhost:443:127.0.0.1 -o /dev/null "
        "-w '%{http_code}\\n' https://loadapp.localhost/seen"
    )
    host.sh(
        "cat > /root/ask", stdin=f"while :; do echo $(date +%s.%N) $({ask}); sleep 0.05; done > /root/asked"
    )
    host.sh("systemd-run -q --collect --unit=ask bash /root/ask")
    server.server["proxy"]["provider"] = "caddy"
    foretold = server.play("site.yml", "--check")
    assert "for about a second nobody is answered" in " ".join(foretold.output.split())
    assert published(server, "provider") == "nginx"
    said = provision(server, "caddy")
    assert "Caddy takes over from nginx" in " ".join(said.output.split())
    host.sh("systemctl stop ask")
    lines = [line.split() for line in host.sh("cat /root/asked").splitlines()]
    bad = [float(began) for began, status in lines if status != "200"]
    print(f"\n{len(bad)} of {len(lines)} found nobody")
    assert len(lines) > 100
    assert not bad or max(bad) - min(bad) < patience(2)
    assert (
        host.sh("systemctl is-active nginx nginx.socket nginx-upkeep.timer || true").split()
        == ["inactive"] * 3
    )
    assert server.play("site.yml").changed == 0
