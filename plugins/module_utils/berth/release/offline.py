"""The SQL of migrations, made by alembic's offline mode: no database is asked, and nothing is written."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from . import cause, environment
from .command import transient
from .errors import ReleaseError
from .paths import Paths

LIMIT = 128 * 1024
_SECONDS = 30  # an env.py that waits for its database waits for nothing here
# The file is in the sandbox's own /tmp; beyond 2 MB alembic is stopped.
_SCRIPT = f'ulimit -f 4096; "$@" >/tmp/sql; code=$?; head -c {LIMIT + 1} /tmp/sql; exit $code'
# Variables of env that hold a secret, by their name.
_TELLING = re.compile(r"passw|secret|token|pwd|credential|(^|_)key$", re.IGNORECASE)
_HIDDEN = "(hidden)"


@dataclass(frozen=True)
class Sql:
    """The statements, or why there are none."""

    text: str = ""
    note: str = ""


@dataclass(frozen=True)
class Place:
    """Code that has the revisions, and the environment to run it in."""

    root: Path
    folder: Path  # of the alembic.ini
    env: Path
    python_path: list[Path]
    release: str


def make(paths: Paths, app: dict[str, Any], unit: str, place: Place, start: str, end: str) -> Sql:
    """The way from one revision to another, as the app's user, in a sandbox that reaches no database."""
    if "," in start:
        return Sql(note="Their SQL is not known: alembic's offline mode cannot start from several heads.")
    words = [str(place.env / "bin/alembic"), "upgrade", f"{start or 'base'}:{end}", "--sql"]
    try:
        result = transient(
            unit,
            ["/bin/sh", "-c", _SCRIPT, "sh", *words],
            user=paths.app,
            writable=[],
            timeout=_SECONDS,
            cwd=place.folder,
            env={
                "PATH": f"{place.env}/bin:/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": ":".join(str(folder) for folder in place.python_path),
                "PYTHONDONTWRITEBYTECODE": "1",
                "BERTH_RELEASE": place.release,
                "BERTH_APP": paths.app,
            },
            env_file=paths.etc / "migrate.env",
            # A copy in /var/tmp would be hidden by the sandbox's own.
            properties=[
                "PrivateNetwork=yes",
                "InaccessiblePaths=-/run/postgresql",
                f"BindReadOnlyPaths={place.root}",
            ],
        )
    except ReleaseError as error:
        return Sql(note=f"Their SQL is not known: {error.sentence}")
    values = secret_values(paths, app)
    if len(result.out) > LIMIT:
        text = mask(result.out[:LIMIT], values)
        return Sql(f"{text}\n-- The rest is left out: it is longer than {LIMIT // 1024} KB.\n")
    if result.code != 0:
        inside = str(place.root)
        error_line, at = cause.last_error(result.lines, inside)
        lines = result.err.strip().splitlines()
        said = error_line or (lines[-1] if lines else f"exit status {result.code}")
        where = f" ({cause.brief(at, inside)})" if at else ""
        why = mask(said.replace(f"{inside}/", "").rstrip("."), values)
        return Sql(note=f"Their SQL cannot be made without a database: {why}{where}.")
    return Sql(mask(result.out, values))


def secret_values(paths: Paths, app: dict[str, Any]) -> set[str]:
    """Everything on the server that must not be shown: secrets, database passwords, passwords in env."""
    values: set[str] = set()
    with contextlib.suppress(OSError, ValueError):
        values.update(json.loads((paths.etc / "secrets.json").read_text()).values())
    database = app.get("database") or {}
    for role in (database.get("user"), database.get("owner")):
        try:
            values.add(environment.read_password(paths.root / "etc/berth/postgresql", role or "none"))
        except ReleaseError:
            continue
    with contextlib.suppress(ReleaseError):
        values.add(environment.read_redis(paths.root / "etc/berth/redis", paths.app)["password"])
    for file in ("env", "migrate.env"):
        try:
            variables = environment.parse((paths.etc / file).read_text())
        except (OSError, ValueError, IndexError):
            continue
        for name, value in variables.items():
            if _TELLING.search(name):
                values.add(value)
            values.update(_passwords(value))
    return {value for value in values if value.strip()}


def _passwords(value: str) -> set[str]:
    """The password of an address."""
    try:
        found = urlsplit(value).password or ""
    except ValueError:
        return set()
    return {found, unquote(found)} - {""}


def mask(text: str, values: Iterable[str]) -> str:
    """Without these values, however SQL, JSON or an address would write them."""
    forms: set[str] = set()
    for value in values:
        # An error message is told line by line.
        for part in {value, *(line for line in value.splitlines() if len(line) >= 8)}:
            forms |= {part, part.replace("'", "''"), part.replace("\\", "\\\\"), part.replace("%", "%%")}
            forms |= {quote(part, safe=""), quote_plus(part), json.dumps(part)[1:-1], repr(part)[1:-1]}
    for form in sorted(forms, key=len, reverse=True):
        # What is shorter than a word stands for itself only: a secret `1` must not hide every number.
        pattern = re.escape(form) if len(form) >= 4 else rf"(?<!\w){re.escape(form)}(?!\w)"
        text = re.sub(pattern, _HIDDEN, text)
    return text
