"""What units run and how environments are called, to the letter: what stays as it is has them all again."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.berth.host import untrusted
from ansible.module_utils.berth.packaging import keys, start_scripts
from ansible.module_utils.berth.packaging.tree import Tree
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.reading import dependencies
from ansible.module_utils.berth.runtime import jobs

from tests.support.entry import board

SCRIPTS = {
    "web": "exec {release}/.venv/bin/python -m gunicorn -c {release}/.berth/gunicorn.conf.py 'main:make()'",
    "worker": "exec celery -A x worker",
}
OWN = "rm -f {root}/run/board/r1.sock\nexec uvicorn main:app --uds {root}/run/board/r1.sock"


def written(paths: Paths, monkeypatch: pytest.MonkeyPatch, web: dict[str, str], target: str) -> Path:
    """The release, once its scripts are there."""
    monkeypatch.setattr(untrusted, "take", lambda *_: [])
    monkeypatch.setattr(jobs, "make_locks", lambda *_: None)
    monkeypatch.setattr("ansible.module_utils.berth.packaging.tree.ids", lambda _: (-1, -1))
    worker = {"name": "worker", "command": "celery -A x worker"}
    app = board(processes=[{"name": "web", **web}, worker])
    release: Path = paths.release("r1")
    release.mkdir(parents=True, exist_ok=True)
    start_scripts.write(Tree(paths, app, "r1"), target)
    return release


def test_they_say_where_code_and_programs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths("board", tmp_path)
    (paths.release("r1") / ".berth/site/bin").mkdir(parents=True)
    release = written(paths, monkeypatch, {"app": "main:make()"}, "main:make()")
    for name, command in SCRIPTS.items():
        assert (release / ".berth/run" / name).read_text() == (
            "#!/bin/sh\n# Ansible managed\n"
            f"cd {release} || exit 1\n"
            f'export PYTHONPATH={release}:{release}/.berth/site"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
            f'export PATH={release}/.berth/site/bin":$PATH"\n'
            f"{command.format(release=release)}\n"
        )
        assert (release / ".berth/run" / name).stat().st_mode & 0o777 == 0o755


def test_a_command_that_makes_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = written(
        Paths("board", tmp_path), monkeypatch, {"command": "uvicorn main:app --uds {socket}"}, ""
    )
    assert (release / ".berth/run/web").read_text() == (
        "#!/bin/sh\n# Ansible managed\n"
        f"cd {release} || exit 1\n"
        f'export PYTHONPATH={release}"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
        f"{OWN.format(root=tmp_path)}\n"
    )


def test_an_environment_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another one every server would install everything anew."""
    monkeypatch.setattr(keys, "SERVER", {"gunicorn": "1"})
    monkeypatch.setattr(keys, "IMPLIED", {"setuptools": "2"})
    (tmp_path / "requirements.txt").write_text("fastapi==1\n-r more.txt\n")
    (tmp_path / "more.txt").write_text("httpx==2\n")
    choice = {"extras": ["a"], "groups": []}
    key = keys.env_key("/usr/bin/python3.13 3.13.5", dependencies.find_installer(tmp_path), tmp_path, choice)
    assert key == "f1e90d57fc927340"
