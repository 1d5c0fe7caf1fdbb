"""Deploys, rollbacks and failures under load: no request is lost and no bad release goes live."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kit import ROOT, WELL, Kit, board_source, kill
from tests.support.load import Load
from tests.support.pace import patience

DEPLOYS = 3


@pytest.fixture
def board(site: Kit, tmp_path: Path) -> Iterator[Path]:
    """A copy of the board's source that a test may change; the app's entry points to it meanwhile."""
    before = site.app("board")["source"]
    site.app("board")["source"] = board_source(tmp_path)
    yield tmp_path / "board"
    site.app("board")["source"] = before


@pytest.fixture(scope="module")
def authority(site: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CA of the host's proxy, to be trusted by clients on this side."""
    return site.authority(tmp_path_factory.mktemp("ca"))


def deploy(site: Kit, *arguments: str, succeed: bool = True) -> str:
    """Deploy the board alone; what the run printed."""
    return site.play("playbooks/deploy.yml", "-e", "app=board", *arguments, succeed=succeed).output


def touch(board: Path, mark: object) -> None:
    """A code-only change."""
    with (board / "board" / "__init__.py").open("a") as source:
        source.write(f"\n# {mark}\n")


def rows(site: Kit, text: str) -> int:
    """How many posts have a text like this."""
    query = f"SELECT count(*) FROM posts WHERE text LIKE '{text}'"
    return int(site.host.sh(f'runuser -u postgres -- psql -At board -c "{query}"'))


def test_no_request_is_lost_over_deploys_and_rollbacks(site: Kit, board: Path, authority: Path) -> None:
    port = site.host.published["443"]
    live = {site.release("board")}
    with (
        Load("board.localhost", port, authority, clients=6) as one,
        Load("board.localhost", port, authority, clients=2, http2=True) as two,
    ):
        time.sleep(2)
        for number in range(DEPLOYS):
            touch(board, number)
            deploy(site)
            live.add(site.release("board"))
        site.play("playbooks/rollback.yml", "-e", "app=board")
        time.sleep(1)
    assert len(live) == DEPLOYS + 1
    print(f"\nHTTP/1.1: {one.tally.report()}\nHTTP/2:   {two.tally.report()}")
    assert one.tally.failures + two.tally.failures == []
    assert min(one.tally.requests, two.tally.requests) > 100
    # Every POST that was answered is a row, and none is there twice.
    assert rows(site, "load %") > 0


def test_old_releases_retire_and_are_pruned(site: Kit) -> None:
    keep = site.app("board").get("keep_releases", 5)
    deadline = time.monotonic() + patience(120)
    running: list[str] = []
    while time.monotonic() < deadline:
        running = site.host.sh(
            "systemctl list-units --no-legend --plain 'board-web@*.service' --state=active"
        ).splitlines()
        if len(running) == 1:
            break
        time.sleep(2)
    assert len(running) == 1, running
    assert site.release("board") in running[0]
    kept = site.host.sh("ls /srv/board/releases").split()
    assert len(kept) <= keep + 2, kept
    assert site.release("board") in kept
    # Ends that are meant leave no errors behind.
    assert "Bad file descriptor" not in site.host.sh("journalctl -o cat -u 'board-web@*.service'")


def test_rollback_is_the_previous_release(site: Kit, board: Path) -> None:
    touch(board, "a")
    deploy(site)
    first = site.release("board")
    touch(board, "b")
    deploy(site)
    assert site.release("board") != first
    site.play("playbooks/rollback.yml", "-e", "app=board")
    assert site.release("board") == first
    named = next(r for r in site.host.sh("ls /srv/board/releases").split() if r != first)
    site.play("playbooks/rollback.yml", "-e", "app=board", "-e", f"to={named}")
    assert site.release("board") == named
    said = site.play(
        "playbooks/rollback.yml", "-e", "app=board", "-e", "to=20200101T000000Z-0000000", succeed=False
    )
    assert "20200101T000000Z-0000000" in said.output
    assert site.release("board") == named


def test_one_app_that_fails_keeps_no_other_from_its_turn(site: Kit, board: Path) -> None:
    touch(board, "never")
    live = {name: site.release(name) for name in ("board", "notes")}
    site.app("board")["source"] = {"git": "https://127.0.0.1:9/board.git"}
    for options in ((), ("--check",)):
        said = site.play("playbooks/deploy.yml", *options, succeed=False).output
        summary = said.partition("1 of 2 apps failed:")[2]
        assert re.search(r"board +failed: .*127\.0\.0\.1:9.*\n +notes +(live|would be)", summary), said
        assert "failed=1 " in said
        assert "rescued=1 " in said
    assert site.host.sh("flock -n /var/lib/berth/board/lock echo free") == "free"
    assert {name: site.release(name) for name in live} == live
    # Nor is one app's version or force another's.
    for words in ("version=v1", "force=true"):
        refused = site.play("playbooks/deploy.yml", "-e", words, succeed=False).output
        assert "is meant for one app, and this inventory has board, notes" in refused


def test_a_run_that_fails_after_the_switch_is_finished(site: Kit, board: Path, tmp_path: Path) -> None:
    """What fails is no step of the engine, and the run goes on with the next app."""
    touch(board, "switched")
    before = site.release("board")
    shutil.copytree(ROOT / "roles/release", tmp_path / "roles/release")
    road = tmp_path / "roles/release/tasks/live.yml"
    verify = "- name: Verify the public route"
    fail = "- name: Fail\n  ansible.builtin.fail: {msg: Out of cheese.}\n  when: release_name == 'board'\n\n"
    road.write_text(road.read_text().replace(verify, fail + verify))
    roles = {"ANSIBLE_ROLES_PATH": f"{tmp_path / 'roles'}:{ROOT / 'roles'}"}
    said = site.play("playbooks/deploy.yml", env=roles, succeed=False).output
    live = site.release("board")
    assert live != before
    assert f"board  failed: Out of cheese. {live} was live by then, and is proved." in said, said
    known = json.loads(site.host.sh("cat /srv/board/current/release.json"))
    assert (known["id"], known["healthy"]) == (live, True)
    assert site.host.sh(f"systemctl is-active 'board-worker@{live}.service'") == "active"
    assert site.host.sh(f"systemctl is-active 'berth-retire-board-{before}.service'") == "active"
    assert site.play("playbooks/deploy.yml").changed == 0


BROKEN = {
    "syntax error": ("board/main.py", "def (\n", r"SyntaxError.*|main\.py"),
    "import error": ("board/main.py", "import no_such_module\n", r"no_such_module"),
    "crash at start": ("board/main.py", "raise RuntimeError('out of cheese')\n", r"out of cheese"),
}


# The others, and many more, are in test_broken_releases.py.
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "crash at start" else [pytest.mark.long]) for kind in BROKEN],
)
def test_a_broken_release_never_goes_live(
    site: Kit, board: Path, authority: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, text, cause = BROKEN[kind]
    # What is wrong comes at the end of an import.
    monkeypatch.setitem(site.app("board"), "health", {**site.app("board")["health"], "timeout": WELL})
    live = site.release("board")
    before = set(site.host.sh("ls /srv/board/releases").split())
    with (board / name).open("a") as source:
        source.write(f"\n{text}")
    with Load("board.localhost", site.host.published["443"], authority, clients=2, pause=0.05) as load:
        output = deploy(site, succeed=False)
    assert re.search(cause, output), output
    assert "Traceback (most recent call last)" not in output.split("board", 1)[0]
    assert load.tally.failures == []
    assert site.release("board") == live
    assert set(site.host.sh("ls /srv/board/releases").split()) <= before
    assert len(site.host.sh("systemctl list-units --all --failed --no-legend --plain 'board-*'")) == 0


def test_a_failing_migration_leaves_the_old_release(site: Kit, board: Path) -> None:
    live = site.release("board")
    versions = next(board.rglob("versions"))
    head = max(re.findall(r"(?m)^revision.*?= ['\"](\w+)", p.read_text())[0] for p in versions.glob("*.py"))
    (versions / "zzzz_broken.py").write_text(
        f'revision = "zzzz"\ndown_revision = "{head}"\nfrom alembic import op\n\n\n'
        'def upgrade() -> None:\n    op.execute("ALTER TABLE no_such_table ADD x int")\n\n\n'
        "def downgrade() -> None:\n    pass\n"
    )
    output = deploy(site, succeed=False)
    assert "no_such_table" in output, output
    assert site.release("board") == live
    assert site.curl("https://board.localhost/readyz", "-f")


def test_a_killed_deploy_frees_its_lock_and_the_next_one_cleans_up(site: Kit, board: Path) -> None:
    touch(board, "killed")
    live = site.release("board")
    process = site.start("playbooks/deploy.yml", "-e", "app=board")
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(r"TASK \[release : (Build|Migrate|Start)", line):
            break
    kill(process)
    assert site.curl("https://board.localhost/readyz", "-f")
    assert site.release("board") == live
    deploy(site, "-e", "wait=30")
    assert site.release("board") != live
    releases = site.host.sh("ls /srv/board/releases").split()
    states = [json.loads(site.host.sh(f"cat /srv/board/releases/{r}/release.json")) for r in releases]
    assert len(states) == len(releases)


def test_two_deploys_at_once(site: Kit, board: Path) -> None:
    touch(board, "first of two")
    first = site.start("playbooks/deploy.yml", "-e", "app=board")
    assert first.stdout is not None
    for line in first.stdout:
        if re.search(r"TASK \[release : Fetch", line):
            break
    second = site.play("playbooks/deploy.yml", "-e", "app=board", succeed=False)
    assert re.search(r"(?i)lock|another deploy", second.output), second.output
    rest = first.communicate(timeout=patience(120))[0]
    assert first.returncode == 0, rest
    assert "changed=0" in deploy(site)


def test_remove_wants_the_name_and_keeps_the_data(site: Kit) -> None:
    everything = "ls -d /srv/* /etc/berth/* /var/lib/berth/* /run/*"
    there = site.host.sh(everything)
    # What a CI sends whose variables are not set, and names that are folders but no apps.
    for name in ("", ".", "../srv"):
        words = ("-e", f"app={name}", "-e", f"confirm={name}", "-e", "purge=true")
        refused = site.play("playbooks/remove.yml", *words, succeed=False)
        assert "is no name of an app" in refused.output
    assert site.host.sh(everything) == there
    refused = site.play("playbooks/remove.yml", "-e", "app=notes", succeed=False)
    assert "confirm=notes" in refused.output
    assert site.curl("https://notes.localhost/readyz", "-f")
    before = site.json("https://notes.localhost/api/posts")
    site.play("playbooks/remove.yml", "-e", "app=notes", "-e", "confirm=notes")
    assert site.host.sh("systemctl list-units --no-legend --plain 'notes-*' --state=active") == ""
    assert (
        "notes" in site.host.sh("runuser -u postgres -- psql -Atc 'SELECT datname FROM pg_database'").split()
    )
    # Bringing it back finds what was left.
    site.play("site.yml")
    assert site.json("https://notes.localhost/api/posts") == before
    assert site.curl("https://board.localhost/readyz", "-f")
