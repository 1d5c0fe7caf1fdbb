"""What comes from a repository: git looks at it before anything is laid out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.berth.release import source
from ansible.module_utils.berth.release.errors import ReleaseError
from ansible.module_utils.berth.release.paths import Paths


def git(folder: Path, *words: str, text: str = "") -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize(("name", "fine"), [("main.py", True), (".git", False)])
def test_a_repository_that_hides_something_is_not_taken(tmp_path: Path, name: str, fine: bool) -> None:
    origin, target = tmp_path / "origin", tmp_path / "release"
    for folder in (origin, target):
        folder.mkdir()
    git(origin, "init", "--quiet", "--bare")
    blob = git(origin, "hash-object", "-w", "--stdin", text="x")
    tree = git(origin, "mktree", text=f"100644 blob {blob}\t{name}\n")
    commit = git(origin, "commit-tree", tree, "-m", "one")
    git(origin, "update-ref", "refs/heads/main", commit)
    place = Paths("board", tmp_path)
    place.state.mkdir(parents=True)
    wanted = {"git": f"file://{origin}"}
    if fine:
        source.checkout(place, wanted, commit, target)
        assert (target / name).read_text() == "x"
    else:
        with pytest.raises(ReleaseError, match=r"Fetching .* failed: .*hasDotgit"):
            source.checkout(place, wanted, commit, target)


def test_which_commit_came_first_is_asked_of_the_mirror(tmp_path: Path) -> None:
    place = Paths("board", tmp_path)
    place.state.mkdir(parents=True)
    assert not source.is_ancestor(place, "a" * 40, "b" * 40)
    git(tmp_path, "init", "--quiet", "--bare", str(place.mirror))
    tree = git(place.mirror, "mktree")
    first = git(place.mirror, "commit-tree", tree, "-m", "one")
    second, beside = (git(place.mirror, "commit-tree", tree, "-p", first, "-m", name) for name in "ab")
    assert source.is_ancestor(place, first, second)
    assert not source.is_ancestor(place, second, first)
    assert not source.is_ancestor(place, first, first)
    assert not source.is_ancestor(place, beside, second)
    assert not source.is_ancestor(place, "a" * 40, second)


def test_host_keys_that_are_given_are_the_only_ones_trusted(tmp_path: Path) -> None:
    place = Paths("board", tmp_path)
    place.state.mkdir(parents=True)
    with source._git_environment(place, {"host_keys": ["h ssh-ed25519 AAAA"]}) as environment:
        words = environment["GIT_SSH_COMMAND"].split()
        assert "StrictHostKeyChecking=yes" in words
        assert "GlobalKnownHostsFile=/dev/null" in words
        known = next(word.partition("=")[2] for word in words if word.startswith("UserKnownHostsFile="))
        assert Path(known).read_text() == "h ssh-ed25519 AAAA\n"
    with source._git_environment(place, {}) as environment:
        words = environment["GIT_SSH_COMMAND"].split()
        assert f"UserKnownHostsFile={place.state}/known_hosts" in words
