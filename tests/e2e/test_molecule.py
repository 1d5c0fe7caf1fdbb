"""Molecule's default scenario, as `make molecule` runs it, on every suite that this machine can bootstrap."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import testhost

from tests.support.kit import BIN, ROOT, environment


@pytest.mark.parametrize("suite", testhost.suites())
def test_default_scenario(suite: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BIN / "molecule"), "test"],
        cwd=ROOT,
        # A cache of its own: two suites at once must not share molecule's state.
        env=environment(
            BERTH_TEST_SUITE=suite,
            XDG_CACHE_HOME=str(tmp_path),
            MOLECULE_EPHEMERAL_DIRECTORY=str(tmp_path / "m"),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=1500,
        check=False,
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0
    assert "DEPRECATION" not in done.stdout
