"""The real command line, run as users run it, over a small kit of its own with a local host."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from berth.cli import app
from tests.support.pace import patience

ROOT = Path(__file__).resolve().parents[2]

PLAYBOOK = """
- name: Try what a playbook does
  hosts: all
  gather_facts: false
  tasks:
    - name: Say something
      ansible.builtin.debug:
        msg: "line one\\nline [bold]two[/bold] of {{ app | default('all') }}"
    - name: Write a file
      write:
        content: "{{ {'app': app | default(''), 'number': lines | default(wait | default(0))} | to_json }}"
        dest: "{{ lookup('env', 'KIT_OUT') }}"
    - name: Handle a secret
      ansible.builtin.debug:
        msg: hunter2
      no_log: true
    - name: Take a while
      ansible.builtin.command: "sleep {{ nap }}"
      changed_when: false
      when: nap is defined
    - name: Refuse
      ansible.builtin.fail:
        msg: "apps[0].domains: missing.\\n  Write: domains: [x]"
      when: bad | default(false) | bool
    - name: Fail with a hidden result
      ansible.builtin.fail:
        msg: hunter2
      no_log: true
      when: hidden | default(false) | bool
"""

# Changes, differences and check mode in Ansible's own process: what copy starts takes half of each run.
WRITE = """
from pathlib import Path
from ansible.plugins.action import ActionBase

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        file, after = Path(self._task.args["dest"]), self._task.args["content"]
        before = file.read_text() if file.exists() else ""
        if not self._task.check_mode:
            file.write_text(after)
        return {"changed": before != after, "diff": {"before": before, "after": after}}
"""

# Hands over a command that shows what psql would be given.
PSQL = """
- name: Try what psql does
  hosts: all
  gather_facts: false
  tasks:
    - name: Refuse
      ansible.builtin.fail:
        msg: "There is no app {{ app }} on this server."
      when: app == 'nope'
    - name: Hand over
      write:
        content: '["sh", "-c", "echo {{ role }} {{ restored }} {{ terminal }}; cat; exit 3"]'
        dest: "{{ handover }}"
"""

# What the others hand over shows what they are given.
SESSIONS = {"run": "{{ app }}:{{ job }}", "secret": "{{ secret }}", "logs-f": "{{ follow }} {{ lines }}"}

STATUS = """
- name: Try what a question does
  hosts: all
  gather_facts: false
  tasks:
    - name: Show the answer
      ansible.builtin.debug:
        msg: "board sick"
    - name: Break
      ansible.builtin.fail:
        msg: "the server is away"
      when: broken | default('') == inventory_hostname
    - name: Fail where something is not well
      ansible.builtin.fail:
        msg: "Not well: board is sick."
      when: check | default(false) | bool
"""


class Kit:
    """A copy of the command line over playbooks that do next to nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out.json"
        self.tmp = folder / "tmp"
        self.tmp.mkdir(parents=True)
        shutil.copytree(ROOT / "berth", folder / "berth", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "ansible.cfg", folder)
        for part in ("callback", "module_utils"):
            shutil.copytree(ROOT / "plugins" / part, folder / "plugins" / part)
        (folder / "plugins/action").mkdir()
        (folder / "plugins/action/write.py").write_text(WRITE)
        for name in ("site.yml", "playbooks/deploy.yml", "playbooks/logs.yml", "playbooks/remove.yml"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(PLAYBOOK)
        (folder / "playbooks/psql.yml").write_text(PSQL)
        for name, shown in SESSIONS.items():
            (folder / f"playbooks/{name}.yml").write_text(PSQL.replace("{{ role }} {{ restored }}", shown))
        hosts = folder / "inventories" / "prod" / "hosts.yml"
        hosts.parent.mkdir(parents=True)
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts.write_text(json.dumps({"all": {"hosts": {"here": local}}}))

    def environment(self) -> dict[str, str]:
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "BERTH_"))
        }
        for name in ("FORCE_COLOR", "TERM"):
            env.pop(name, None)
        return {
            **env,
            "PYTHONPATH": str(self.folder),
            "KIT_OUT": str(self.out),
            "XDG_RUNTIME_DIR": str(self.tmp),
            "COLUMNS": "200",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "berth", *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=patience(60))
        assert "Traceback" not in out + err
        assert "\x1b" not in out + err
        assert not list(self.tmp.iterdir()), "runner left files behind"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A fresh kit."""
    return Kit(tmp_path / "kit")


def test_changes_are_told_and_variables_keep_their_types(kit: Kit) -> None:
    done = kit.run("deploy", "board", "--wait", "7")
    assert done.returncode == 0
    assert "line one\nline [bold]two[/bold] of board\n" in done.stdout
    assert re.search(r"^  changed  Write a file", done.stdout, re.M)
    assert re.search(r"^here: changed=1 ok=3$", done.stdout, re.M)
    assert "hunter2" not in done.stdout + done.stderr
    assert json.loads(kit.out.read_text()) == {"app": "board", "number": 7}


def test_a_failure_is_told_whole_and_its_status_passed_on(kit: Kit) -> None:
    done = kit.run("up", "--", "-e", "bad=true")
    assert done.returncode == 2
    # A step that takes long, as any does on a busy machine, is shown with its time.
    said = re.sub(r" \d+\.\d s$", "", done.stdout, flags=re.MULTILINE)
    assert "  FAILED   Refuse [here]\n    apps[0].domains: missing.\n      Write: domains: [x]\n" in said
    assert "{" not in done.stdout


def test_a_hidden_failure_stays_hidden(kit: Kit) -> None:
    done = kit.run("up", "--", "-e", "hidden=true")
    assert done.returncode == 2
    assert "Fail with a hidden result" in done.stdout
    assert "may hold secrets" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_check_changes_nothing_and_shows_the_difference(kit: Kit) -> None:
    done = kit.run("check")
    assert done.returncode == 0
    assert '+{"app": "",' in done.stdout
    assert "changed  Write a file" in done.stdout
    assert not kit.out.exists()


def test_what_stands_after_two_dashes_is_ansibles_own(kit: Kit) -> None:
    listed = kit.run("up", "--", "--list-tasks")
    assert listed.returncode == 0
    assert "Take a while" in listed.stdout
    assert not kit.out.exists()
    refused = kit.run("up", "--", "--nonsense")
    assert refused.returncode == 2
    assert "unrecognized arguments: --nonsense" in refused.stdout


def test_psql_runs_the_command_that_it_was_handed_and_ends_as_that_does(kit: Kit) -> None:
    done = kit.run("psql", "board", "-c", "select 1")
    assert (done.returncode, done.stdout) == (3, "readonly False False\nselect 1")
    # Without -c its input is psql's own, and here there is none.
    done = kit.run("psql", "board", "--owner", "--restored")
    assert (done.returncode, done.stdout) == (3, "owner True False\n")
    done = kit.run("psql", "nope")
    assert done.returncode == 2
    assert "There is no app nope on this server." in done.stderr
    done = kit.run("psql", "board", "--owner", "--runtime")
    assert (done.returncode, "write one of them" in done.stderr) == (2, True)


def test_a_command_of_an_app_is_run_with_its_input_and_ends_as_it_does(kit: Kit) -> None:
    done = kit.run("run", "board", "-c", "python -m board.seed 'x y'")
    assert (done.returncode, done.stdout) == (3, "board: False\npython -m board.seed 'x y'")
    done = kit.run("run", "board", "--job", "nightly")
    assert (done.returncode, done.stdout) == (3, "board:nightly False\n")
    done = kit.run("run", "board", "--job", "nightly", "-c", "true")
    assert (done.returncode, "write one of them" in done.stderr) == (2, True)
    done = kit.run("secret", "board", "SESSION_SECRET")
    assert (done.returncode, done.stdout) == (3, "SESSION_SECRET False\n")
    (kit.folder / "playbooks/logs-f.yml").rename(kit.folder / "playbooks/logs.yml")
    done = kit.run("logs", "board", "-f", "--lines", "7")
    assert (done.returncode, done.stdout) == (3, "True 7 False\n")


def test_an_answer_goes_to_standard_output_alone(kit: Kit) -> None:
    done = kit.run("logs", "board", "--lines", "5")
    assert done.returncode == 0
    assert done.stdout == "line one\nline [bold]two[/bold] of board\n"
    assert json.loads(kit.out.read_text())["number"] == 5


def test_plain_is_ansible_playbook_itself(kit: Kit) -> None:
    done = kit.run("up", "--plain", "--", "-e", "bad=true")
    assert done.returncode == 2
    assert "PLAY RECAP" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_ansible_too(kit: Kit, number: int) -> None:
    # A nap of its own: another worker's may be running.
    nap = f"47.{number:02}{os.getpid()}"
    process = kit.start("up", "--", "-e", f"nap={nap}")
    waiting_since = time.monotonic()
    while not kit.out.exists() and time.monotonic() - waiting_since < patience(30):
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=patience(20))
    assert process.returncode == 130
    assert "Stopped." in out
    assert "Traceback" not in out + err
    assert not list(kit.tmp.iterdir())
    assert not _running(f"sleep {nap}")
    assert not _running(str(kit.folder))


def _running(text: str) -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if text in line]


def test_an_inventory_is_found_by_path_name_or_environment(kit: Kit) -> None:
    (kit.folder / "inventories" / "prod").rename(kit.folder / "inventories" / "staging")
    missing = kit.run("up")
    assert missing.returncode == 2
    assert "There is no inventory inventories/prod. There is: staging." in missing.stderr
    assert "berth init prod" in missing.stderr
    assert kit.run("up", "-i", "staging").returncode == 0


def test_remove_passes_on_what_was_typed(kit: Kit) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "berth", "remove", "board", "--", "--syntax-check"],
        cwd=kit.folder,
        env=kit.environment(),
        input="boardd\n",
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert process.returncode == 0
    assert "Type its name" in process.stderr
    closed = kit.run("remove", "board")
    assert closed.returncode == 1
    assert not kit.out.exists()


def test_a_check_has_a_status_of_its_own(kit: Kit) -> None:
    (kit.folder / "playbooks/status.yml").write_text(STATUS)
    done = kit.run("status")
    assert (done.returncode, done.stdout, done.stderr) == (0, "board sick\n", "")
    done = kit.run("status", "--check")
    assert (done.returncode, done.stdout) == (1, "board sick\n")
    assert done.stderr == "Not well: board is sick.\n"
    # What could not be asked is not the same as what is not well, on another host either.
    hosts = kit.folder / "inventories" / "prod" / "hosts.yml"
    known = json.loads(hosts.read_text())["all"]["hosts"]["here"]
    hosts.write_text(json.dumps({"all": {"hosts": {"here": known, "there": known}}}))
    done = kit.run("status", "--check", "--", "-e", "broken=there")
    assert done.returncode == 2
    assert "the server is away" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["deploy", "--wait", "soon"], "Invalid value for '--wait'"),
        (["logs", "--lines", "0"], "Invalid value for '--lines'"),
        (["status"], "holds no playbook status.yml"),
        (["up", "-i", "nowhere"], "There is no inventory nowhere."),
        (["init", "x", "--", "-v"], "nothing may stand after --"),
        (["restore", "--onto", "192.0.2.1", "--drop"], "--onto ADDRESS goes with --from and --confirm alone"),
        (["restore", "--files", "board", "--drop"], "--files APP goes with --to-time and --from alone"),
    ],
)
def test_nonsense_gets_one_clear_sentence(kit: Kit, arguments: list[str], complaint: str) -> None:
    done = kit.run(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_version_and_help(kit: Kit) -> None:
    version = kit.run("--version").stdout.split()[-1]
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    for verb in ("init", "up", "check", "deploy", "rollback", "status", "logs", "remove"):
        done = CliRunner().invoke(app, [verb, "--help"], prog_name="berth")
        assert done.exit_code == 0
        assert f"berth {verb}" in done.stdout


def test_the_script_works_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "berth").symlink_to(ROOT / "bin" / "berth")
    (tmp_path / "typer.py").write_text("raise SystemExit('the wrong typer')")
    done = subprocess.run(
        [tmp_path / "berth", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("berth ")


def test_completion_offers_the_apps(kit: Kit) -> None:
    variables = kit.folder / "inventories" / "prod" / "group_vars" / "all"
    variables.mkdir(parents=True)
    (variables / "apps.yml").write_text("apps: [{name: board}, {name: notes}]")
    env = {
        **kit.environment(),
        "_BERTH_COMPLETE": "complete_bash",
        "COMP_WORDS": "berth deploy bo",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "berth"],
        cwd=kit.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.stdout.split() == ["board"]
