"""The official repositories of Caddy and PostgreSQL, played by a small signed one that the test builds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from testhost import Host

from tests.support.aptrepo import AptRepository
from tests.support.kit import Kit, Run

DATABASE = {"name": "shop", "owner": "shop_owner", "user": "shop", "reader": "shop_ro", "extensions": []}


@dataclasses.dataclass
class Scene:
    """A server to set up and a repository that it can reach."""

    kit: Kit
    playbooks: Path
    server: Host
    repository: AptRepository

    def play(
        self,
        role: str,
        inputs: Mapping[str, Any],
        *,
        extra: Mapping[str, Any] | None = None,
        succeed: bool = True,
        check: bool = False,
    ) -> Run:
        """Run the facts and one role alone, with its inputs as a playbook would give them.

        `extra` is over what the role finds out itself.
        """
        playbook = self.playbooks / f"{role}.yml"
        tasks: list[Mapping[str, Any]] = [
            {"ansible.builtin.import_role": {"name": "base", "tasks_from": "preflight.yml"}},
            {"ansible.builtin.import_role": {"name": role}, "vars": dict(inputs)},
        ]
        play = {"hosts": "all", "gather_facts": False, "become": True, "tasks": tasks}
        playbook.write_text(yaml.safe_dump([play], sort_keys=False))
        arguments = ["-e", json.dumps(dict(extra or {})), *(["--check"] if check else [])]
        return self.kit.play(str(playbook), *arguments, succeed=succeed)

    def official(self) -> dict[str, Any]:
        """The proxy's inputs for this repository."""
        return {
            "proxy_repository": "official",
            "proxy_official_url": self.repository.url,
            "proxy_official_key": self.repository.key_url,
            "proxy_official_fingerprint": self.repository.fingerprint,
        }

    def version(self, package: str) -> str:
        """The installed version of a package; empty where it is not installed."""
        return self.server.sh(f"dpkg-query -W -f '${{Version}}' {package} 2>/dev/null || true")


@pytest.fixture(scope="module")
def scene(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    server = boot("official")
    repository = AptRepository(boot("aptrepo"))
    kit = Kit(tmp_path_factory.mktemp("inventory"), server)
    return Scene(kit, tmp_path_factory.mktemp("playbooks"), server, repository)


def test_check_mode_predicts_on_a_host_that_lacks_the_tools(scene: Scene) -> None:
    assert scene.version("python3-debian") == ""
    assert scene.play("proxy", scene.official(), check=True).changed > 0
    assert scene.version("python3-debian") == ""
    assert scene.server.sh("ls /etc/apt/sources.list.d") == ""


def test_caddy_moves_from_the_distribution_to_the_official_repository(scene: Scene) -> None:
    scene.play("proxy", {})
    ours = scene.version("caddy")
    wanted = scene.repository.add("caddy", suite="any-version")
    assert wanted == f"{ours}+berth1"

    scene.play("proxy", scene.official())
    assert scene.version("caddy") == wanted
    assert scene.server.sh("systemctl is-active caddy") == "active"
    assert f"{scene.repository.url} any-version/main" in scene.server.sh("apt-cache policy caddy")
    # Trusted for its own repository, and for no other.
    source = scene.server.sh("cat /etc/apt/sources.list.d/berth-caddy.sources")
    assert "Signed-By:\n    -----BEGIN PGP PUBLIC KEY BLOCK-----" in source
    assert scene.server.sh("ls /etc/apt/trusted.gpg.d | grep -i berth || true") == ""

    assert scene.play("proxy", scene.official()).changed == 0

    # Whatever is newer there is taken by the nightly upgrades.
    newer = scene.repository.add("caddy", suite="any-version", suffix="+berth1.1")
    scene.server.sh("apt-get update -qq; apt-get install -y -qq unattended-upgrades >/dev/null 2>&1")
    said = scene.server.sh("unattended-upgrade --dry-run --debug 2>&1", timeout=300)
    assert f"{newer}" in said, said


def test_an_outdated_caddy_does_not_face_the_internet(scene: Scene) -> None:
    """As on Debian 12; what a site with the server's own certificates may have is the user's choice."""
    site = {"name": "board", "domains": ["board.test"], "socket": "/srv/board/web.sock"}
    inputs = {**scene.official(), "proxy_sites": [site]}
    outdated = {"__proxy_outdated": True}
    distribution = {**inputs, "proxy_repository": "distribution"}
    refused = scene.play("proxy", distribution, extra=outdated, succeed=False)
    assert "board.test would be open to the internet" in " ".join(refused.output.split())
    # Left to itself, the proxy is the project's.
    del inputs["proxy_repository"]
    said = scene.play("proxy", inputs, extra=outdated, check=True).output
    assert "Add the repository of the Caddy project" in said.split("PLAY RECAP")[0]
    internal = {**inputs, "proxy_sites": [{**site, "tls": "internal"}]}
    warned = scene.play("proxy", internal, extra=outdated, check=True)
    assert "gets no security fixes" in " ".join(warned.output.split())


def test_another_key_at_the_address_is_refused(scene: Scene) -> None:
    refused = scene.play("proxy", scene.official() | {"proxy_official_fingerprint": "A" * 40}, succeed=False)
    said = " ".join(refused.output.split())
    assert f"{scene.repository.key_url} is the key {scene.repository.fingerprint}, and not {'A' * 40}" in said


def test_postgresql_comes_from_the_projects_repository(scene: Scene) -> None:
    release = scene.server.sh(". /etc/os-release; echo $VERSION_CODENAME")
    major = scene.server.sh("apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-//p'")
    wanted = scene.repository.add(f"postgresql-{major}", suite=f"{release}-pgdg")
    pgdg = {
        "postgresql_repository": "pgdg",
        "postgresql_pgdg_url": scene.repository.url,
        # As text, which must do as well as the address does.
        "postgresql_pgdg_key": scene.repository.key,
        "postgresql_databases": [DATABASE],
    }
    scene.play("postgresql", pgdg)
    assert scene.version(f"postgresql-{major}") == wanted
    answer = scene.server.sh("runuser -u postgres -- psql -tAc 'show server_version' shop")
    assert answer.startswith(f"{major}.")
    assert scene.play("postgresql", pgdg).changed == 0


def test_docker_comes_from_its_own_repository(scene: Scene) -> None:
    release = scene.server.sh(". /etc/os-release; echo $VERSION_CODENAME")
    repository = scene.repository
    add = partial(repository.add, suite=release, component="stable")
    wanted = add("docker.io", name="docker-ce")
    add("docker-cli", name="docker-ce-cli")
    add("containerd", name="containerd.io", also=["runc"])
    add("docker-buildx", name="docker-buildx-plugin")
    add("docker-compose", name="docker-compose-plugin")
    inputs = {
        "docker_enabled": True,
        "docker_repository": "official",
        "docker_official_url": repository.url,
        "docker_official_key": repository.key_url,
        "docker_official_fingerprint": repository.fingerprint,
    }
    scene.play("docker", inputs)
    assert scene.version("docker-ce") == wanted
    assert scene.version("docker.io") == ""
    assert scene.server.sh("docker info -f '{{.LiveRestoreEnabled}}'") == "true"
    assert scene.server.sh("stat -c '%U %a' /run/docker.sock") == "root 600"
    assert scene.play("docker", inputs).changed == 0
    refused = scene.play("docker", {"docker_enabled": True}, succeed=False)
    said = " ".join(refused.output.split())
    assert "containerd.io, docker-ce, docker-ce-cli: Docker is installed here by other packages" in said
    assert "write server.docker.repository: official" in said


def test_a_repository_signed_by_another_key_is_refused(scene: Scene) -> None:
    before = scene.version("caddy")
    old_key = scene.repository.key
    scene.repository.new_key()
    scene.repository.add("caddy", suite="any-version", suffix="+berth2")
    # Another spelling of the address, so that the source counts as changed.
    inputs = {
        **scene.official(),
        "proxy_official_url": f"{scene.repository.url}/.",
        "proxy_official_key": old_key,
    }
    refused = scene.play("proxy", inputs, succeed=False)
    assert "Cannot refresh the package lists" in refused.output
    assert "is not signed" in refused.output
    assert scene.version("caddy") == before


def test_an_index_changed_after_signing_is_refused(scene: Scene) -> None:
    before = scene.version("caddy")
    scene.repository.host.sh(
        "cd /srv/apt/dists/any-version/main/binary-*/;"
        "sed -i 's/^Version: .*/&+evil/' Packages; gzip -kf Packages"
    )
    inputs = {**scene.official(), "proxy_official_key": scene.repository.key}
    refused = scene.play("proxy", inputs, succeed=False)
    assert "Cannot refresh the package lists" in refused.output
    assert scene.version("caddy") == before

    # Signed as it is, the same is accepted: it was the signature that counted.
    scene.repository.publish("any-version")
    scene.play("proxy", {**inputs, "proxy_official_url": f"{scene.repository.url}/./."})
    assert scene.version("caddy").endswith("+berth2")
