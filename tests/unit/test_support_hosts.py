"""Hosts that stay for the next run of a test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import testhost

from tests.support.kit import execute


def test_a_host_is_taken_again_only_where_it_would_be_made_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {"suite": "trixie", "publish": {"443": 0}, "memory": "1g"}
    others: list[dict[str, Any]] = [
        {"suite": "bookworm"},
        {"publish": {"80": 0}},
        {"memory": ""},
        {"volumes": {"/var": Path("/x")}},
        {"image": "berth-testhost:ready-trixie-1-2"},
    ]
    monkeypatch.setattr(testhost, "image_name", lambda suite: f"berth-testhost:{suite}-1")
    label = testhost._making(**made)
    host = testhost.Host(name="e2e-x", suite="trixie", ssh_port=1, published={})
    monkeypatch.setattr(testhost, "ensure_engine", lambda: None)
    monkeypatch.setattr(testhost, "find", lambda _name: host)
    monkeypatch.setattr(testhost, "run", lambda *_: f"{label}\n")
    assert testhost.is_made_so("e2e-x", **made)
    for more in others:
        assert not testhost.is_made_so("e2e-x", **{**made, **more}), more
    # Another day's recipe makes another image.
    monkeypatch.setattr(testhost, "image_name", lambda suite: f"berth-testhost:{suite}-2")
    assert not testhost.is_made_so("e2e-x", **made)


def test_hosts_are_kept_by_one_process_only() -> None:
    words = ["-q", "-n", "2", "--keep-host", "tests/unit/test_wiring.py"]
    done = execute(sys.executable, "-m", "pytest", *words, timeout=300)
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "--keep-host is for one process" in done.output
