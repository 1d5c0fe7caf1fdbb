"""Which program serves the sites is known to role proxy alone; others are told what it publishes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.berth.payload import gunicorn_conf
from ansible.module_utils.berth.release.steps import retire
from ansible.module_utils.berth.store import proxy

from plugins.filter.proxy import proxy_former, proxy_receipt, proxy_resolve
from tests.unit.contract_case import ROOT
from tests.unit.test_contract_playbook import APP, Inventory, inventory

__all__ = ["inventory"]

WORD = re.compile("caddy|nginx", re.IGNORECASE)
ROOMS = ("berth", "inventories", "molecule", "playbooks", "plugins", "roles")
SEAM = ("roles/proxy/", "plugins/filter/caddy.py", "plugins/filter/nginx.py")
REASONS: dict[str, tuple[str, ...]] = {
    "reads what an earlier Berth left, which knew one provider": (
        "plugins/module_utils/berth/store/proxy.py",
    ),
    "names that packages own, whichever are installed": ("plugins/module_utils/berth/contract/names.py",),
    "tells people what they choose between": (
        "roles/contract/meta/argument_specs.yml",
        "inventories/example/group_vars/all/server.yml",
        "inventories/demo/group_vars/all/server.yml",
    ),
    "looks that none is installed yet": ("molecule/default/prepare.yml",),
    "has an example of what to call it with": ("plugins/modules/proxy_state.py",),
}
ALLOWED = {file for files in REASONS.values() for file in files}
PUBLISHED: dict[str, Any] = {
    path.stem: yaml.safe_load(path.read_text())["proxy_published"]
    for path in sorted((ROOT / "roles/proxy/vars").glob("*.yml"))
    if path.stem != "main"
}
SITE = {"name": "board", "domains": ["board.test"], "socket": "/srv/board/web.sock"}
NOBODY = {"program": "", "group": "", "certificates": "", "units": []}
BEFORE = {"board": {**SITE, "host": "board.test", "before": "old.test"}}


def words(root: Path) -> Iterator[str]:
    """Files outside of the seam that name a provider."""
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            name = path.relative_to(root).as_posix()
            if name.startswith(SEAM) or path.suffix == ".pyc" or not path.is_file():
                continue
            if WORD.search(path.read_text(errors="replace")):
                yield name


def test_nobody_else_knows_the_program_by_its_name() -> None:
    assert [name for name in words(ROOT) if name not in ALLOWED] == []
    assert sorted(ALLOWED - set(words(ROOT))) == []


def test_a_new_word_is_noticed(tmp_path: Path) -> None:
    for name in ("roles/proxy/tasks/caddy.yml", "roles/app/defaults/main.yml", "berth/cli.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("app_proxy_group: Caddy\n")
    assert list(words(tmp_path)) == ["berth/cli.py", "roles/app/defaults/main.yml"]


@pytest.mark.parametrize("provider", PUBLISHED)
def test_each_provider_has_its_files_and_publishes_the_same(provider: str) -> None:
    published = PUBLISHED[provider]
    shape = {
        "provider": str, "program": str, "unit": str, "units": list, "group": str, "ports": dict,
        "upstream_idle": int, "authority": dict, "logs": str, "certificates": str, "state": str,
    }  # fmt: skip
    assert {key: type(value) for key, value in published.items()} == shape
    assert (published["provider"], set(published["ports"])) == (provider, {"tcp", "udp"})
    assert (ROOT / f"roles/proxy/tasks/{provider}.yml").is_file()
    spec = yaml.safe_load((ROOT / "roles/proxy/meta/argument_specs.yml").read_text())["argument_specs"]
    for entry_point in ("main", "published"):
        assert spec[entry_point]["options"]["proxy_provider"]["choices"] == sorted(PUBLISHED)
    readme = (ROOT / "roles/proxy/README.md").read_text()
    assert [key for key in (*published, *published["authority"]) if f"`{key}`" not in readme] == []
    # A request must not race against a connection that the app's server closes.
    source = Path(gunicorn_conf.__file__).read_text()
    (keepalive,) = re.findall(r"(?m)^    keepalive = (\d+)$", source)
    assert published["upstream_idle"] + retire.MARGIN < int(keepalive)


def test_a_receipt_tells_what_was_applied_and_by_whom() -> None:
    text = proxy_receipt([SITE], json.dumps(BEFORE), PUBLISHED["caddy"])
    applied = proxy.parse(text)
    assert applied.sites["board"] == {**SITE, "host": "board.test", "before": "old.test"}
    assert (applied.program, applied.unit, applied.upstream_idle) == ("Caddy", "caddy", 30)
    assert (applied.provider, applied.units) == ("caddy", ("caddy",))
    assert applied.authority == "Caddy Local Authority"
    # A second run finds nothing to do.
    assert proxy_receipt([SITE], text, PUBLISHED["caddy"]) == text
    assert proxy_resolve([{**SITE, "marks": "/srv/board/current/.berth"}], text)[0]["before"] == "old.test"


def test_a_receipt_of_an_earlier_berth_says_the_same(tmp_path: Path) -> None:
    old = tmp_path / proxy.BEFORE.relative_to("/")
    old.parent.mkdir(parents=True)
    old.write_text(json.dumps(BEFORE))
    now = proxy.parse(proxy_receipt([SITE], json.dumps(BEFORE), PUBLISHED["caddy"]))
    assert proxy.read(tmp_path) == now
    # As soon as there is a newer one, that counts; an app may be called what its keys are.
    new = tmp_path / proxy.RECEIPT.relative_to("/")
    new.parent.mkdir(parents=True)
    new.write_text(proxy.written({}, {**PUBLISHED["caddy"], "upstream_idle": 20}))
    assert (proxy.read(tmp_path).sites, proxy.read(tmp_path).upstream_idle) == ({}, 20)
    # And where the earlier Berth was here once more, what it left.
    os.utime(new, (1, 1))
    assert proxy.read(tmp_path) == now
    assert list(proxy.parse(json.dumps({"format": {"name": "format"}})).sites) == ["format"]


def test_another_provider_is_told_what_is_to_end() -> None:
    now = proxy_receipt([SITE], "", PUBLISHED["nginx"])
    assert proxy_former(now, "nginx") == proxy_former("", "nginx") == NOBODY
    ends = ["nginx.socket", "nginx.service", "nginx-upkeep.timer"]
    assert proxy_former(now, "caddy") == {
        "program": "nginx",
        "group": "nginx",
        "certificates": "",
        "units": ends,
    }
    # Of a Berth that knew one provider, or did not say what all runs for it.
    older = {key: value for key, value in PUBLISHED["caddy"].items() if key not in ("units", "certificates")}
    for receipt in (json.dumps(BEFORE), proxy.written({}, older)):
        former = proxy_former(receipt, "nginx")
        assert (former["program"], former["units"]) == ("Caddy", ["caddy"])
    there = proxy_former(proxy.written({}, PUBLISHED["caddy"]), "nginx")
    assert there["certificates"].endswith("/{domain}/{domain}")


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "7", '{"format": 1}', '{"format": 1, "sites": [1], "published": {"authority": 1}}'],
)
def test_a_receipt_that_cannot_be_read_says_that_nothing_was_applied(text: str) -> None:
    assert proxy.parse(text) == proxy.Applied()


def test_a_play_that_cannot_hold_asks_no_host(inventory: Inventory) -> None:
    """The first that could be wrong changes nothing: in check mode, and on a host that is not there."""
    inventory.write(apps=f'{APP}    proxy: {{headers: {{X-Fine: y, X-Y: "{{$HOME}}"}}}}\n')
    text = f"- import_playbook: {ROOT}/playbooks/provision.yml\n"
    run = inventory.play("--check", "--tags", "app", text=text)
    said = " ".join((run.stdout + run.stderr).split())
    assert run.returncode == 2, said
    assert "proxy_sites[0].headers.X-Y: the value has {$, which Caddy would replace by" in said
    assert "UNREACHABLE" not in said
    assert "changed=0" in said


def test_other_roles_are_told_by_the_playbook(inventory: Inventory) -> None:
    """Also by one that never runs the role itself."""
    inventory.write(apps=APP)
    text = """\
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.include_role: {name: proxy, tasks_from: published}
    - ansible.builtin.debug: {msg: "group {{ proxy_published.group }}"}
"""
    run = inventory.play(text=text)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"group {PUBLISHED['caddy']['group']}" in run.stdout
    for name in ("provision.yml", "tasks/settings.yml"):
        playbook = (ROOT / "playbooks" / name).read_text()
        for role in ("app", "service"):
            assert f'{role}_proxy_group: "{{{{ proxy_published.group }}}}"' in playbook


def test_the_provider_is_set_up_whatever_tags_are_asked_for(inventory: Inventory) -> None:
    """Its tasks are included as the run goes, and get the tags of the role that the playbook imports."""
    inventory.write(apps=APP)
    text = """\
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.import_role: {name: proxy}
      vars: {proxy_repository: official}
      tags: [proxy]
"""
    asked = [inventory.play("--tags", tag, text=text).stdout for tag in ("proxy", "base")]
    assert ["UNREACHABLE" in said for said in asked] == [True, False], asked[0]
    assert "Install what apt sources are written with" in asked[0]
