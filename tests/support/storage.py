"""Another server that backups go to by SFTP."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from testhost import Host

USER = "keeper"


def make(host: Host, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make a bare host one: a place off the server called storage, and what opens it."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    host.sh(
        f"id -u {USER} > /dev/null 2>&1 || useradd -m -s /bin/sh {USER};"
        f"install -d -m 700 -o {USER} /berth ~{USER}/.ssh;"
        f"cat > ~{USER}/.ssh/authorized_keys; chown {USER} ~{USER}/.ssh/authorized_keys",
        stdin=key.with_suffix(".pub").read_text(),
    )
    address = host.sh("hostname -I").split()[0]
    keys = host.sh("cat /etc/ssh/ssh_host_*_key.pub")
    place = {"name": "storage", "type": "sftp", "host": address, "user": USER, "host_key": keys}
    return place, {"private_key": key.read_text()}
