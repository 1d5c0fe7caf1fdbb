"""Real hosts for the end-to-end tests, removed afterwards whatever happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testhost
from testhost import Host

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


@pytest.fixture(scope="session")
def boot() -> Iterator[Callable[..., Host]]:
    """Boot a fresh host by name; all are removed when the session ends."""
    booted: list[str] = []

    def start(name: str, **options: object) -> Host:
        name = f"e2e-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}-{name}"
        testhost.down(name)
        booted.append(name)
        return testhost.up(name, **options)  # type: ignore[arg-type]

    yield start
    for name in booted:
        testhost.down(name)


@pytest.fixture(scope="session")
def site(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host with both apps of the demo, provisioned and deployed by site.yml."""
    kit = Kit(tmp_path_factory.mktemp("site"), boot("site", publish={"443": 0, "80": 0}), apps=demo_apps())
    kit.play("site.yml")
    return kit
