"""Requests a second through the proxy and past it, in one run: what the way from TLS to the socket costs.

The load is made inside the host, with h2load, which speaks HTTP/1.1 over TLS and over a unix socket alike.
It goes to the host's own loopback address and sockets only, and is bounded in time.
"""

from __future__ import annotations

import re
import statistics

from testhost import Host

CADDYFILE = "/etc/caddy/berth.caddyfile"
CLIENTS = 16
SECONDS = 5
ROUNDS = 3

_PROXY = "--connect-to=127.0.0.1:443 https://board.localhost/healthz"
_BARE = "--base-uri=unix:/srv/board/web.sock http://board.localhost/healthz"
_OFF = r"s/^(\s*)keepalive 30s$/\1keepalive off/; /^\s*keepalive_idle_conns/d"


def install(host: Host) -> None:
    """Put h2load on the host."""
    host.sh(
        "export DEBIAN_FRONTEND=noninteractive;"
        "apt-get install -y -qq --no-install-recommends nghttp2-client >/dev/null 2>&1",
        timeout=600,
    )


def _load(host: Host, words: str) -> float:
    """Requests a second of one run, all of which were answered well."""
    said = host.sh(
        f"h2load --h1 --threads=1 --clients={CLIENTS} --warm-up-time=1 --duration={SECONDS} {words}",
        timeout=60 + SECONDS,
    )
    rate = re.search(r"([0-9.]+) req/s", said)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
    if not rate or not codes or codes[1] == "0" or (codes[2], codes[3], codes[4]) != ("0", "0", "0"):
        raise RuntimeError(f"The load was not answered well:\n{said}")
    return float(rate[1])


def _proxied(host: Host, keepalive: bool) -> float:
    """Through the proxy, its connections to the app kept or not."""
    if not keepalive:
        host.sh(f"cp -p {CADDYFILE} /root/kept; sed -E -i '{_OFF}' {CADDYFILE}; systemctl reload caddy")
        assert "keepalive off" in host.sh(f"cat {CADDYFILE}")
    try:
        return _load(host, _PROXY)
    finally:
        if not keepalive:
            host.sh(f"cp -p /root/kept {CADDYFILE}; systemctl reload caddy")


def rows(host: Host) -> list[tuple[str, str]]:
    """The table's rows: medians of a few rounds, in each of which all three take their turn."""
    rounds = [
        (_load(host, _BARE), _proxied(host, keepalive=True), _proxied(host, keepalive=False))
        for _ in range(ROUNDS)
    ]
    bare, kept, fresh = (statistics.median(column) for column in zip(*rounds, strict=True))
    return [
        ("gunicorn alone, asked on its unix socket", f"{bare:.0f} requests/s"),
        ("the same through Caddy with TLS", f"{kept:.0f} requests/s, {kept / bare:.2f} of it"),
        (
            "… with a new connection to the app for each request",
            f"{fresh:.0f} requests/s, {fresh / bare:.2f} of it, {fresh / kept:.2f} of what kept ones bring",
        ),
    ]
