"""The README's figures, measured on a fresh disposable host: `make bench`.

Controller and host are the same machine. `--write` puts the table into README.md between its markers.
Load goes to 127.0.0.1 only and is bounded in time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "molecule" / "shared")]

import testhost  # noqa: E402

from tests.support.kit import INTERNAL_CA, Kit, demo_apps  # noqa: E402
from tests.support.load import Load  # noqa: E402

NAME = "bench"
MARKERS = ("<!-- figures -->", "<!-- /figures -->")


def until_answer(kit: Kit) -> float:
    """Seconds until the board answers 200 over HTTPS."""
    began = time.monotonic()
    while "200" not in kit.curl(
        "https://board.localhost/readyz", "-o", "/dev/null", "-w", "%{http_code}", check=False
    ):
        if time.monotonic() - began > 60:
            raise TimeoutError("The board does not answer.")
        time.sleep(0.1)
    return time.monotonic() - began


def idle_memory(host: testhost.Host) -> str:
    """What the host's processes hold in memory (proportional set size), in MB, whole and by the largest."""
    script = """
        for p in /proc/[0-9]*; do
            name=$(cat $p/comm 2>/dev/null) || continue
            awk -v name="$name" '/^Pss:/ {print $2, name}' $p/smaps_rollup 2>/dev/null || true
        done
    """
    lines = host.sh(script).splitlines()
    by_name: dict[str, int] = {}
    for line in lines:
        size, _, name = line.partition(" ")
        by_name[name] = by_name.get(name, 0) + int(size)
    largest = sorted(by_name.items(), key=lambda pair: -pair[1])[:4]
    parts = ", ".join(f"{name} {size // 1024}" for name, size in largest)
    return f"{sum(by_name.values()) // 1024} MB ({parts})"


def measure(deploys: int) -> list[tuple[str, str]]:
    """All figures, as rows of (what, how much)."""
    rows: list[tuple[str, str]] = []

    def row(what: str, how_much: str) -> None:
        rows.append((what, how_much))
        print(f"{what}: {how_much}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = work / "board"
        shutil.copytree(
            ROOT / "app", source, ignore=shutil.ignore_patterns(".venv", "__pycache__", ".*_cache")
        )
        host = testhost.up(NAME, publish={"443": 0})
        kit = Kit(work / "inventory", host, apps=demo_apps())
        kit.app("board")["source"] = {"path": str(source)}

        def deploy() -> float:
            with (source / "board" / "__init__.py").open("a") as code:
                code.write(f"\n# {time.time()}\n")
            return kit.play("playbooks/deploy.yml", "-e", "app=board").seconds

        fresh = kit.play("site.yml")
        row("bare host to the first 200 over HTTPS, two apps", f"{fresh.seconds + until_answer(kit):.0f} s")
        again = [kit.play("site.yml") for _ in range(3)]
        row(
            "`site.yml` again, nothing to do",
            f"{statistics.median(r.seconds for r in again):.1f} s, changed={sum(r.changed for r in again)}",
        )
        nothing = [kit.play("playbooks/deploy.yml", "-e", "app=board").seconds for _ in range(3)]
        row("`deploy.yml`, nothing to do", f"{statistics.median(nothing):.1f} s")
        row("code-only deploy", f"{statistics.median(deploy() for _ in range(3)):.1f} s")
        back = [kit.play("playbooks/rollback.yml", "-e", "app=board").seconds for _ in range(3)]
        row("rollback", f"{statistics.median(back):.1f} s")
        time.sleep(45)  # let the old releases retire
        row("idle memory of the host, two apps with two workers each", idle_memory(host))
        authority = work / "ca.crt"
        authority.write_text(host.sh(f"cat {INTERNAL_CA}") + "\n")
        with Load("board.localhost", host.published["443"], authority, clients=8) as load:
            time.sleep(10)
            quiet = load.tally.report()
            for _ in range(deploys):
                deploy()
        row(f"keep-alive load (GET and POST) over {deploys} deploys", load.tally.report())
        row("the same load before the deploys", quiet)
        for failure in load.tally.failures[:10]:
            print("  failed:", failure)
    return rows


def main() -> int:
    """Measure, print, and with --write record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deploys", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    testhost.down(NAME)
    try:
        rows = measure(options.deploys)
    finally:
        testhost.down(NAME)
    table = "\n".join(
        ["| what | measured |", "|---|---|", *(f"| {what} | {how_much} |" for what, how_much in rows)]
    )
    place = f"{os.cpu_count()} cores, controller and host on one machine, {testhost.default_suite()}"
    print(f"\n{place}\n\n{table}")
    if options.write:
        readme = ROOT / "README.md"
        block = f"{MARKERS[0]}\n{table}\n\n({place}; measured by `make bench`.)\n{MARKERS[1]}"
        pattern = re.escape(MARKERS[0]) + r".*?" + re.escape(MARKERS[1])
        readme.write_text(re.sub(pattern, lambda _: block, readme.read_text(), flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
