"""Migrations rehearsed on a copy of the live rows: what is told, what is not touched, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support.brokenapp import FIXTURE, ONLINE_ONLY
from tests.support.kit import WELL, Kit, kill
from tests.support.pace import patience

DRILL = "/var/lib/postgresql/berth-drill"
# What a rehearsal must leave as it is: releases, units, settings, the schema and rows of the app.
LIVE = (
    "ls -A /srv/shop/releases /srv/shop/data /srv/shop/public /etc/berth/shop/releases; "
    "ls /etc/systemd/system | grep shop; readlink /srv/shop/web.sock; "
    "systemctl list-units --all --no-legend --plain 'berth-*-shop*' | awk '!/retire/'; "
    f"ls -A {DRILL}; "
    "cd /; (runuser -u postgres -- pg_dump --restrict-key=x shop || runuser -u postgres -- pg_dump shop) "
    "2>/dev/null | md5sum"
)


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host with an app that is live, its backup, and rows that came after it."""
    base = tmp_path_factory.mktemp("rehearse")
    shutil.copytree(FIXTURE, base / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    (base / "shop/migrations/env.py").write_text(ONLINE_ONLY)
    app = {
        "name": "shop",
        "domains": ["shop.localhost"],
        "source": {"path": str(base / "shop")},
        "processes": [{"name": "web", "workers": 1}],
        "database": {"scheme": "postgresql+psycopg"},
        "health": {"path": "/healthz", "timeout": WELL},
        "secrets": [{"name": "API_KEY"}],
        "env": {"GREETING": "hello"},
    }
    vault = {"shop": {"API_KEY": "kV9zQm3TrustNoOne7xWb2LpYc5Hd8Rf"}}
    kit = Kit(base / "inventory", boot("rehearse", provisioned=True), apps=[app], vault=vault)
    kit.play("site.yml")
    query(kit, "INSERT INTO things (name) SELECT 'Ann' || n FROM generate_series(1, 200000) n")
    return kit


def query(kit: Kit, text: str) -> str:
    return kit.host.sh("runuser -u postgres -- psql -qAt shop -f -", stdin=text)


def revision(kit: Kit, name: str, down: str, *body: str) -> Path:
    """One more file of Alembic's."""
    lines = "".join(f"    {line}\n" for line in body)
    path = kit.folder.parent / "shop/migrations/versions" / f"{name}_test.py"
    path.write_text(
        f'"""Title of {name}."""\n\nfrom alembic import op\n\nrevision = "{name}"\n'
        f"down_revision = {down!r}\n\n\ndef upgrade():\n{lines}\n\ndef downgrade():\n    pass\n"
    )
    return path


@contextlib.contextmanager
def untouched(kit: Kit) -> Iterator[None]:
    before = kit.host.sh(LIVE).splitlines()
    yield
    assert set(kit.host.sh(LIVE).splitlines()) ^ set(before) == set()


def rehearsed(kit: Kit, *arguments: str, status: int = 0) -> dict[str, Any]:
    """What a rehearsal says, as JSON; nothing of the host is changed by it."""
    with untouched(kit):
        said = kit.berth("rehearse", "shop", "--json", *arguments, status=status)
    for secret in ("TrustNoOne", kit.host.sh("cat /etc/berth/postgresql/shop_owner")):
        assert secret not in said
    found: dict[str, Any] = json.JSONDecoder().raw_decode(said[said.index("{\n") :])[0]
    return found


def test_what_no_offline_mode_tells_is_told_from_a_run_on_live_rows(kit: Kit) -> None:
    revision(
        kit, "0002", "0001",
        'rows = op.get_bind().exec_driver_sql("SELECT count(*) FROM things").scalar()',
        "assert rows >= 200000, rows",
        'op.execute("CREATE INDEX by_name ON things (name)")',
        'op.execute("UPDATE things SET name = \'Bob\' WHERE name = \'Ann7\'")',
    )  # fmt: skip
    revision(kit, "0003", "0002", 'op.execute("ALTER TABLE things RENAME name TO title")')
    found = rehearsed(kit)
    assert (found["problem"], found["schema"]) == ("", {"from": "0001", "to": "0003"})
    assert [(one["revision"], one["file"]) for one in found["revisions"]] == [
        ("0002", "0002_test"),
        ("0003", "0003_test"),
    ]
    assert any(one["sql"] == "CREATE INDEX by_name ON things (name)" for one in found["statements"])
    assert [(one["kind"], one["revision"]) for one in found["lint"]] == [
        ("locks", "0002"),
        ("destructive", "0003"),
    ]
    assert [one["table"] for one in found["locks"]] == ["public.things"]
    assert "Bob" not in json.dumps(found)
    assert found["copy"]["bytes"] > 0


def test_a_migration_that_would_fail_says_for_what_and_is_status_1(kit: Kit) -> None:
    last = revision(kit, "0004", "0003", 'op.execute("CREATE UNIQUE INDEX one ON things ((1))")')
    with untouched(kit):
        said = " ".join(kit.berth("rehearse", "shop", status=1).split())
    assert "would fail: The migration failed: " in said
    assert 'could not create unique index "one"' in said
    assert "Key ((1))=(…) is duplicated" in said
    assert "Left in the copy: Nothing of it stays in the database." in said
    assert "(destructive) 0003_test: ALTER TABLE things RENAME name TO title: the live release fails" in said
    assert "Nothing live was changed" in said
    assert "rehearse again" in said
    last.unlink()


def test_a_command_of_the_apps_own_reaches_the_copy_alone_and_writes_no_file(kit: Kit) -> None:
    reach = (
        "import glob, os, socket, psycopg; "
        "url = os.environ['DATABASE_URL'].replace('+psycopg', ''); "
        "c = psycopg.connect(url, autocommit=True); c.execute('DROP TABLE things'); "
        "assert not glob.glob('/run/postgresql/.s*'); "
        "assert socket.socket().connect_ex(('192.0.2.1', 443)) != 0; "
        "open(os.path.expanduser('~/kept'), 'w').write('x'); "
        "print(open('/srv/shop/data/new', 'w'))"
    )
    kit.app("shop")["migrations"] = {"command": f'python -c "{reach}"', "destructive": "refuse"}
    found = rehearsed(kit, status=1)
    # The last of it, and all before went well.
    assert "Read-only file system" in found["problem"]
    assert any(one["sql"] == "DROP TABLE things" for one in found["statements"])
    assert [one["rule"] for one in found["lint"]] == ["ban-drop-table"]
    assert found["refused"]
    assert query(kit, "SELECT count(*) > 0 FROM things") == "t"
    kit.app("shop")["migrations"] = {}


@pytest.mark.parametrize("end", ["run", pytest.param("engine", marks=pytest.mark.long)])
def test_a_rehearsal_that_is_killed_leaves_nothing_and_a_deploy_goes_on(kit: Kit, end: str) -> None:
    slow = revision(kit, "0004", "0003", 'op.execute("SELECT pg_sleep(600)")')
    with untouched(kit):
        run = kit.start("playbooks/rehearse.yml", "-e", "app=shop")
        kit.host.sh(
            "timeout 180 sh -c 'until systemctl is-active -q berth-migrate-shop; do sleep 0.2; done'; sleep 1"
        )
        if end == "run":
            kill(run)
        else:
            kit.host.sh("pkill -9 -f '[m]emfd_create'")
            run.communicate(timeout=patience(120))
        kit.host.sh(
            f"timeout 60 sh -c 'until [ -z \"$(ls -A {DRILL})\" ]; do sleep 0.2; done'; "
            "timeout 60 sh -c 'while systemctl is-active -q berth-migrate-shop; do sleep 0.2; done'"
        )
        slow.unlink()
        # What it built goes with it where the engine comes so far, else with the next run, whatever that is.
        assert "Nothing live was changed: the copy is gone" in kit.berth("rehearse", "shop")


def test_without_backups_there_is_nothing_to_rehearse_on(kit: Kit) -> None:
    kit.host.sh("mv /etc/berth/backup/settings.json /root/")
    try:
        with untouched(kit):
            said = " ".join(kit.berth("rehearse", "shop", status=2).split())
        assert "There are no backups on this server, so there is no copy to rehearse on" in said
    finally:
        kit.host.sh("mv /root/settings.json /etc/berth/backup/")
    with untouched(kit):
        assert "Would rehearse the migrations of shop" in kit.berth("rehearse", "shop", "--", "--check")
