"""The reference app's own tests, run as its README says, on a host with a real Postgres."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from testhost import Host

from tests.support.kit import ROOT
from tests.support.pace import patience


def test_the_apps_own_tests_pass(boot: Callable[..., Host]) -> None:
    host = boot("app")
    host.sh(
        "apt-get update -qq; systemctl mask -q postgresql; mkdir -p /opt/app;"
        "apt-get install -y -qq --no-install-recommends postgresql python3-venv >/dev/null 2>&1",
        timeout=patience(600),
    )
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "."],
        cwd=ROOT / "app",
        capture_output=True,
        check=True,
    ).stdout
    tar = subprocess.run(
        ["tar", "-C", str(ROOT / "app"), "--null", "-T", "-", "-c"],
        input=files,
        capture_output=True,
        check=True,
    ).stdout
    subprocess.run(
        ["docker", "exec", "-i", host.container, "tar", "-C", "/opt/app", "-x"],
        input=tar,
        check=True,
        timeout=60,
    )
    said = host.sh(
        "cd /opt/app; python3 -m venv .venv; export PIP_CERT=/etc/ssl/certs/ca-certificates.crt;"
        ".venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt;"
        ".venv/bin/python -m pytest 2>&1 | tail -30",
        timeout=patience(600),
    )
    print(said)
    assert " passed" in said
    assert "failed" not in said
