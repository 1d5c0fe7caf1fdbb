"""The role under the real ansible-playbook: messages, exit status, no host contacted, values that arrive unharmed."""

# ruff: noqa: E501 (messages are one line)
from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible.module_utils.berth.store import receipts

from tests.support.pace import patience
from tests.unit.contract_case import ROOT, SECRET

BIN = Path(sys.executable).parent
# Nobody answers at this address, so a task that needed the host would end in UNREACHABLE.
HOSTS = "all: {hosts: {web1: {ansible_host: 192.0.2.1, ansible_timeout: 2}}}\n"
APP = """\
apps:
  - name: board
    domains: [board.example.com]
    source: {path: project}
"""
PLAYBOOK = """\
- name: Check
  hosts: all
  gather_facts: false
  become: true
  tasks:
    - name: Check the inventory
      ansible.builtin.import_role:
        name: contract
      tags: [always]
    - name: Remember something
      ansible.builtin.set_fact:
        remembered_by_a_task: true
    - name: Register something
      ansible.builtin.debug:
        msg: hello
      register: registered_by_a_task
- name: Check again
  hosts: all
  gather_facts: false
  roles: [contract]
  tasks:
    - name: Write down what was published
      ansible.builtin.copy:
        content: "{{ {'apps': contract_apps, 'server': contract_server, 'receipts': receipts} | to_json }}"
        dest: "{{ inventory_dir }}/published.json"
        mode: "0600"
      delegate_to: localhost
      connection: local
      become: false
      when: publish_here is defined
      vars:
        receipts:
          postgresql: "{{ contract_apps | receipt('postgresql') }}"
          redis: "{{ contract_apps | receipt('redis') }}"
          service: "{{ contract_apps | receipt('service') }}"
"""


@dataclass
class Inventory:
    """An inventory in a folder of its own."""

    folder: Path

    def write(self, **files: str) -> None:
        for name, content in files.items():
            (self.folder / "group_vars" / "all" / f"{name}.yml").write_text(content)

    def play(self, *arguments: str, text: str = PLAYBOOK) -> subprocess.CompletedProcess[str]:
        playbook = self.folder.parent / "playbook.yml"
        playbook.write_text(text)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        return subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", str(self.folder), str(playbook), *arguments],
            capture_output=True,
            check=False,
            cwd=ROOT,
            env={
                **kept,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "COLUMNS": "200",
            },
            text=True,
            timeout=patience(60),
        )


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    folder = tmp_path / "inventory"
    (folder / "group_vars" / "all").mkdir(parents=True)
    (folder / "hosts.yml").write_text(HOSTS)
    project = folder / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text("[project]\n")
    made = Inventory(folder)
    made.write(apps=APP)
    return made


def refused(run: subprocess.CompletedProcess[str], *messages: str) -> None:
    output = run.stdout + run.stderr
    assert run.returncode == 2, output
    for message in messages:
        assert f"\n    - {message}\n" in output, output
    assert "UNREACHABLE" not in output
    assert "Traceback" not in output
    assert "changed=0" in output
    assert SECRET not in output


def test_all_problems_come_in_one_readable_list_and_no_host_is_contacted(inventory: Inventory) -> None:
    inventory.write(
        apps=f"""\
app_s: 1
apps:
  - name: board
    heath: {{}}
    domains: [board.example.com]
    source: {{path: project}}
    env:
      MISSING: "{{{{ nowhere }}}}"
      BROKEN: !vault |
        $ANSIBLE_VAULT;1.1;AES256
        3132
    secrets: [{{name: SECRET_KEY}}, {{name: TOKEN}}]
    jobs: [{{name: "{SECRET} x", command: x, schedule: daily}}]
""".replace(f"{SECRET} x", "A B"),
        vault=f"vault: {{board: {{SECRET_KEY: changeme, OTHER: {SECRET}}}}}\n",
    )
    run = inventory.play("-e", "ap=board", "-e", "app=bord")
    refused(
        run,
        'app_s: unknown variable; did you mean "apps"? [group_vars/all/apps.yml:1]',
        'ap: unknown extra variable (-e); did you mean "app"?',
        'apps[0].heath: unknown key; did you mean "health"? [group_vars/all/apps.yml:4]',
        "apps[0].env.MISSING: cannot be evaluated ('nowhere' is undefined); "
        'write "!unsafe" before a value that is meant to contain {{ or {% [group_vars/all/apps.yml:8]',
        "apps[0].env.BROKEN: cannot be decrypted; pass the right --vault-password-file (or --ask-vault-pass) "
        "[group_vars/all/apps.yml:9]",
        "vault.board.SECRET_KEY: is a placeholder; write a real value, "
        'e.g. the output of "openssl rand -hex 32" [group_vars/all/vault.yml:1]',
        'vault.board.OTHER: is not declared; write "- name: OTHER" under apps[0].secrets, or remove it '
        "[group_vars/all/vault.yml:1]",
        'app: there is no app "bord" in this inventory; did you mean "board"?',
    )
    assert "The inventory has 10 problems. Nothing was changed.\n" in run.stdout + run.stderr
    assert "changeme" not in run.stdout + run.stderr


def test_values_arrive_typed_and_unharmed(inventory: Inventory) -> None:
    inventory.write(
        apps="""\
x_name: board
x_domains: ["{{ x_name }}.example.com"]
apps:
  - name: "{{ x_name }}"
    domains: "{{ x_domains }}"
    source: {path: project}
    keep_releases: "{{ 3 + 4 }}"
    database: {extensions: [pg_trgm, "{{ 'unaccent' }}"]}
    redis: {enabled: true}
    jobs: [{name: tidy, command: "tidy {{ x_name }}", schedule: daily}]
    env:
      BRACES: !unsafe "{{ lookup('pipe', 'id') }} {% raw %}"
      TEMPLATE: "{{ x_name }}!"
      NUMBER: "{{ 2 }}"
      FLAG: yes
      LINES: |
        one
        two
    secrets: [{name: SECRET_KEY}]
""",
        server="server: {updates: {enabled: 'no'}}\n",
        vault=f"vault: {{board: {{SECRET_KEY: {SECRET}}}}}\n",
    )
    text = PLAYBOOK.replace("publish_here is defined", "true")
    run = inventory.play("-e", '{"app": "board"}', text=text)
    assert run.returncode == 0, run.stdout + run.stderr
    published = json.loads((inventory.folder / "published.json").read_text())
    app = published["apps"][0]
    assert app["name"] == "board"
    assert app["domains"] == ["board.example.com"]
    assert app["keep_releases"] == 7
    assert app["source"]["path"] == str(inventory.folder / "project")
    assert app["env"] == {
        "BRACES": "{{ lookup('pipe', 'id') }} {% raw %}",
        "TEMPLATE": "board!",
        "NUMBER": "2",
        "FLAG": "true",
        "LINES": "one\ntwo\n",
    }
    assert published["server"]["updates"] == {"enabled": False, "reboot_at": ""}
    # Made here with Ansible's own kinds of text and lists, and compared on the server with what arrived there.
    assert published["receipts"].keys() == {"postgresql", "redis", "service"}
    for role, digests in published["receipts"].items():
        assert digests == {"board": receipts.given(app, role)}, role
    assert SECRET not in json.dumps(published)
    assert SECRET not in run.stdout + run.stderr


def test_check_mode_and_a_second_host_need_nothing_else(inventory: Inventory) -> None:
    (inventory.folder / "hosts.yml").write_text(
        HOSTS.replace("hosts: {", "hosts: {web2: {ansible_host: 192.0.2.2}, ")
    )
    run = inventory.play("--check")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("failed=0") == 2


def test_extra_variables_give_whole_values_and_inputs_of_roles(inventory: Inventory) -> None:
    run = inventory.play(
        "-e",
        '{"server": {"proxy": {"tls": "internal"}}}',
        "-e",
        "proxy_log_days=3",
        "-e",
        "x_free=1",
        "-e",
        "to=x",
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_inputs_of_roles_in_the_inventory_are_refused(inventory: Inventory) -> None:
    (inventory.folder / "host_vars").mkdir()
    (inventory.folder / "host_vars" / "web1.yml").write_text("proxy_log_days: 3\n")
    refused(
        inventory.play(),
        "proxy_log_days: is an input of role proxy, and an inventory has server, apps and vault; write it there "
        "if they have a key for it (docs/inventory.md), else give it with -e [host_vars/web1.yml:1]",
    )


@pytest.mark.parametrize(
    ("apps", "message"),
    [
        ("x_nothing: 1\n", 'apps: missing; write your apps as a list in group_vars/all/apps.yml, or "apps: []" for a server without'),
        ("apps:\n", 'apps: missing; write your apps as a list in group_vars/all/apps.yml, or "apps: []" for a server without [group_vars/all/apps.yml:1]'),
        ("apps: {board: {}}\n", "apps: is a mapping; write a list, each entry beginning with a dash: - name: … [group_vars/all/apps.yml:1]"),
        ('apps: "{{ nowhere }}"\n', "apps: cannot be evaluated ('nowhere' is undefined); write \"!unsafe\" before a value that is meant to contain {{ or {% [group_vars/all/apps.yml:1]"),
    ],
)  # fmt: skip
def test_no_list_of_apps(inventory: Inventory, apps: str, message: str) -> None:
    inventory.write(apps=apps)
    refused(inventory.play(), message)


def test_an_encrypted_vault_is_read_and_its_places_are_named(inventory: Inventory, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    inventory.write(
        apps=APP + "    secrets: [{name: SECRET_KEY}]\n", vault="vault:\n  board:\n    SECRET_KEY: changeme\n"
    )
    vault = inventory.folder / "group_vars" / "all" / "vault.yml"
    subprocess.run(
        [str(BIN / "ansible-vault"), "encrypt", "--vault-password-file", str(password), str(vault)],
        check=True,
        capture_output=True,
    )
    refused(
        inventory.play("--vault-password-file", str(password)),
        "vault.board.SECRET_KEY: is a placeholder; write a real value, "
        'e.g. the output of "openssl rand -hex 32" [group_vars/all/vault.yml:3]',
    )
    without = inventory.play()
    assert without.returncode != 0
    assert "no vault secrets" in (without.stdout + without.stderr).lower()
