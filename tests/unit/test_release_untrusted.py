"""The boundary to what others wrote: what a tree may hold, whose it becomes, and what is read of it."""

from __future__ import annotations

import io
import os
import re
import socket
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.berth import venv
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import untrusted
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.host.untrusted import Owner
from ansible.module_utils.berth.packaging import folders, once
from ansible.module_utils.berth.packaging.environments import Environments
from ansible.module_utils.berth.packaging.tree import Tree
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.payload import seed
from ansible.module_utils.berth.reading import (
    dependencies,
    interpreters,
    launch,
    places,
    pools,
    randoms,
    tables,
    targets,
    toml,
)
from ansible.module_utils.berth.reports import detect, diff
from ansible.module_utils.berth.runtime.transient import Work
from ansible.module_utils.berth.sources import origins, pack, source
from ansible.module_utils.berth.store import prune

from tests.support.entry import board

ME = Owner(os.getuid(), os.getgid())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "release"
    (top / "app").mkdir(parents=True)
    (top / "app/main.py").write_text("x = 1\n")
    return top


def links(top: Path, *pairs: tuple[str, str]) -> None:
    for name, target in pairs:
        link(top / name, target)


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("lay", "said"),
    [
        (
            lambda top: link(top / "leak.py", "/etc/berth/other/env"),
            r"leak\.py .* /etc/berth/other/env, which",
        ),
        (lambda top: link(top / "app/zero.py", "/dev/zero"), r"app/zero\.py .* /dev/zero, which is outside"),
        (
            lambda top: link(top / "up", "app/../../other"),
            r"up in the source is a link to app/\.\./\.\./other",
        ),
        (lambda top: link(top / "x/__pycache__/../away", "/var"), "x/away"),
        # By its words it stays inside; by the link on its way it does not.
        (lambda top: links(top, ("app/a/b", "../.."), ("far", "app/a/b/../etc")), "far .* outside"),
        (lambda top: link(top / "usr", "/usr/../etc/shadow"), "usr .* outside"),
        (
            lambda top: links(top, ("lib", "/usr/lib/ssl"), ("m", "lib/../../etc/shadow")),
            "m .* outside",
        ),
        (lambda top: link(top / "app/deep", "../.berth/static/../../x"), r"app/deep .* Berth's own"),
        (lambda top: link(top / "record", "release.json"), r"record .* Berth's own"),
        (lambda top: link(top / "round", "round"), "round .* circle"),
        (lambda top: os.mkfifo(top / "pipe.py"), r"pipe\.py .* neither a file"),
        (lambda top: (top / "app\nExecStartPre=+id").mkdir(), r"app\\nExecStartPre=\+id .* U\+000A: rename"),
        (lambda top: (top / "a\u2028b").touch(), r"a\\u2028b .* U\+2028"),
        (lambda top: (top / os.fsdecode(b"caf\xe9.txt")).touch(), r"caf\\udce9\.txt .* is not UTF-8 text"),
        (lambda top: (top / "/".join("d" * 120)).mkdir(parents=True), "nested deeper than 100"),
    ],
)
def test_what_has_no_place_in_a_source(tree: Path, lay: Callable[[Path], object], said: str) -> None:
    lay(tree)
    with pytest.raises(ReleaseError, match=said) as caught:
        source.tidy(tree, ME)
    assert "\n" not in caught.value.sentence


def test_a_socket_has_no_place_in_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s")
        with pytest.raises(ReleaseError, match=r"^s in the source is neither"):
            untrusted.take(tree, ME)


def test_links_that_stay_inside_go_on_working(tree: Path) -> None:
    for name, target in (
        ("app/settings.py", "main.py"),
        ("shared/app", "../app"),
        ("deep/er/main.py", "../../app/main.py"),
        ("whole", str(tree / "app")),
        ("dangling", "app/not-there"),
        ("venv/bin/python3", "/usr/bin/python3"),
    ):
        link(tree / name, target)
    untrusted.take(tree, ME)
    assert untrusted.read_text(tree / "deep/er/main.py") == "x = 1\n"
    assert untrusted.read_text(tree / "shared/app/settings.py") == "x = 1\n"


def test_what_is_taken_has_plain_modes_and_no_foreign_bytecode(tree: Path) -> None:
    for name, mode in (("suid", 0o4755), ("run.sh", 0o777), ("open.txt", 0o666)):
        (tree / name).touch()
        (tree / name).chmod(mode)
    cache = tree / "app/__pycache__"
    cache.symlink_to(sys.base_prefix)
    (tree / "lib/__pycache__").mkdir(parents=True)
    (tree / "lib/__pycache__/x.pyc").touch()
    (tree / "vendor/.git").mkdir(parents=True)
    assert source.tidy(tree, ME) == []
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in tree.iterdir()}
    assert modes == {
        "app": 0o750,
        "lib": 0o750,
        "vendor": 0o750,
        "suid": 0o750,
        "run.sh": 0o750,
        "open.txt": 0o640,
    }
    left = [path for path in tree.rglob("*") if path.name in ("__pycache__", ".git", "x.pyc")]
    assert left == []
    assert Path(sys.base_prefix).is_dir()


@pytest.mark.skipif(os.getuid() != 0, reason="gives files away")
def test_a_second_name_of_somebody_elses_file(tree: Path, tmp_path: Path) -> None:
    """Where the kernel lets anybody make one, root must not give the other name away with it."""
    shadow = tmp_path / "shadow"
    shadow.write_text("secret")
    shadow.chmod(0o600)
    untrusted.give(tree, 65534, 65534)
    os.link(shadow, tree / "mine")
    with pytest.raises(ReleaseError, match=r"^mine in the source is a second name"):
        untrusted.take(tree, Owner(0, 65534))
    assert (shadow.stat().st_gid, stat.S_IMODE(shadow.stat().st_mode)) == (0, 0o600)
    (tree / "mine").unlink()
    untrusted.give(tree, 65534, 65534)
    # Two names in one tree are no more than that.
    os.link(tree / "app/main.py", tree / "again.py")
    untrusted.take(tree, Owner(0, 65534))
    assert (tree / "again.py").stat().st_uid == 0


@pytest.mark.skipif(os.getuid() != 0, reason="gives files away")
def test_a_folder_is_taken_before_it_is_looked_into(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owned it cannot swap an entry between the look at it and what is done to it."""
    untrusted.give(tree, 65534, 65534)
    seen = []
    entry = untrusted._Take.entry

    def look(self: untrusted._Take, descriptor: int, one: os.DirEntry[str], below: str, depth: int) -> None:
        known = os.fstat(descriptor)
        seen.append((known.st_uid, stat.S_IMODE(known.st_mode)))
        entry(self, descriptor, one, below, depth)

    monkeypatch.setattr(untrusted._Take, "entry", look)
    untrusted.take(tree, Owner(0, 0))
    assert set(seen) == {(0, 0o700)}


def test_a_link_is_neither_taken_nor_removed_through(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "kept").touch()
    link(tree / "away", str(outside))
    with pytest.raises(OSError, match="away"):
        untrusted.take(tree / "away", ME)
    untrusted.remove(tree / "away")
    link(tree / "x/y", str(outside))
    untrusted.remove(tree / "x")
    assert (outside / "kept").exists()
    assert not (tree / "x").exists()
    link(tree / "new", str(outside / "planted"))
    with pytest.raises(FileExistsError):
        untrusted.write_new(tree / "new", "text")
    assert not (outside / "planted").exists()


# Reading -----------------------------------------------------------------------------------------


def test_no_device_no_pipe_and_not_too_much(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match=r"not a plain file|Is a directory"):
            untrusted.read_text(path)
    (tmp_path / "big").write_bytes(b"x" * 2000)
    with pytest.raises(ReleaseError, match="big is larger than"):
        untrusted.read_bytes(tmp_path / "big", 1999)
    assert len(untrusted.read_bytes(tmp_path / "big", 2000)) == 2000


def test_detection_does_not_hang_on_what_a_source_may_hold(tmp_path: Path) -> None:
    for name in ("main.py", "requirements.txt", "Procfile", "Dockerfile", "setup.cfg", ".python-version"):
        os.mkfifo(tmp_path / name)
    link(tmp_path / "zero.py", "/dev/zero")
    link(tmp_path / "alembic.ini", "/dev/zero")
    link(tmp_path / "alembic/versions/1.py", "/dev/zero")
    assert targets.find_targets(tmp_path) == []
    assert list(launch.lines(tmp_path, tmp_path)) == []
    assert randoms.find(tmp_path) == []
    assert pools.find(tmp_path, {}) == []
    assert tables.schema_at_start(tmp_path) == ""
    assert tables.decide(tmp_path, tmp_path, board()["migrations"]).command == ""
    link(tmp_path / "pyproject.toml", "/dev/zero")
    with pytest.raises(ReleaseError, match=r"pyproject\.toml cannot be read: .* not a plain file"):
        toml.load_toml(tmp_path / "pyproject.toml")


def test_migrations_lie_inside_of_the_source(tmp_path: Path) -> None:
    top = tmp_path / "release"
    (top / "app").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for place in ("/", "../../other", "%(here)s/../../other"):
        (top / "app/alembic.ini").write_text(f"[alembic]\nscript_location = {place}\n")
        with pytest.raises(ReleaseError, match=r"app/alembic\.ini: .* outside of the source"):
            tables.decide(top / "app", top, board()["migrations"])
    (top / "migrations").mkdir()
    (top / "app/alembic.ini").write_text("[alembic]\nscript_location = ../migrations\n")
    assert "no revisions" in tables.decide(top / "app", top, board()["migrations"]).why


# Sources -----------------------------------------------------------------------------------------


def test_an_archive_brings_no_more_than_files(tmp_path: Path) -> None:
    def packed(*members: tuple[str, bytes, str, int]) -> io.BytesIO:
        body = io.BytesIO()
        with tarfile.open(fileobj=body, mode="w:gz") as tar:
            for name, kind, target, mode in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.mode = kind, target, mode
                tar.addfile(info)
        body.seek(0)
        return body

    source.unpack(packed(("suid", tarfile.REGTYPE, "", 0o6777), ("p", tarfile.FIFOTYPE, "", 0o644)), tmp_path)
    assert stat.S_IMODE((tmp_path / "suid").stat().st_mode) == 0o755
    assert not (tmp_path / "p").exists()
    for members in (
        [("/abs", tarfile.REGTYPE, "", 0o644)],
        [("a/../../b", tarfile.REGTYPE, "", 0o644)],
        [("l", tarfile.SYMTYPE, "/tmp", 0o777), ("l/x", tarfile.REGTYPE, "", 0o644)],
    ):
        with pytest.raises(ReleaseError, match="leads out"):
            source.unpack(packed(*members), tmp_path)


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.py")).touch()
    with pytest.raises(ReleaseError, match=r"^source\.path: caf\\udce9\.py has a name that is not UTF-8"):
        pack.list_files(tmp_path)


def test_a_second_name_of_a_file_is_packed_too(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("x")
    os.link(tmp_path / "one.py", tmp_path / "two.py")
    body = io.BytesIO()
    pack.archive(tmp_path, ["one.py", "two.py"], body)
    with tarfile.open(fileobj=body, mode="r:gz") as tar:
        assert [(one.name, one.isreg(), one.size) for one in tar] == [
            ("one.py", True, 1),
            ("two.py", True, 1),
        ]


def test_what_git_keeps_elsewhere_is_said(tmp_path: Path) -> None:
    assert source.not_brought(tmp_path) == []
    (tmp_path / ".gitmodules").write_text(
        '[submodule "lib"]\n\tpath = vendor/lib\n\turl = https://x.example\n'
    )
    (tmp_path / "vendor/lib").mkdir(parents=True)
    (tmp_path / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (tmp_path / "model.bin").write_text(f"{source._POINTER.decode()}\noid sha256:00\nsize 9\n")
    modules, large = source.not_brought(tmp_path)
    assert re.match("Left out, since they are submodules of git: vendor/lib. ", modules)
    assert re.match("Pointers of Git LFS, and not the files themselves: model.bin. ", large)
    (tmp_path / "vendor/lib/x.py").touch()
    (tmp_path / "model.bin").write_bytes(b"\0" * 200)
    assert source.not_brought(tmp_path) == []


# Dependencies ------------------------------------------------------------------------------------

UV = '[[package]]\nname = "me"\nsource = {{ virtual = "." }}\n'
UV += '[[package]]\nname = "spy"\nsource = {{ {source} }}\n'
POETRY = '[[package]]\nname = "spy"\nversion = "1"\n[package.source]\ntype = "directory"\nurl = "{url}"\n'


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "uv.lock",
            UV.format(source='editable = "/srv/other/x"'),
            r"^p/uv\.lock:6: spy comes from /srv/other/x",
        ),
        ("uv.lock", UV.format(source='directory = "../../other"'), r"^p/uv\.lock:6: spy .* \.\./\.\./other"),
        ("uv.lock", UV.format(source='git = "file:///srv/other"'), "spy comes from file:///srv/other"),
        ("uv.lock", UV.format(source='url = "file:///srv/x.whl"'), "spy comes from file:///srv/x.whl"),
        (
            "poetry.lock",
            POETRY.format(url="../../other"),
            r"^p/poetry\.lock:6: spy comes from \.\./\.\./other",
        ),
        ("pdm.lock", '[[package]]\nname = "spy"\npath = "../../x"\n', r"^p/pdm\.lock:3: spy comes from"),
        (
            "requirements.txt",
            "a==1\n-r /etc/shadow\n",
            r"^p/requirements\.txt:2: names /etc/shadow, which is",
        ),
        ("requirements.txt", "-r../../x.txt", r"^p/requirements\.txt:1: names \.\./\.\./x\.txt"),
        ("requirements.txt", "--constraint=/etc/passwd", "names /etc/passwd"),
        ("requirements.txt", "-e ../../other[extra]", "names ../../other"),
        ("requirements.txt", "spy @ file:///srv/other", "names file:///srv/other"),
        ("requirements.txt", "../../other ; python_version > '3'", "names ../../other"),
        ("requirements.txt", "spy @ git+file:///srv/other@main", "names git"),
        ("requirements.txt", "-r linked.txt", "names linked.txt"),
        ("requirements.txt", "-r more.txt", r"^p/more\.txt:1: names /etc/hosts"),
        (
            "pyproject.toml",
            '[project]\nname="p"\ndependencies=["spy @ file:///srv/other"]\n',
            r"^p/pyproject\.toml:3",
        ),
        (
            "pyproject.toml",
            '[project]\nname="p"\n[tool.uv.sources]\nspy={path="../../x"}\n',
            r"^p/pyproject\.toml:4",
        ),
    ],
)
def test_a_dependency_outside_of_the_source(tmp_path: Path, file: str, text: str, said: str) -> None:
    top = tmp_path / "release"
    folder = top / "p"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "p"\n')
    (folder / "more.txt").write_text("-c /etc/hosts\n")
    (folder / "linked.txt").symlink_to("/etc/hosts")
    (folder / file).write_text(text)
    with pytest.raises(ReleaseError, match=said) as caught:
        origins.check(top, folder, dependencies.find_installer(folder, top))
    assert "outside of the source" in caught.value.sentence


def test_dependencies_inside_of_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    (tmp_path / "shared").mkdir()
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "p"\ndependencies = ["a @ file:///${PROJECT_ROOT}/lib", "b @ https://x.example/b.whl"]\n'
        '[tool.uv.sources]\nc = {path = "../shared", editable = true}\nd = {git = "https://x.example/d"}\n'
        "[tool.uv.workspace]\nmembers = ['packages/*', '.']\n"
    )
    (folder / "requirements.txt").write_text(
        "# -r /etc/shadow\n--index-url https://x.example/simple\n-e .[dev]\n-e git+https://x.example/e#egg=e\n"
        "./wheels/f-1.whl\ng @ git+ssh://git@x.example/g@main\nh==1 # /etc\n-r ../shared/base.txt\n"
        "../shared\n--hash=sha256:00\n-f ./wheels\nfile:./lib\n"
    )
    (tmp_path / "shared/base.txt").write_text("-c ../p/constraints.txt\nfastapi\n")
    origins.check(tmp_path, folder, dependencies.find_installer(folder, tmp_path))
    (folder / "uv.lock").write_text(
        UV.format(source='editable = "../shared"')
        + '[[package]]\nname="r"\nsource={registry="https://x.example"}\n'
    )
    origins.check(tmp_path, folder, dependencies.find_installer(folder, tmp_path))


def test_detect_says_what_a_deploy_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("fastapi\n-e ../shared\n")
    app = board(processes=[{"name": "web", "app": "m:app"}])
    rows = detect.describe(app, tmp_path)
    said = [row[2] for row in rows if row[1] == "refused"]
    assert len(said) == 1
    assert said[0].startswith("requirements.txt:2: names ../shared, which is outside of the source")


def test_who_builds_reads_and_compiles_what_others_wrote(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root compiles nothing: it would follow a __pycache__ that is a link, and write there."""
    paths = Paths("board", tmp_path)
    (tree / venv.LINK).symlink_to(tmp_path / "env")
    ran: list[Work] = []

    def transient(work: Work) -> Result:
        ran.append(work)
        return Result(0, "", "")

    monkeypatch.setattr(once, "transient", transient)
    for name in ("link_persistent", "open_scratch"):
        monkeypatch.setattr(folders, name, lambda *_: None)
    monkeypatch.setattr("ansible.module_utils.berth.packaging.tree.ids", lambda _: (ME.uid, ME.gid))
    Tree(paths, board(), "r1", tree).seal("/usr/bin/python3")
    assert [work.user for work in ran] == [paths.build_user]
    # Nor do the source's own sitecustomize and path files run before it.
    assert list(ran[0].argv[:5]) == ["/usr/bin/python3", "-I", "-S", "-m", "compileall"]


def test_dependencies_are_looked_at_before_anything_is_installed(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "requirements.txt").write_text("fastapi\n-e /srv/other/current\n")
    monkeypatch.setattr(interpreters, "host_pythons", lambda: {(3, 13): "/usr/bin/python3.13"})
    environments = Environments(Tree(Paths("board", tmp_path), board(), "r1", tree))
    with pytest.raises(ReleaseError, match="names /srv/other/current, which is outside of the source"):
        environments.choose()


# The app's own folders ---------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """An app of this user's, with commands run as this user."""
    found = Paths("board", tmp_path)
    found.data.mkdir(parents=True)
    monkeypatch.setattr(folders, "ids", lambda _name: (os.getuid(), os.getgid()))

    def run(work: Work) -> object:
        # The app owns what is filled: root would be led by what lies in it.
        assert (work.user, list(work.writable)) == ("board", [found.data])
        done = subprocess.run([sys.executable, *work.argv[1:]], capture_output=True, text=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    monkeypatch.setattr(folders, "transient", run)
    return found


APP = {"persistent": ["uploads", "media/big"], "static": [{"url": "/s", "path": "static"}]}


def test_persistent_folders_are_filled_and_linked(paths: Paths, tree: Path) -> None:
    (tree / "uploads/sub").mkdir(parents=True)
    (tree / "uploads/sub/a.txt").write_text("new")
    (paths.data / "uploads/sub").mkdir(parents=True)
    (paths.data / "uploads/sub/b.txt").write_text("kept")
    folders.link_persistent(paths, APP, tree, tree)
    assert (tree / "uploads").readlink() == paths.data / "uploads"
    assert (tree / "media/big").readlink() == paths.data / "media/big"
    assert sorted(path.name for path in (tree / "uploads/sub").iterdir()) == ["a.txt", "b.txt"]
    assert (tree / "media/big").is_dir()


def test_nothing_is_run_where_nothing_is_new(
    paths: Paths, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what the app keeps there looked through, be it millions of files."""
    (tree / "uploads").mkdir()
    (tree / "uploads/.keep").touch()
    for name in ("uploads/mine", "media/big"):
        (paths.data / name).mkdir(parents=True)
    (paths.data / "uploads/.keep").touch()
    monkeypatch.setattr(folders, "transient", None)
    looked: list[str] = []

    def lexists(path: Path) -> bool:
        looked.append(str(path))
        return True

    monkeypatch.setattr(seed.os.path, "lexists", lexists)
    folders.link_persistent(paths, APP, tree, tree)
    assert looked == [str(paths.data / "uploads/.keep")]


def test_a_persistent_folder_that_the_app_swapped_for_a_link(
    paths: Paths, tree: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "etc"
    outside.mkdir(mode=0o755)
    for name in ("uploads", "media"):
        (paths.data / name).symlink_to(outside)
        (tree / "uploads").mkdir(exist_ok=True)
        (tree / "uploads/cron").touch()
        with pytest.raises(ReleaseError, match=rf"^persistent: {name}.* is a link, and has to be a folder"):
            folders.link_persistent(paths, APP, tree, tree)
        (paths.data / name).unlink()
        (paths.data / "uploads").mkdir(exist_ok=True)
    assert list(outside.iterdir()) == []


def test_a_persistent_folder_of_somebody_elses(
    paths: Paths, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (paths.data / "uploads").mkdir()
    monkeypatch.setattr(folders, "ids", lambda _name: (os.getuid() + 1, 0))
    with pytest.raises(ReleaseError, match=r"does not belong to board: chown -R board: .*/data/uploads"):
        folders.link_persistent(paths, APP, tree, tree)


# What the proxy serves ---------------------------------------------------------------------------


@pytest.fixture
def served(tree: Path) -> Path:
    link(tree / ".venv", str(tree.parent / "envs/1"))
    (tree / ".berth").mkdir()
    (tree / "static/img").mkdir(parents=True)
    (tree / "static/img/a.png").touch()
    (tree / "assets").mkdir()
    return tree


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("static/keys", "/var/lib/caddy"),
        ("static/img/keys", "/usr/share/doc"),
        ("static/more", "../assets"),
        ("static/more", "../release.json"),
    ],
)
def test_a_link_below_static_that_leads_out_of_it(served: Path, name: str, target: str) -> None:
    link(served / name, target)
    with pytest.raises(
        ReleaseError, match=r"in static: static is a link to .* must not lead out of its folder"
    ):
        folders.serve(APP, served, served, served.parent / "public")


def test_static_files_are_published_and_their_folders_stay_closed(served: Path, tmp_path: Path) -> None:
    public = tmp_path / "public"
    link(served / "static/b.png", "img/a.png")
    link(served / "public", "static")
    for folder in (served, *served.glob("*")):
        if not folder.is_symlink():
            folder.chmod(0o750)
    folders.serve({"static": [{"url": "/a/b", "path": "public"}]}, served, served, public)
    assert (served / ".berth/static").readlink() == public
    assert (public / "a/b/b.png").readlink() == Path("img/a.png")
    assert (public / "a/b/img/a.png").samefile(served / "static/img/a.png")
    assert [stat.S_IMODE(one.stat().st_mode) for one in (public, public / "a", public / "a/b")] == [
        0o700,
        0o755,
        0o755,
    ]
    modes = {one.name: stat.S_IMODE(one.lstat().st_mode) for one in served.iterdir() if not one.is_symlink()}
    assert modes == {"app": 0o750, "assets": 0o750, "static": 0o750, ".berth": 0o751}
    # Below a folder that is a link out of the release: somebody else's modes stay as they are.
    (tmp_path / "other/data").mkdir(parents=True)
    (tmp_path / "other/data").chmod(0o700)
    link(served / "out", str(tmp_path / "other"))
    untrusted.remove(served / ".berth/static")
    with pytest.raises(ReleaseError, match=r"^static: out/data leads out of the source"):
        folders.serve(
            {"static": [{"url": "/o", "path": "out/data"}]}, served, served, tmp_path / "other-public"
        )
    assert stat.S_IMODE((tmp_path / "other/data").stat().st_mode) == 0o700


# Environments ------------------------------------------------------------------------------------


def test_an_environment_is_complete_by_what_lies_elsewhere(tmp_path: Path) -> None:
    """Inside, whatever is installed could say so; and what nobody uses goes with its mark."""
    paths = Paths("board", tmp_path)
    for name in ("0a", "1b"):
        (paths.envs / name / "lib").mkdir(parents=True)
        paths.marks.mkdir(parents=True, exist_ok=True)
        paths.env_mark(name).touch()
    (paths.envs / "lists").mkdir()
    (paths.release("r") / ".venv").parent.mkdir(parents=True)
    (paths.release("r") / ".venv").symlink_to(paths.envs / "1b")
    assert prune.remove_unused_envs(paths) == ["0a", "lists"]
    assert [path.name for path in paths.envs.iterdir()] == ["1b"]
    assert [path.name for path in paths.marks.iterdir()] == ["1b"]
    assert not paths.env_mark("1b").is_relative_to(paths.envs)


def test_the_same_places_on_both_sides() -> None:
    assert untrusted.OURS == (".berth", ".venv", "release.json")
    assert places.PROJECT.startswith(".berth/")
    assert set(untrusted.OURS) == diff._NOT_OF_A_RELEASE
