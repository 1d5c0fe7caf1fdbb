"""Files of a service: all checked, then all written, and nothing where nothing is to do."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugins.modules import config_files

ROOT = Path(__file__).resolve().parents[2]
ME = pwd.getpwuid(os.getuid()).pw_name
# As Ansible runs it: the module's own imports, and arguments on standard input.
RUN = """
import sys, runpy
sys.path.insert(0, {root!r})
import plugins.module_utils.berth.store.journal as journal
sys.modules['ansible.module_utils.berth.store.journal'] = journal
runpy.run_path({module!r}, run_name='__main__')
"""


def run(files: list[dict[str, Any]], check: bool = False) -> dict[str, Any]:
    """The module's answer."""
    arguments = {"files": files, "_ansible_check_mode": check}
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(root=str(ROOT), module=config_files.__file__)],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def entry(path: Path, content: str, **more: Any) -> dict[str, Any]:
    return {"path": str(path), "content": content, "owner": ME, "group": ME, **more}


@pytest.fixture(autouse=True)
def _only_for_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("files get an owner, which only root can give")


def test_what_differs_is_written_once(tmp_path: Path) -> None:
    same, other, new = tmp_path / "same", tmp_path / "other", tmp_path / "folder" / "new"
    same.write_text("a\n")
    same.chmod(0o644)
    other.write_text("old\n")
    wanted = [
        entry(same, "a\n"),
        entry(other, "b\n", mode="0640", backup=True),
        entry(new, "c\n"),
    ]
    seen = run(wanted, check=True)
    assert (seen["changed"], other.read_text(), new.exists()) == (True, "old\n", False)
    done = run(wanted)
    assert [file["changed"] for file in done["files"]] == [False, True, True]
    assert [file["changed"] for file in seen["files"]] == [False, True, True]
    assert (other.read_text(), oct(other.stat().st_mode)[-3:]) == ("b\n", "640")
    assert new.read_text() == "c\n"
    assert Path(done["files"][1]["backup"]).read_text() == "old\n"
    again = run(wanted)
    assert (again["changed"], again["diff"]) == (False, [])
    assert again["files"][1]["sha1"] == done["files"][1]["sha1"]


def test_a_mode_that_was_changed_by_hand_is_put_right(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a\n")
    file.chmod(0o666)
    assert run([entry(file, "a\n")])["changed"]
    assert oct(file.stat().st_mode)[-3:] == "644"


def test_nothing_is_written_when_one_is_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second.conf"
    wanted = [entry(first, "a\n"), entry(second, "bad\n", validate="grep good %s")]
    refused = run(wanted)
    assert refused["failed"]
    assert str(second) in refused["msg"]
    assert not first.exists()
    wanted[1]["content"] = "good\n"
    assert run(wanted)["changed"]
    assert first.exists()


def test_a_link_is_replaced_or_followed_as_asked(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old\n")
    link.symlink_to(target)
    run([entry(link, "new\n", follow=True)])
    assert (link.is_symlink(), target.read_text()) == (True, "new\n")
    run([entry(link, "own\n")])
    assert (link.is_symlink(), link.read_text(), target.read_text()) == (False, "own\n", "new\n")


def test_a_group_that_is_not_there_is_only_for_check_mode(tmp_path: Path) -> None:
    wanted = [entry(tmp_path / "file", "a\n", group="no-such-group")]
    assert run(wanted, check=True)["changed"]
    refused = run(wanted)
    assert refused["failed"]
    assert "no-such-group" in refused["msg"]
