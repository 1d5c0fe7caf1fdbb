"""The SQL of migrations, made by alembic's offline mode, and linted: asks no database, and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..diagnosis import cause, masking
from ..errors import UP, ReleaseError
from ..packaging import once
from ..packaging.once import Code
from ..paths import SQUAWK
from ..services import table as services
from . import lint

LIMIT = 128 * 1024
_SECONDS = 30  # an env.py that waits for its database waits for nothing here
NOT_LINTED = f"They were not linted: squawk is not on this server, or does not run; {UP} installs it."
# The file is in the sandbox's own /tmp; beyond 2 MB alembic is stopped. Other people's code has made what the
# linter reads, so it runs in there, too.
_MARK = "\n\x1eLint\n"
_STYLE = "require-lock-timeout,require-statement-timeout,prefer-robust-stmts,prefer-bigint-over-int"
_LINT = rf"printf '\n\036Lint\n'; {SQUAWK} --reporter json -e {_STYLE} /tmp/sql 2>/tmp/no"
_SCRIPT = (
    f'ulimit -f 4096; "$@" >/tmp/sql; code=$?; cat /tmp/sql; [ $code != 0 ] || {{ {_LINT}; }}; exit $code'
)


@dataclass(frozen=True)
class Sql:
    """The statements, or why there are none."""

    text: str = ""
    note: str = ""
    # What they do to the release that runs; None where that could not be looked at.
    found: tuple[lint.Finding, ...] | None = None


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
        result = once.run(
            once.of_app(
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
        )
    except ReleaseError as error:
        return Sql(note=f"Their SQL is not known: {error.sentence}")
    mask = masking.Mask(masking.of_app(paths))
    out, _, report = result.out.partition(_MARK)
    found, unlinted = None, ""
    try:
        found = tuple(lint.read(report, out, mask))
    except lint.UnreadableError as statement:
        unlinted = f"They were not linted: squawk cannot read {statement}."
    except (ValueError, KeyError, TypeError):
        unlinted = NOT_LINTED if result.code == 0 else "They were not linted: they are too long."
    if len(out) > LIMIT:
        # Whole lines: half a secret is not recognized.
        text = mask(out[:LIMIT].rpartition("\n")[0])
        text += f"\n-- The rest is left out: it is longer than {LIMIT // 1024} KB.\n"
        return Sql(text, unlinted, found)
    if result.code != 0:
        inside = str(place.root)
        error_line, at = cause.last_error(result.lines, inside)
        lines = result.err.strip().splitlines()
        said = error_line or (lines[-1] if lines else f"exit status {result.code}")
        where = f" ({cause.brief(at, inside)})" if at else ""
        why = mask(said.replace(f"{inside}/", "").rstrip("."))
        return Sql(note=f"Their SQL cannot be made without a database: {why}{where}.")
    return Sql(mask(out), unlinted, found)
