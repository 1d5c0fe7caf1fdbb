"""What the proxy is given of a release: plain files that root put there, whatever the source holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.packaging.tree import Tree
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.store import public

from tests.support.entry import board

WEB = "web/dist"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release with a front end, and something beside it that is nobody's business."""
    release = tmp_path / "release"
    dist = release / "web/dist"
    (dist / "assets").mkdir(parents=True)
    (release / ".berth").mkdir()
    (dist / "index.html").write_text("page")
    (dist / "assets/app.js").write_text("code")
    (dist / ".env").write_text("hidden")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/tls.key").write_text("key")
    return release


def publish(release: Path, url: str) -> None:
    public.publish(release / WEB, release.parent / "public" / url, "static: web/dist")


def published(release: Path) -> list[str]:
    top = release.parent / "public"
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir())


def test_files_appear_under_their_path_and_hidden_ones_do_not(release: Path) -> None:
    dist = release / WEB
    dist.chmod(0o700)
    publish(release, "a/b")
    assert published(release) == ["a/b/assets/app.js", "a/b/index.html"]
    for path in [release.parent / "public", *(release.parent / "public").rglob("*")]:
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
    # The same files, not copies; the folders of the source stay as closed as they were.
    assert (dist / "index.html").samefile(release.parent / "public" / "a/b/index.html")
    assert dist.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["d", "assets/d"])
@pytest.mark.parametrize("goal", ["../../../keys", "../../../keys/tls.key", "/var/lib/caddy", "../..", "d"])
def test_a_link_that_leads_out_is_refused(release: Path, name: str, goal: str) -> None:
    (release / WEB / name).symlink_to(goal)
    with pytest.raises(ReleaseError, match=rf"^{name} in static: web/dist is a link to {goal}: .*its folder"):
        publish(release, "static")
    assert not [path for path in (release.parent / "public").rglob("*") if path.is_symlink()]


def test_a_link_that_stays_inside_leads_there_still(release: Path) -> None:
    (release / WEB / "assets/latest.js").symlink_to("../assets/app.js")
    (release / WEB / "more").symlink_to(release / WEB / "assets")
    (release / WEB / "more.js").symlink_to("more/app.js")
    publish(release, "static")
    top = release.parent / "public/static"
    assert (top / "assets/latest.js").readlink() == Path("app.js")
    assert (top / "more").readlink() == Path("assets")
    assert (top / "more.js").readlink() == Path("assets/app.js")


def test_a_pipe_is_left_out_and_not_waited_for(release: Path) -> None:
    os.mkfifo(release / WEB / "pipe")
    publish(release, "static")
    assert published(release) == ["static/assets/app.js", "static/index.html"]


def test_a_release_says_what_it_can_take(release: Path) -> None:
    public.mark(release, "board.example.com", keepalive=False)
    assert public.expects(release, "board.example.com")
    assert not public.expects(release, "new.example.com")
    assert not (release / public.KEEPALIVE).exists()
    public.mark(release, "board.example.com", keepalive=True)
    assert (release / public.KEEPALIVE).exists()


@pytest.mark.parametrize(("web", "lasting"), [({}, True), ({"command": "serve {socket}"}, False)])
def test_connections_are_kept_only_to_a_server_that_says_when_it_retires(
    tmp_path: Path, web: dict[str, str], lasting: bool
) -> None:
    """A command of the app's own closes them when it likes, and a request in one would be lost."""
    paths = Paths("board", tmp_path)
    (paths.release("r1") / ".berth").mkdir(parents=True)
    (paths.release("r1") / "main.py").touch()
    Tree(paths, board(processes=[{"name": "web", **web}]), "r1").publish()
    assert public.lasting(paths.release("r1")).exists() is lasting


def test_releases_are_numbered_for_a_proxy_that_cannot_list_them(tmp_path: Path) -> None:
    folder = tmp_path / "public"
    public.number(folder, ["r1"])  # of a server that has no such folder yet
    for name in ("r1", "r2", "r3", "never"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o700 if name == "never" else 0o755)

    def numbered() -> dict[str, str]:
        links = (path for path in folder.iterdir() if path.is_symlink())
        return {path.name: os.readlink(path) for path in links}  # noqa: PTH115 - as it was written

    public.number(folder, ["r3", "never", "gone", "r2", "r1"])
    assert numbered() == {".1": "r3", ".2": "r2", ".3": "r1"}
    # A rollback is the newest; what is pruned has no number any more.
    (folder / "r1").rmdir()
    public.number(folder, ["r2", "r3", "r1"])
    assert numbered() == {".1": "r2", ".2": "r3"}
    many = [f"m{number}" for number in range(public.NUMBERED + 3)]
    for name in many:
        (folder / name).mkdir()
    public.number(folder, many)
    assert len(numbered()) == public.NUMBERED
