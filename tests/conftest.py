"""What every test needs: Berth's plugins importable the way Ansible imports them."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
import pytest

from tests.support.pace import SLOWNESS

pytest_plugins = ("tests.support.times",)

ROOT = Path(__file__).resolve().parents[1]

# ansible.cfg's module_utils path, for code that runs outside Ansible.
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Before pytest-timeout reads it. Workers are given what the controller has.
    if config.getoption("timeout") is None:
        config.option.timeout = SLOWNESS * float(config.getini("timeout"))
