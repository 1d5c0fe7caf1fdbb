# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Talking to the local PostgreSQL server as its superuser, and scram's arithmetic."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import os
import pwd
import re
import secrets
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SOCKET_FOLDER = "/var/run/postgresql"
ALPHABET = string.ascii_letters + string.digits
USABLE = re.compile(r"[A-Za-z0-9]{32,}")
VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):(.+)")
ITERATIONS = 4096
# For whoever is mighty in a database of somebody else's: none of its functions and operators is called
# instead of PostgreSQL's own.
CATALOG_ALONE = "-c search_path=pg_catalog"


class UnreachableError(Exception):
    """There is no server to talk to."""


@contextmanager
def as_user(name: str) -> Iterator[None]:
    """Act as this user for a moment; peer authentication looks at who opens the connection."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise UnreachableError(f"there is no user {name}, so PostgreSQL is not installed") from None
    if os.geteuid() == user.pw_uid:
        yield
        return
    group, uid = os.getegid(), os.geteuid()
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(group)


def connect(database: str, port: int = 5432) -> Any:
    """An autocommitting psycopg2 connection as the superuser."""
    try:
        psycopg2 = importlib.import_module("psycopg2")
    except ImportError:
        raise UnreachableError("python3-psycopg2 is not installed") from None
    try:
        with as_user("postgres"):
            connection = psycopg2.connect(
                host=SOCKET_FOLDER,
                port=port,
                dbname=database,
                user="postgres",
                application_name="berth",
                connect_timeout=10,
                # Rather fail than queue behind a migration and hold up everybody else.
                options=f"{CATALOG_ALONE} -c lock_timeout=10s -c client_min_messages=error",
            )
    except psycopg2.OperationalError as error:
        raise UnreachableError(one_line(error)) from error
    connection.autocommit = True
    return connection


def one_line(error: BaseException) -> str:
    """What a driver's error says, on one line."""
    return " ".join(str(error).split())


def rows(connection: Any, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    with connection.cursor() as cursor:
        cursor.execute(query, tuple(parameters) or None)
        return list(cursor.fetchall())


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal; used only for what needs no backslash."""
    if "\\" in text:
        raise ValueError("a backslash has no place here")
    return "'" + text.replace("'", "''") + "'"


def new_password(length: int = 40) -> str:
    """A password that needs no quoting anywhere."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    return hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256")


def verifier(password: str, salt: bytes | None = None) -> str:
    """What the server stores for a password (RFC 5803), so that the password itself is never sent."""
    salt = salt or secrets.token_bytes(16)
    stored, server = (base64.b64encode(key).decode() for key in _keys(password, salt, ITERATIONS))
    return f"SCRAM-SHA-256${ITERATIONS}:{base64.b64encode(salt).decode()}${stored}:{server}"


def matches(password: str, stored: str | None) -> bool:
    """Whether the server's record is a scram one of this password."""
    found = VERIFIER.fullmatch(stored or "")
    if not found:
        return False
    try:
        salt = base64.b64decode(found[2], validate=True)
        keys = tuple(base64.b64decode(part, validate=True) for part in (found[3], found[4]))
    except ValueError:
        return False
    return keys == _keys(password, salt, int(found[1]))
