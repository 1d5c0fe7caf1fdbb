"""What every test needs: Berth's plugins importable the way Ansible imports them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import ansible.module_utils
import pytest

from tests.support.pace import SLOWNESS

pytest_plugins = ("tests.support.times",)

ROOT = Path(__file__).resolve().parents[1]

# ansible.cfg's module_utils path, for code that runs outside Ansible.
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    """Programs that are called here set what is the whole process's: the next test has its own again."""
    umask, terminate = os.umask(0o022), signal.getsignal(signal.SIGTERM)
    yield
    os.umask(umask)
    signal.signal(signal.SIGTERM, terminate)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-host",
        action="store_true",
        help="for writing one test: leave the hosts that the run booted, and take those that an earlier one "
        "left, as they are, unless their image or options are others by now. Tests that need a fresh host "
        "may fail on the second run. Hosts go with the next run without it, and with make clean",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Before pytest-timeout reads it. Workers are given what the controller has.
    if config.getoption("timeout") is None:
        config.option.timeout = SLOWNESS * float(config.getini("timeout"))
    # A host's name holds that of its worker, and each run hands its tests out anew.
    if config.getoption("keep_host") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--keep-host is for one process: leave out -n")
