"""Molecule's default scenario, as `make molecule` runs it, on every suite that this machine can bootstrap."""

from __future__ import annotations

from pathlib import Path

import pytest
import testhost

from tests.support.kit import BIN, execute


@pytest.mark.parametrize("suite", testhost.suites())
def test_default_scenario(suite: str, tmp_path: Path) -> None:
    done = execute(
        str(BIN / "molecule"),
        "test",
        timeout=1500,
        # A cache of its own: two suites at once must not share molecule's state.
        env={
            "BERTH_TEST_SUITE": suite,
            "XDG_CACHE_HOME": str(tmp_path),
            "MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path / "m"),
        },
    )
    print(done.output[-6000:])
    assert done.status == 0
    assert "DEPRECATION" not in done.output
