"""What Caddy's site of an app costs beside a plain one, part by part, in one run: `make bench-proxy`.

Measured is the CPU time of the Caddy process for each request, by the kernel's clock for the process. Every
variant runs as a process of its own, all at the same time, and in each round all take their turn in random
order: so another load of the machine meets all of them. Of the rounds the lower quartile counts, since noise
only ever adds.
Load goes to the host's own loopback address only, and is bounded in number.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "molecule" / "shared")]

import testhost  # noqa: E402

from tests.bench import throughput  # noqa: E402
from tests.support.kit import Kit, demo_apps  # noqa: E402

NAME = "bench-proxy"
PORT = 14400
PLAIN = """{
	admin off
	skip_install_trust
}

board.localhost {
	tls internal
	reverse_proxy unix//srv/board/web.sock
}
"""
# What each part is in the role's Caddyfile, and what stands there without it.
PARTS = {
    "the access log": (r"^\tlog \{\n.*?^\t\}\n", ""),
    "leaving secrets out of it": (r"(?<=h\n\t\t\}\n)\t\tformat filter \{\n.*?^\t\t\}\n", ""),
    "leaving headers out of the journal": (r"^\tlog default \{\n.*?^\t\}\n", ""),
    "headers of answers": (r"^\theader (\{\n.*?^\t\}|\?[^\n]*)\n", ""),
    "the request id": (r"^\trequest_header @nameless [^\n]*\n", ""),
    "compression": (r"^\tencode [^\n]*\n", ""),
    "closing connections before a reload": (r"^\timport berth_closing\n", ""),
    "static folders": (r"^\t\troute /[^\n]*\n.*?^\t\t\}\n", ""),
    "the largest upload": (r"^\t\t@large .*?^\t\t\}\n", ""),
    "asking how the release retires": (r"reverse_proxy @lasting ", "reverse_proxy "),
    "headers of requests": (r"^\t\t\theader_up [^\n]*\n", ""),
    "flushing what is slow": (r"^\t\t\tflush_interval [^\n]*\n", ""),
    "trying again": (r"^\t\t\tlb_[a-z_]+ (\{\n.*?^\t\t\t\}|[^\n]*)\n", ""),
}
_TURNS = """
import json, random, re, subprocess, sys, time
rounds, requests, clients, variants = json.loads(sys.stdin.read())
def load(kind, port):
    words = ["h2load", *kind, "-t1", f"-c{clients}", f"-n{requests}", f"--connect-to=127.0.0.1:{port}"]
    said = subprocess.run([*words, "https://board.localhost/healthz"], capture_output=True, text=True).stdout
    if f"status codes: {requests} 2xx" not in said:
        sys.exit("The load was not answered well:\\n" + said)
def cpu(pid):
    return time.clock_gettime(~pid << 3 | 2)  # the clock of that process
taken = {}
for number in range(rounds + 1):
    for name, kind in ("h1", ["--h1"]), ("h2", []):
        for variant, port, pid in random.sample(variants, len(variants)):
            before = cpu(pid)
            load(kind, port)
            if number:  # the first one opens connections and fills caches
                taken.setdefault(variant, {}).setdefault(name, []).append((cpu(pid) - before) / requests)
print(json.dumps(taken))
"""

Variants = dict[str, tuple[str, str]]


def without(caddyfile: str, part: str) -> str:
    """The file without this part; raises ValueError where it is not written as this expects it."""
    pattern, instead = PARTS[part]
    changed, count = re.subn(pattern, instead, caddyfile, flags=re.MULTILINE | re.DOTALL)
    if not count:
        raise ValueError(f"The Caddyfile has nothing for {part}: correct tests/bench/proxy.py.")
    return changed


def variants(host: testhost.Host, beside: str = "") -> Variants:
    """By name the Caddyfile and the environment: the plain one, the role's own, that without each part.

    `beside` is one more, of an earlier commit for example.
    """
    role = host.sh(f"cat {throughput.CADDYFILE}")
    environment = host.sh("systemctl show -P Environment caddy.service")
    return {
        "plain": (PLAIN, ""),
        "role proxy": (role, environment),
        **({"the other": (beside, "")} if beside else {}),
        "memory collected as often as by default": (role, ""),
        **{part: (without(role, part), environment) for part in PARTS},
    }


def start(host: testhost.Host, number: int, caddyfile: str, environment: str) -> int:
    """Run Caddy with this file beside the host's own, as its user; the port of HTTPS."""
    port, unit = PORT + number, f"bench-caddy-{number}"
    text = caddyfile.replace("admin unix//run/caddy/admin.sock", "admin off")
    text = text.replace("{\n", f"{{\n\thttps_port {port}\n\thttp_port {port + 1000}\n", 1)
    text = text.replace("/var/log/caddy/", f"/var/log/caddy/{unit}-")
    words = " ".join(f"--setenv={word}" for word in environment.split())
    host.sh(
        f"cat > /etc/caddy/{unit}; systemd-run -q --collect --unit={unit} -p Type=notify "
        f"--uid=caddy --gid=caddy --setenv=HOME=/var/lib/caddy {words} "
        f"caddy run --config /etc/caddy/{unit} --adapter caddyfile",
        stdin=text,
    )
    return port


def measure(host: testhost.Host, chosen: Variants, rounds: int, requests: int) -> dict[str, dict[str, float]]:
    """Microseconds of CPU a request, by variant and protocol."""
    running = []
    try:
        for number, (name, (caddyfile, environment)) in enumerate(chosen.items()):
            running.append([name, start(host, number, caddyfile, environment)])
        for number, one in enumerate(running):
            one.append(int(host.sh(f"systemctl show -P MainPID bench-caddy-{number}")))
        asked = json.dumps([rounds, requests, throughput.CLIENTS, running])
        taken = json.loads(host.sh(f"python3 -c '{_TURNS}'", stdin=asked, timeout=3600))
    finally:
        host.sh("systemctl stop 'bench-caddy-*'; rm -f /etc/caddy/bench-caddy-* /var/log/caddy/bench-caddy-*")
    return {
        name: {kind: statistics.quantiles(seconds)[0] * 1e6 for kind, seconds in kinds.items()}
        for name, kinds in taken.items()
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: both as they are, then what each part adds, as a share of the plain one."""
    plain, role = found["plain"], found["role proxy"]
    whole = {name: found[name] for name in ("plain", "role proxy", "the other") if name in found}
    parts = {
        what: [(role[kind] - left[kind]) / plain[kind] for kind in role]
        for what, left in found.items()
        if what not in whole
    }
    lines = [
        "| CPU of Caddy for a request | HTTP/1.1 | HTTP/2 |\n|---|---|---|",
        *(
            f"| {what} | {of['h1']:.0f} us, {of['h1'] / plain['h1']:.2f} | "
            f"{of['h2']:.0f} us, {of['h2'] / plain['h2']:.2f} |"
            for what, of in whole.items()
        ),
        *(
            f"| … of it {what} | {h1:+.2f} | {h2:+.2f} |"
            for what, (h1, h2) in sorted(parts.items(), key=lambda pair: -sum(pair[1]))
        ),
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--requests", type=int, default=500, help="of each variant in each round and protocol"
    )
    parser.add_argument("--beside", type=Path, help="one more Caddyfile, such as an earlier Berth's")
    parser.add_argument("--host", help="a test host that has the demo's board already, and stays")
    options = parser.parse_args()
    kept = testhost.find(options.host) if options.host else None
    if options.host and not kept:
        parser.error(f"There is no test host {options.host}.")
    try:
        host = kept or testhost.up(NAME)
        with tempfile.TemporaryDirectory() as folder:
            if not kept:
                apps = [app for app in demo_apps() if app["name"] == "board"]
                Kit(Path(folder), host, apps=apps).play("site.yml")
        throughput.install(host)
        beside = options.beside.read_text() if options.beside else ""
        found = measure(host, variants(host, beside), options.rounds, options.requests)
    finally:
        if not kept:
            testhost.down(NAME)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
