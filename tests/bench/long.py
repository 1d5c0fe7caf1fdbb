"""A hundred deploys beside a million requests, of which none may fail: `make bench-long`.

The load is made inside the host by h2load, over HTTP/1.1 and HTTP/2 at once, at a steady rate, through TLS
and the proxy, and goes on until both numbers are reached. `--deploys 2 --requests 10000` is a quick look.
Goes to the host's own loopback address only. Ends with 1 where a request failed.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "molecule" / "shared")]

import testhost  # noqa: E402

from tests.bench import throughput  # noqa: E402
from tests.support.kit import Kit, board_copy  # noqa: E402

NAME = "bench-long"
CLIENTS = 8
# Requests a second of each client of either protocol: together they leave a 2-core machine room for a deploy.
RATE = 60
SLICE = 20
"""Seconds of one run of h2load: what it counted is added up after each."""

_COUNTED = re.compile(r"requests: .*?(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_CODES = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")


class Load:
    """h2load until it is told to stop; what came back is counted."""

    def __init__(self, host: testhost.Host) -> None:
        self.host = host
        self.counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(protocol,), daemon=True) for protocol in ("--h1", "")
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, protocol: str) -> None:
        words = (
            f"h2load {protocol} --threads=1 --clients={CLIENTS} --rps={RATE} --duration={SLICE} "
            "--connect-to=127.0.0.1:443 https://board.localhost/healthz"
        )
        while not self._stop.is_set():
            self.add(self.host.sh(words, timeout=SLICE + 120))

    def add(self, said: str) -> None:
        """Count one run of h2load by what it printed; raises RuntimeError where that cannot be read."""
        counted, codes = _COUNTED.search(said), _CODES.search(said)
        if not counted or not codes:
            raise RuntimeError(f"h2load said what this does not read:\n{said}")
        done, good, *bad = map(int, counted.groups())
        # A request that was under way when the time was up is neither.
        self.counts.update(done=done, good=good, failed=sum(bad), other=sum(map(int, codes.groups()[1:])))


def measure(deploys: int, requests: int) -> int:
    """Deploy and ask until both numbers are reached; how many requests failed."""
    with tempfile.TemporaryDirectory() as folder:
        app = board_copy(Path(folder))
        app["keep_releases"] = 3
        host = testhost.up(NAME)
        kit = Kit(Path(folder) / "inventory", host, apps=[app])
        kit.play("site.yml")
        throughput.install(host)
        seconds: list[float] = []
        code = Path(app["source"]["path"]) / "board" / "__init__.py"
        with Load(host) as load:
            while len(seconds) < deploys or load.counts["done"] < requests:
                with code.open("a") as handle:
                    handle.write(f"\n# {time.time()}\n")
                seconds.append(kit.play("playbooks/deploy.yml", "-e", "app=board").seconds)
                print(
                    f"{len(seconds)} deploys, {load.counts['done']} requests: {dict(load.counts)}", flush=True
                )
        failed = load.counts["failed"] + load.counts["other"]
        print(
            f"{len(seconds)} deploys (median {statistics.median(seconds):.1f} s, "
            f"longest {max(seconds):.1f} s), {load.counts['done']} requests, {failed} failed"
        )
        releases = host.sh("ls /srv/board/releases | wc -l; du -sm /srv/board | cut -f1").split()
        print(f"{releases[0]} releases are kept; the app's folder holds {releases[1]} MB")
        return failed


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deploys", type=int, default=100)
    parser.add_argument("--requests", type=int, default=1_000_000)
    options = parser.parse_args()
    testhost.down(NAME)
    try:
        return 1 if measure(options.deploys, options.requests) else 0
    except (AssertionError, RuntimeError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        testhost.down(NAME)


if __name__ == "__main__":
    sys.exit(main())
