"""`berth init`: what it writes is an inventory that the real contract accepts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from berth import kit, scaffold
from tests.support.pace import patience

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

CONTRACT = """
- name: Resolve the inventory
  hosts: all
  gather_facts: false
  tasks:
    - name: Check and resolve the inventory
      ansible.builtin.import_role:
        name: contract
        rolespec_validate: false
    - name: Hand it to the test
      ansible.builtin.copy:
        content: "{{ {'server': contract_server, 'apps': contract_apps} | to_json }}"
        dest: "{{ lookup('env', 'RESOLVED') }}"
        mode: "0600"
      delegate_to: localhost
      vars:
        ansible_connection: local
"""


def init(*arguments: str, answers: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    return subprocess.run(
        [sys.executable, "-m", "berth", "init", *arguments],
        cwd=ROOT,
        input=answers or "",
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )


def resolve(inventory: Path) -> dict[str, Any]:
    """What the contract role makes of an inventory, run as plain ansible-playbook."""
    playbook = inventory.parent / "contract.yml"
    playbook.write_text(CONTRACT)
    resolved = inventory.parent / "resolved.json"
    password = ["--vault-password-file", str(inventory / kit.VAULT_PASSWORD_FILE)]
    done = subprocess.run(
        [BIN / "ansible-playbook", playbook, "-i", inventory, *password],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "RESOLVED": str(resolved)},
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(resolved.read_text())
    return result


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of an app."""
    folder = tmp_path / "Message Board"
    folder.mkdir()
    (folder / "alembic.ini").write_text("[alembic]\n")
    (folder / "pyproject.toml").write_text("[project]\nname = 'board'\nversion = '1'\n")
    return folder


def test_a_folder_without_a_question(tmp_path: Path, project: Path) -> None:
    target = tmp_path / "inventory"
    done = init(
        "prod", "--folder", str(target), "--yes", "--host", "2001:db8::7", "--port", "2222",
        "--domain", "Board.example.com", "--domain", "www.board.example.com", "--source", str(project),
        "--email", "ops@example.com",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "alembic upgrade head" in done.stdout
    vault = target / "group_vars" / "all" / "vault.yml"
    for path in (vault, target / kit.VAULT_PASSWORD_FILE):
        assert path.stat().st_mode & 0o777 == 0o600
    assert vault.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256")
    assert (target / kit.VAULT_PASSWORD_FILE).read_text().strip() not in done.stdout

    resolved = resolve(target)
    app = resolved["apps"][0]
    assert app["name"] == "message-board"
    assert app["domains"] == ["board.example.com", "www.board.example.com"]
    assert app["source"]["path"] == str(project)
    assert app["database"]["enabled"] is True
    assert resolved["server"]["proxy"]["email"] == "ops@example.com"
    host = json.loads(_ansible_inventory(target, "--host", "2001-db8--7"))
    assert host["ansible_host"] == "2001:db8::7"
    assert host["ansible_port"] == 2222
    assert len(host["vault"]["message-board"]["SECRET_KEY"]) == 48
    key = host["vault"]["server"]["backup"]["key"]
    assert len(key) == 48
    assert key not in done.stdout
    assert done.stdout.count("vault.server.backup.key") == 1


def test_a_git_source_by_questions(tmp_path: Path) -> None:
    target = tmp_path / "inventory"
    answers = [
        "",
        "a host",
        "server.example.com",
        "deploy",
        "git@github.com:you/board.git",
        "",
        "board.example.com",
        "",
    ]
    done = init("prod", "--folder", str(target), "--no-database", answers="\n".join(answers) + "\n")
    assert done.returncode == 0, done.stderr
    assert "'a host' is no address or host name" in done.stderr
    assert "  ssh-ed25519 AAAA" in done.stdout
    app = resolve(target)["apps"][0]
    assert app["name"] == "board"
    assert app["source"]["git"] == "git@github.com:you/board.git"
    assert app["source"]["deploy_key"] == "DEPLOY_KEY"
    assert app["database"]["enabled"] is False
    host = json.loads(_ansible_inventory(target, "--host", "server.example.com"))
    assert host["ansible_user"] == "deploy"
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(host["vault"]["board"]["DEPLOY_KEY"])
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True
    ).stdout
    assert public.split()[1] in done.stdout


def _ansible_inventory(inventory: Path, *arguments: str) -> str:
    password = ["--vault-password-file", str(inventory / kit.VAULT_PASSWORD_FILE)]
    return subprocess.run(
        [BIN / "ansible-inventory", "-i", inventory, *password, *arguments],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
        timeout=patience(60),
    ).stdout


def test_it_never_writes_over_anything(tmp_path: Path, project: Path) -> None:
    target = tmp_path / "inventory"
    target.mkdir()
    (target / "mine").write_text("kept")
    done = init(
        "prod",
        "--folder",
        str(target),
        "--yes",
        "--host",
        "h",
        "--domain",
        "a.example.com",
        "--source",
        str(project),
    )
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_a_missing_answer_is_named(tmp_path: Path) -> None:
    done = init("prod", "--folder", str(tmp_path / "inventory"), "--yes")
    assert done.returncode == 2
    assert done.stderr == "berth: --host is missing, and --yes lets nothing be asked.\n"
    assert not (tmp_path / "inventory").exists()


def test_end_of_input_ends_the_questions(tmp_path: Path) -> None:
    done = init("prod", "--folder", str(tmp_path / "inventory"), answers="203.0.113.7\n")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "inventory").exists()


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("name", "../prod"),
        ("name", ""),
        ("host", "https://server"),
        ("host", "-oProxyCommand=x"),
        ("host", "two words"),
        ("user", "Root"),
        ("domain", "https://board.example.com"),
        ("domain", "localhost"),
        ("domain", "203.0.113.7"),
        ("domain", "board.example.com/x"),
        ("domain", "a..example.com"),
        ("app", "my app"),
        ("app", "9lives"),
        ("app", "a" * 32),
        ("source", "/nowhere/at/all"),
        ("source", ""),
        ("email", "nobody"),
        ("tls", "self-signed"),
    ],
)
def test_a_wrong_answer_gets_one_sentence(kind: str, answer: str) -> None:
    with pytest.raises(kit.BerthError) as caught:
        scaffold.validate(kind, answer)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(repr(answer) if answer else "An empty answer")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://github.com/you/Message_Board.git", "message-board"),
        ("../board/", "board"),
        ("git@host:board.git", "board"),
        (".", None),
        (None, None),
    ],
)
def test_a_name_is_guessed_from_the_source(source: str | None, name: str | None) -> None:
    assert scaffold.guess_name(source) == name


@pytest.mark.parametrize(
    ("name", "option", "folder", "written"),
    [
        (None, None, None, ROOT / "inventories/prod"),
        ("staging", None, None, ROOT / "inventories/staging"),
        (None, "staging", None, ROOT / "inventories/staging"),
        ("staging", "staging", None, ROOT / "inventories/staging"),
        (None, "inventories/staging", None, ROOT / "inventories/staging"),
        (None, "/etc/berth/staging/", None, Path("/etc/berth/staging")),
        ("staging", None, Path("/etc/berth"), Path("/etc/berth")),
    ],
)
def test_both_spellings_name_the_inventory(
    name: str | None, option: str | None, folder: Path | None, written: Path
) -> None:
    assert scaffold.place(name, option, folder) == written


def test_two_names_are_refused() -> None:
    with pytest.raises(kit.BerthError, match="NAME says prod, and -i says staging"):
        scaffold.place("prod", "staging", None)


def test_the_option_of_all_verbs_names_it(project: Path, tmp_path: Path) -> None:
    words = ["--yes", "--host", "203.0.113.7", "--domain", "board.test", "--source", str(project)]
    done = init("-i", str(tmp_path / "staging"), *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "staging/hosts.yml").is_file()
    assert f"berth up -i {tmp_path / 'staging'}" in done.stdout
