"""How a release's record looked before: the only place that knows, so that all else reads one shape.

A new option of an app, or a new meaning of one, comes with the next format: a step below makes the record of
the format before into one of that, with what the option is for a release that was made without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

FORMAT = 5

Record = dict[str, Any]

# What came to the entry of an app while records had no format.
_SINCE: dict[str, Any] = {
    "source": {"host_keys": []},
    "python": {"install": False},
    "redis": {
        "enabled": False,
        "memory": "",
        "policy": "noeviction",
        "persistence": True,
        "variables": {"url": "REDIS_URL", "host": "", "port": "", "user": "", "password": "", "db": ""},
    },
    "migrations": {"lock_retries": 2, "destructive": "warn"},
    "health": {"hold": 3.2},
    "proxy": {"upstream_host": ""},
    "drain": {"releases": 2},
    "limits": {"build_memory": ""},
    "packages": {"index_url": "", "install_mirror": "", "downloads_json": ""},
    "state": "present",
}

# The entry of a release whose record is not there, as far as its files are read and no further.
NOBODY: dict[str, Any] = {
    "source": {"subdir": ""},
    "python": {"directory": ""},
    "processes": [{"name": "web", "app": "", "command": "", "directory": ""}],
    "migrations": {"directory": ""},
    "database": {"enabled": False},
}


def today(record: Record) -> Record:
    """A record of any format in the shape of this one; one of a later format as it is."""
    if not isinstance(record.get("app"), dict):
        return record
    for step in _STEPS[int(record.get("format") or 0) :]:
        record = step(record)
    return {**record, "format": max(FORMAT, int(record.get("format") or 0))}


def _first(record: Record) -> Record:
    app = _filled(record["app"], _SINCE)
    # Each process had the time of the web's requests to end in.
    before = {"directory": "", "overlap": False, "stop_timeout": int(app["drain"].get("requests", 60)) + 10}
    app["processes"] = [{**before, **process} for process in app.get("processes", [])]
    app["jobs"] = [{"memory": "512M", **job} for job in app.get("jobs", [])]
    return {**record, "app": app}


def _filled(value: Mapping[str, Any], missing: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**missing, **value}
    for key, below in missing.items():
        if isinstance(below, dict) and isinstance(value.get(key), dict):
            filled[key] = _filled(value[key], below)
    return filled


def _second(record: Record) -> Record:
    app = record["app"]
    return {**record, "app": {**app, "egress": {"policy": "open", "allow": [], "metadata": False}}}


def _third(record: Record) -> Record:
    return {**record, "app": _filled(record["app"], {"pooler": {"enabled": False}})}


def _fourth(record: Record) -> Record:
    told = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}
    login = {"admin": "postgres", "maintenance_db": "postgres"}
    here = {"host": "", "port": 5432, **login, "sslmode": "verify-full", "ca": "", "variables": told}
    return {**record, "app": _filled(record["app"], {"database": here})}


def _fifth(record: Record) -> Record:
    redeploy = {"schedule": "", "jitter": 60, "version": "", "not_during": []}
    return {**record, "app": _filled(record["app"], {"redeploy": redeploy})}


# The first makes format 1 of what had none, the second 2 of 1, and so on.
_STEPS: list[Callable[[Record], Record]] = [_first, _second, _third, _fourth, _fifth]
