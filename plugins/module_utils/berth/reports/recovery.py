"""A server that is lost, built anew on a bare host: whether this is one, and how parts went. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..payload import files, recovery
from ..runtime import naming

Facts = dict[str, Any]

UNIT = naming.distributions("berth-recovery@{}")
# What a host has that holds something already; each as a pattern below the top.
_HELD = (
    *("etc/berth", "var/lib/berth", "srv/*", "var/lib/pgbackrest/*", "var/lib/redis/*"),
    *("etc/postgresql/*/*", "var/lib/postgresql/*/*"),
)
_NOTHING = "Nothing was changed."


def plan(root: Path = Path("/")) -> Facts:
    """What is done already of a run that was begun here; ReleaseError where the host is not bare."""
    folder = root / recovery.FOLDER.relative_to("/")
    state = files.read(folder / "state.json")
    if state.get("finished"):
        raise ReleaseError(
            f"A server was restored onto this host, which ended at {state['finished']}: it is not bare any "
            f"more. berth up goes on from here. {_NOTHING}"
        )
    if not state.get("begun") and (held := sorted(f"/{one}" for one in _there(root))):
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        raise ReleaseError(
            f"This host is not bare: it has {', '.join(held[:3])}{more}. A server is restored onto a host "
            f"with nothing but its system; take another one, or install this one anew. {_NOTHING}"
        )
    return {"begun": str(state.get("begun") or ""), "answers": answered(folder)}


def _there(root: Path) -> list[Path]:
    return [path.relative_to(root) for pattern in _HELD for path in root.glob(pattern)]


def answered(folder: Path) -> Facts:
    """What each part answered that came to its end."""
    found = {name: files.read(folder / f"{name}.json") for name in (*recovery.VERBS, "provision", "rows")}
    return {name: one for name, one in found.items() if one and not one.get("problem")}


def describe(verb: str, run: str, root: Path = Path("/")) -> Facts:
    """How a part went that was asked for; ReleaseError where it did not."""
    made = files.read(root / recovery.FOLDER.relative_to("/") / f"{verb}.json")
    again = "What is done is kept: the same line again goes on."
    if made.get("run") != run:
        raise ReleaseError(
            f"It was cut off; journalctl -u {UNIT.format(verb)} on the server tells why. {again}"
        )
    if made["problem"]:
        raise ReleaseError(f"Not brought back: {made['problem']}. {again}")
    return {"answer": made}
