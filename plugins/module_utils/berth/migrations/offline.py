"""The SQL of migrations, made by alembic's offline mode: no database is asked, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..diagnosis import cause, masking
from ..errors import ReleaseError
from ..packaging import once
from ..packaging.once import Code
from ..services import table as services

LIMIT = 128 * 1024
_SECONDS = 30  # an env.py that waits for its database waits for nothing here
# The file is in the sandbox's own /tmp; beyond 2 MB alembic is stopped.
_SCRIPT = f'ulimit -f 4096; "$@" >/tmp/sql; code=$?; head -c {LIMIT + 1} /tmp/sql; exit $code'


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
    code: Code


def make(unit: str, place: Place, start: str, end: str) -> Sql:
    """The way from one revision to another, as the app's user, in a sandbox that reaches no database."""
    if "," in start:
        return Sql(note="Their SQL is not known: alembic's offline mode cannot start from several heads.")
    paths = place.code.paths
    words = [place.code.tool("alembic"), "upgrade", f"{start or 'base'}:{end}", "--sql"]
    try:
        result = once.as_app(
            place.code,
            unit,
            ["/bin/sh", "-c", _SCRIPT, "sh", *words],
            cwd=place.folder,
            settings=paths.etc / "migrate.env",
            timeout=_SECONDS,
            # A copy in /var/tmp would be hidden by the sandbox's own.
            properties=[
                "PrivateNetwork=yes",
                *(f"InaccessiblePaths=-{folder}" for folder in services.sockets()),
                f"BindReadOnlyPaths={place.root}",
            ],
        )
    except ReleaseError as error:
        return Sql(note=f"Their SQL is not known: {error.sentence}")
    mask = masking.Mask(masking.of_app(paths))
    if len(result.out) > LIMIT:
        # Whole lines: half a secret is not recognized.
        text = mask(result.out[:LIMIT].rpartition("\n")[0])
        return Sql(f"{text}\n-- The rest is left out: it is longer than {LIMIT // 1024} KB.\n")
    if result.code != 0:
        inside = str(place.root)
        error_line, at = cause.last_error(result.lines, inside)
        lines = result.err.strip().splitlines()
        said = error_line or (lines[-1] if lines else f"exit status {result.code}")
        where = f" ({cause.brief(at, inside)})" if at else ""
        why = mask(said.replace(f"{inside}/", "").rstrip("."))
        return Sql(note=f"Their SQL cannot be made without a database: {why}{where}.")
    return Sql(mask(result.out))
