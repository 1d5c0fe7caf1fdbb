#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Databases, their roles, passwords, extensions and rights, in one go on the server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_databases
short_description: Databases with a role that owns, one that reads and writes rows, and one that reads them
description:
  - Compares what the server has with what should be, and changes the difference. Runs there as root and
    reaches PostgreSQL through its socket as C(postgres).
  - Passwords are generated here, kept in O(password_folder) for root alone, and compared with the scram
    record of the server, so one that was changed by hand is repaired. Neither network nor controller
    nor log ever sees one.
  - Nothing is ever dropped.
  - Databases may also be on servers of others (O(servers)), made by a role there that may create roles and
    databases, and need be no superuser. With O(look) they are only looked at, all of them.
author: Berth (@berth)
options:
  databases:
    description: The databases.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      owner:
        description: Role that owns the database and its schemas.
        type: str
        required: true
      user:
        description: Role the app runs as.
        type: str
        required: true
      reader:
        description: Role for people and dashboards, which only reads rows.
        type: str
        required: true
      extensions:
        description: Extensions to create.
        type: list
        elements: str
        default: []
  connection_limit:
    description:
      - Connections that each role may hold, the owner as well, since some apps run as it.
      - The reader has five. On servers of others, limits are left as they are.
    type: int
    default: 0
  servers:
    description:
      - Servers of others, with C(host), C(port), C(sslmode), C(ca) (whether an authority of its own is in
        place), C(databases) like O(databases), and C(admin), who makes them, from C(maintenance_db).
    type: list
    elements: dict
    default: []
  secrets:
    description: By host the password of who makes them.
    type: dict
    default: {}
  look:
    description: Whether to look at O(servers) alone, and to change nothing.
    type: bool
    default: false
  dumped:
    description: Whether the databases on O(servers) are to be dumped, for which pg_dump has to be as new.
    type: bool
    default: false
  receipt:
    description:
      - Per app the digest of what it is given here. Recorded in C(/var/lib/berth/postgresql.json) when all
        else has succeeded, for a deploy to compare with.
    type: dict
    default: {}
  password_folder:
    description: Where the passwords are, one file per role.
    type: path
    default: /etc/berth/postgresql
attributes:
  check_mode:
    support: full
    description: Tells what would be done, also where there is no server yet.
  diff_mode:
    support: full
    description: Lists what is, or would be, done.
"""

EXAMPLES = r"""
- name: Set up databases, roles, passwords and rights
  postgresql_databases:
    databases:
      - {name: board, owner: board_owner, user: board, reader: board_ro, extensions: [pg_trgm]}
    connection_limit: 90
"""

RETURN = r"""
actions:
  description: What was, or would be, done, in plain words.
  type: list
  elements: str
  returned: always
client:
  description: The major version of pg_dump.
  type: int
  returned: with O(look)
"""

import os  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.host import command  # noqa: E402
from ansible.module_utils.berth.services import external  # noqa: E402
from ansible.module_utils.berth.services.superuser import (  # noqa: E402
    USABLE,
    UnreachableError,
    connect,
    literal,
    matches,
    new_password,
    quoted,
    rows,
    verifier,
)
from ansible.module_utils.berth.store import receipts  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402

# Of a database's keys those that name a role; the last two own nothing.
ROLE_KEYS = ("owner", "user", "reader")
# Kind of object in pg_default_acl: its name in ALTER DEFAULT PRIVILEGES, and what a role gets of it.
RIGHTS = {
    "user": {
        "r": ("TABLES", {"SELECT", "INSERT", "UPDATE", "DELETE"}),
        "S": ("SEQUENCES", {"USAGE", "SELECT"}),
        "n": ("SCHEMAS", {"USAGE"}),
    },
    "reader": {
        "r": ("TABLES", {"SELECT"}),
        "S": ("SEQUENCES", {"SELECT"}),
        "n": ("SCHEMAS", {"USAGE"}),
    },
}
DOES = {"user": "read and write rows", "reader": "read rows"}
# Connections of people and dashboards, out of the ten that are kept back from the apps.
READERS = 5
KINDS = {
    "r": "TABLE",
    "p": "TABLE",
    "v": "VIEW",
    "m": "MATERIALIZED VIEW",
    "f": "FOREIGN TABLE",
    "S": "SEQUENCE",
}

ROLES = """
select rolname, rolcanlogin and rolinherit and not (rolsuper or rolcreatedb or rolcreaterole or rolreplication
       or rolbypassrls) and coalesce(rolvaliduntil = 'infinity', true), rolconnlimit, rolpassword
from pg_authid where rolname = any(%s)"""
# As somebody sees them who is no superuser.
ROLES_ELSEWHERE = """
select rolname, rolcanlogin and rolinherit and not (rolcreatedb or rolcreaterole)
       and coalesce(rolvaliduntil = 'infinity', true), rolsuper or rolreplication or rolbypassrls
from pg_roles where rolname = any(%s)"""
# Who has logged in to make databases, and where.
ADMINISTRATOR = """
select rolcreaterole or rolsuper, rolcreatedb or rolsuper, pg_is_in_recovery(),
       array(select datname::text from pg_database where datname = any(%s)),
       array(select rolname::text from pg_roles where rolname = any(%s))
from pg_roles where rolname = current_user"""
# Whether it may act as a role, as what makes a database of it has to, and has the rights of it.
ACTS_AS = "select pg_has_role(current_user, %s, '{}') and pg_has_role(current_user, %s, 'USAGE')"
# A locale that any server has; where it is this one's, its collation changes with no system.
LOCALE = " LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
DATABASES = """
select d.datname, pg_get_userbyid(d.datdba), d.datallowconn,
       array(select pg_get_userbyid(a.grantee) || ':' || a.privilege_type
             from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a where a.grantee <> 0),
       exists(select from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a where a.grantee = 0)
from pg_database d where d.datname = any(%s)"""
SCHEMAS = """
select n.nspname, pg_get_userbyid(n.nspowner),
       array(select a.privilege_type from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
             where a.grantee = r.oid),
       exists(select from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a where a.grantee = 0)
from pg_namespace n, pg_roles r
where r.rolname = %s and (n.nspname = 'public' or n.nspowner = %s::regrole)
  and not exists(select from pg_depend d where d.classid = 'pg_namespace'::regclass and d.objid = n.oid
                 and d.deptype = 'e')
order by 1"""
# Tables, views and sequences of those schemas, with the runtime role's rights; extensions' own left out.
RELATIONS = """
select c.relkind, format('%%I.%%I', n.nspname, c.relname), pg_get_userbyid(c.relowner),
       array(select a.privilege_type from aclexplode(c.relacl) a where a.grantee = r.oid),
       exists(select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
              and d.deptype in ('a', 'i'))
from pg_class c join pg_namespace n on n.oid = c.relnamespace, pg_roles r
where r.rolname = %s and n.nspname = any(%s) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  and not exists(select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                 and d.deptype = 'e')
order by 2"""
DEFAULT_RIGHTS = """
select d.defaclobjtype, array_agg(a.privilege_type)
from pg_default_acl d, aclexplode(d.defaclacl) a
where d.defaclrole = %s::regrole and d.defaclnamespace = 0 and a.grantee = %s::regrole group by 1"""


class WrongError(Exception):
    """Something a person has to put right."""


class Plan:
    """What is done, or in check mode only said."""

    def __init__(self, check_mode: bool) -> None:
        self.check_mode = check_mode
        self.actions: list[str] = []
        self.warnings: list[str] = []
        # Somebody else's server, while it is about that.
        self.place = ""

    def do(self, what: str, connection: Any, *statements: str) -> None:
        """Say it, and do it."""
        self.actions.append(what)
        if not self.check_mode:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)


def read_password(path: Path) -> str | None:
    """The password in a file, or None where there is no usable one."""
    try:
        text = path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return text if USABLE.fullmatch(text) else None


def write_password(path: Path, password: str) -> None:
    """Write it whole or not at all, for root alone."""
    path.parent.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.parent.chmod(0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        file.write(password + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def ensure_password(plan: Plan, path: Path) -> str:
    """The role's password; born here and written before the server learns of it."""
    password: str | None = read_password(path)
    if password is None:
        plan.actions.append(f"generate the password of role {path.name}")
        born: str = new_password()
        if not plan.check_mode:
            write_password(path, born)
        return born
    for place, mode in ((path.parent, 0o700), (path, 0o600)):
        facts = place.stat()
        if facts.st_mode & 0o777 != mode or facts.st_uid != 0:
            plan.actions.append(f"close {place} to others")
            if not plan.check_mode:
                os.chown(place, 0, 0)
                place.chmod(mode)
    return password


def ensure_role(
    plan: Plan, connection: Any, name: str, limit: int, found: tuple[Any, ...] | None, password: str
) -> None:
    """A role that can log in and has no power over the cluster."""
    role = quoted(name)
    attributes = (
        "LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS VALID UNTIL 'infinity'"
        f" CONNECTION LIMIT {limit}"
    )
    secret = f"PASSWORD {literal(verifier(password))}"
    if found is None:
        plan.do(f"create role {name}", connection, f"CREATE ROLE {role} {attributes} {secret}")
        return
    _, harmless, connections, stored = found
    if not harmless:
        plan.do(
            f"take powers from role {name} that it must not have",
            connection,
            f"ALTER ROLE {role} {attributes}",
        )
    elif connections != limit:
        plan.do(
            f"limit role {name} to {limit} connections",
            connection,
            f"ALTER ROLE {role} CONNECTION LIMIT {limit}",
        )
    if not matches(password, stored):
        plan.do(f"set the password of role {name}", connection, f"ALTER ROLE {role} {secret}")


def ensure_roles_elsewhere(plan: Plan, connection: Any, server: dict[str, Any], folder: Path) -> None:
    """The same at somebody else's server, by one who may create roles and is no superuser.

    Its records of passwords are not to be seen: whether one is right, a login tells.
    """
    place, databases = external.where(server), server["databases"]
    names = [database[key] for database in databases for key in ROLE_KEYS]
    found = {row[0]: row for row in rows(connection, ROLES_ELSEWHERE, [names])}
    for database in databases:
        for key in ROLE_KEYS:
            name = database[key]
            role = quoted(name)
            password = ensure_password(plan, folder / name)
            secret = f"PASSWORD {literal(verifier(password))}"
            if name not in found:
                plan.do(f"create role {name} at {place}", connection, f"CREATE ROLE {role} LOGIN {secret}")
                continue
            _, harmless, mighty = found[name]
            if mighty:
                raise WrongError(
                    f"role {name} at {place} is a superuser, replicates or passes over row security, which "
                    "no app's may; take that from it there"
                )
            if not harmless:
                plan.do(
                    f"take powers from role {name} at {place} that it must not have",
                    connection,
                    f"ALTER ROLE {role} LOGIN INHERIT NOCREATEDB NOCREATEROLE VALID UNTIL 'infinity'",
                )
            if not lets_in(server, name, password, database["name"]):
                plan.do(
                    f"set the password of role {name} at {place}", connection, f"ALTER ROLE {role} {secret}"
                )
        owner = database["owner"]
        if owner in found or not plan.check_mode:
            acts = ACTS_AS.format("SET" if connection.server_version >= 160000 else "MEMBER")
            if not rows(connection, acts, [owner, owner])[0][0]:
                grant = f"GRANT {quoted(owner)} TO CURRENT_USER"
                plan.do(f"let the administrator act as {owner} at {place}", connection, grant)
    ensure_settings(plan, connection, databases)


def lets_in(server: dict[str, Any], name: str, password: str, database: str) -> bool:
    """Whether a role's password is the one that the server has; what comes after that does not matter."""
    try:
        external.connect(server, name, password, database).close()
    except UnreachableError as error:
        return not external.refused(error)
    return True


def look_at(plan: Plan, server: dict[str, Any], password: str, dumped: bool, folder: Path) -> None:
    """Whether databases can be made on somebody else's server; WrongError with what keeps them from it."""
    place, user, wanted = external.where(server), server["admin"], server["databases"]
    connection = external.connect(server, user, password, server["maintenance_db"])
    try:
        version = connection.server_version // 10000
        if version < external.OLDEST:
            raise WrongError(
                f"{place} runs PostgreSQL {version}, and Berth needs {external.OLDEST} or later there, since "
                "before it nobody but a superuser can close a database's schema to the app; upgrade it"
            )
        names = [one["name"] for one in wanted]
        roles = [one[key] for one in wanted for key in ROLE_KEYS]
        makes_roles, makes_databases, replica, databases, known = rows(
            connection, ADMINISTRATOR, [names, roles]
        )[0]
        missing = [name for name in names if name not in databases]
        if replica:
            raise WrongError(f"{place} is a replica, which takes no changes; write the primary's host")
        if not makes_roles:
            raise WrongError(
                f"{user} may not create roles at {place}; run there ALTER ROLE {user} CREATEROLE CREATEDB"
            )
        if missing and not makes_databases:
            raise WrongError(
                f"{user} may not create database {missing[0]} at {place}; create it there, or run "
                f"ALTER ROLE {user} CREATEDB"
            )
        unknown = [name for name in sorted(roles) if name in known and read_password(folder / name) is None]
        if unknown:
            several = len(unknown) > 1
            raise WrongError(
                f"{listed('role', unknown)} {'are' if several else 'is'} at {place} already, and this server "
                f"has no password of {'theirs' if several else 'it'}, so another server may be using "
                f"{'them' if several else 'it'}. If none does: (umask 077; mkdir -p {folder}; for role in "
                f"{' '.join(unknown)}; do openssl rand -hex 24 >{folder}/$role; done) as root on this "
                "server, and the next run gives new passwords; else set database.name to another"
            )
        offered = {
            row[0]
            for row in rows(
                connection,
                "select name::text from pg_available_extensions where name = any(%s)",
                [[extension for one in wanted for extension in one["extensions"]]],
            )
        }
        for one in wanted:
            for extension in one["extensions"]:
                if extension not in offered:
                    raise WrongError(unoffered(one["name"], extension, place))
        if dumped and (newest := client()) and version > newest:
            raise WrongError(
                f"{place} runs PostgreSQL {version}, and this server's pg_dump of {newest} cannot dump it; "
                "write server.postgresql.repository: pgdg, or server.backup.enabled: false"
            )
        plan.warnings += [
            f"Database {name} of this server's own PostgreSQL stays, and its rows are not in the new one at "
            f"{place}: docs/your-app.md says how they get there."
            for name in sorted(set(missing) & own())
        ]
    finally:
        connection.close()


def listed(what: str, names: list[str]) -> str:
    """In a sentence."""
    return f"{what}s {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"{what} {names[0]}"


def unoffered(name: str, extension: str, place: str) -> str:
    """What is to be done about an extension that somebody else's server does not have."""
    return (
        f"database {name} wants the extension {extension}, which {place} does not offer; turn it on there, "
        "or remove it from database.extensions"
    )


def client() -> int:
    """The major version of pg_dump; 0 where there is none."""
    said = command.run(["pg_dump", "--version"]).out if shutil.which("pg_dump") else ""
    found = re.search(r"\b(\d+)", said)
    return int(found[1]) if found else 0


def own() -> set[str]:
    """The databases of this server's own PostgreSQL; none where that does not answer."""
    try:
        connection = connect("postgres")
    except UnreachableError:
        return set()
    try:
        return {row[0] for row in rows(connection, "select datname::text from pg_database")}
    finally:
        connection.close()


def ensure_roles(plan: Plan, connection: Any, params: dict[str, Any]) -> None:
    """The roles of every database."""
    folder, databases = Path(params["password_folder"]), params["databases"]
    names = [database[key] for database in databases for key in ROLE_KEYS]
    found = {row[0]: row for row in rows(connection, ROLES, [names])}
    for database in databases:
        for key in ROLE_KEYS:
            name = database[key]
            password = ensure_password(plan, folder / name)
            limit = params["connection_limit"]
            if key == "reader":
                limit = min(READERS, limit)
            ensure_role(plan, connection, name, limit, found.get(name), password)
    memberships = rows(
        connection,
        "select m.roleid::regrole::text, m.member::regrole::text, m.grantor::regrole::text"
        " from pg_auth_members m join pg_roles r on r.oid = m.member where r.rolname = any(%s)",
        [[database[key] for database in databases for key in RIGHTS]],
    )
    granted_by = connection.server_version >= 160000
    for group, member, grantor in memberships:
        by = f" GRANTED BY {grantor}" if granted_by else ""
        plan.do(f"take role {member} out of {group}", connection, f"REVOKE {group} FROM {member}{by} CASCADE")
    ensure_settings(plan, connection, databases)


def ensure_settings(plan: Plan, connection: Any, databases: list[dict[str, Any]]) -> None:
    """Settings that a role has from the beginning of each session."""
    wanted = (
        # A data migration may compute for long between two statements.
        ("owner", "idle_in_transaction_session_timeout", "0", "keep transactions open"),
        # Beside its grants: a function that runs with its owner's rights writes nothing for it either.
        ("reader", "default_transaction_read_only", "on", "begin all transactions read-only"),
    )
    names = [database[key] for database in databases for key, *_ in wanted]
    found = dict(rows(connection, "select rolname, rolconfig from pg_roles where rolname = any(%s)", [names]))
    for database in databases:
        for key, setting, value, what in wanted:
            name = database[key]
            if f"{setting}={value}" not in (found.get(name) or []):
                statement = f"ALTER ROLE {quoted(name)} SET {setting} = {value}"
                plan.do(f"let role {name} {what}", connection, statement)


def ensure_databases(
    plan: Plan, connection: Any, databases: list[dict[str, Any]], locale: str = LOCALE
) -> set[str]:
    """The databases themselves and who may connect; the names of those that exist now."""
    found = {row[0]: row for row in rows(connection, DATABASES, [[d["name"] for d in databases]])}
    for database in databases:
        name, owner = database["name"], database["owner"]
        close = f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC"
        admit = {
            database[key]: (
                f"REVOKE ALL ON DATABASE {quoted(name)} FROM {quoted(database[key])}",
                f"GRANT CONNECT ON DATABASE {quoted(name)} TO {quoted(database[key])}",
            )
            for key in RIGHTS
        }
        if name not in found:
            plan.do(
                f"create database {name}",
                connection,
                f"CREATE DATABASE {quoted(name)} OWNER {quoted(owner)} TEMPLATE template0 ENCODING 'UTF8'"
                f"{locale}",
                close,
                *(statement for statements in admit.values() for statement in statements),
            )
            continue
        _, has_owner, open_for_connections, grants, public = found[name]
        if not open_for_connections:
            raise WrongError(
                f"database {name} accepts no connections; run ALTER DATABASE {name} ALLOW_CONNECTIONS true"
            )
        if has_owner != owner:
            plan.do(
                f"give database {name} to {owner}",
                connection,
                f"ALTER DATABASE {quoted(name)} OWNER TO {quoted(owner)}",
            )
        if public:
            plan.do(f"close database {name} to everybody else", connection, close)
        for role, statements in admit.items():
            if {grant for grant in grants if grant.startswith(f"{role}:")} != {f"{role}:CONNECT"}:
                plan.do(f"let role {role} connect to database {name}", connection, *statements)
    return set(found) if plan.check_mode else {database["name"] for database in databases}


def ensure_extensions(plan: Plan, connection: Any, database: dict[str, Any], place: str = "") -> None:
    """Extensions, created by the superuser since few are trusted; or by what a `place` has of one."""
    wanted = database["extensions"]
    if not wanted:
        return
    known = dict(
        rows(
            connection,
            "select name, installed_version from pg_available_extensions where name = any(%s)",
            [wanted],
        )
    )
    for extension in wanted:
        if extension not in known and place:
            raise WrongError(unoffered(database["name"], extension, place))
        if extension not in known:
            major = connection.server_version // 10000
            raise WrongError(
                f"database {database['name']} wants the extension {extension}, which is not on this server;"
                f" add its package to the server's packages (often postgresql-{major}-{extension})"
            )
        if known[extension] is None:
            plan.do(
                f"create extension {extension} in database {database['name']}",
                connection,
                f"CREATE EXTENSION {quoted(extension)} SCHEMA public CASCADE",
            )


def ensure_rights(plan: Plan, connection: Any, database: dict[str, Any], key: str) -> None:
    """Schemas, default rights for what migrations will create, and rights on what is there, of one role."""
    name, owner, user = database["name"], database["owner"], database[key]
    role, where = quoted(user), f"in database {name}"
    schemas = rows(connection, SCHEMAS, [user, quoted(owner)])
    if "public" not in {row[0] for row in schemas}:
        plan.do(
            f"create schema public {where}",
            connection,
            f"CREATE SCHEMA public AUTHORIZATION {quoted(owner)}",
            f"GRANT USAGE ON SCHEMA public TO {role}",
        )
    for schema, has_owner, rights, public in schemas:
        if has_owner != owner:
            plan.do(
                f"give schema {schema} {where} to {owner}",
                connection,
                f"ALTER SCHEMA {quoted(schema)} OWNER TO {quoted(owner)}",
            )
        if public:
            plan.do(
                f"close schema {schema} {where} to everybody else",
                connection,
                f"REVOKE ALL ON SCHEMA {quoted(schema)} FROM PUBLIC",
            )
        if set(rights) != {"USAGE"}:
            plan.do(
                f"let role {user} use schema {schema} {where}",
                connection,
                f"REVOKE ALL ON SCHEMA {quoted(schema)} FROM {role}",
                f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {role}",
            )
    later = dict(rows(connection, DEFAULT_RIGHTS, [quoted(owner), role]))
    for letter, (kind, wanted) in RIGHTS[key].items():
        if set(later.get(letter) or []) != wanted:
            start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(owner)}"
            plan.do(
                f"let role {user} use later {kind.lower()} of {owner} {where}",
                connection,
                f"{start} REVOKE ALL ON {kind} FROM {role}",
                f"{start} GRANT {', '.join(sorted(wanted))} ON {kind} TO {role}",
            )
    ensure_relations(plan, connection, database, key, [row[0] for row in schemas])


def ensure_relations(
    plan: Plan, connection: Any, database: dict[str, Any], key: str, schemas: list[str]
) -> None:
    """Rights on existing tables, views and sequences; neither role owns any of them."""
    owner, user = database["owner"], database[key]
    for kind, relation, has_owner, rights, dependent in rows(connection, RELATIONS, [user, schemas]):
        statements: list[str] = []
        # A sequence that belongs to a column follows its table.
        mine = has_owner == user and not dependent
        if mine:
            statements.append(f"ALTER {KINDS[kind]} {relation} OWNER TO {quoted(owner)}")
        _, wanted = RIGHTS[key]["S" if kind == "S" else "r"]
        target = f"{'SEQUENCE' if kind == 'S' else 'TABLE'} {relation}"
        if mine or set(rights) != wanted:
            statements += [
                f"REVOKE ALL ON {target} FROM {quoted(user)} CASCADE",
                f"GRANT {', '.join(sorted(wanted))} ON {target} TO {quoted(user)}",
            ]
        if statements:
            plan.do(f"let role {user} {DOES[key]} of {relation}", connection, *statements)


def inside(
    plan: Plan, database: dict[str, Any], existing: set[str], opener: Callable[[str], Any], place: str = ""
) -> None:
    """What is done in the database itself, in one transaction."""
    name = database["name"]
    if name not in existing:
        plan.actions.append(f"set up schema, rights and extensions in database {name}")
        return
    connection = opener(name)
    try:
        known = rows(
            connection,
            "select count(*) from pg_roles where rolname = any(%s)",
            [[database[key] for key in ROLE_KEYS]],
        )
        if known[0][0] < len(ROLE_KEYS):
            plan.actions.append(f"set up rights in database {name}")
            return
        connection.autocommit = False
        ensure_extensions(plan, connection, database, place)
        for key in RIGHTS:
            ensure_rights(plan, connection, database, key)
        connection.commit()
    finally:
        connection.close()


def converge(plan: Plan, params: dict[str, Any], opener: Callable[[str], Any]) -> None:
    """Everything, in the order in which it depends on each other."""
    connection = opener("postgres")
    try:
        ensure_roles(plan, connection, params)
        existing = ensure_databases(plan, connection, params["databases"])
    finally:
        connection.close()
    for database in params["databases"]:
        inside(plan, database, existing, opener)


def converge_elsewhere(plan: Plan, server: dict[str, Any], password: str, folder: Path) -> None:
    """The same on a server of others, by whom the vault names."""
    place = external.where(server)

    def opener(database: str) -> Any:
        return external.connect(server, server["admin"], password, database)

    connection = opener(server["maintenance_db"])
    try:
        ensure_roles_elsewhere(plan, connection, server, folder)
        # Its locale is a matter of whoever runs the system below it.
        existing = ensure_databases(plan, connection, server["databases"], "")
    finally:
        connection.close()
    for database in server["databases"]:
        inside(plan, database, existing, opener, place)


def everything(plan: Plan, params: dict[str, Any]) -> None:
    """Look at servers of others, or make all that is wanted there and here."""
    folder = Path(params["password_folder"])
    for server in params["servers"]:
        plan.place, password = external.where(server), params["secrets"][server["host"]]
        if params["look"]:
            look_at(plan, server, password, params["dumped"], folder)
        else:
            converge_elsewhere(plan, server, password, folder)
    plan.place = ""
    if params["databases"] and not params["look"]:
        converge(plan, params, connect)


def main() -> None:
    """Run as an Ansible module."""
    databases = {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "reader": {"type": "str", "required": True},
            "extensions": {"type": "list", "elements": "str", "default": []},
        },
    }
    module = AnsibleModule(
        argument_spec={
            "databases": {**databases, "default": []},
            "connection_limit": {"type": "int", "default": 0},
            "servers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "sslmode": {"type": "str", "required": True},
                    "ca": {"type": "str", "default": ""},
                    "admin": {"type": "str", "default": "postgres"},
                    "maintenance_db": {"type": "str", "default": "postgres"},
                    "databases": {**databases, "required": True},
                },
            },
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "look": {"type": "bool", "default": False},
            "dumped": {"type": "bool", "default": False},
            "receipt": {"type": "dict", "default": {}},
            # Not a secret itself, whatever its name suggests.
            "password_folder": {"type": "path", "default": "/etc/berth/postgresql", "no_log": False},
        },
        supports_check_mode=True,
    )
    plan = Plan(module.check_mode)
    wanted = [
        *module.params["databases"],
        *(one for server in module.params["servers"] for one in server["databases"]),
    ]
    look = module.params["look"]
    unchanged = ". Nothing of any database was changed" if look else ""
    try:
        everything(plan, module.params)
    except WrongError as error:
        module.fail_json(msg=f"{error}{unchanged}", actions=plan.actions)
    except UnreachableError as error:
        # In check mode there may be no server yet; one of others there is.
        if look or not module.check_mode:
            what = "" if plan.place else "PostgreSQL cannot be reached: "
            module.fail_json(msg=f"{what}{error}{unchanged}", actions=plan.actions)
        plan.actions = [f"set up database {database['name']}" for database in wanted]
    except Exception as error:
        # The driver's errors quote the statement, and one statement holds a password's verifier.
        if type(error).__module__.startswith("psycopg2"):
            reason = getattr(getattr(error, "diag", None), "message_primary", None) or type(error).__name__
            step = plan.actions[-1] if plan.actions else "look around"
            who = plan.place or "PostgreSQL"
            module.fail_json(msg=f"{who} refused to {step}: {reason}", actions=plan.actions)
        raise
    for warning in plan.warnings:
        module.warn(warning)
    if look:
        module.exit_json(changed=False, actions=[], client=client())
    if receipts.write("postgresql", module.params["receipt"], module.check_mode):
        plan.actions.append("record what the apps were given")
    diff = {"before": "", "after": "".join(f"{action}\n" for action in plan.actions)}
    module.exit_json(changed=bool(plan.actions), actions=plan.actions, diff=diff)


if __name__ == "__main__":
    # Two runs may be given all apps at once: one reads, compares and writes at a time.
    with hostwide():
        main()
