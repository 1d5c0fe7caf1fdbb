"""Somebody else's PostgreSQL, a managed one for example: where an app's database is that names a host.

Berth has the passwords of the app's own roles there and no other. What only an administrator may do is done
from the controller's vault, while site.yml runs.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .superuser import CATALOG_ALONE, UnreachableError, one_line

# Options of `database` that mean nothing without a host, and the variables that tell of them.
DEFAULTS = {
    "port": 5432,
    "admin": "postgres",
    "maintenance_db": "postgres",
    "sslmode": "verify-full",
    "ca": "",
}
OPTIONS = ("host", *DEFAULTS)
VARIABLES = ("sslmode", "sslrootcert")
# The authorities that the server trusts. A file: not every driver knows the word `system`.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# Others that inventories name, a file for each host: apps see nothing of /etc/berth.
FOLDER = Path("/etc/ssl/berth")
# Before it a superuser owns the schema public, so nobody else could close it to the app.
OLDEST = 15


def used(database: Mapping[str, Any]) -> bool:
    """Whether an app's database is elsewhere; records of before there was that say nothing of it."""
    return bool(database.get("host"))


def elsewhere(database: Mapping[str, Any]) -> bool:
    """Whether an app has a database, and that is elsewhere."""
    return bool(database.get("enabled")) and used(database)


def here(database: Mapping[str, Any]) -> bool:
    """Whether an app has a database, and that is on the server itself."""
    return bool(database.get("enabled")) and not used(database)


def address(database: Mapping[str, Any]) -> tuple[str, str]:
    return str(database["host"]), str(database["port"])


def where(database: Mapping[str, Any]) -> str:
    """In a sentence."""
    host, port = address(database)
    return host if port == "5432" else f"{in_url(host)}:{port}"


def in_url(host: str) -> str:
    """An address of version 6 has brackets there."""
    return f"[{host}]" if ":" in host else host


def authority(host: str) -> Path:
    """The file of the one that an inventory names for a host."""
    return FOLDER / f"{host}.crt"


def tls(database: Mapping[str, Any]) -> dict[str, str]:
    """libpq's `sslmode` and `sslrootcert`; empty for this server's own PostgreSQL.

    Without a certificate to check there is no file: with one, libpq would take `require` for `verify-ca`.
    """
    if not used(database):
        return {}
    mode = str(database["sslmode"])
    file = authority(database["host"]) if database.get("ca") else AUTHORITIES
    return {"sslmode": mode, "sslrootcert": str(file) if mode.startswith("verify") else ""}


def environment(database: Mapping[str, Any]) -> dict[str, str]:
    """The same as psql and its like read it."""
    return {f"PG{key.upper()}": value for key, value in tls(database).items() if value}


# As an administrator, or as one of an app's roles -----------------------------------------------------------


def connect(server: Mapping[str, Any], user: str, password: str, database: str) -> Any:
    """An autocommitting psycopg2 connection; UnreachableError with a sentence that says what to do.

    `server` has the options that an app's `database` has of it.
    """
    try:
        psycopg2 = importlib.import_module("psycopg2")
    except ImportError:
        raise UnreachableError("python3-psycopg2 is not installed") from None
    host, port = address(server)
    try:
        connection = psycopg2.connect(
            host=host,
            port=port,
            dbname=database,
            user=user,
            password=password,
            application_name="berth",
            connect_timeout=10,
            # Rather fail than queue behind a migration and hold up everybody else.
            options=f"{CATALOG_ALONE} -c lock_timeout=10s -c client_min_messages=error",
            # It would be tried before TLS, and checks no certificate.
            gssencmode="disable",
            **{key: value for key, value in tls(server).items() if value},
        )
    except psycopg2.OperationalError as error:
        raise UnreachableError(explain(one_line(error), server, user, database)) from None
    connection.autocommit = True
    return connection


def refused(error: UnreachableError) -> bool:
    """Whether it is the password that is wrong."""
    return "does not let in" in str(error)


def explain(said: str, server: Mapping[str, Any], user: str, database: str) -> str:
    """What a client's error means, and what to do about it."""
    host, place = str(server["host"]), where(server)
    if re.search(r"could not translate host name|Name or service not known|No address associated", said):
        return f"{host} has no address (DNS): correct database.host, or this server's resolver"
    if "does not support SSL" in said:
        return (
            f"{place} speaks no TLS: turn it on there; at a private address database.sslmode: disable goes "
            "without"
        )
    if found := re.search(r'certificate for "([^"]+)".* does not match host name', said):
        return (
            f"{place} shows a certificate of {found[1]}: write that name into database.host, or "
            "database.sslmode: verify-ca to check no name"
        )
    if "certificate verify failed" in said or "certificate has expired" in said:
        why = re.search(r"certificate verify failed|certificate has expired", said)
        return (
            f"{place} shows a certificate that no trusted authority signed, or an expired one "
            f"({why[0] if why else said}): write the file of its authority into database.ca"
        )
    if "root certificate file" in said:
        return f"the file of authorities to trust is missing on this server: {said}"
    if "startup parameter" in said:
        return f"{place} is a pooler: write the port of PostgreSQL itself into database.port"
    if re.search(r"authentication failed|no password supplied|role \S+ does not exist", said):
        return f"{place} does not let in {user}: its password or its name is another one there"
    if "pg_hba.conf" in said or "not allowed" in said:
        return f"{place} admits {user} from elsewhere, not from this server: allow its address there"
    if re.search(r'database "?[^"]*"? does not exist', said):
        return f"{place} has no database {database}: write one that is there into database.maintenance_db"
    if re.search(r"permission denied for database", said):
        return f"{place} keeps {user} from database {database}"
    if re.search(r"too many connections|remaining connection slots|sorry, too many", said):
        return f"{place} has no connection left: end some, or raise its limit"
    if found := re.search(r"Connection refused|timeout expired|timed out|unreachable|No route to host", said):
        return (
            f"nothing answers at {place} ({found[0]}): look whether it is up, whether database.port is "
            "right, and whether this server's address is allowed there"
        )
    return f"{place} cannot be used: {said}"
