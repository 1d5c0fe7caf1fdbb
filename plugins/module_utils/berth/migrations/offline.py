"""The SQL of migrations, made by alembic's offline mode, and linted: asks no database, and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..diagnosis import cause, masking
from ..errors import UP, ReleaseError, run_of
from ..packaging import once
from ..packaging.once import Code
from ..paths import SQUAWK, Paths
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
_LINT_ALONE = f"cat >/tmp/sql; {_LINT}"
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
    paths = place.code.paths
    if "," in start:
        return _unknown(paths, "is not known: alembic's offline mode cannot start from several heads.")
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
        return _unknown(paths, f"is not known: {error.sentence}")
    mask = masking.Mask(masking.of_app(paths))
    out, _, report = result.out.partition(_MARK)
    found, unlinted = _linted(report, out, mask, whole=result.code == 0)
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
        return _unknown(paths, f"cannot be made without a database: {why}{where}.")
    return Sql(mask(out), unlinted, found)


def _unknown(paths: Paths, why: str) -> Sql:
    way = run_of("rehearse", paths.app)
    return Sql(note=f"Their SQL {why} {way} gets it, by running them on a copy of the live rows.")


def linted(paths: Paths, app: dict[str, Any], text: str) -> Sql:
    """SQL that is known already, as what it does to the release that runs."""
    mask = masking.Mask(masking.of_app(paths))
    argv = ["/bin/sh", "-c", _LINT_ALONE]
    try:
        result = once.as_builder(paths, app, argv, _SECONDS, stdin=text)
    except ReleaseError as error:
        return Sql(mask(text), f"They were not linted: {error.sentence}")
    found, unlinted = _linted(result.out.partition(_MARK)[2], text, mask, whole=True)
    return Sql(mask(text), unlinted, found)


def _linted(
    report: str, sql: str, mask: masking.Mask, *, whole: bool
) -> tuple[tuple[lint.Finding, ...] | None, str]:
    """What the linter found; or None, and why."""
    try:
        return tuple(lint.read(report, sql, mask)), ""
    except lint.UnreadableError as statement:
        return None, f"They were not linted: squawk cannot read {statement}."
    except (ValueError, KeyError, TypeError):
        return None, NOT_LINTED if whole else "They were not linted: they are too long."
