"""inventories/example is meant to be copied: so it must deploy as it stands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from testhost import Host

from tests.support.kit import BIN, ROOT, execute


def test_the_example_deploys_as_it_stands(boot: Callable[..., Host], tmp_path: Path) -> None:
    host = boot("example")
    # No certificate can be had for example.com, and nobody out there is to be asked for one.
    host.sh("echo '127.0.0.1 acme-v02.api.letsencrypt.org acme.zerossl.com' >> /etc/hosts")
    folder = tmp_path / "inventories" / "example"
    shutil.copytree(ROOT / "inventories" / "example", folder)
    (tmp_path / "app").symlink_to(ROOT / "app")
    hosts = yaml.safe_load((folder / "hosts.yml").read_text())
    (name,) = hosts["all"]["hosts"]
    hosts["all"]["hosts"][name] = host.connection()
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts, width=1000))
    for run in ("first", "second"):
        done = execute(str(BIN / "ansible-playbook"), "site.yml", "-i", str(folder))
        assert done.status == 0, done.output
        assert (done.changed == 0) is (run == "second"), done.output
    for app in ("board", "notes"):
        said = host.sh(
            f"curl -sSf --unix-socket /srv/{app}/web.sock -H 'Host: {app}.example.com' http://app/readyz"
        )
        assert "ready" in said
