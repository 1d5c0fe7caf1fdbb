"""Real hosts for the end-to-end tests, removed afterwards whatever happens."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testhost
from testhost import Host

from tests.support import ready, times
from tests.support.kit import Kit, demo_apps

HERE = Path(__file__).parent
LOADS = ("test_no_failed_request.py",)


# First, before xdist's own hook of this name reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here boots hosts; what shares one runs in one process of pytest-xdist."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            # Two loads at once would only disturb each other, so they take turns in one process too.
            shares = "site" in getattr(item, "fixturenames", ()) or item.path.name in LOADS
            item.add_marker(pytest.mark.xdist_group("site" if shares else item.path.name))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what --keep-host left."""
    if config.getoption("keep_host"):
        kept = " ".join(name for name, steps in times.HOSTS.items() if "boot" in steps)
        terminalreporter.write_line(f"Kept: {kept} (molecule/shared/testhost.py down --all removes them)")


@contextlib.contextmanager
def booting(config: pytest.Config) -> Iterator[Callable[..., Host]]:
    """What boots a fresh host by name; all that it booted are gone afterwards, unless they are to be kept."""
    keep = config.getoption("keep_host")
    booted: list[str] = []

    def start(name: str, *, provisioned: bool = False, **options: Any) -> Host:
        name = f"e2e-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}-{name}"
        if provisioned:
            options["image"] = ready.ensure_image(options.get("suite", ""))
        if not (keep and testhost.is_made_so(name, **options)):
            testhost.down(name)
        booted.append(name)
        began = time.monotonic()
        host = testhost.up(name, **options)
        times.spent(name, "boot", time.monotonic() - began)
        return host

    try:
        yield start
    finally:
        for name in booted if not keep else ():
            testhost.down(name)


@pytest.fixture(scope="module")
def boot(pytestconfig: pytest.Config) -> Iterator[Callable[..., Host]]:
    """Boot a fresh host by name; it ends with the module, so that those of others have the machine.

    ``provisioned`` is for tests that are about something else than setting up a server.
    """
    with booting(pytestconfig) as start:
        yield start


@pytest.fixture(scope="session")
def site(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """A host with both apps of the demo, provisioned and deployed by site.yml."""
    with booting(pytestconfig) as start:
        host = start("site", publish={"443": 0, "80": 0})
        kit = Kit(tmp_path_factory.mktemp("site"), host, apps=demo_apps())
        kit.play("site.yml")
        yield kit
