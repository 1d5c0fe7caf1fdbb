"""What comes from a repository: git looks at it before anything is laid out, and is not root who does."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import sandbox
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.payload import gitwork
from ansible.module_utils.berth.sources import source
from ansible.module_utils.berth.store import trim

from tests.support.entry import board
from tests.support.git import git, unconfined

# In two parts, or the linter would take it for a key that somebody lost here.
KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nnobody-may-see-this\n-----END OPENSSH " + "PRIVATE KEY-----"


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    place = Paths("board", tmp_path)
    place.state.mkdir(parents=True)
    place.etc.mkdir(parents=True)
    return place


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "--quiet", "--bare")
    return origin


def commit(origin: Path, name: str, text: str, *parents: str) -> str:
    blob = git(origin, "hash-object", "-w", "--stdin", text=text)
    tree = git(origin, "mktree", text=f"100644 blob {blob}\t{name}\n")
    above = [word for parent in parents for word in ("-p", parent)]
    made = git(origin, "commit-tree", tree, *above, "-m", text)
    git(origin, "update-ref", "refs/heads/main", made)
    return made


def app(origin: Path, **more: Any) -> dict[str, Any]:
    return board(source={"git": f"file://{origin}", "version": "main", **more})


def asked(place: Paths, **more: Any) -> dict[str, Any]:
    return {
        "url": "", "local": "", "key": "", "trusted": [], "system": "", "carried": "", "write": True,
        "kept": str(place.git), "mirror": str(place.mirror), "target": "", "environment": {}, **more,
    }  # fmt: skip


def options(environment: dict[str, str]) -> dict[str, str]:
    words = environment["GIT_SSH_COMMAND"].split()
    return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.mark.parametrize(("name", "fine"), [("main.py", True), (".git", False)])
def test_a_repository_that_hides_something_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, place: Paths, origin: Path, name: str, fine: bool
) -> None:
    unconfined(monkeypatch)
    made = commit(origin, name, "x")
    with source.Repository(place, app(origin), target=place.stage, write=True) as repository:
        if fine:
            assert repository.resolve() == made
            assert repository.lay(made).startswith("20")
            assert (place.stage / name).read_text() == "x"
        else:
            with pytest.raises(ReleaseError, match=r"Fetching .* failed: .*hasDotgit"):
                repository.lay(made)


def test_which_commit_came_first_is_asked_of_the_mirror(
    monkeypatch: pytest.MonkeyPatch, place: Paths, origin: Path
) -> None:
    unconfined(monkeypatch)
    with source.Repository(place, app(origin)) as repository:
        assert not repository.is_ancestor("a" * 40, "b" * 40)
        git(place.root, "init", "--quiet", "--bare", str(place.mirror))
        tree = git(place.mirror, "mktree")
        first = git(place.mirror, "commit-tree", tree, "-m", "one")
        second, beside = (git(place.mirror, "commit-tree", tree, "-p", first, "-m", name) for name in "ab")
        assert repository.is_ancestor(first, second)
        assert not repository.is_ancestor(second, first)
        assert not repository.is_ancestor(beside, second)
        assert not repository.is_ancestor("a" * 40, second)


def test_what_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, place: Paths, origin: Path) -> None:
    unconfined(monkeypatch)
    commit(origin, "main.py", "x")
    with source.Repository(place, app(origin, version="v9"), target=place.stage, write=True) as repository:
        with pytest.raises(ReleaseError, match="v9 is no branch, tag or full commit id in file:"):
            repository.resolve()
        with pytest.raises(ReleaseError, match=f"commit {'a' * 40} is not in file:"):
            repository.lay("a" * 40)
    gone = board(source={"git": f"file://{place.root}/nothing"})
    with (
        source.Repository(place, gone) as repository,
        pytest.raises(ReleaseError, match=r"cannot be read from the server: fatal: .*has to be allowed to"),
    ):
        repository.resolve()


def test_a_look_writes_nothing(monkeypatch: pytest.MonkeyPatch, place: Paths, origin: Path) -> None:
    unconfined(monkeypatch)
    made = commit(origin, "main.py", "x")
    before = sorted(place.root.rglob("*"))
    with source.Repository(place, app(origin)) as repository:
        assert repository.resolve() == made
        assert not repository.is_ancestor(made, made)
    assert sorted(place.root.rglob("*")) == before


def test_what_a_killed_git_left_stops_no_fetch_and_goes(
    monkeypatch: pytest.MonkeyPatch, place: Paths, origin: Path
) -> None:
    unconfined(monkeypatch)
    first = commit(origin, "main.py", "one")
    with source.Repository(place, app(origin), target=place.stage, write=True) as repository:
        repository.lay(first)
    git(place.mirror, "branch", "tmp_mine", first)
    left = [place.mirror / name for name in (
        "packed-refs.lock", "refs/heads/main.lock", "objects/pack/tmp_pack_x", "objects/pack/pack-1.keep",
        "objects/aa/tmp_obj_x",
    )]  # fmt: skip
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (place.mirror / "objects/tmp_objdir-incoming-x/pack").mkdir(parents=True)
    git(origin, "branch", "tmp_mine", first)
    second = commit(origin, "main.py", "two", first)
    with source.Repository(place, app(origin), target=place.stage, write=True) as repository:
        repository.lay(second)
    assert (place.stage / "main.py").read_text() == "two"
    assert not [path for path in left if path.exists()]
    assert not list(place.mirror.glob("objects/tmp*"))
    assert git(place.mirror, "rev-parse", "tmp_mine") == first


def test_the_mirror_of_another_process_is_not_swept(tmp_path: Path) -> None:
    with gitwork.alone(tmp_path) as first, gitwork.alone(tmp_path) as second:
        assert (first, second) == (True, False)


@pytest.mark.parametrize(("pause", "arrives"), [("sleep 0.2", True), ("exec sleep 600", False)])
def test_a_fetch_may_take_as_long_as_something_arrives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: Paths, pause: str, arrives: bool
) -> None:
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text(
        f"#!/bin/sh\nfor i in $(seq 20); do printf 'Receiving objects: 1%%\\r' >&2; {pause}; done\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    monkeypatch.setattr(gitwork, "STALLED", 3.0)
    work = gitwork.Work(tmp_path)
    if arrives:
        work.fetch(asked(place), tmp_path)
    else:
        with pytest.raises(gitwork.Problem) as caught:
            work.fetch(asked(place), tmp_path)
        assert caught.value.said == ["error: nothing came for 3 s"]


def test_progress_is_no_reason() -> None:
    said = "remote: Counting objects: 5%\x1b[K\r\x1b[Kremote: Total 5\rReceiving objects: 3%\rfatal: no\n"
    assert gitwork.lines(said) == ["fatal: no"]


def test_another_host_key_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, place: Paths, origin: Path
) -> None:
    unconfined(monkeypatch)
    said = [
        "@ WARNING @",
        "  ssh-keygen -f '/x' -R 'h'",
        "Host key for h has changed.",
        "fatal: Could not read",
    ]
    with source.Repository(place, app(origin)) as repository:
        monkeypatch.setattr(repository.session, "ask", lambda *_: {"problem": "resolve", "said": said})
        with pytest.raises(ReleaseError, match=r"server: Host key for h has changed\..* source\.host_keys"):
            repository.resolve()


def test_host_keys_that_are_given_are_the_only_ones_trusted(place: Paths, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    place.git.mkdir(parents=True)
    work = gitwork.Work(home)
    found = options(work.environment(asked(place, trusted=["h ssh-ed25519 AAAA"])))
    assert found["StrictHostKeyChecking"] == "yes"
    assert found["UserKnownHostsFile"] == found["GlobalKnownHostsFile"]
    assert Path(found["UserKnownHostsFile"]).read_text() == "h ssh-ed25519 AAAA\n"


def test_known_hosts_last_and_a_look_does_not_change_them(place: Paths, tmp_path: Path) -> None:
    home, lasting = tmp_path / "home", place.git / "known_hosts"
    home.mkdir()
    place.git.mkdir(parents=True)
    work = gitwork.Work(home)
    # Those that root's git knew are taken over once.
    found = options(work.environment(asked(place, carried="old\n", system="all\n")))
    assert found["StrictHostKeyChecking"] == "accept-new"
    assert found["UserKnownHostsFile"] == str(lasting)
    assert Path(found["GlobalKnownHostsFile"]).read_text() == "all\n"
    assert lasting.read_text() == "old\n"
    lasting.write_text("new\n")
    work.environment(asked(place, carried="old\n"))
    assert lasting.read_text() == "new\n"
    for text in ("new\n", "old\n"):
        look = options(work.environment(asked(place, carried="old\n", write=False)))["UserKnownHostsFile"]
        assert (look, Path(look).read_text()) == (str(home / "known_hosts"), text)
        lasting.unlink(missing_ok=True)
    assert not lasting.exists()


def test_the_deploy_key_is_in_memory_alone(
    monkeypatch: pytest.MonkeyPatch, place: Paths, origin: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    work = gitwork.Work(home)
    words = work.environment(asked(place, key=KEY, write=False))["GIT_SSH_COMMAND"].split()
    path = words[words.index("-i") + 1]
    known = os.stat(path)  # noqa: PTH116 - as ssh looks at it
    assert (known.st_uid, stat.S_IMODE(known.st_mode), known.st_nlink) == (os.getuid(), 0o600, 0)
    assert Path(path).read_text() == KEY + "\n"
    os.close(work.key)
    (place.etc / "secrets.json").write_text(json.dumps({"DEPLOY_KEY": KEY}))
    commands = unconfined(monkeypatch)
    made = commit(origin, "main.py", "x")
    named = app(origin, deploy_key="DEPLOY_KEY")
    with source.Repository(place, named, target=place.stage, write=True) as repository:
        repository.lay(made)
        running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _mine(path)]
    assert "nobody-may-see-this" not in str(commands)
    assert not [line for line in running if b"nobody-may-see-this" in line]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "secrets.json"]
    assert not [path for path in files if b"nobody-may-see-this" in path.read_bytes()]


def _mine(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return False


def test_git_is_run_by_the_build_user_in_its_sandbox(monkeypatch: pytest.MonkeyPatch, place: Paths) -> None:
    commands: list[list[str]] = []

    class Session:
        def __init__(self, _unit: str, command: list[str]) -> None:
            commands.append(command)

    monkeypatch.setattr(source, "Session", Session)
    monkeypatch.setattr(source, "_account", lambda paths: (paths.build_user, paths.build_user))
    monkeypatch.setattr(source.sandbox, "ready", lambda *_: None)
    monkeypatch.setattr(source.shutil, "chown", lambda *_: None)
    (place.state / "git/objects").mkdir(parents=True)
    source.Repository(place, app(place.root / "x.git"), target=place.stage, write=True)
    line = commands[0]
    assert {"--uid=berth-build-board", "--gid=berth-build-board", "--pipe"} <= set(line)
    for wanted in (*sandbox.COMMON, "MemoryMax=75%", "TasksMax=512", f"BindPaths={place.stage}"):
        assert f"--property={wanted}" in line
    assert f"--property=ReadWritePaths={place.git}" in line
    assert f"--property=BindReadOnlyPaths=-{place.root}/x.git" in line
    assert not (place.state / "git").exists(), "root's own mirror of before"
    source.Repository(place, app(place.root / "x.git"))
    assert not [word for word in commands[1] if "ReadWritePaths" in word or "BindPaths" in word]


@pytest.mark.parametrize(
    ("local", "homes"), [("", "yes"), ("/srv/x.git", "yes"), ("/home/git/x.git", "tmpfs")]
)
def test_a_repository_of_this_server_is_shown_and_nothing_beside_it(local: str, homes: str) -> None:
    lines = sandbox.git(board(), local)
    assert f"ProtectHome={homes}" in lines
    shown = [line for line in lines if line.startswith("BindReadOnlyPaths")]
    assert shown == ([f"BindReadOnlyPaths=-{local}"] if local else [])
    assert "TemporaryFileSystem=/srv:ro" in lines


def test_caches_are_trimmed_once_a_day_and_no_deploy_fails_through_it(
    monkeypatch: pytest.MonkeyPatch, place: Paths
) -> None:
    ran: list[list[str]] = []

    def run(argv: list[str], **_: object) -> None:
        ran.append(argv)
        raise ReleaseError("systemd-run took longer than 30 s and was stopped.")

    monkeypatch.setattr(trim, "run", run)
    trim.begin(place, board())
    assert ran == [], "there is nothing yet"
    place.build_home.mkdir(parents=True)
    for _ in range(2):
        trim.begin(place, board())
    assert len(ran) == 1
    assert {"--no-block", "--uid=berth-build-board", "--property=Nice=15"} <= set(ran[0])
    os.utime(place.state / "trimmed", (1, 1))
    trim.begin(place, board())
    assert len(ran) == 2


def test_trimming_does_what_it_says(place: Paths, origin: Path, tmp_path: Path) -> None:
    place.git.mkdir(parents=True)
    commit(origin, "main.py", "x")
    subprocess.run(["git", "clone", "-q", "--mirror", str(origin), str(place.mirror)], check=True)
    git(place.mirror, "config", "gc.autoPackLimit", "1")
    git(place.mirror, "config", "gc.auto", "1")
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "$UV_CACHE_DIR $*" >> "$0.said"\n')
    uv.chmod(0o755)
    place.uv_cache.mkdir(parents=True)
    words = ["/bin/sh", "-c", trim._SCRIPT, "sh", str(uv), str(place.uv_cache), str(place.mirror)]
    subprocess.run(words, check=True)
    assert Path(f"{uv}.said").read_text() == f"{place.uv_cache} cache prune --quiet\n"
    assert git(place.mirror, "fsck") == ""
