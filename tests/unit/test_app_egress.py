"""What apps may connect to: its rules, a deploy after a change of it, and what the contract refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.store import receipts, settings

from plugins.filter.wiring import egress_of_apps
from plugins.modules import app_egress as module
from tests.unit.contract_case import problems, resolved

USERS = {"board": 990, "berth-build-board": 989, "notes": 991}


def app(name: str, **more: Any) -> dict[str, Any]:
    told = {"policy": "open", "allow": [], "metadata": False, "database": True, "server": {}}
    return {"name": name, "user": name, "build_user": f"berth-build-{name}", **told, **more}


def chains(text: str) -> dict[str, list[str]]:
    found = {}
    for part in text.split("  chain ")[1:]:
        name, _, body = part.partition(" {")
        found[name] = [line.strip() for line in body.splitlines() if line.startswith("    ")]
    return found


def test_an_app_keeps_its_own_and_a_build_needs_neither() -> None:
    text = module.rules([app("board"), app("notes", database=False)], USERS, {"board": "6381"})
    found = chains(text)
    blocked = f'oif "lo" tcp dport {{ {module.DATABASES}, {module.INSTANCES} }} reject with tcp reset'
    own = f'oif "lo" tcp dport {{ {module.DATABASES}, 6381 }} accept'
    assert found["user_990"].index(own) < found["user_990"].index(blocked)
    for other in ("user_989", "user_991"):
        assert blocked in found[other]
        assert not [line for line in found[other] if line.startswith("oif") and "accept" in line]
    for name in ("user_989", "user_990", "user_991"):
        assert "ip daddr 169.254.0.0/16 tcp dport != { 53, 123 } counter reject" in found[name]
    # Whoever has no user here yet is left out.
    assert "meta skuid vmap { 990 : jump user_990, 989 : jump user_989, 991 : jump user_991 }" in text
    assert not any(line.endswith("counter reject") and "daddr" not in line for line in found["user_990"])


def test_listed_closes_the_rest_to_the_app_alone() -> None:
    allow = [
        {"to": "203.0.113.0/24", "port": 443, "protocol": "tcp"},
        {"to": "2001:db8::7", "port": 5432, "protocol": "tcp"},
    ]
    found = chains(module.rules([app("board", policy="listed", allow=allow, metadata=True)], USERS, {}))
    mine = found["user_990"]
    assert mine[-1] == "counter reject"
    assert "ip daddr 203.0.113.0/24 tcp dport 443 accept" in mine
    assert "ip6 daddr 2001:db8::7 tcp dport 5432 accept" in mine
    assert "meta l4proto { tcp, udp } th dport 53 accept" in mine
    assert not [line for name in found for line in found[name] if "169.254" in line]
    assert found["user_989"][-1].startswith("oif")


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed here")
def test_nft_takes_it(tmp_path: Path) -> None:
    allow = [{"to": "2001:db8::/32", "port": 53, "protocol": "udp"}]
    for apps in ([], [app("board", policy="listed", allow=allow), app("notes")]):
        path = tmp_path / "rules.nft"
        path.write_text(module.rules(apps, USERS, {"board": "6380"}))
        words = ["unshare", "-rn", "nft", "-c", "-f", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_wiring_names_users_and_what_the_contract_says() -> None:
    entry = resolved({"apps[0].egress": {"policy": "listed", "allow": [{"to": "192.0.2.7"}]}})["apps"][0]
    (first, *_rest) = egress_of_apps([entry])
    assert (first["user"], first["build_user"]) == (entry["name"], f"berth-build-{entry['name']}")
    assert first["allow"] == [{"to": "192.0.2.7", "port": 443, "protocol": "tcp"}]
    assert first["policy"] == "listed"


def test_a_deploy_tells_of_what_site_alone_applies(tmp_path: Path) -> None:
    """Nothing is recorded of most apps, so a server of before needs no new run for them."""
    entry = resolved()["apps"][0]
    paths = Paths(entry["name"], tmp_path)
    assert receipts.given(entry, receipts.EGRESS) == ""
    entry["egress"]["metadata"] = True
    digest = receipts.given(entry, receipts.EGRESS)
    assert "The egress settings of" in settings._problem(paths, entry, {"proxy", "postgresql", "redis"})
    receipts.write(receipts.EGRESS, {entry["name"]: digest}, False, tmp_path)
    assert settings._problem(paths, entry, {"proxy", "postgresql", "redis"}) == ""
    assert json.loads((tmp_path / "var/lib/berth/firewall.json").read_text()) == {entry["name"]: digest}
    receipts.forget(entry["name"], tmp_path)
    assert receipts.read(receipts.EGRESS, tmp_path) == {}


def test_what_cannot_be_is_a_sentence() -> None:
    said = problems({"apps[0].egress": {"policy": "listed"}, "server.firewall": {"enabled": False}})
    assert any(one.startswith('apps[0].egress.policy: "listed" needs the packet filter') for one in said), (
        said
    )
    said = problems({"apps[0].egress": {"allow": [{"to": "api.example.com", "port": 0}]}})
    assert any("apps[0].egress.allow[0].to" in one and "is not a network" in one for one in said), said
    assert any("apps[0].egress.allow[0].port" in one and "out of range" in one for one in said), said
