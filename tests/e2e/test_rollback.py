"""Going back: code, settings, units and static files together; what the schema allows; the list of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from testhost import Host

from tests.support.kit import Kit, board_copy
from tests.support.pace import patience


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host of its own, with the board on it from a copy of its source."""
    folder = tmp_path_factory.mktemp("rollback")
    app = board_copy(folder)
    app["secrets"].append({"name": "API_KEY"})
    app["processes"].append({"name": "clock", "command": "sleep infinity"})
    vault = {"board": {"API_KEY": "kV9zQm3TrustNoOne7xWb2LpYc5Hd8Rf"}}
    host = boot("rollback", provisioned=True, publish={"443": 0})
    kit = Kit(folder / "inventory", host, apps=[app], vault=vault)
    kit.play("site.yml")
    return kit


def board(kit: Kit) -> Path:
    return Path(kit.app("board")["source"]["path"])


def migration(kit: Kit, body: str) -> str:
    """One more revision on top of the others."""
    versions = board(kit) / "migrations" / "versions"
    last = max(re.findall(r'(?m)^revision = "(\w+)"', path.read_text())[0] for path in versions.glob("*.py"))
    number = f"{int(last) + 1:04d}"
    (versions / f"{number}_test.py").write_text(
        f'revision = "{number}"\ndown_revision = "{last}"\n'
        "import sqlalchemy as sa\nfrom alembic import op\n\n\n"
        f"def upgrade() -> None:\n    {body}\n\n\ndef downgrade() -> None:\n    pass\n"
    )
    return number


def deploy(kit: Kit) -> str:
    """The board's new live release."""
    kit.play("playbooks/deploy.yml", "-e", "app=board")
    return kit.release("board")


def setting(kit: Kit, name: str) -> str:
    """A variable as the web process of the live release has it."""
    live = kit.release("board")
    pid = kit.host.sh(f"systemctl show -P MainPID board-web@{live}.service")
    return kit.host.sh(f"tr '\\0' '\\n' < /proc/{pid}/environ | sed -n 's/^{name}=//p'")


def was_restarted(kit: Kit, release: str) -> None:
    """What may happen to a release in weeks: its server is killed once, later one of the server's workers."""
    kit.host.sh(
        f"web=board-web@{release}; main() {{ systemctl show -P MainPID $web; }};"
        f"kill -9 $(main) $(systemctl show -P MainPID board-worker@{release});"
        "until [ $(systemctl show -P NRestarts $web) = 1 ]; do sleep 0.1; done;"
        "until pgrep -P $(main) >/dev/null; do sleep 0.1; done; kill -9 $(pgrep -P $(main) | head -1);"
        "until journalctl -q _SYSTEMD_UNIT=$web.service | grep -q 'out of memory'; do sleep 0.1; done",
        timeout=patience(120),
    )


def test_everything_goes_back_together(kit: Kit) -> None:
    first = kit.release("board")
    app, source = kit.app("board"), board(kit)
    was_restarted(kit, first)
    style = "https://board.localhost/static/added.txt"

    # What a deploy brings, site.yml not being run: settings, a secret, processes, limits and a static file.
    app["env"]["BOARD_TITLE"] = "Second"
    kit.vault["board"]["API_KEY"] = "a-new-value-0123456789-abcdefghij"
    app["processes"] = [one for one in app["processes"] if one["name"] != "clock"]
    app["processes"].append({"name": "ticker", "command": "sleep infinity"})
    app["limits"] = {"tasks": 333}
    (source / "static" / "added.txt").write_text("second\n")
    second = deploy(kit)
    assert second != first
    assert setting(kit, "BOARD_TITLE") == "Second"
    assert setting(kit, "API_KEY") == "a-new-value-0123456789-abcdefghij"
    assert kit.host.sh(f"systemctl show -P TasksMax board-web@{second}") == "333"
    assert kit.host.sh(f"systemctl is-active board-ticker@{second}") == "active"
    assert kit.host.sh("systemctl list-units --plain --no-legend --state=active 'board-clock@*'") == ""
    assert kit.curl(style) == "second"

    run = kit.play("playbooks/rollback.yml", "-e", "app=board")
    assert kit.release("board") == first
    assert setting(kit, "BOARD_TITLE") == "Board"
    assert setting(kit, "API_KEY") == "kV9zQm3TrustNoOne7xWb2LpYc5Hd8Rf"
    assert kit.host.sh(f"systemctl show -P TasksMax board-web@{first}") == "512"
    assert kit.host.sh(f"systemctl is-active board-clock@{first}") == "active"
    assert kit.host.sh("systemctl list-units --plain --no-legend --state=active 'board-ticker@*'") == ""
    # Pages that a browser has open still get the files of their own time.
    assert kit.curl(style) == "second"
    assert "the schema" in run.output

    line = json.loads(kit.host.sh("tail -1 /var/log/berth/audit.jsonl"))
    assert (line["what"], line["from"], line["to"], line["result"]) == ("rollback", second, first, "ok")
    assert line["switch_ms"] < 50
    print(f"rollback: {run.seconds:.1f} s, on the server {line['seconds']} s, switch {line['switch_ms']} ms")
    # And forth again: the newest code and the settings of the inventory.
    assert deploy(kit) not in (first, second)
    assert setting(kit, "BOARD_TITLE") == "Second"


@pytest.mark.long
def test_the_clock_of_a_job_does_not_mind_releases(kit: Kit) -> None:
    app, data = kit.app("board"), "/srv/board/data"
    slow = f"while ! test -e {data}/go; do sleep 0.2; done"
    app["jobs"] = [
        {"name": "nightly", "command": f"echo $BERTH_RELEASE >> {data}/nights", "schedule": "*-*-* 03:00:00"},
        {"name": "tick", "command": f"date +%s >> {data}/ticks", "schedule": "*:*:0/10"},
        {"name": "slow", "command": slow, "schedule": "yearly"},
    ]
    stamps = "/var/lib/systemd/timers/stamp-board-nightly@"
    first = deploy(kit)
    kit.host.sh(f"systemctl start --no-block board-slow@{first}; touch -d '2 days ago' {stamps}*")
    # What came due while releases change is run, once.
    app["env"]["TURN"] = "2"
    second = deploy(kit)
    kit.host.sh(f"timeout {patience(60):.0f} sh -c 'until test -e {data}/nights; do sleep 0.2; done'")
    # A run that is at work goes on, and keeps the other release's out.
    assert kit.host.sh(f"systemctl is-active board-slow@{first} || true") == "activating"
    kit.host.sh(f"systemctl start board-slow@{second}")
    assert "left out" in kit.host.sh(f"journalctl -q -o cat _SYSTEMD_UNIT=board-slow@{second}.service")
    # What ran under the one release is not run again by the other, whatever its own stamp says.
    kit.host.sh(f"touch -d '2 days ago' {stamps}{first}.timer")
    kit.play("playbooks/rollback.yml", "-e", "app=board")
    assert kit.release("board") == first
    over = f"until ! systemctl is-active -q board-slow@{first}; do :; done"
    kit.host.sh(f"touch {data}/go; timeout {patience(30):.0f} sh -c '{over}'")
    assert kit.host.sh(f"systemctl show -P Result board-slow@{first}") == "success"
    assert kit.host.sh(f"cat {data}/nights") == second
    slots = [int(line) // 10 for line in kit.host.sh(f"cat {data}/ticks").split()]
    assert slots == list(range(slots[0], slots[-1] + 1))
    deploy(kit)


def test_an_addition_to_the_schema_is_no_hindrance(kit: Kit) -> None:
    before = kit.release("board")
    number = migration(kit, 'op.add_column("posts", sa.Column("extra", sa.Text))')
    deploy(kit)
    run = kit.play("playbooks/rollback.yml", "-e", "app=board")
    assert kit.release("board") == before
    assert re.search(rf"stays at schema {number}.*{number}_test.*only\s+adds", run.output, re.S), run.output
    deploy(kit)


def test_what_the_schema_lost_is_refused_unless_forced(kit: Kit) -> None:
    before = kit.release("board")
    number = migration(kit, 'op.drop_column("posts", "extra")')
    asked = kit.play("playbooks/diff.yml", "-e", "app=board").output
    assert re.search(rf"{number}_test\.py\s+! drops column posts\.extra", asked), asked
    live = deploy(kit)
    record = json.loads(kit.host.sh(f"cat /srv/board/releases/{live}/release.json"))
    (kept,) = record["schema"]["revisions"]
    assert (kept["id"], kept["risks"]) == (number, ["drops column posts.extra"])
    refused = kit.play("playbooks/rollback.yml", "-e", "app=board", succeed=False)
    assert kit.release("board") == live
    assert f"{number}_test (drops column posts.extra), which its code does not expect" in refused.output
    assert "force=true" in refused.output
    listed = kit.play("playbooks/releases.yml", "-e", "app=board")
    assert "only with force" in listed.output
    listing = kit.play("playbooks/rollback.yml", "-e", "app=board", "-e", "list=true", succeed=False)
    assert "list: playbooks/releases.yml shows what there is to go back to" in listing.output
    assert kit.release("board") == live
    kit.play("playbooks/rollback.yml", "-e", "app=board", "-e", "force=true")
    assert kit.release("board") == before
    deploy(kit)


def test_a_full_disk_stops_no_rollback(kit: Kit) -> None:
    """The bad release may be what fills it. Journal and audit are on a small disk of their own here."""
    before = kit.release("board")
    (board(kit) / "board" / "full.py").write_text("")
    live = deploy(kit)
    folders = "/var/lib/berth/board /var/log/berth"
    kit.host.sh(
        f"for folder in {folders}; do cp -a $folder /tmp/kept; mount -t tmpfs -o size=256k none $folder; "
        "cp -a /tmp/kept/. $folder/ 2> /dev/null || true; rm -rf /tmp/kept; "
        # Also the rest of each file's last page, where some more lines would fit.
        "for file in $folder/*.jsonl; do head -c $((-$(stat -c %s $file) & 4095)) /dev/zero | tr '\\0' '\\n' "
        ">> $file; done; cat /dev/zero > $folder/full 2> /dev/null || true; done"
    )
    try:
        run = kit.play("playbooks/rollback.yml", "-e", "app=board")
        retiring = kit.host.sh(f"systemctl is-active 'berth-retire-board-{live}.service'", check=False)
    finally:
        kit.host.sh(f"umount {folders}")
    assert kit.release("board") == before != live
    assert retiring == "active", "what a rollback replaced ends, whatever is full"
    assert "Left to the next run" in run.output
    assert "No space left on device" in run.output
    deploy(kit)


@pytest.mark.long
def test_a_database_that_says_nothing_stops_no_rollback(kit: Kit) -> None:
    """It takes connections and never answers; the schema is where the live release noted that it left it."""
    app = kit.app("board")
    ready = app["health"]
    app["health"] = {"path": "/healthz"}  # the other one asks the database
    migration(kit, 'op.add_column("posts", sa.Column("spare", sa.Text))')
    before = deploy(kit)
    number = migration(kit, 'op.drop_column("posts", "spare")')
    live = deploy(kit)
    kit.host.sh("pkill -STOP -u postgres")
    try:
        refused = kit.play("playbooks/rollback.yml", "-e", "app=board", succeed=False, timeout=patience(200))
        assert f"{number}_test (drops column posts.spare), which its code does not expect" in refused.output
        assert kit.release("board") == live
        run = kit.play("playbooks/rollback.yml", "-e", "app=board", "-e", "force=true", timeout=patience(200))
        assert kit.release("board") == before
        assert kit.host.sh("pgrep -a psql || true") == ""
    finally:
        kit.host.sh("pkill -CONT -u postgres")
    line = json.loads(kit.host.sh("tail -1 /var/log/berth/audit.jsonl"))
    print(f"rollback beside a silent database: {run.seconds:.1f} s, on the server {line['seconds']} s")
    app["health"] = ready
    deploy(kit)


def test_the_list_of_releases(kit: Kit) -> None:
    run = kit.play("playbooks/releases.yml", "-e", "json=true", env={"ANSIBLE_STDOUT_CALLBACK": "json"})
    plays = json.loads(run.output)["plays"]
    (app,) = next(
        json.loads(task["hosts"][kit.host.name]["msg"])
        for task in plays[0]["tasks"]
        if "Show" in task["task"]["name"]
    )
    live = next(one for one in app["releases"] if one["live"])
    assert live["release"] == app["live"] == kit.release("board")
    assert live["health"] == "well"
    assert live["schema"] == app["schema"]
    others = [one for one in app["releases"] if not one["live"]]
    assert others
    for one in others:
        assert one["health"] in ("was well", "ends its work")
        assert one["age"]
        assert isinstance(one["rollback"]["allowed"], bool)
    assert [entry["what"] for entry in app["history"]].count("rollback") >= 3
    text = kit.play("playbooks/releases.yml").output
    assert kit.release("board") in text
    assert "GO BACK TO IT" in text


def test_what_only_site_can_apply_is_refused(kit: Kit) -> None:
    app = kit.app("board")
    live = kit.release("board")
    app["domains"].append("new.localhost")
    refused = kit.play("playbooks/deploy.yml", "-e", "app=board", succeed=False)
    assert "domains, static or proxy of board changed" in refused.output
    assert "Next: berth up (site.yml) applies them" in refused.output
    assert kit.release("board") == live
    kit.play("site.yml")
    assert kit.play("playbooks/deploy.yml", "-e", "app=board").changed == 0


@pytest.mark.long
def test_the_static_map_goes_back_too(kit: Kit) -> None:
    app, source = kit.app("board"), board(kit)
    address, more = "https://board.localhost/static/which.txt", "https://board.localhost/more/it.txt"
    for name in ("static", "other", "more"):
        (source / name).mkdir(exist_ok=True)
        (source / name / "which.txt").write_text(f"{name}\n")
        (source / name / "it.txt").write_text(f"{name}\n")
    app["static"] = [{"url": "/static", "path": "static"}, {"url": "/more", "path": "more"}]
    kit.play("site.yml")
    assert (kit.curl(address), kit.curl(more)) == ("static", "more")
    app["static"] = [{"url": "/static", "path": "other"}]
    kit.play("site.yml")
    assert kit.curl(address) == "other"
    assert "404" in kit.curl(more, "-o", "/dev/null", "-w", "%{http_code}")

    run = kit.play("playbooks/rollback.yml", "-e", "app=board")
    assert kit.curl(address) == "static"
    assert "The proxy leaves /more to the app" in run.output
    # Where only the folder of a path changes, the proxy has nothing to do with it.
    assert deploy(kit)
    assert kit.curl(address) == "other"


@pytest.mark.long
def test_files_stay_as_long_as_their_release(kit: Kit) -> None:
    source = board(kit) / "other"  # served as /static since the test before
    asset, address = source / "x-0ld4ss3t.js", "https://board.localhost/static/x-0ld4ss3t.js"
    asset.write_text("old\n")
    deploy(kit)
    configured = kit.host.sh("cat /run/caddy/applied")
    asset.unlink()
    deploy(kit)
    head = kit.curl(address, "-i")
    assert head.startswith("HTTP/2 200")
    assert "cache-control: public, max-age=86400" in head
    assert head.endswith("old")
    # A link is refused, wherever it leads; what is live goes on.
    (source / "keys").symlink_to("/var/lib/caddy")
    refused = kit.play("playbooks/deploy.yml", "-e", "app=board", succeed=False)
    assert "keys in static: other is a link" in refused.output or "other/keys" in refused.output
    (source / "keys").unlink()
    kit.app("board")["keep_releases"] = 2
    others = "systemctl list-units --plain --no-legend --state=active 'board-web@*' | cut -d' ' -f1"
    kit.host.sh(f"{others} | grep -v {kit.release('board')} | xargs -r systemctl stop")
    for _ in range(2):
        kit.play("playbooks/deploy.yml", "-e", "app=board", "-e", "force=true")
    assert kit.curl(address, "-o", "/dev/null", "-w", "%{http_code}") == "404"
    assert kit.host.sh("ls /srv/board/public") == kit.host.sh("ls /srv/board/releases")
    assert kit.host.sh("cat /run/caddy/applied") == configured
    del kit.app("board")["keep_releases"]


def test_pruned_units_are_gone(kit: Kit) -> None:
    there = set(kit.host.sh("ls /srv/board/releases").split())
    shown = kit.host.sh("systemctl list-units --all --plain --no-legend 'board-*@*'")
    assert set(re.findall(r"\d{8}T\d{6}Z-\w+", shown)) <= there
