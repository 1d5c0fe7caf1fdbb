"""Sessions for people: psql, commands of an app, its log, its secrets; their way, and what is refused."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reports import restores, sessions
from ansible.module_utils.berth.runtime import units
from ansible.module_utils.berth.store import journal
from ansible.module_utils.berth.transport import session

from tests.support.entry import board

LIVE = "20261130T120000Z-aaaaaaa"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A server with the apps board, which has a database, and quiet, which has none."""
    database = {"enabled": True, "name": "board", "owner": "board_owner", "user": "board"}
    for app, known in (("board", database), ("quiet", {"enabled": False, "name": "quiet"})):
        folder = tmp_path / "etc/berth" / app
        folder.mkdir(parents=True)
        (folder / "provisioned.json").write_text(json.dumps({"digest": "x", "services": {"database": known}}))
    passwords = tmp_path / "etc/berth/postgresql"
    passwords.mkdir()
    for role in ("board", "board_owner", "board_ro"):
        (passwords / role).write_text(f"secret-of-{role}\n")
    return tmp_path


def asked(command: str, folder: Path) -> list[str]:
    """What a shell makes of it: the arguments of psql, and its password."""
    (folder / "runuser").write_text('#!/bin/sh\nprintf "%s\\n" "$PGPASSWORD" "$@"\n')
    (folder / "runuser").chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-c", command], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("role", "user"), [("readonly", "board_ro"), ("runtime", "board"), ("owner", "board_owner")]
)
def test_it_logs_in_as_the_role_and_no_argument_has_its_password(role: str, user: str, root: Path) -> None:
    command = sessions.psql("board", role, False, False, root)
    assert "secret-of" not in command
    password, *words = asked(command, root)
    assert password == f"secret-of-{user}"
    assert words[:4] == ["-u", "postgres", "--", "psql"]
    assert {f"--username={user}", "--dbname=board", "--host=127.0.0.1", "--no-psqlrc"} <= set(words)


def test_a_terminal_says_as_whom_and_where(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"socket": "/r/socket", "port": 5432}
    monkeypatch.setattr(restores, "standing", lambda: made)
    words = asked(sessions.psql("board", "readonly", False, True, root), root)
    assert "--set=PROMPT1=%/ (read-only)%R%x%# " in words
    assert "--no-psqlrc" not in words
    password, *words = asked(sessions.psql("board", "owner", True, True, root), root)
    assert "--set=PROMPT1=%/ (restored, owner)%R%x%# " in words
    # Its socket lets its owner in, and nobody else comes to it.
    assert password == ""
    assert "--host=/r/socket" in words


@pytest.mark.parametrize(
    ("app", "role", "restored", "said"),
    [
        ("nope", "readonly", False, "There is no app nope on this server; berth status"),
        ("quiet", "readonly", False, "quiet has no database: database.enabled is false."),
        ("board", "admin", False, "role: admin is none of readonly, runtime, owner."),
        ("board", "readonly", True, "No restored server stands here; berth restore"),
        ("", "readonly", False, "is no app's name"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    app: str, role: str, restored: bool, said: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "state", lambda *_: "inactive")
    with pytest.raises(ReleaseError, match=said):
        sessions.psql(app, role, restored, False, root)


def test_a_server_of_an_earlier_berth_has_no_such_role_yet(root: Path) -> None:
    (root / "etc/berth/postgresql/board_ro").unlink()
    with pytest.raises(ReleaseError, match=r"This server has no role board_ro yet; berth up \(site.yml\)"):
        sessions.psql("board", "readonly", False, False, root)


class Sudo:
    """As ansible's plugin: it marks what it has become, and takes its options one by one."""

    name, success = "sudo", "BECOME-SUCCESS-x"

    def __init__(self) -> None:
        self.options: dict[str, Any] = {"become_pass": "hunter2", "become_flags": "-H -S -n"}

    def set_option(self, name: str, value: Any) -> None:
        self.options[name] = value

    def build_become_command(self, command: str, _: object) -> str:
        asks = "-p ask" if self.options["become_pass"] else ""
        command = shlex.quote(f"echo {self.success} ; {command}")
        return f"sudo {self.options['become_flags']} {asks} /bin/sh -c {command}"


class Ssh:
    transport, host, _shell = "ssh", "server", None

    def __init__(self) -> None:
        self.become = Sudo()

    def get_option(self, _: str) -> str:
        return "ssh"

    def _build_command(self, *words: str) -> list[str]:
        return [words[0], *words[2:]]


def test_a_terminal_is_asked_for_where_there_is_one_and_sudo_asks_there() -> None:
    sql = "psql 'x'"
    *words, command = session.shell_argv(Ssh(), sql, terminal=True)
    assert words == ["ssh", "-tt", "server"]
    assert command == f"sudo -H  /bin/sh -c {shlex.quote(sql)}"
    *words, command = session.shell_argv(Ssh(), "psql")
    assert words == ["ssh", "server"]
    # Without one it must not wait for a password: the first line of the input is SQL.
    assert command == "sudo -H -S -n  /bin/sh -c 'psql'"


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A server on which the board is live."""
    paths = Paths("board", tmp_path)
    (paths.release(LIVE) / "tmp").mkdir(parents=True)
    (paths.release(LIVE) / "main.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")
    paths.web_sock.symlink_to(f"/run/berth/board/{LIVE}.sock")
    app = board(scratch=["tmp"], jobs=[{"name": "nightly", "command": "true", "schedule": "daily"}])
    journal.write_record(paths.release(LIVE), {"id": LIVE, "app": app})
    paths.etc.mkdir(parents=True)
    (paths.etc / "secrets.json").write_text('{"TOKEN": "born-here", "API_KEY": "given"}')
    return tmp_path


def test_a_command_runs_as_the_app_where_its_live_release_is(live: Path) -> None:
    paths = Paths("board", live)
    words = shlex.split(sessions.command("board", "", False, live))
    given = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
    assert words[0] == "systemd-run"
    assert {"--pipe", "--wait", "--uid=board", "--gid=board"} <= set(words)
    assert given["--unit"].startswith("berth-run-board-")
    properties = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
    # Its settings come from the file that its processes have: no argument holds one.
    assert f"EnvironmentFile={paths.env(LIVE)}" in properties
    assert f"WorkingDirectory={paths.release(LIVE)}" in properties
    writable = {line.partition("=")[2] for line in properties if line.startswith("ReadWritePaths=")}
    assert writable == {str(one) for one in (paths.data, paths.home, paths.release(LIVE) / "tmp")}
    assert {"ProtectSystem=strict", "NoNewPrivileges=yes", "InaccessiblePaths=-/etc/berth"} <= set(properties)
    # What others would see of files that it makes is what they see of those that the app makes.
    assert [line for line in properties if line.startswith("UMask=")][-1] == "UMask=0077"
    assert f"--setenv=PATH={paths.release(LIVE)}/.venv/bin:/usr/local/bin:/usr/bin:/bin" in words
    assert f"--setenv=BERTH_RELEASE={LIVE}" in words
    # What it runs comes over its input, whole, before the first of its programs could read there.
    assert words[words.index("--") + 1 :] == ["/bin/sh", "-c", 'eval "$(cat)"']


def test_with_a_terminal_it_is_a_shell(live: Path) -> None:
    words = shlex.split(sessions.command("board", "", True, live))
    assert "--pty" in words
    assert "--pipe" not in words
    assert words[words.index("--") + 1 :][0] == "/bin/bash"
    assert any(word.startswith("--setenv=PS1=board ") for word in words)


def test_a_job_is_run_by_its_own_unit_and_ends_as_that_does(live: Path, tmp_path: Path) -> None:
    command = sessions.command("board", "nightly", False, live)
    unit = f"board-nightly@{LIVE}.service"
    said = tmp_path / "said"
    answers = f'#!/bin/sh\necho "$@" >> {said}\n[ "$1" = show ] && echo run-1\nexit 5\n'
    (tmp_path / "systemctl").write_text(answers)
    (tmp_path / "journalctl").write_text('#!/bin/sh\necho "$@"\n')
    for name in ("systemctl", "journalctl"):
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-c", command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert said.read_text().splitlines()[0] == f"start {unit}"
    assert "_SYSTEMD_INVOCATION_ID=run-1" in done.stdout


@pytest.mark.parametrize(
    ("app", "job", "said"),
    [
        ("nope", "", "nope has no live release on this server, so there is nothing to run a command in"),
        ("board", "weekly", "board has no job weekly; there is: nightly."),
        ("../x", "", "is no app's name"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(app: str, job: str, said: str, live: Path) -> None:
    with pytest.raises(ReleaseError, match=said):
        sessions.command(app, job, False, live)


def test_a_log_is_followed_over_deploys() -> None:
    words = shlex.split(sessions.follow(["board-web", "board-worker"], 20))
    # Units are named after releases, and the next one has another name.
    assert words[:1] == ["journalctl"]
    assert {"--follow", "--lines=20", "--identifier=board-web", "--identifier=board-worker"} <= set(words)
    assert not [word for word in words if word.startswith("--unit")]


def test_a_secret_is_shown_to_who_asks_and_is_in_no_argument(live: Path) -> None:
    command = sessions.secret("board", "TOKEN", live)
    assert "born-here" not in command
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "born-here\n"
    with pytest.raises(ReleaseError, match=r"board has no secret TOKENS .*; there is: API_KEY, TOKEN\."):
        sessions.secret("board", "TOKENS", live)
    with pytest.raises(ReleaseError, match="There is no app quiet on this server"):
        sessions.secret("quiet", "TOKEN", live)
