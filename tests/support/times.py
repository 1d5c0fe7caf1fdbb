"""Where the time of a run of pytest went, as `--times` prints it at the end.

The reports of tests come to the controller of pytest-xdist by themselves; what its workers know of hosts
comes when they end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

# What was spent on each host, by its name: seconds to "boot" it, and to "provision" it.
HOSTS: dict[str, dict[str, float]] = {}


def spent(host: str, on: str, seconds: float) -> None:
    """Remember the first time that this was done for a host: what comes later is what a test is about."""
    HOSTS.setdefault(host, {}).setdefault(on, seconds)


def summary(tests: Mapping[str, float], hosts: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Seconds of each file, of the 25 slowest tests and of the two slowest hosts."""
    files: dict[str, float] = {}
    for test, seconds in tests.items():
        file = test.partition("::")[0]
        files[file] = files.get(file, 0.0) + seconds
    whole = {}
    for name, steps in hosts.items():
        said = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in steps.items())
        whole[f"{name} ({said})"] = sum(steps.values())
    yield from _longest("each file, its fixtures included", files, len(files))
    yield from _longest("the slowest tests, their fixtures included", tests, 25)
    yield from _longest("the slowest hosts", whole, 2)


def _longest(title: str, seconds: Mapping[str, float], count: int) -> Iterator[str]:
    if seconds:
        yield f"{title}:"
    for name, took in sorted(seconds.items(), key=lambda item: -item[1])[:count]:
        yield f"  {took:7.1f} s  {name}"


_tests: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", action="store_true", help="say at the end where the time went")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _tests[report.nodeid] = _tests.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands over what it knows of hosts."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["hosts"] = HOSTS


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The controller takes it; a worker that was killed had no time to say any."""
    HOSTS.update(getattr(node, "workeroutput", {}).get("hosts", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("times"):
        terminalreporter.section("where the time went")
        for line in summary(_tests, HOSTS):
            terminalreporter.write_line(line)
