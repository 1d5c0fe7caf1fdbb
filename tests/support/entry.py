"""The entry of an app as the release engine is given it."""

from __future__ import annotations

from typing import Any


def board(**more: Any) -> dict[str, Any]:
    """The least that nearly every step reads; `more` adds keys or stands in for them."""
    return {
        "name": "board",
        "domains": ["board.localhost"],
        "source": {"path": "/src"},
        "processes": [{"name": "web"}],
        "database": {"enabled": False},
        **more,
    }
