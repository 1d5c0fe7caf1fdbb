"""Passwords of PostgreSQL's roles: born well, recognised in the server's record."""

from __future__ import annotations

import base64
from pathlib import Path

from ansible.module_utils.berth.services import superuser

from plugins.modules import postgresql_databases


def test_rfc_7677_example() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    record = superuser.verifier("pencil", salt)
    assert record.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    # The server's signature in that example is made with this key.
    assert record.endswith(":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=")


def test_a_record_matches_its_password_only() -> None:
    record = superuser.verifier("one")
    assert superuser.matches("one", record)
    assert not superuser.matches("two", record)
    assert record != superuser.verifier("one")


def test_other_records_never_match() -> None:
    for record in (None, "", "md5d41d8cd98f00b204e9800998ecf8427e", "SCRAM-SHA-256$4096:?$?:?", "one"):
        assert not superuser.matches("one", record)


def test_new_passwords_need_no_quoting() -> None:
    passwords = {superuser.new_password() for _ in range(50)}
    assert len(passwords) == 50
    assert all(superuser.USABLE.fullmatch(password) and len(password) == 40 for password in passwords)


def test_password_files(tmp_path: Path) -> None:
    path = tmp_path / "berth" / "postgresql" / "board"
    assert postgresql_databases.read_password(path) is None
    postgresql_databases.write_password(path, "x" * 40)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.read_text() == "x" * 40 + "\n"
    assert postgresql_databases.read_password(path) == "x" * 40
    assert [entry.name for entry in path.parent.iterdir()] == ["board"]
    path.write_text("short\n")
    assert postgresql_databases.read_password(path) is None


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    plan = postgresql_databases.Plan(check_mode=True)
    assert len(postgresql_databases.ensure_password(plan, tmp_path / "postgresql" / "board")) == 40
    assert plan.actions == ["generate the password of role board"]
    assert not any(tmp_path.iterdir())


def test_names_and_literals_are_quoted() -> None:
    assert superuser.quoted('a"b') == '"a""b"'
    assert superuser.literal("it's") == "'it''s'"
