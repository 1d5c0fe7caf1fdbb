"""Hosts that provision.yml has been run on, for the tests that are about something else.

Installing Postgres, Caddy and the rest is most of what a first site.yml does. It is done once per suite and
kept as an image, named after the content of all that provisions; a host boots from it in seconds.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import testhost

from tests.support.kit import ROOT, Kit

PROVISIONING = ("playbooks", "plugins", "roles", "ansible.cfg", "requirements.txt")


def content() -> str:
    """A digest of every file that decides what a provisioned host looks like."""
    digest = hashlib.sha256()
    for top in PROVISIONING:
        path = ROOT / top
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def image_name(suite: str) -> str:
    """The image of a provisioned host, as it would be made today."""
    base = testhost.image_name(suite).rpartition("-")[2]
    return f"berth-testhost:ready-{suite}-{base}-{content()}"


def ensure_image(suite: str = "") -> str:
    """Make the image of a suite where it is missing; return its name."""
    suite = suite or testhost.default_suite()
    name = image_name(suite)
    with testhost.machine_lock(f"ready-{suite}"):
        if testhost.run("docker", "image", "ls", "-q", name).strip():
            return name
        # Those of earlier contents are of no use any more; one that a host still runs from stays.
        old = testhost.run("docker", "image", "ls", "--format={{.Repository}}:{{.Tag}}", "berth-testhost")
        for tag in old.split():
            if tag.startswith(f"berth-testhost:ready-{suite}-"):
                testhost.run("docker", "image", "rm", tag, check=False)
        print(f"Provisioning a {suite} host once, for the tests that need one (a minute or so)", flush=True)
        host = testhost.up(f"e2e-ready-{suite}", suite=suite)
        try:
            with tempfile.TemporaryDirectory() as folder:
                Kit(Path(folder), host, apps=[]).play("playbooks/provision.yml")
            testhost.keep(host, name, boot=False)
        finally:
            testhost.down(host.name)
    return name


if __name__ == "__main__":
    print(ensure_image())
