"""The README's figures, measured on a fresh disposable host: `make bench`.

Controller and host are the same machine. `--write` puts the tables into README.md between their markers;
`--deploys 1 --runs 1` is a quick look that says little.
Load goes to 127.0.0.1 only and is bounded in time.
"""

from __future__ import annotations

import argparse
import json
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

from tests.bench import throughput  # noqa: E402
from tests.support.kit import Kit, demo_apps  # noqa: E402
from tests.support.load import Load, Window  # noqa: E402

NAME = "bench"
MARKERS = ("<!-- figures -->", "<!-- /figures -->")
AROUND = 0.5
"""Seconds before and after a switch that count as around it."""

Row = tuple[str, str]


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


def journal(kit: Kit) -> dict[str, float]:
    """How long each step of the board's last deploy took on the server."""
    release = kit.release("board")
    entries = [
        json.loads(line) for line in kit.host.sh("cat /var/lib/berth/board/journal.jsonl").splitlines()
    ]
    return {
        entry["step"]: float(entry["seconds"])
        for entry in entries
        if entry["release"] == release and entry["state"] == "end" and "seconds" in entry
    }


def switched(kit: Kit) -> float:
    """When the live release went live: its symlink was made for it. The host's clock is this machine's."""
    return float(kit.host.sh("stat -c %.Y /srv/board/web.sock"))


class Bench:
    """The host, the inventory and the source that is changed and shipped."""

    def __init__(self, work: Path, runs: int) -> None:
        self.work = work
        self.runs = runs
        self.rows: list[Row] = []
        self.source = work / "board"
        shutil.copytree(
            ROOT / "app", self.source, ignore=shutil.ignore_patterns(".venv", "__pycache__", ".*_cache")
        )
        self.host = testhost.up(NAME, publish={"443": 0})
        self.kit = Kit(work / "inventory", self.host, apps=demo_apps())
        self.kit.app("board")["source"] = {"path": str(self.source)}

    def row(self, what: str, how_much: str) -> None:
        self.rows.append((what, how_much))
        print(f"{what}: {how_much}", flush=True)

    def deploy(self) -> float:
        """Ship a change of the code and nothing else; the seconds of the whole run."""
        with (self.source / "board" / "__init__.py").open("a") as code:
            code.write(f"\n# {time.time()}\n")
        return self.kit.play("playbooks/deploy.yml", "-e", "app=board").seconds

    def runs_of_playbooks(self) -> None:
        """From nothing to the first answer, and what is done every day."""
        fresh = self.kit.play("site.yml")
        seconds = fresh.seconds + until_answer(self.kit)
        self.row("bare host to the first 200 over HTTPS, two apps", f"{seconds:.0f} s")
        again = [self.kit.play("site.yml") for _ in range(self.runs)]
        self.row(
            "`site.yml` again, nothing to do",
            f"{statistics.median(r.seconds for r in again):.1f} s, changed={sum(r.changed for r in again)}",
        )
        nothing = [self.kit.play("playbooks/deploy.yml", "-e", "app=board").seconds for _ in range(self.runs)]
        self.row("`deploy.yml`, nothing to do", f"{statistics.median(nothing):.1f} s")

    def steps(self) -> list[Row]:
        """Code-only deploys, and where their time goes."""
        taken: list[tuple[float, dict[str, float]]] = []
        for _ in range(self.runs):
            seconds = self.deploy()
            taken.append((seconds, journal(self.kit)))
        whole = statistics.median(seconds for seconds, _ in taken)
        record = json.loads(self.host.sh("cat /srv/board/current/release.json"))
        hold = record["app"]["health"]["hold"]
        self.row("code-only deploy", f"{whole:.1f} s, of which `health.hold` {hold:.1f} s")
        rows = [
            (f"`{step}`", f"{statistics.median(steps[step] for _, steps in taken):.2f} s")
            for step in taken[0][1]
        ]
        rest = statistics.median(seconds - sum(steps.values()) for seconds, steps in taken)
        rows.append(("the rest: Ansible's start, its tasks, looking at the source", f"{rest:.2f} s"))
        return [*rows, ("all", f"{whole:.2f} s")]

    def without_hold(self) -> None:
        """Code-only deploys of a user who would rather be quick than wait for a late crash."""
        self.kit.app("board")["health"] = {"hold": 0}
        self.deploy()  # the first one brings the changed settings
        seconds = statistics.median(self.deploy() for _ in range(self.runs))
        self.row("… with `health.hold: 0`", f"{seconds:.1f} s")
        del self.kit.app("board")["health"]
        self.deploy()

    def rollbacks(self) -> None:
        """Back by one release each time, and how long the way from one release to the other took."""
        seconds = [
            self.kit.play("playbooks/rollback.yml", "-e", "app=board").seconds for _ in range(self.runs)
        ]
        lines = self.host.sh(f"tail -n {self.runs} /var/log/berth/audit.jsonl").splitlines()
        switch = max(float(json.loads(line)["switch_ms"]) for line in lines)
        self.row("rollback", f"{statistics.median(seconds):.1f} s, of which the switch {switch:.1f} ms")

    def environments(self) -> None:
        """A new environment, with nothing in uv's cache and with everything."""
        taken: dict[bool, list[float]] = {True: [], False: []}
        requirements = self.source / "requirements.txt"
        for empty in (True, False) * self.runs:
            if empty:
                self.host.sh("rm -rf /var/cache/berth/build/board/uv")
            with requirements.open("a") as lock:
                lock.write(f"# {time.time()}\n")  # another lock, so another environment
            self.deploy()
            taken[empty].append(journal(self.kit)["build"])
        cold, warm = (statistics.median(taken[empty]) for empty in (True, False))
        self.row(
            "step `build` with a new environment",
            f"{cold:.1f} s with an empty uv cache, {warm:.1f} s with a warm one",
        )

    def under_load(self, deploys: int) -> None:
        """Keep-alive clients in quiet time, while deploys run, and around their switches."""
        authority = self.kit.authority(self.work)
        switches: list[Window] = []
        with Load("board.localhost", self.host.published["443"], authority, clients=8) as load:
            time.sleep(1)
            began = time.time()
            time.sleep(10)
            quiet = (began, time.time())
            for _ in range(deploys):
                self.deploy()
                at = switched(self.kit)
                switches.append((at - AROUND, at + AROUND))
        self.row(f"keep-alive load (GET and POST) over {deploys} deploys", load.tally.report())
        self.row(
            f"… of it, within {AROUND} s of a switch",
            load.tally.within(switches).figures(),
        )
        self.row("… of it, before the deploys", load.tally.within([quiet]).figures())
        for failure in load.tally.failures[:10]:
            print("  failed:", failure)


def measure(deploys: int, runs: int) -> tuple[list[Row], list[Row]]:
    """All figures, as rows of (what, how much), and the steps of a code-only deploy."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), runs)
        bench.runs_of_playbooks()
        steps = bench.steps()
        bench.without_hold()
        bench.rollbacks()
        bench.environments()
        throughput.install(bench.host)
        time.sleep(45)  # let the old releases retire
        bench.row("idle memory of the host, two apps with two workers each", idle_memory(bench.host))
        for what, how_much in throughput.rows(bench.host):
            bench.row(what, how_much)
        bench.under_load(deploys)
        return bench.rows, steps


def table(head: Row, rows: list[Row]) -> str:
    """Markdown."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {how_much} |" for what, how_much in rows)])


def record(markers: tuple[str, str], text: str) -> None:
    """Put a text between its markers in README.md."""
    readme = ROOT / "README.md"
    pattern = re.escape(markers[0]) + r".*?" + re.escape(markers[1])
    block = f"{markers[0]}\n{text}\n{markers[1]}"
    written, found = re.subn(pattern, lambda _: block, readme.read_text(), flags=re.DOTALL)
    if found != 1:
        raise SystemExit(f"README.md has {markers[0]} {found} times, so nothing was written.")
    readme.write_text(written)


def main() -> int:
    """Measure, print, and with --write record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deploys", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3, help="runs that a median is taken of")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    testhost.down(NAME)
    try:
        rows, steps = measure(options.deploys, options.runs)
    finally:
        testhost.down(NAME)
    place = f"{os.cpu_count()} cores, controller and host on one machine, {testhost.default_suite()}"
    text = (
        f"{table(('what', 'measured'), rows)}\n\n"
        f"Where the time of a code-only deploy goes (medians of {options.runs}):\n\n"
        f"{table(('step', 'seconds'), steps)}\n\n({place}; measured by `make bench`.)"
    )
    print(f"\n{text}")
    if options.write:
        record(MARKERS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
