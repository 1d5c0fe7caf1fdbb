"""A server that an earlier Berth set up is taken over without a redeploy, and can go back behind it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testhost import Host

from tests.support.kit import ROOT, Kit, board_copy

# Before the engine had folders, and records a format.
EARLIER = "ee0c42c82d8ccb52af2777b743f911b3d65f1834"

pytestmark = [pytest.mark.long]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That Berth, checked out beside this one."""
    folder = tmp_path_factory.mktemp("earlier") / "berth"
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "-q", "--detach", str(folder), EARLIER], check=True)
    yield folder
    subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def test_it_is_taken_over_and_goes_back_behind_it(
    boot: Callable[..., Host], earlier: Path, tmp_path: Path
) -> None:
    kit = Kit(tmp_path / "inventory", boot("takeover"), apps=[board_copy(tmp_path)])
    source = Path(kit.app("board")["source"]["path"])
    then = {"ANSIBLE_CONFIG": str(earlier / "ansible.cfg")}

    kit.play(str(earlier / "site.yml"), env=then)
    first = kit.release("board")
    (source / "more.txt").write_text("more")
    kit.play(str(earlier / "playbooks/deploy.yml"), env=then)
    second = kit.release("board")
    assert second not in ("", first)

    # Its own look first, then all of it: the release stays.
    kit.play("site.yml", "--check")
    kit.play("site.yml")
    assert kit.release("board") == second
    assert kit.json("https://board.localhost/readyz") == {"status": "ready"}
    assert kit.play("site.yml").changed == 0
    kit.berth("status", "--check")

    said = kit.play("playbooks/rollback.yml", "-e", "app=board").output
    assert kit.release("board") == first, said
    assert kit.json("https://board.localhost/readyz") == {"status": "ready"}
    kit.berth("status", "--check")

    (source / "more.txt").write_text("still more")
    kit.play("playbooks/deploy.yml", "-e", "app=board")
    assert kit.release("board") not in (first, second)
    assert kit.json("https://board.localhost/readyz") == {"status": "ready"}
    assert kit.play("site.yml").changed == 0
