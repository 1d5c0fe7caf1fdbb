"""Every backing service there is, and what is asked of all of them at once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import ReleaseError
from . import pgbouncer, postgresql, redis
from .service import ROOT, App, Service

# In this order they are told of, and purged.
ALL: tuple[Service, ...] = (postgresql.SERVICE, pgbouncer.SERVICE, redis.SERVICE)


class Given(NamedTuple):
    """What an app is given of its services."""

    variables: dict[str, str]  # under the names that it reads
    known: dict[str, str]  # under the names that its templates refer to


def of(app: App) -> list[Service]:
    """Those that an app has."""
    return [service for service in ALL if service.used(app)]


def given(app: App, root: Path = ROOT, *, owner: bool = False, check: bool = False) -> Given:
    """For the app itself; with `owner` for its migrations. In check mode also before there is anything."""
    variables: dict[str, str] = {}
    known: dict[str, str] = {}
    for service in of(app):
        try:
            parts = service.parts(app, root, owner=owner)
        except ReleaseError:
            if not check:
                raise
            parts = service.predicted(app, owner=owner)
        told = service.variables(app)
        variables |= {name: parts[part] for part, name in told.items() if name}
        known |= {f"{service.prefix}.{part}": value for part, value in parts.items()}
    return Given(variables, known)


def sockets() -> list[str]:
    """The folders of sockets that lead past a sandbox's network."""
    return [service.sockets for service in ALL if service.sockets]


def alone(app: str) -> list[Service]:
    """Those of which each app has one of its own, in a unit of that."""
    return [service for service in ALL if service.unit(app)]


def shared() -> list[Service]:
    """Those of which there is one for all apps."""
    return [service for service in ALL if not service.unit("any")]
