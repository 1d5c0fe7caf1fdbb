"""What backups cost a busy server, and how long a restore and a drill take: `make bench-backups`.

Inside a disposable host, pgbench sends transactions at a steady rate all along. The latency of those that
came while a backup ran is compared with those of the quiet seconds right before and right after it: a ratio
within one run, which says something on a noisy machine too. `--scale 5 --quiet 5` is a quick look.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "molecule" / "shared")]

import testhost  # noqa: E402

from tests.bench import bench  # noqa: E402
from tests.support import ready  # noqa: E402
from tests.support.kit import Kit  # noqa: E402

NAME = "bench-backups"
MARKERS = ("<!-- backups -->", "<!-- /backups -->")
LOGS = "/var/tmp/pgbench"
RATE, CLIENTS = 200, 4
KINDS = {
    "full backup": "berth-backup-full.service",
    "incremental backup": "berth-backup-incremental.service",
    "dump of each database": "berth-backup-dump.service",
    "drill": "berth-backup-drill.service",
}
GB = 1 << 30

Answer = tuple[float, float]
"""When a transaction ended, in seconds since 1970, and how many milliseconds it took."""


def fill(host: testhost.Host, scale: int) -> int:
    """Make the database of pgbench; its size in bytes."""
    host.sh(
        "runuser -u postgres -- createdb bench;"
        f"runuser -u postgres -- pgbench -q -i -s {scale} bench > /dev/null 2>&1",
        timeout=60 + 20 * scale,
    )
    return int(host.sh("runuser -u postgres -- psql -XAtc \"select pg_database_size('bench')\"").strip())


def begin(host: testhost.Host) -> None:
    """Transactions from now on, each of them logged."""
    host.sh(
        f"install -d -o postgres {LOGS}; cd {LOGS}; setsid runuser -u postgres --"
        f" pgbench -n -c {CLIENTS} -j 2 -R {RATE} -T 100000 -l --log-prefix={LOGS}/l bench"
        " > /dev/null 2>&1 < /dev/null &"
    )
    time.sleep(3)


def end(host: testhost.Host) -> list[Answer]:
    """No more of them; all there were."""
    host.sh("pkill -TERM -x pgbench; while pgrep -x pgbench > /dev/null; do sleep 0.1; done")
    answers = []
    for line in host.sh(f"cat {LOGS}/l.*").splitlines():
        words = line.split()
        if len(words) >= 6 and words[2].isdigit():
            answers.append((int(words[4]) + int(words[5]) / 1e6, int(words[2]) / 1000))
    return answers


def p95(answers: list[Answer], window: tuple[float, float]) -> float:
    """Milliseconds that one in twenty transactions took longer than."""
    took = [ms for at, ms in answers if window[0] <= at < window[1]]
    return statistics.quantiles(took, n=20)[-1]


def report(kit: Kit) -> dict[str, float]:
    """How long the parts of the last drill took, and how much it restored, as the server remembers it."""
    said = json.JSONDecoder().raw_decode(kit.berth("backups", "--json"))[0]["drill"]
    steps = {step["step"]: step for step in said["steps"]}
    return {
        "seconds": said["seconds"],
        "restore": steps["restore"]["seconds"] + steps["replay"]["seconds"],
        "bytes": steps["restore"]["bytes"],
    }


def measure(scale: int, quiet: float) -> list[bench.Row]:
    """The rows of the table."""
    rows: list[bench.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        host = testhost.up(NAME, image=ready.ensure_image())
        kit = Kit(Path(folder), host, apps=[])
        size = fill(host, scale)
        begin(host)
        windows: dict[str, list[tuple[float, float]]] = {}
        time.sleep(quiet)
        for what, unit in KINDS.items():
            began = time.time()
            host.sh(f"systemctl start {unit}", timeout=3600)
            ended = time.time()
            time.sleep(quiet)
            windows[what] = [(began - quiet, began), (began, ended), (ended, time.time())]
        answers = end(host)
        for what, (before, during, after) in windows.items():
            calm = statistics.mean((p95(answers, before), p95(answers, after)))
            busy = p95(answers, during)
            rows.append(
                (
                    f"{what} of {size / GB:.1f} GB beside {RATE} transactions a second",
                    f"{during[1] - during[0]:.0f} s; 95 of 100 transactions within {busy:.0f} ms instead of "
                    f"{calm:.0f} ms ({busy / calm:.1f} times)",
                )
            )
            print(*rows[-1], sep=": ", flush=True)
        found = report(kit)
        per = (found["restore"]) / (found["bytes"] / GB)
        rows.append(("restore and replay, in the drill", f"{per:.0f} s a GB"))
        print(*rows[-1], sep=": ", flush=True)
    return rows


def main() -> int:
    """Measure, print, and with --write record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=70, help="of pgbench: 15 MB each")
    parser.add_argument(
        "--quiet", type=float, default=20, help="seconds before and after each that are compared"
    )
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    testhost.down(NAME)
    try:
        rows = measure(options.scale, options.quiet)
    finally:
        testhost.down(NAME)
    text = (
        f"{bench.table(('what', 'measured'), rows)}\n\n"
        f"({os.cpu_count()} cores, {testhost.default_suite()}; measured by `make bench-backups`.)"
    )
    print(f"\n{text}")
    if options.write:
        bench.record(MARKERS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
