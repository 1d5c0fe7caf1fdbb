"""Which releases are here, which of them is live, and which one it is gone back to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..paths import Paths
from .journal import now, read_record, write_record


def records(paths: Paths) -> dict[str, dict[str, Any]]:
    """Every release folder with its record, oldest first; an empty record is a partial release."""
    if not paths.releases.is_dir():
        return {}
    found = (path for path in sorted(paths.releases.iterdir()) if path != paths.stage and path.is_dir())
    return {path.name: read_record(path) for path in found}


def live(paths: Paths) -> str:
    """What the proxy talks to: the release whose socket `web.sock` points at; empty when there is none."""
    try:
        return paths.web_sock.readlink().name.removesuffix(".sock")
    except OSError:
        return ""


def select(
    releases: dict[str, dict[str, Any]], live: str, keep: int, busy: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Releases that stay and that go: live, still at work, and those that were live last, `keep` in all."""
    stay = {live} if live in releases else set()
    stay.update(candidates(releases, live)[: max(1, keep) - len(stay)])
    stay.update(release for release in busy if served(releases.get(release, {})))
    return sorted(stay), sorted(set(releases) - stay)


def served(record: dict[str, Any]) -> bool:
    """Whether a release ever was live, so that it may still have clients: one taken back at once, too."""
    return bool(record.get("healthy") or record.get("withdrawn"))


def last_live(record: dict[str, Any]) -> tuple[int, str, str]:
    """When a release went live, to be compared: a count, since clocks are put right and names follow them."""
    return int(record.get("turn") or 0), str(record.get("live_since", "")), str(record.get("created", ""))


def next_turn(releases: dict[str, dict[str, Any]]) -> int:
    return 1 + max((int(record.get("turn") or 0) for record in releases.values()), default=0)


def candidates(releases: dict[str, dict[str, Any]], live: str) -> list[str]:
    """What a rollback may go to: what was live last comes first, and what was gone back from at the end."""
    found = [name for name, record in releases.items() if record.get("healthy") and name != live]
    return sorted(
        found,
        key=lambda name: (not releases[name].get("withdrawn"), last_live(releases[name]), name),
        reverse=True,
    )


def previous(releases: dict[str, dict[str, Any]], live: str) -> str:
    """The release a plain rollback goes to: what was live before the live one and is trusted still."""
    mine = releases.get(live, {})

    def before(name: str) -> bool:
        # One that is not proved yet came after all that are.
        older = (last_live(releases[name]), name) < (last_live(mine), live)
        return not releases[name].get("withdrawn") and (older or not mine.get("healthy"))

    return next((name for name in candidates(releases, live) if before(name)), "")


def withdraw(paths: Paths, release: str) -> None:
    """Note that a release was gone back from: it is no release to go back to any more, unless it is named."""
    record = read_record(paths.release(release))
    if record and not record.get("withdrawn"):
        write_record(paths.release(release), {**record, "withdrawn": now()})
