"""psql on an app's database, and going live with what was restored: of one app, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import canary
from tests.support.kit import Kit, kill
from tests.support.load import Load

SOCKET = "-h /var/lib/postgresql/berth-restored/socket"
PROGRAM = "runuser -u postgres -- python3 -I /usr/local/lib/berth"
# Neither the release's socket nor its mark is.
NOTHING_ASIDE = '[ -z "$(ls -d /run/berth/board/*.held /srv/board/current/.berth/*.held 2>/dev/null)" ]'


def sql(kit: Kit, query: str, database: str = "board", server: str = "") -> str:
    return kit.host.sh(f'cd /; runuser -u postgres -- psql -qXAt {server} -d {database} -c "{query}"').strip()


def texts(kit: Kit, database: str = "board") -> list[str]:
    """Of those that are not of the load."""
    return sql(kit, "select text from posts where author = 'a' order by text", database).splitlines()


@pytest.fixture
def restored(site: Kit) -> Iterator[Kit]:
    """Three posts in each app's database, restored; then one of each is gone, and there is a new one."""
    for database in ("board", "notes"):
        sql(site, "delete from posts", database)
        sql(
            site,
            "insert into posts (author, text) select 'a', 'old ' || n from generate_series(1, 3) n",
            database,
        )
    site.berth("restore")
    for database in ("board", "notes"):
        sql(site, "delete from posts where text = 'old 2'", database)
        sql(site, "insert into posts (author, text) values ('a', 'new')", database)
    yield site
    site.berth("restore", "--drop-kept", "all", "--confirm", "all")
    site.berth("restore", "--drop")


OLD, NOW = ["old 1", "old 2", "old 3"], ["new", "old 1", "old 3"]


def load(kit: Kit, folder: Path, clients: int, pause: float) -> Load:
    """Clients who ask the board all along, and write."""
    port = kit.host.published["443"]
    return Load("board.localhost", port, kit.authority(folder), clients=clients, pause=pause)


def test_psql_reads_and_writes_as_the_role_that_is_asked_for(site: Kit) -> None:
    count, write = "select session_user, count(*) from posts", "delete from posts where false"
    assert "board_ro" in site.berth("psql", "board", "-c", count)
    said = site.berth("psql", "board", "-c", f"begin; set transaction read write; {write}", status=3)
    assert "permission denied for table posts" in said
    assert "cannot execute DELETE in a read-only transaction" in site.berth(
        "psql", "board", "-c", write, status=3
    )
    # What a migration makes later is read, too.
    site.berth("psql", "board", "--owner", "-c", "create table later (n int)")
    assert "(0 rows)" in site.berth("psql", "board", "-c", "select * from later")
    site.berth("psql", "board", "--owner", "-c", "drop table later")
    assert "must be owner" in site.berth("psql", "board", "--runtime", "-c", "drop table posts", status=3)
    assert "There is no app nope on this server" in site.berth("psql", "nope", "-c", "select 1", status=2)


def test_one_app_goes_live_with_its_rows_and_back_while_requests_wait(restored: Kit, tmp_path: Path) -> None:
    kit = restored
    with load(kit, tmp_path, clients=4, pause=0.05) as clients:
        go_forth_and_back(kit)
    assert clients.tally.failures == []
    assert clients.tally.requests > 100


def go_forth_and_back(kit: Kit) -> None:
    said = kit.berth("restore", "--go-live", "board", "--", "--check")
    assert "Database board becomes what was restored to the latest commit" in said
    assert "confirm: this replaces" in kit.berth("restore", "--go-live", "board", "--confirm", "x", status=2)
    assert texts(kit) == NOW
    assert "board_ro" in kit.berth("psql", "board", "--restored", "-c", "select session_user")
    kit.berth("restore", "--go-live", "board", "--confirm", "board")
    assert texts(kit) == OLD
    assert texts(kit, "notes") == NOW
    # Roles, rights and settings are what they were.
    assert kit.play("playbooks/provision.yml", "--tags", "postgresql").changed == 0
    assert "and is kept; it takes" in kit.berth("check-backups")
    assert "already, since" in kit.berth("restore", "--go-live", "board", "--confirm", "board")
    kit.berth("restore", "--undo", "board", "--confirm", "board")
    assert texts(kit) == NOW
    kit.host.sh(f"{NOTHING_ASIDE} && test -e /srv/board/current/.berth/keepalive")


def test_all_apps_go_live_together_and_back(restored: Kit) -> None:
    kit = restored
    kit.berth("restore", "--go-live", "all", "--confirm", "all")
    assert (texts(kit), texts(kit, "notes")) == (OLD, OLD)
    said = kit.berth("restore", "--undo", "all", "--confirm", "all")
    assert "Database board is the one that was live until" in said
    assert (texts(kit), texts(kit, "notes")) == (NOW, NOW)


@pytest.mark.long
def test_where_one_of_all_is_not_well_none_goes_live(restored: Kit) -> None:
    kit = restored
    # The apps take turns by their names: this one is the second.
    sql(kit, "begin; set transaction read write; alter table posts rename to gone; commit", "notes", SOCKET)
    said = kit.berth("restore", "--go-live", "all", "--", "--check")
    assert "Database board becomes" in said
    assert "Database notes becomes" in said
    said = kit.berth("restore", "--go-live", "all", "--confirm", "all", status=2)
    assert "notes is not well with it" in " ".join(said.split())
    assert "What this run had exchanged by then is put back" in " ".join(said.split())
    assert (texts(kit), texts(kit, "notes")) == (NOW, NOW)
    assert kit.json("https://board.localhost/readyz")
    assert "nothing to undo" in kit.berth("restore", "--undo", "all", "--confirm", "all", status=2)


@pytest.mark.long
@pytest.mark.parametrize("listens", ["", "--fd {fd}", "--uds {socket}"])
def test_no_post_is_lost_however_often_the_app_is_held(restored: Kit, tmp_path: Path, listens: str) -> None:
    """Whatever serves it; a proxy that has kept connections does not repeat a POST."""
    kit = restored
    before = kit.app("board")["processes"]
    own = {"name": "web", "command": f"uvicorn board.main:app {listens}"}
    kit.app("board")["processes"] = [own, *before[1:]] if listens else before
    try:
        kit.play("playbooks/deploy.yml", "-e", "app=board")
        kit.berth("restore", "--go-live", "board", "--confirm", "board")
        with load(kit, tmp_path, clients=12, pause=0.0) as clients:
            for _ in range(6):
                kit.berth("restore", "--undo", "board", "--confirm", "board")
        assert clients.tally.failures == []
        assert texts(kit) == OLD
    finally:
        kit.app("board")["processes"] = before
        kit.play("playbooks/deploy.yml", "-e", "app=board")


def write(kit: Kit, statement: str) -> None:
    """Make something of what was restored that was not."""
    sql(kit, f"begin; set transaction read write; {statement}; commit", server=SOCKET)


def test_another_schema_than_the_live_releases_is_refused(restored: Kit) -> None:
    write(restored, "update alembic_version set version_num = '0001'")
    said = restored.berth("restore", "--go-live", "board", "--confirm", "board", status=2)
    assert "has the schema of 0001" in said
    assert texts(restored) == NOW


@pytest.mark.long
def test_one_that_makes_the_app_sick_is_put_back(restored: Kit) -> None:
    write(restored, "alter table posts rename to gone")
    said = restored.berth("restore", "--go-live", "board", "--confirm", "board", status=2)
    assert "board is not well with it, and has what it had before again" in said
    assert texts(restored) == NOW
    assert restored.json("https://board.localhost/readyz")


# A place on the way, as the host sees it.
HELD = "ls -d /run/systemd/system/board-web*.d >/dev/null 2>&1"
DATABASES = (
    "$(cd /; runuser -u postgres -- psql -XAtc \"select count(*) from pg_database where datname ~ '{}'\")"
)
PLACES = {
    "copying": f"[ {DATABASES.format('^board_restored')} = 1 ]",
    "held": HELD,
    "requests wait": "ls /run/berth/board/*.sock.held >/dev/null 2>&1",
    "exchanged": f"[ {DATABASES.format('^board_before')} = 1 ]",
}


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("whom", ["the run", "the engine"])
def test_whoever_is_killed_there_is_one_database_and_the_next_run_goes_on(
    restored: Kit, place: str, whom: str
) -> None:
    kit = restored
    run = kit.start("playbooks/exchange.yml", "-e", "app=board", "-e", "mode=live", "-e", "confirm=board")
    kit.host.sh(f"for i in $(seq 1200); do if {PLACES[place]}; then exit 0; fi; sleep 0.05; done; exit 1")
    if whom == "the engine":
        kit.host.sh("pkill -9 -f '[m]emfd_create'")
    kill(run)
    # Its processes are back by themselves, whichever database it is.
    kit.host.sh(
        "for i in $(seq 600); do if systemctl is-active -q 'board-web@*.service' && "
        f"! pgrep -f '[e]xchange.py' && ! pgrep -f '[m]emfd_create' && {NOTHING_ASIDE}; then exit 0; fi; "
        "sleep 0.1; done; exit 1"
    )
    kit.host.sh("test -e /srv/board/current/.berth/keepalive")
    assert texts(kit) in (NOW, OLD)
    assert kit.json("https://board.localhost/readyz")
    kit.berth("restore", "--go-live", "board", "--confirm", "board")
    assert texts(kit) == OLD
    assert texts(kit, "notes") == NOW
    states = kit.host.sh("systemctl is-active 'board-web@*' 'board-worker@*' 'board-nightly@*.timer'").split()
    assert set(states) == {"active"}
    assert kit.host.sh("ls -d /run/systemd/system/board* 2>/dev/null || true").strip() == ""


# Passwords of roles, secrets of apps, and what backups are encrypted by.
BORN = """
import glob, json, re
for path in glob.glob("/etc/berth/postgresql/*"): print(open(path).read())
for path in glob.glob("/etc/berth/*/secrets.json"): print(*json.load(open(path)).values())
print(*re.findall("cipher-pass=(.*)", open("/etc/pgbackrest/pgbackrest.conf").read()))
"""


@pytest.mark.long
def test_no_secret_is_seen_of_what_is_restored(restored: Kit) -> None:
    """The board's, the notes' and the server's own, with all that -vvv and --diff show, done or refused."""
    kit, loud = restored, ("-vvv", "--diff")
    wanted = canary.needles(set(kit.host.sh("python3 -", stdin=BORN).split()))
    assert len(wanted) > 20
    only = ("-e", "app=board")
    runs = [
        ("drill.yml", True, ()),
        ("backup.yml", True, ()),
        ("backups.yml", True, ()),
        ("restore.yml", False, ()),  # one stands there
        ("restore.yml", False, ("-e", "to_time=soon")),
        ("exchange.yml", False, (*only, "-e", "mode=live")),
        ("exchange.yml", True, (*only, "-e", "mode=live", "-e", "confirm=board")),
        ("exchange.yml", True, (*only, "-e", "mode=undo", "-e", "confirm=board")),
        ("rescue.yml", False, ("-e", "confirm=rescue")),  # nothing is lost
        ("upgrade-postgresql.yml", None, ()),
        ("upgrade-postgresql.yml", False, ("-e", "confirm=1")),
        ("status.yml", None, ()),
    ]
    said = []
    with canary.watched(kit, wanted) as arguments:
        for playbook, succeed, words in runs:
            said.append(kit.play(f"playbooks/{playbook}", *words, *loud, succeed=succeed).output)
    assert canary.found_in("\n".join(said), wanted) == []
    assert arguments == []
    assert canary.search(kit, "board", wanted) == []
