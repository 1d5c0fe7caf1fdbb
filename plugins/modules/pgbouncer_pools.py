#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""One PgBouncer for the apps that want one: its pools, whom it lets in, and its unit, in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_pools
short_description: Pools the database connections of apps, and stops PgBouncer when nothing uses it any more
description:
  - Writes C(/etc/berth/pgbouncer) and C(berth-pgbouncer.service), and runs that now and at boot, as a user of
    its own. A change of pools is reloaded, which no client notices; where PgBouncer does not work with it,
    the former files come back. It is never restarted while it runs, since that would cut off the idle
    connections of every app.
  - PgBouncer gets of each role what PostgreSQL keeps of its password, a salted sum that lets nobody log in.
  - Each pool gets its share of the server's connections. Releases that overlap share the pool of their app.
  - Proves each pool by logging in through it as the app.
  - A pool that is not listed stays for as long as a release on the server was made with one.
options:
  pools:
    description: The pools.
    type: list
    elements: dict
    required: true
    suboptions:
      app:
        description: Name of the app.
        type: str
        required: true
      database:
        description: Name of its database.
        type: str
        required: true
      user:
        description: Role that the app runs as.
        type: str
        required: true
  connections:
    description: The server's C(max_connections).
    type: int
    required: true
  databases:
    description: How many databases share these.
    type: int
    required: true
  cores:
    description: The server's cores, of which a pool can keep a few connections each busy.
    type: int
    required: true
  configuration:
    description: C(pgbouncer.ini), up to its databases.
    type: str
    required: true
  unit:
    description: The unit file.
    type: str
    required: true
  receipt:
    description:
      - Per app the digest of what it is given here. Recorded in C(/var/lib/berth/pgbouncer.json) when all
        else has succeeded, for a deploy to compare with.
    type: dict
    default: {}
author: Berth (@berth)
attributes:
  check_mode:
    support: full
    description: Tells what would be done, also where PgBouncer or PostgreSQL is not installed yet.
  diff_mode:
    support: full
    description: Shows the files, without the sums of the passwords.
"""

EXAMPLES = r"""
- name: Pool the connections of these apps
  pgbouncer_pools:
    pools:
      - {app: board, database: board, user: board}
    connections: 100
    databases: 2
    cores: 2
    configuration: "{{ lookup('ansible.builtin.file', 'pgbouncer.ini') }}"
    unit: "{{ lookup('ansible.builtin.file', 'berth-pgbouncer.service') }}"
"""

RETURN = r"""
actions:
  description: What was, or would be, done, in plain words.
  type: list
  elements: str
  returned: always
"""

import errno  # noqa: E402
import grp  # noqa: E402
import importlib  # noqa: E402
import os  # noqa: E402
import pwd  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.errors import ReleaseError  # noqa: E402
from ansible.module_utils.berth.paths import Paths  # noqa: E402
from ansible.module_utils.berth.runtime import naming, units  # noqa: E402
from ansible.module_utils.berth.services import pgbouncer as place  # noqa: E402
from ansible.module_utils.berth.services import postgresql  # noqa: E402
from ansible.module_utils.berth.services.superuser import (  # noqa: E402
    VERIFIER,
    UnreachableError,
    as_user,
    connect,
    one_line,
    rows,
)
from ansible.module_utils.berth.store import journal, presence, receipts, releases  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402

UNIT_FILE = Path(f"/etc/systemd/system/{place.UNIT}.service")
INI, HBA, USERS = (place.FOLDER / name for name in ("pgbouncer.ini", "hba.conf", "users.txt"))
# There as long as files were written that it has not loaded: a run that ends in between is not the last word.
PENDING = place.FOLDER / "pending"
# Connections that no app gets, as in role postgresql's limit of each role.
RESERVE = 10
# What a pool has where there is enough for all; a core keeps few busy.
LEAST, EACH_CORE = 20, 4
WAIT = 10.0

Pool = dict[str, str]


class WrongError(Exception):
    """What keeps PgBouncer from pooling; the text says what to do."""


class RefusedError(Exception):
    """PgBouncer does not answer, or not as it should."""


def share(connections: int, sharing: int, cores: int) -> int:
    """Connections to the server that one pool may open: all pools and the other apps find room together."""
    return max(1, min(max(LEAST, EACH_CORE * cores), (connections - RESERVE) // max(2, sharing)))


def kept(listed: list[Pool], root: Path = Path("/")) -> list[Pool]:
    """Pools that left the list, of apps of which a release was made with one: it may still run, or again."""
    found = []
    for app in presence.known(root):
        if app in {pool["app"] for pool in listed}:
            continue
        for record in releases.records(Paths(app, root)).values():
            if record.get("app") and place.SERVICE.used(record["app"]):
                database = record["app"]["database"]
                found.append({"app": app, "database": database["name"], "user": postgresql.role(database)})
                break
    return found


def written(pools: list[Pool], size: int, configuration: str, sums: dict[str, str]) -> dict[Path, str]:
    """The files for these pools, with PostgreSQL's record of each role's password."""
    head = "; Ansible managed\n"
    # The comment is how an engine finds the pool of an app.
    entries = [
        f"; app {pool['app']}\n{pool['database']} = host=127.0.0.1 port=5432 dbname={pool['database']}"
        f" pool_size={size}\n"
        for pool in pools
    ]
    doors = [f'host "{pool["database"]}" "{pool["user"]}" 127.0.0.1/32 scram-sha-256\n' for pool in pools]
    users = [f'"{pool["user"]}" "{sums[pool["user"]]}"\n' for pool in pools]
    return {
        HBA: "".join([head.replace(";", "#"), *doors, "host all all all reject\n"]),
        USERS: "".join([head, *users]),
        INI: "".join([configuration, "\n[databases]\n", *entries]),
    }


def stored(pools: list[Pool], check_mode: bool) -> dict[str, str]:
    """What PostgreSQL keeps of each role's password. In check mode that may not be there yet."""
    names = [pool["user"] for pool in pools]
    try:
        connection = connect("postgres")
    except UnreachableError as error:
        if check_mode:
            return dict.fromkeys(names, "")
        raise WrongError(f"PostgreSQL cannot be reached: {error}") from error
    try:
        query = "select rolname, rolpassword from pg_authid where rolname = any(%s)"
        found = {name: password or "" for name, password in rows(connection, query, [names])}
    finally:
        connection.close()
    for name in names:
        if not VERIFIER.fullmatch(found.get(name, "")) and not check_mode:
            raise WrongError(
                f"PostgreSQL has no scram password for role {name}: site.yml without --tags sets it"
            )
    return {name: found.get(name, "") for name in names}


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def masked(text: str) -> str:
    return re.sub(r"SCRAM-SHA-256\$\S+", '(hidden)"', text)


def version_problem(said: str) -> str:
    """One sentence where `pgbouncer --version` names one that is too old; else empty."""
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    if found and (int(found[1]), int(found[2])) < place.OLDEST:
        return (
            f"pooler.enabled: this server has PgBouncer {found[1]}.{found[2]}, which loses the statements "
            "that drivers prepare; upgrade its package to 1.21 or later, or take pooler out"
        )
    return ""


def in_the_way() -> bool:
    """Whether something else listens where PgBouncer would."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((place.HOST, place.PORT))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def ask(command: str) -> list[dict[str, Any]]:
    """What the console of the running one answers."""
    psycopg2 = importlib.import_module("psycopg2")
    where = {"host": str(place.SOCKET_FOLDER), "port": place.PORT}
    try:
        with as_user(place.USER):
            console = psycopg2.connect(**where, dbname=place.CONSOLE, user=place.CONSOLE, connect_timeout=5)
    except psycopg2.Error as error:
        raise RefusedError(f"its console says: {one_line(error)}") from error
    try:
        console.autocommit = True
        with console.cursor() as cursor:
            cursor.execute(command)
            if not cursor.description:
                return []
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except psycopg2.Error as error:
        raise RefusedError(f"its console says: {one_line(error)}") from error
    finally:
        console.close()


def loaded() -> dict[str, int]:
    """The pools that the running one has, with their sizes."""
    found = ask("show databases")
    return {one["name"]: int(one["pool_size"]) for one in found if one["name"] != place.CONSOLE}


def prove(pool: Pool) -> None:
    """Log in through it as the app does, or RefusedError says what happens."""
    psycopg2 = importlib.import_module("psycopg2")
    try:
        password = postgresql.read_password(Path("/etc/berth/postgresql"), pool["user"])
        connection = psycopg2.connect(
            host=place.HOST, port=place.PORT, dbname=pool["database"], user=pool["user"], password=password,
            application_name="berth", connect_timeout=5,
        )  # fmt: skip
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select 1")
        connection.close()
    except psycopg2.Error as error:
        if "query_wait_timeout" in str(error):
            return  # it was let in, and every connection of the pool is at work: nothing for a run to mend
        raise RefusedError(
            f"role {pool['user']} does not get through to its database: {one_line(error)}"
        ) from error
    except ReleaseError as error:
        raise RefusedError(error.sentence.rstrip(".")) from error


class Instance:
    """The one PgBouncer, from what is there to what should be."""

    def __init__(self, module: AnsibleModule, pools: list[Pool], size: int, after: dict[Path, str]) -> None:
        self.module, self.pools, self.size = module, pools, size
        self.unit = naming.distributions(place.UNIT)
        self.after = {**after, UNIT_FILE: module.params["unit"]}
        self.before = {path: read(path) for path in self.after}
        self.interrupted = PENDING.exists()
        self.state = units.show(self.unit, "ActiveState", "UnitFileState", "MainPID")
        self.actions: list[str] = []

    @property
    def running(self) -> bool:
        return self.state.get("ActiveState") in ("active", "reloading")

    def diff(self) -> list[dict[str, str]]:
        return [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": masked(self.before[path]),
                "after": masked(text),
            }
            for path, text in self.after.items()
            if self.before[path] != text
        ]

    def do(self, what: str) -> bool:
        """Say it; whether it is to be done."""
        self.actions.append(what)
        return not self.module.check_mode

    def converge(self) -> None:
        """Does, or in check mode lists, what is missing."""
        said = self.module.run_command(["pgbouncer", "--version"])[1] if shutil.which("pgbouncer") else ""
        if problem := version_problem(said):
            raise WrongError(problem)
        if not self.account() and self.do(f"create the user {place.USER}"):
            self.module.run_command(
                ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
                 "--shell", "/usr/sbin/nologin", place.USER],
                check_rc=True,
            )  # fmt: skip
        changed = [path for path, text in self.after.items() if self.before[path] != text]
        if (changed and self.do("configure PgBouncer")) or (
            self.badly_kept() and self.do("close its files to others")
        ):
            self.write(self.after)
        if not self.running:
            if self.do("start PgBouncer"):
                self.start()
        elif self.stale(changed) and self.do("have PgBouncer load its configuration"):
            self.reload()
        if not self.module.check_mode:
            PENDING.unlink(missing_ok=True)
        if self.state.get("UnitFileState") != "enabled" and self.do("start PgBouncer at boot"):
            self.module.run_command(["systemctl", "enable", "--quiet", self.unit], check_rc=True)
        self.tell_of_an_update()

    def stale(self, changed: list[Path]) -> bool:
        """Whether the running one does not go by what is on disk; a unit counts from its next start on."""
        return bool(set(changed) - {UNIT_FILE}) or self.interrupted or not self.works()

    @staticmethod
    def account() -> bool:
        try:
            pwd.getpwnam(place.USER)
        except KeyError:
            return False
        return True

    def badly_kept(self) -> bool:
        """Whether somebody opened the files to others than root and PgBouncer."""
        facts = [path.stat() for path in (INI, HBA, USERS) if path.exists()]
        return any(one.st_mode & 0o777 != 0o640 or one.st_uid != 0 for one in facts)

    def works(self) -> bool:
        try:
            self.check()
        except RefusedError:
            return False
        return True

    def check(self) -> None:
        """It has these pools and no others, and every app gets through; or RefusedError says why not."""
        if loaded() != {pool["database"]: self.size for pool in self.pools}:
            raise RefusedError("it did not take its new configuration")
        for pool in self.pools:
            prove(pool)

    def settle(self) -> None:
        """Wait until it works."""
        end = time.monotonic() + WAIT
        while True:
            try:
                return self.check()
            except RefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def write(self, files: dict[Path, str]) -> None:
        group = grp.getgrnam(place.USER).gr_gid
        place.FOLDER.parent.mkdir(mode=0o755, exist_ok=True)
        place.FOLDER.mkdir(mode=0o750, exist_ok=True)
        os.chown(place.FOLDER, 0, group)
        place.FOLDER.chmod(0o750)
        journal.replace_text(PENDING, "", 0o600)
        for path, text in files.items():
            if path != UNIT_FILE:
                journal.replace_text(path, text, 0o640, 0, group)
            elif read(path) != text:
                journal.replace_text(path, text, 0o644)
                units.reload()

    def start(self) -> None:
        if self.state.get("ActiveState") in ("activating", "deactivating"):
            # One that is tried again and again, or ends, may be what listens.
            self.module.run_command(["systemctl", "stop", self.unit])
        if in_the_way():
            raise WrongError(
                f"another process listens on 127.0.0.1:{place.PORT}, where apps are to find "
                f"PgBouncer (ss -ltnp 'sport = :{place.PORT}' names it): stop it; a PgBouncer that Berth did "
                "not set up ends by systemctl disable --now pgbouncer"
            )
        since = time.time()
        code, _, _ = self.module.run_command(["systemctl", "restart", self.unit])
        try:
            if code != 0:
                raise RefusedError("it does not start")
            self.settle()
        except RefusedError as error:
            raise WrongError(
                f"PgBouncer: {error}{self.said(since)}. More: journalctl -u {place.UNIT}"
            ) from error

    def reload(self) -> None:
        """With the new files; where that does not work, with the former ones."""
        since = time.time()
        self.module.run_command(["systemctl", "reload", self.unit], check_rc=True)
        try:
            self.settle()
            # Each connection to the server ends after its transaction: what was known of it (prepared
            # statements) was known under other settings. Where a password alone changed they go on, as
            # PostgreSQL's own do, and new ones are made with the login that was just proved.
            if self.interrupted or self.before[INI] != self.after[INI]:
                ask("reconnect")
        except RefusedError as error:
            outcome = ""
            if all(self.before.values()) and self.before != self.after:
                self.write(self.before)
                self.module.run_command(["systemctl", "reload", self.unit])
                outcome = " The former configuration is back."
            raise WrongError(
                f"PgBouncer: {error}{self.said(since)}.{outcome} More: journalctl -u {place.UNIT}"
            ) from error

    def said(self, since: float) -> str:
        """What PgBouncer itself wrote last about what is wrong."""
        words = ["journalctl", "-q", "-o", "cat", "-u", self.unit, f"--since=@{since:.0f}"]
        lines = self.module.run_command(words)[1].splitlines()
        telling = [line for line in lines if re.search(r"\b(ERROR|FATAL)\b", line)]
        return f" ({telling[-1].split('] ', 1)[-1].strip()})" if telling else ""

    def tell_of_an_update(self) -> None:
        """Whose program an update has replaced runs on with the former one, since a restart cuts off apps."""
        if not self.running:
            return
        try:
            replaced = str(Path(f"/proc/{self.state['MainPID']}/exe").readlink()).endswith(" (deleted)")
        except OSError:
            return
        if replaced:
            self.module.warn(
                "PgBouncer was updated and runs on as it was, since a restart closes the idle connections of "
                f"all apps that use it: systemctl restart {place.UNIT} on the server when that may be, or "
                "the next reboot, renews it."
            )


def stop_unused(check_mode: bool) -> list[str]:
    """The end of a PgBouncer that no release was made with."""
    if not place.FOLDER.exists() and not UNIT_FILE.exists():
        return []
    if not check_mode:
        units.end_for_good(naming.distributions(place.UNIT))
        UNIT_FILE.unlink(missing_ok=True)
        units.reload()
        # Last: as long as it is there, an end that was interrupted is repeated.
        shutil.rmtree(place.FOLDER, ignore_errors=True)
    return ["stop PgBouncer, which nothing uses any more"]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "pools": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {name: {"type": "str", "required": True} for name in ("app", "database", "user")},
            },
            "connections": {"type": "int", "required": True},
            "databases": {"type": "int", "required": True},
            "cores": {"type": "int", "required": True},
            "configuration": {"type": "str", "required": True},
            "unit": {"type": "str", "required": True},
            "receipt": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    pools = sorted([*params["pools"], *kept(params["pools"])], key=lambda pool: pool["app"])
    actions: list[str] = []
    diff: list[dict[str, str]] = []
    try:
        if pools:
            if params["connections"] < 1:
                raise WrongError(
                    "how many connections PostgreSQL has is not known: run site.yml without --skip-tags"
                )
            size = share(params["connections"], max(params["databases"], len(pools)), params["cores"])
            sums = stored(pools, module.check_mode)
            instance = Instance(module, pools, size, written(pools, size, params["configuration"], sums))
            diff = instance.diff()
            try:
                instance.converge()
            finally:
                actions = list(instance.actions)
        else:
            actions = stop_unused(module.check_mode)
    except WrongError as error:
        module.fail_json(msg=f"{str(error).rstrip('.')}.", actions=actions)
    if receipts.write("pgbouncer", params["receipt"], module.check_mode):
        actions.append("record what the apps were given")
    module.exit_json(changed=bool(actions), actions=actions, diff=diff)


if __name__ == "__main__":
    # Two runs may be given all apps at once: one reads, compares and writes at a time.
    with hostwide():
        main()
