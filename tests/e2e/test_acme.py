"""Public certificates of a proxy that gets none by itself, from an authority on the host: Debian's Pebble."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.berth.payload import certificates
from testhost import Host

from tests.support import goaway
from tests.support.kit import ROOT, WELL, Kit
from tests.support.load import Traffic
from tests.support.pace import patience

pytestmark = pytest.mark.long
DOMAIN = "loadapp.test"
# All of it on the host's own loopback address, names included.
PEBBLE = {
    "pebble": {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/etc/pebble/own.pem",
        "privateKey": "/etc/pebble/own.key",
        "httpPort": 80,
        "tlsPort": 443,
    }
}
START = """
export DEBIAN_FRONTEND=noninteractive
apt-get -q update > /dev/null; apt-get -q -y install --no-install-recommends pebble > /dev/null 2>&1
systemctl disable -q --now pebble 2> /dev/null || true
doh=$(pebble-challtestsrv -help 2>&1 | grep -q -e -doh && echo -doh= || true)
systemd-run -q --unit=names pebble-challtestsrv -defaultIPv4 127.0.0.1 -defaultIPv6 '' -dns01 127.0.0.1:8053 \
    -http01 '' -https01 '' -tlsalpn01 '' $doh -management 127.0.0.1:8055
systemd-run -q --unit=authority --setenv=PEBBLE_VA_NOSLEEP=1 \
    pebble -config /etc/pebble/own.json -dnsserver 127.0.0.1:8053
"""


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host with an authority on it, and one app that is not there yet."""
    host = boot("acme", provisioned=True, publish={"443": 0})
    folder = tmp_path_factory.mktemp("acme")
    trusted = folder / "trusted"
    trusted.mkdir()
    whole = certificates.made("Of Pebble", 30, more="", usage="keyCertSign", authority=True)
    for name, text in zip(("authority.crt", "authority.key"), certificates.halves(whole), strict=True):
        (trusted / name).write_text(text)
    more = "extendedKeyUsage = serverAuth\nsubjectAltName = IP:127.0.0.1"
    own = certificates.made("pebble", 30, more=more, usage="digitalSignature", signer=trusted)
    for name, text in zip(("own.pem", "own.key"), certificates.halves(own), strict=True):
        host.sh(f"mkdir -p /etc/pebble; cat > /etc/pebble/{name}", stdin=text)
    host.sh("cat > /etc/pebble/own.json", stdin=json.dumps(PEBBLE))
    host.sh(START, timeout=patience(120))
    app = {
        "name": "loadapp",
        "domains": [DOMAIN],
        "source": {"path": str(ROOT / "tests/fixtures/loadapp")},
        "database": {"enabled": False},
        "health": {"timeout": WELL},
    }
    server = {
        "extra_ca_certificates": [str(trusted / "authority.crt")],
        "proxy": {"provider": "nginx", "tls": "acme", "acme_ca": "https://127.0.0.1:14000/dir"},
    }
    kit = Kit(folder, host, apps=[app], server=server)
    answer_for(kit, "servfail", DOMAIN)
    return kit


def answer_for(kit: Kit, how: str, domain: str) -> None:
    """Have its name servers fail for a name, or not any more."""
    path = {"servfail": "set-servfail", "well": "clear-servfail"}[how]
    asked = json.dumps({"host": f"{domain}."})
    kit.host.sh(
        f"curl -sSf -m 20 --retry 9 --retry-delay 1 --retry-all-errors --data '{asked}' http://127.0.0.1:8055/{path}"
    )


def shown(kit: Kit, domain: str = DOMAIN) -> str:
    """Issuer and serial number of what the proxy shows."""
    return kit.host.sh(
        f"openssl s_client -connect 127.0.0.1:443 -servername {domain} < /dev/null 2> /dev/null"
        " | openssl x509 -noout -issuer -serial"
    )


def test_a_name_that_leads_nowhere_yet_keeps_nothing_else_from_being_set_up(kit: Kit) -> None:
    said = " ".join(kit.play("site.yml").output.split())
    assert f"No public certificate yet for loadapp: {DOMAIN}: " in said
    assert DOMAIN in shown(kit)
    again = kit.play("site.yml")
    assert "the next one is within the hour" in " ".join(again.output.split())
    assert again.changed == 0, again.output
    status = kit.play("playbooks/status.yml", "-e", "app=loadapp", succeed=None)
    assert "certificate" in status.output
    listed = kit.host.sh("systemctl start nginx-upkeep || true; journalctl -q -o cat -u nginx-upkeep")
    assert f"loadapp: {DOMAIN}" in listed or "within the hour" in listed


def test_it_is_there_once_the_name_leads_here(kit: Kit) -> None:
    answer_for(kit, "well", DOMAIN)
    # As an hour later.
    kit.host.sh("touch -d '2 hours ago' /var/lib/berth-nginx/tried/loadapp; systemctl start nginx-upkeep")
    assert "Pebble Intermediate" in shown(kit)
    assert kit.play("site.yml").changed == 0
    kit.host.sh("test $(stat -c %U:%G:%a /var/lib/berth-nginx/sites/loadapp.pem) = root:nginx:640")
    kit.host.sh(
        "! setpriv --reuid=nginx --regid=nginx --clear-groups ls /var/lib/berth-nginx/letsencrypt/live"
    )


def test_a_second_name_comes_into_the_same_certificate(kit: Kit) -> None:
    kit.app("loadapp")["domains"].append(f"www.{DOMAIN}")
    kit.play("site.yml", "--tags", "proxy")
    assert "Pebble Intermediate" in shown(kit, f"www.{DOMAIN}")
    assert shown(kit, f"www.{DOMAIN}") == shown(kit)
    assert kit.play("site.yml", "--tags", "proxy").changed == 0


def test_no_request_fails_over_a_renewal(kit: Kit, tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_text(kit.host.sh("curl -sSk -m 20 https://127.0.0.1:15000/roots/0") + "\n")
    before, port = shown(kit), kit.host.published["443"]
    renewal = "/var/lib/berth-nginx/letsencrypt/renewal/loadapp.conf"
    few = {"http2": 0, "sockets": 0, "slow": 0, "uploads": 0}
    with Traffic(DOMAIN, port, root, **few) as traffic, goaway.Clients(DOMAIN, port, root) as clients:
        time.sleep(1)
        # As if another authority had been asked: so it is asked now.
        kit.host.sh(f"sed -i 's|^server = .*|server = https://other.test/dir|' {renewal}")
        kit.host.sh("systemctl start nginx-upkeep", timeout=patience(120))
        time.sleep(2)
    print(f"\nHTTP/2: {clients.report()}")
    assert shown(kit) != before
    assert "Pebble Intermediate" in shown(kit)
    assert traffic.failures == []
    assert clients.failures == []
    assert clients.goodbyes >= 4
