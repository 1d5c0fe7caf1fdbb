"""Schema migrations: once, in the new release's code, as the owner role, one at a time."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..diagnosis import cause
from ..errors import ReleaseError
from ..host import sandbox, untrusted
from ..paths import Paths
from ..runtime import naming
from ..runtime.transient import Work, transient
from ..services import postgresql
from . import scripts

_KEY = 0x6265727468  # "berth": the advisory lock every Berth deploy of one database asks for
_LONGEST_PAUSE = 15.0
# Seconds that the database has for a small question.
_PATIENCE = 30.0
# A revision or an env.py that leaves the transaction: what it did stays when it fails halfway.
_LEAVES = re.compile(r"autocommit|\bcommit\b", re.IGNORECASE)
_WITHOUT = re.compile(r"autocommit|transactional_ddl\s*=\s*False", re.IGNORECASE)

_SKIPPED = {".git", ".venv", "venv", "node_modules", "tests", "test", "docs", "examples", ".berth"}
# An env.py that mentions none of these takes the address from the ini, whatever the environment says.
_READS_SETTINGS = re.compile(
    r"environ|getenv|settings|get_config|set_main_option|set_section_option|create_\w*engine|\burl\s*=|engine",
    re.IGNORECASE,
)
_AT_START = re.compile(
    r"\.create_all\b|\bcommand\.(upgrade|stamp)\(|\bcreate_db_and_tables\b|\bCREATE TABLE\b"
)


@dataclass(frozen=True)
class Decision:
    """Whether and how the schema is brought up to date, and why so."""

    command: str
    directory: Path
    why: str


def decide(project: Path, root: Path, wishes: Mapping[str, Any]) -> Decision:
    """Alembic is run only where it would work; otherwise the reason and the way to set it are said."""
    wish = str(wishes["directory"])
    start = project / wish if wish else project
    if not wishes["enabled"]:
        return Decision("", start, "migrations.enabled is false")
    if wishes["command"]:
        return Decision(str(wishes["command"]), start, "migrations.command")
    folder = start if wish else find_ini(project, root)
    config = scripts.config(folder) if folder else None
    if folder is None or config is None:
        return Decision("", start, "there is no alembic.ini")
    place = os.path.relpath(config, root)
    if others := scripts.other_sections(folder):
        why = f"{place} has no section [alembic] but {', '.join(others)}"
        how = f"set migrations.command, such as: alembic -n {others[0]} upgrade head"
        return Decision("", folder, f"{why}: {how}")
    revisions = read_revisions(folder, root)
    if not revisions:
        return Decision("", folder, f"{place} has no revisions yet")
    if _literal_url(folder, root):
        why = f"the address of a database is written in {place} and its env.py reads no other"
        return Decision("", folder, f"{why}: set migrations.command if it shall run all the same")
    heads = find_heads(revisions)
    if len(heads) > 1 and have_labels(revisions, heads):
        return Decision("alembic upgrade heads", folder, f"{place}, with branches that have labels")
    if len(heads) > 1:
        raise ReleaseError(
            f"The migrations have {len(heads)} heads ({', '.join(sorted(heads))}), so it is not clear which "
            "schema the release needs. The database is unchanged.",
            advice="merge them with `alembic merge heads`, or set migrations.command: alembic upgrade heads.",
        )
    return Decision("alembic upgrade head", folder, place)


def find_ini(project: Path, root: Path) -> Path | None:
    """The folder of the alembic.ini: in the project, above it, or the only one below it."""
    folder = project
    while True:
        if scripts.config(folder):
            return folder
        if folder in (root, folder.parent):
            break
        folder = folder.parent
    found = []
    for parent, folders, files in os.walk(project):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        if len(Path(parent).relative_to(project).parts) >= 3:
            folders.clear()
        if scripts.INI in files:
            found.append(Path(parent))
    return found[0] if len(found) == 1 else None


def read_revisions(folder: Path, root: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every revision with those below it, and its labels; read, not run."""
    result = {}
    for path in scripts.read(folder, root).revisions():
        try:
            tree = ast.parse(untrusted.read_text(path, errors="replace"))
        except (OSError, SyntaxError, ValueError):
            continue
        said: dict[str, Any] = {}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            for target in targets:
                value = getattr(node, "value", None)
                if isinstance(target, ast.Name) and value is not None:
                    with contextlib.suppress(ValueError):
                        said[target.id] = ast.literal_eval(value)
        if isinstance(said.get("revision"), str):
            result[said["revision"]] = (_names(said.get("down_revision")), _names(said.get("branch_labels")))
    return result


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def find_heads(revisions: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> set[str]:
    """The revisions that nothing stands on."""
    below = {name for names, _ in revisions.values() for name in names}
    return set(revisions) - below


def have_labels(
    revisions: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]], heads: Collection[str]
) -> bool:
    """Whether each head has a label of its own, which any revision of its branch may carry."""
    found = {}
    for head in heads:
        labels: set[str] = set()
        todo, seen = [head], {head}
        while todo:
            below, own = revisions.get(todo.pop(), ((), ()))
            labels.update(own)
            todo += [name for name in below if name not in seen]
            seen.update(below)
        found[head] = labels
    return all(
        found[head].difference(*(labels for other, labels in found.items() if other != head))
        for head in heads
    )


def _literal_url(folder: Path, root: Path) -> bool:
    try:
        text = untrusted.read_text(scripts.read(folder, root).env, errors="replace")
    except OSError:
        return False
    # What alembic's own template says of the ini is no sign of the project's settings.
    text = re.sub(r"engine_from_config|connectable|#.*|\burl\s*=\s*config\.get_main_option", "", text)
    text = re.sub(r"config\.get_main_option|config\.get_section|url=url", "", text)
    return not _READS_SETTINGS.search(text)


def role(app: Mapping[str, Any], project: Path, root: Path) -> tuple[str, str]:
    """The database role that the app itself gets, and why."""
    database = app["database"]
    if database["role"]:
        return str(database["role"]), "database.role"
    if not database["enabled"]:
        return "runtime", "has no database"
    if decide(project, root, app["migrations"]).command:
        return "runtime", "migrations make the tables"
    place = schema_at_start(project)
    return ("owner", f"creates its tables itself ({place})") if place else ("runtime", "makes no tables")


def schema_at_start(project: Path) -> str:
    """Where the app makes or migrates its tables by itself; empty where it does not."""
    for parent, folders, files in os.walk(project):
        folders[:] = sorted(
            name for name in folders if name not in _SKIPPED | {"migrations", "alembic", "scripts"}
        )
        for name in sorted(files):
            if not name.endswith(".py") or name.startswith("test_") or name == "conftest.py":
                continue
            path = Path(parent) / name
            try:
                text = untrusted.read_text(path, errors="replace")
            except OSError:
                continue
            match = _AT_START.search(text)
            if match:
                return f"{path.relative_to(project)}:{text.count(chr(10), 0, match.start()) + 1}"
    return ""


def makes_itself(project: Path, before: str) -> str:
    """What to write where migrations failed on an empty database that the app fills itself at its start."""
    place = "" if before else schema_at_start(project)
    if not place:
        return ""
    return f"if the app creates its tables itself ({place}), write migrations: {{enabled: false}}"


def is_transactional(folder: Path, root: Path, files: Collection[str]) -> bool:
    """Whether a try that fails leaves nothing behind, as far as env.py and these revisions' files say."""
    for path in scripts.read(folder, root).files():
        pattern = _WITHOUT if path.name == "env.py" else _LEAVES if path.name in files else None
        if pattern and pattern.search(untrusted.read_text(path, errors="replace")):
            return False
    return True


def scripts_digest(project: Path, root: Path) -> str:
    """What the revisions are, so that an unchanged set on an unchanged schema is not run again."""
    total = hashlib.sha256()
    for path in scripts.read(project, root).files():
        total.update(f"{os.path.relpath(path, project)}:".encode() + untrusted.read_bytes(path))
    return total.hexdigest()


# Who keeps a session of the owner role waiting, as the superuser sees it. No query text: it may hold data.
_BLOCKER = """
select concat_ws('|', a.pid, coalesce(extract(epoch from clock_timestamp() - w.waitstart)::int, 0),
  coalesce(w.relation::regclass::text, w.locktype), b.pid, b.usename, b.application_name,
  coalesce(extract(epoch from now() - b.xact_start)::int, 0))
from pg_stat_activity a join pg_locks w on w.pid = a.pid and not w.granted
  cross join lateral unnest(pg_blocking_pids(a.pid)) as p(pid) join pg_stat_activity b on b.pid = p.pid
where a.datname = current_database() and a.usename = '{owner}' limit 1;
"""
_CANCEL = "select pg_cancel_backend(pid) from pg_locks where pid = {pid} and not granted limit 1;"
# Postgres itself is asked first: this much longer may a session wait before it is ended from outside.
_GRACE = 2


class Blockers(threading.Thread):
    """Remembers, while a migration runs, which other session it last waited for.

    A driver that does not read PGOPTIONS (asyncpg) has no lock_timeout: with `limit` its wait ends here.
    """

    def __init__(self, database: str, owner: str, limit: int = 0) -> None:
        super().__init__(daemon=True)
        self.argv = ["runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "-qtA", "-d", database]
        self.query = _BLOCKER.format(owner=owner.replace("'", ""))
        self.limit = limit
        self.over = threading.Event()
        self.last = ""
        self.ended = False

    def run(self) -> None:
        pause = 0.5
        while not self.over.wait(pause):
            pause = min(pause * 1.3, 2)
            try:
                self.look(self._ask(self.query))
            except (OSError, subprocess.TimeoutExpired):
                return

    def look(self, answer: str) -> None:
        pid, _, rest = answer.partition("|")
        waited, _, said = rest.partition("|")
        if not said:
            return
        self.last = said
        if self.limit and int(waited) >= self.limit + _GRACE:
            self.ended = self._ask(_CANCEL.format(pid=int(pid))) == "t" or self.ended

    def _ask(self, query: str) -> str:
        done = subprocess.run(
            self.argv, input=query, capture_output=True, text=True, timeout=20, check=False, cwd="/"
        )
        return done.stdout.strip()

    def sentence(self) -> str:
        """On what, and who holds it; empty where nobody was seen."""
        if self.last.count("|") < 4:
            return ""
        what, pid, user, rest = self.last.split("|", 3)
        name, _, seconds = rest.rpartition("|")
        who = f"{name}, user {user}" if name else f"user {user}"
        return f" on {what}: pid {pid} of Postgres holds it ({who}, in a transaction for {seconds} s)"


class Database:
    """A session of psql as the owner role, for the schema's revision and the advisory lock."""

    def __init__(self, app: dict[str, Any], root: Path = Path("/")) -> None:
        database = app["database"]
        self.argv = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        parts = postgresql.SERVICE.parts(app, root, owner=True)
        self.env = {
            **os.environ,
            "PGHOST": parts["host"],
            "PGPORT": parts["port"],
            "PGDATABASE": database["name"],
            "PGUSER": parts["user"],
            "PGPASSWORD": parts["password"],
            "PGCONNECT_TIMEOUT": "10",
            "PGAPPNAME": "berth",
        }

    def _psql(self, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, **more,
        )  # fmt: skip

    def revision(self) -> str:
        """What alembic_version says; empty where there is no such table (or no psql to ask with)."""
        return self.ask() or ""

    def ask(self, patience: float = _PATIENCE) -> str | None:
        """The same, but None where the database cannot be asked."""
        query = "select string_agg(version_num, ',' order by version_num) from alembic_version;"
        # A statement that fails is no failure of psql's; a connection that does is.
        return self._answer(query, patience)

    def _answer(self, query: str, patience: float) -> str | None:
        """None without an answer: no psql, no connection, or a server that accepts and says nothing."""
        try:
            process = self._psql()
        except FileNotFoundError:
            return None
        try:
            out, _ = process.communicate(query, timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None
        return out.strip() if process.returncode == 0 else None

    def limits(self, role: str) -> tuple[int, int, int] | None:
        """How many connections there are for all apps, and for this role (-1: no limit of its own).

        Last, how many this role holds right now.
        """
        query = (
            "select current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
            " - coalesce(current_setting('reserved_connections', true), '0')::int, rolconnlimit,"
            " (select count(*) from pg_stat_activity where usename = rolname and pid <> pg_backend_pid())"
            " from pg_roles where rolname = :'role';"
        )
        found = (self._answer(f"\\set role {role}\n{query}", 10) or "").split("|")
        return (int(found[0]), int(found[1]), int(found[2])) if len(found) == 3 else None

    @contextmanager
    def advisory_lock(self) -> Iterator[None]:
        try:
            process = self._psql()
        except FileNotFoundError:
            yield
            return
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # It asks for a lock without waiting for it, so whoever takes longer does not answer at all.
        silence = threading.Timer(_PATIENCE, process.kill)
        silence.start()
        try:
            process.stdin.write(f"select pg_try_advisory_lock({_KEY});\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
            silence.cancel()
            if answer == "f":
                raise ReleaseError(
                    "Another migration of this database is running: wait for it and deploy again."
                )
            if answer != "t":
                with contextlib.suppress(OSError):
                    process.stdin.close()
                lines = process.stderr.read().strip().splitlines()
                raise ReleaseError(f"The database cannot be reached: {lines[0] if lines else 'no answer'}.")
            yield
        finally:
            silence.cancel()
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    end.close()


def run(
    paths: Paths,
    app: dict[str, Any],
    release: str,
    command: str,
    project: Path,
    python_path: str,
    unchanged: Callable[[], bool] = lambda: False,
    *,
    shared: bool = False,
) -> int:
    """Run the command as the app's user: how often it was tried, or the sentence that says why it failed.

    What waited too long for a lock is tried again where that changed nothing. Where the app runs as the owner
    too, only Postgres ends such a wait: the app's own sessions look the same from here.
    """
    wishes = app["migrations"]
    folder = paths.release(release)
    lock, limit = int(wishes["lock_timeout"]), int(wishes["timeout"])
    began = time.monotonic()
    tries, pause, seen = 1, min(lock / 2, _LONGEST_PAUSE), ""
    while True:
        watch = _watch(app["database"], seen, 0 if shared else lock)
        try:
            result = transient(
                Work(
                    naming.transient("migrate", paths.app),
                    ["/bin/sh", "-c", command],
                    user=paths.app,
                    sandbox=sandbox.proof(),
                    writable=[paths.data, paths.home],
                    timeout=max(1, math.ceil(limit - (time.monotonic() - began))),
                    cwd=project,
                    env={
                        "PATH": f"{folder}/.venv/bin:/usr/local/bin:/usr/bin:/bin",
                        "PYTHONPATH": python_path,
                        # The last one makes Postgres notice within a second that nobody waits any more for a
                        # migration that was killed.
                        "PGOPTIONS": f"-c lock_timeout={lock}s -c statement_timeout={limit}s "
                        "-c client_connection_check_interval=1s",
                        "PYTHONDONTWRITEBYTECODE": "1",
                        "BERTH_RELEASE": release,
                        "BERTH_APP": paths.app,
                    },
                    env_file=paths.migrate_env(release),
                )
            )
        finally:
            watch.over.set()
        if result.code == 0:
            return tries
        time_left = time.monotonic() - began + pause + lock < limit
        locked = watch.ended or _waited_for_lock(cause.last_error(result.lines, str(folder))[0])
        if not (locked and time_left and tries <= wishes["lock_retries"] and unchanged()):
            break
        # Whoever queued up behind the migration has its turn meanwhile.
        time.sleep(pause)
        tries, pause, seen = tries + 1, min(pause * 2, _LONGEST_PAUSE), watch.last
    late = time.monotonic() - began >= limit
    reason = _reason(result.lines, result.code, str(folder), lock, limit if late else 0, watch, tries)
    raise ReleaseError(f"{reason}.", log=result.lines[-20:], advice=_advice(result.lines, watch, late))


def _watch(database: Mapping[str, Any], seen: str, limit: int) -> Blockers:
    watch = Blockers(database["name"], database["owner"], limit)
    watch.last = seen
    watch.start()
    return watch


def _waited_for_lock(error: str) -> bool:
    return "LockNotAvailable" in error or "lock timeout" in error


def _reason(
    lines: list[str],
    code: int,
    inside: str,
    lock: int,
    limit: int,
    watch: Blockers | None = None,
    tries: int = 1,
) -> str:
    text = "\n".join(lines)
    error, place = cause.last_error(lines, inside)
    at = cause.brief(place, inside)
    unknown = re.search(r"Can't locate revision identified by '([^']+)'", text)
    if _waited_for_lock(error) or (watch and watch.ended):
        held = (watch.sentence() if watch else "") or " that another session holds"
        often = "once" if tries == 1 else f"{tries} times"
        return f"The migration waited longer than {lock} s for a lock{held}; it was tried {often}"
    if limit:
        return f"The migration ran longer than migrations.timeout ({limit} s) and was stopped"
    if unknown:
        return f"The database is at revision {unknown[1]}, which this code does not have"
    if "Multiple head revisions" in text:
        return "The migrations have several heads: join them with `alembic merge heads`"
    if re.search(r"No space left on device|could not extend file", text):
        return "The migration failed since the server's disk is full"
    reason = error or (lines[-1] if lines else f"exit status {code}")
    return f"The migration failed: {reason}" + (f" ({at})" if at else "")


def _advice(lines: list[str], watch: Blockers, late: bool) -> str:
    found = re.match(r"[^|]*\|(\d+)\|", watch.last)
    if found and (watch.ended or "lock timeout" in "\n".join(lines)):
        return (
            "deploy again when it is done, or end it: runuser -u postgres -- psql -c "
            f"'select pg_terminate_backend({found[1]})'"
        )
    text = "\n".join(lines)
    if "Can't locate revision identified by" in text:
        return "deploy a version that has it; the database is unchanged."
    if "Multiple head revisions" in text:
        return "commit the file that it writes, and deploy again."
    if re.search(r"No space left on device|could not extend file", text):
        return cause.ROOM
    if watch.ended or _waited_for_lock(cause.last_error(lines)[0]):
        return "deploy again when the lock is free, or raise migrations.lock_timeout or lock_retries."
    if late:
        return "raise migrations.timeout if it may take so long, and deploy again."
    return "correct the migration and deploy again."
