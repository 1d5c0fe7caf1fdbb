"""Migrations: told with their SQL before they run, kept in the record, tried again when a lock is held."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support.brokenapp import FIXTURE, ONLINE_ONLY
from tests.support.kit import ROOT, WELL, Kit, environment

GIT = "/srv/repository.git"
KEY = "kV9zQm3'TrustNoOne7xWb2LpYc5Hd8Rf"
# Files, and units that a look might leave behind; releases that were replaced retire whenever they like, and
# backups are made by the clock.
SNAPSHOT = (
    "find /srv /etc /var/lib/berth /var/tmp /usr/local -xdev \\( -type f -o -type l -o -type d \\) "
    "-not -path '/var/tmp/systemd-private-*' -not -path '/var/lib/berth/backup*' "
    "-printf '%p %m %u:%g %s %l\\n' | sort; "
    "systemctl list-units --all --no-legend --plain 'berth-*' "
    "| awk '!/^berth-(retire|backup)/ {print $1, $3}'"
)


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host of its own, with one app from a folder."""
    base = tmp_path_factory.mktemp("migrations")
    source = base / "shop"
    shutil.copytree(FIXTURE, source, ignore=shutil.ignore_patterns("__pycache__"))
    app = {
        "name": "shop",
        "domains": ["shop.localhost"],
        "source": {"path": str(source)},
        "processes": [{"name": "web", "workers": 1}],
        "database": {"scheme": "postgresql+psycopg"},
        "health": {"path": "/healthz", "timeout": WELL},
        "secrets": [{"name": "API_KEY"}],
        "env": {"GREETING": "hello"},
    }
    vault = {"shop": {"API_KEY": KEY}}
    kit = Kit(base / "inventory", boot("migrations", provisioned=True), apps=[app], vault=vault)
    kit.play("site.yml")
    return kit


def folder(kit: Kit) -> Path:
    """The source of the shop."""
    return kit.folder.parent / "shop"


def revision(source: Path, name: str, down: str, *body: str, head: str = "") -> None:
    """One more file of Alembic's."""
    lines = "".join(f"    {line}\n" for line in body or ("pass",))
    (source / "migrations" / "versions" / f"{name}_test.py").write_text(
        f'"""Title of {name}."""\n\nimport os\n\nfrom alembic import op\n\nrevision = "{name}"\n'
        f"down_revision = {down!r}\n{head}\n\ndef upgrade():\n{lines}\n\ndef downgrade():\n    pass\n"
    )


def berth(kit: Kit, verb: str, *arguments: str) -> str:
    """Run a verb of the command line; its standard output."""
    kit.write()
    done = subprocess.run(
        [sys.executable, "-m", "berth", verb, "-i", str(kit.folder), *arguments],
        cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def untouched(kit: Kit) -> Iterator[None]:
    before = kit.host.sh(SNAPSHOT).splitlines()
    yield
    assert set(kit.host.sh(SNAPSHOT).splitlines()) ^ set(before) == set()


def brought(kit: Kit) -> dict[str, Any]:
    """What a deploy would bring, as JSON; nothing of the host is changed by asking."""
    with untouched(kit):
        said = berth(kit, "diff", "shop", "--json")
    for secret in (KEY, KEY.replace("'", "''"), password(kit, "shop"), password(kit, "shop_owner")):
        assert secret not in said
    answer: dict[str, Any] = json.loads(said)[0]
    return answer


def password(kit: Kit, role: str) -> str:
    return kit.host.sh(f"cat /etc/berth/postgresql/{role}")


def record(kit: Kit) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        kit.host.sh(f"cat /srv/shop/releases/{kit.release('shop')}/release.json")
    )
    return found


def schema(kit: Kit) -> str:
    return query(kit, "SELECT version_num FROM alembic_version")


def query(kit: Kit, text: str) -> str:
    return kit.host.sh("runuser -u postgres -- psql -At shop -f -", stdin=text)


def test_the_first_release_keeps_its_sql(kit: Kit) -> None:
    assert "CREATE TABLE things" in record(kit)["migrations"]["sql"]


def test_diff_shows_the_sql_of_a_folder_and_changes_nothing(kit: Kit) -> None:
    revision(
        folder(kit), "0002", "0001",
        'op.execute("ALTER TABLE things ADD price int DEFAULT 7")',
        "key = os.environ['API_KEY'].replace(\"'\", \"''\")",
        "op.execute(\"INSERT INTO things (name) VALUES ('\" + key + \"')\")",
        "op.execute(\"COMMENT ON TABLE things IS '\" + os.environ['DATABASE_URL'] + \"'\")",
    )  # fmt: skip
    answer = brought(kit)
    assert [one["id"] for one in answer["migrations"]] == ["0002"]
    assert "ALTER TABLE things ADD price int DEFAULT 7;" in answer["sql"]
    assert "VALUES ('(hidden)')" in answer["sql"]
    assert "UPDATE alembic_version SET version_num='0002'" in answer["sql"]
    assert (answer["notes"], answer["lint"]) == ([], [])
    text = berth(kit, "diff", "shop")
    assert re.search(r"0002_test\.py: Title of 0002", text)
    assert "ALTER TABLE things ADD price int DEFAULT 7;" in text
    assert "TrustNoOne" not in text


def test_check_mode_names_what_would_run_and_runs_nothing(kit: Kit) -> None:
    with untouched(kit):
        run = kit.play("playbooks/deploy.yml", "--check", "--diff", "-e", "app=shop")
    assert "Migrations would run: 0002_test." in " ".join(run.output.split())
    assert schema(kit) == "0001"


def test_the_record_keeps_the_sql_and_no_list_shows_it(kit: Kit) -> None:
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    kept = record(kit)["migrations"]
    assert "ALTER TABLE things ADD price int DEFAULT 7;" in kept["sql"]
    assert "CREATE TABLE things" not in kept["sql"]
    assert "(hidden)" in kept["sql"]
    assert "note" not in kept
    whole = kit.host.sh(f"cat /srv/shop/releases/{kit.release('shop')}/release.json")
    for secret in (KEY, json.dumps(KEY)[1:-1].replace("'", "''"), password(kit, "shop_owner")):
        assert secret not in whole
    # It ran, with the real value.
    assert query(kit, "SELECT count(*) FROM things WHERE name LIKE '%TrustNoOne%'") == "1"
    for verb in ("releases", "status"):
        assert "ALTER TABLE" not in berth(kit, verb, "--json")


# Holds the table until a second session has come to wait for it.
HOLD = """
BEGIN;
LOCK TABLE things IN ACCESS EXCLUSIVE MODE;
DO $$
DECLARE
  seen int[] := '{}';
  one int;
BEGIN
  FOR turn IN 1..3000 LOOP
    FOR one IN SELECT pid FROM pg_locks WHERE relation = 'things'::regclass AND NOT granted LOOP
      IF one <> ALL (seen) THEN
        seen := seen || one;
      END IF;
    END LOOP;
    EXIT WHEN cardinality(seen) > 1;
    PERFORM pg_sleep(0.1);
  END LOOP;
END $$;
COMMIT;
"""


@contextlib.contextmanager
def held(kit: Kit) -> Iterator[subprocess.Popen[str]]:
    """Another session that holds the table; it ends well where a migration was tried twice."""
    psql = ["runuser", "-u", "postgres", "--", "env", "PGAPPNAME=report", "psql", "-q", "shop", "-f", "-"]
    process = subprocess.Popen(
        ["docker", "exec", "-i", kit.host.container, *psql], stdin=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(HOLD)
    process.stdin.close()
    locked = (
        "SELECT count(*) FROM pg_locks "
        "WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'things'::regclass"
    )
    while query(kit, locked) == "0":
        time.sleep(0.1)
    try:
        yield process
    finally:
        query(kit, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'report'")
        process.wait(timeout=60)


def test_a_migration_that_waited_for_a_lock_is_tried_again(kit: Kit) -> None:
    revision(folder(kit), "0003", "0002", 'op.execute("ALTER TABLE things ADD weight int")')
    kit.app("shop")["migrations"] = {"lock_timeout": 3}
    with held(kit) as holder:
        run = kit.play("playbooks/deploy.yml", "-v", "-e", "app=shop")
    assert holder.returncode == 0
    assert "It waited for a lock, and was tried 2 times." in " ".join(run.output.split())
    assert schema(kit) == "0003"


def test_what_leaves_its_transaction_is_not_tried_again(kit: Kit) -> None:
    live = kit.release("shop")
    revision(
        folder(kit), "0004", "0003",
        "with op.get_context().autocommit_block():",
        '    op.execute("CREATE INDEX CONCURRENTLY by_name ON things (name)")',
        '    op.execute("ALTER TABLE things ADD size int")',
    )  # fmt: skip
    kit.app("shop")["migrations"] = {"lock_timeout": 4}
    with held(kit) as holder:
        run = kit.play("playbooks/deploy.yml", "-e", "app=shop", succeed=False)
    assert holder.returncode != 0
    said = " ".join(run.output.split())
    assert re.search(
        r"waited longer than 4 s, tried once, for a lock on things: pid \d+.*application report.*"
        r"runs: DO '…'",
        said,
    ), said
    assert "Nothing of it stays in the database." in said
    assert kit.release("shop") == live
    (folder(kit) / "migrations/versions/0004_test.py").unlink()
    kit.app("shop")["migrations"] = {}
    query(kit, "DROP INDEX IF EXISTS by_name")


def test_new_dependencies_are_said_instead_of_sql(kit: Kit) -> None:
    source = folder(kit)
    before = (source / "requirements.txt").read_text()
    (source / "requirements.txt").write_text(before + "idna>=3\n")
    revision(source, "0004", "0003", 'op.drop_column("things", "weight")')
    answer = brought(kit)
    assert [(one["id"], one["risks"]) for one in answer["migrations"]] == [
        ("0004", ["drops column things.weight"])
    ]
    assert answer["sql"] == ""
    assert "which a deploy builds, and so does berth rehearse" in " ".join(answer["notes"])
    (source / "requirements.txt").write_text(before)


def test_an_env_that_cannot_work_offline_is_noted_and_deployed(kit: Kit) -> None:
    source = folder(kit)
    (source / "migrations" / "env.py").write_text(ONLINE_ONLY)
    answer = brought(kit)
    assert answer["sql"] == ""
    assert "cannot be made without a database: " in " ".join(answer["notes"])
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    kept = record(kit)["migrations"]
    assert "sql" not in kept
    assert "cannot be made without a database" in kept["note"]
    assert "berth rehearse shop (rehearse.yml -e app=shop) gets it" in kept["note"]
    assert schema(kit) == "0004"
    shutil.copyfile(FIXTURE / "migrations" / "env.py", source / "migrations" / "env.py")


def rollback(kit: Kit, succeed: bool = True) -> str:
    return " ".join(kit.play("playbooks/rollback.yml", "-e", "app=shop", succeed=succeed).output.split())


def test_a_release_from_before_alembic_is_judged_by_what_came_since(kit: Kit) -> None:
    source = folder(kit)
    (source / "alembic.ini").rename(source / "alembic.off")
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    without = kit.release("shop")
    assert record(kit)["schema"]["to"] == "0004"
    (source / "alembic.off").rename(source / "alembic.ini")
    revision(source, "0005", "0004", 'op.execute("ALTER TABLE things ADD note text")')
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    said = rollback(kit)
    assert kit.release("shop") == without
    assert f"stays at schema 0005; {without} ran on 0004. What came since (0005_test) only adds" in said
    revision(source, "0006", "0005", 'op.execute("ALTER TABLE things DROP COLUMN note")')
    warning = "0006_test: ALTER TABLE things DROP COLUMN note: the live release fails where it still uses"
    assert warning in brought(kit)["lint"][0]["sentence"]
    run = kit.play("playbooks/deploy.yml", "-e", "app=shop")
    assert warning in " ".join(run.output.split())
    assert record(kit)["migrations"]["lint"][0]["rule"] == "ban-drop-column"
    live = kit.release("shop")
    said = " ".join(
        kit.play(
            "playbooks/rollback.yml", "-e", "app=shop", "-e", f"to={without}", succeed=False
        ).output.split()
    )
    assert "got 0006_test (drops a column), which its code does not expect" in said
    assert kit.release("shop") == live


def test_a_database_without_alembic_version_is_not_taken_for_the_old_schema(kit: Kit) -> None:
    live = kit.release("shop")
    query(kit, "ALTER TABLE alembic_version RENAME TO elsewhere")
    said = rollback(kit, succeed=False)
    query(kit, "ALTER TABLE elsewhere RENAME TO alembic_version")
    assert "The database tells no schema version" in said
    assert "force=true" in said
    assert kit.release("shop") == live


def test_branches_with_labels(kit: Kit) -> None:
    source = folder(kit)
    revision(source, "0007", "0006", head="branch_labels = ('things',)\n")
    revision(
        source, "b1", "", 'op.execute("CREATE TABLE stats (n int)")', head="branch_labels = ('stats',)\n"
    )
    path = source / "migrations/versions/b1_test.py"
    path.write_text(path.read_text().replace("down_revision = ''", "down_revision = None"))
    assert "CREATE TABLE stats" in brought(kit)["sql"]
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    first = kit.release("shop")
    assert record(kit)["schema"]["to"] == "0007,b1"
    assert "CREATE TABLE stats" in record(kit)["migrations"]["sql"]
    # The label is inherited by what stands on it.
    revision(source, "b2", "b1", 'op.execute("ALTER TABLE stats ADD m int")')
    answer = brought(kit)
    assert [one["id"] for one in answer["migrations"]] == ["b2"]
    assert "several heads" in " ".join(answer["notes"])
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    assert record(kit)["schema"]["to"] == "0007,b2"
    assert "stays at schema 0007,b2;" in (said := rollback(kit))
    assert "What came since (b2_test) only adds" in said
    assert kit.release("shop") == first
    revision(source, "m", "", head="")
    path = source / "migrations/versions/m_test.py"
    path.write_text(path.read_text().replace("down_revision = ''", "down_revision = ('0007', 'b2')"))
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    assert record(kit)["schema"] | {"revisions": 0} == {"from": "0007,b2", "to": "m", "revisions": 0}


def test_another_subdir_is_deployed(kit: Kit) -> None:
    shutil.copytree(folder(kit), folder(kit) / "backend")
    kit.app("shop")["source"]["subdir"] = "backend"
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    live = kit.release("shop")
    where = kit.host.sh(f"systemctl show -P WorkingDirectory shop-web@{live}.service")
    assert kit.host.sh(f"readlink -f {where}") == f"/srv/shop/releases/{live}/backend"
    kit.app("shop")["source"].pop("subdir")
    shutil.rmtree(folder(kit) / "backend")


def publish(kit: Kit) -> None:
    """The source as one more commit of a repository on the host itself."""
    script = (
        f"mkdir -p /srv/work && cd /srv/work && ([ -d .git ] || git init -q -b main .) && "
        f"([ -d {GIT} ] || git init -q --bare -b main {GIT}) && "
        "find . -mindepth 1 -maxdepth 1 -not -name .git -exec rm -r {} + && tar -x && git add -A && "
        f"git -c user.name=Ann -c user.email=a@b commit -qm Change && git push -q {GIT} main"
    )
    with subprocess.Popen(["tar", "-C", str(folder(kit)), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["docker", "exec", "-i", kit.host.container, "sh", "-ec", script],
            stdin=tar.stdout,
            check=True,
            timeout=60,
        )


def test_diff_shows_the_sql_of_a_repository_and_changes_nothing(kit: Kit) -> None:
    kit.host.sh("apt-get install -y -qq --no-install-recommends git >/dev/null 2>&1")
    publish(kit)
    kit.app("shop")["source"] = {"git": f"file://{GIT}", "version": "main"}
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    revision(
        folder(kit), "n", schema(kit),
        'op.execute("ALTER TABLE things ADD o int")',
        "op.execute(\"COMMENT ON TABLE things IS '\" + os.environ['DATABASE_URL'] + \"'\")",
    )  # fmt: skip
    publish(kit)
    answer = brought(kit)
    assert len(answer["commits"]) == 1
    assert [one["id"] for one in answer["migrations"]] == ["n"]
    assert "ALTER TABLE things ADD o int;" in answer["sql"]
    assert "(hidden)" in answer["sql"]
    assert answer["notes"] == []
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    assert "ALTER TABLE things ADD o int;" in record(kit)["migrations"]["sql"]
    assert brought(kit)["migrations"] == []


def test_no_deploy_goes_back_unasked(kit: Kit) -> None:
    app, before = kit.app("shop"), kit.release("shop")
    kit.host.sh(f"git --git-dir {GIT} tag 0.9.0 main")
    (folder(kit) / "more.txt").write_text("more")
    publish(kit)
    kit.host.sh(f"git --git-dir {GIT} tag 0.10.0 main")
    app["source"]["version"] = "0.9.0"
    kit.play("playbooks/deploy.yml", "-e", "app=shop", "-e", "version=0.10.0")
    live = kit.release("shop")
    old = kit.host.sh(f"git --git-dir {GIT} rev-parse 0.9.0")
    for playbook, *more in (("site.yml",), ("playbooks/deploy.yml", "--check")):
        run = kit.play(playbook, *more, succeed=False)
        said = " ".join(run.output.split())
        assert f"{old[:7]} (0.9.0) is older than what is live" in said, run.output
        assert "deployed with --version 0.10.0 by" in said
        assert "berth rollback shop" in said
        assert "-e force=true (--force)" in said
        assert kit.release("shop") == live
    # Back by a rollback, and from there forth again: no word is asked for.
    kit.play("playbooks/rollback.yml", "-e", "app=shop")
    assert kit.release("shop") == before
    kit.play("playbooks/deploy.yml", "-e", "app=shop", "-e", "version=0.10.0")
    assert kit.release("shop") not in (before, live)
    kit.play("playbooks/deploy.yml", "-e", "app=shop", "-e", "force=true")
    assert record(kit)["version"] == old
    app["source"]["version"] = "main"


def test_detect_clones_a_repository_here(kit: Kit, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(folder(kit), repository / "backend")

    def git(*words: str) -> str:
        who = ["-c", "user.name=Ann", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(repository), *who, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "First")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    shutil.rmtree(repository / "backend" / "migrations")
    git("commit", "-qam", "Without migrations")
    app = {**kit.app("shop"), "source": {"git": f"file://{repository}", "subdir": "backend"}}
    # Nobody listens there: detect asks no server.
    nowhere = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_user": "root"}
    away = Kit(tmp_path / "kit", kit.host, apps=[app], vault=kit.vault, connection=nowhere)
    for version, found in (
        ("main", "none"),
        ("v1", "alembic upgrade head"),
        (commit, "alembic upgrade head"),
    ):
        away.app("shop")["source"]["version"] = version
        said = berth(away, "detect", "shop")
        assert re.search(r"app +shop\.main:app", said), said
        assert re.search(rf"migrations +{found}", said), said
        assert re.search(r"project +backend", said), said
    away.app("shop")["source"]["version"] = "no-such-tag"
    run = away.play("playbooks/detect.yml", succeed=False)
    assert re.search(r"refused +The repository cannot be read from this machine: .*no-such-tag", run.output)
    assert "No deploy of shop would come through" in run.output
    assert "Traceback" not in run.output


# asyncpg reads no PGOPTIONS.
ASYNC = """
import asyncio
import os

from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def main():
    url = os.environ["DATABASE_URL"].replace("+psycopg", "+asyncpg")
    async with create_async_engine(url).connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()


asyncio.run(main())
"""


def test_a_driver_without_a_lock_timeout_is_held_to_it(kit: Kit) -> None:
    source = folder(kit)
    kit.app("shop")["source"] = {"path": str(source)}
    (source / "migrations" / "env.py").write_text(ASYNC)
    with (source / "requirements.txt").open("a") as file:
        file.write("asyncpg\nsqlalchemy[asyncio]\n")
    revision(source, "o", schema(kit), 'op.execute("ALTER TABLE things ADD depth int")')
    kit.app("shop")["migrations"] = {"lock_timeout": 2, "timeout": 120}
    with held(kit) as holder:
        run = kit.play("playbooks/deploy.yml", "-v", "-e", "app=shop")
    assert holder.returncode == 0
    assert "It waited for a lock, and was tried" in " ".join(run.output.split())
    assert schema(kit) == "o"
