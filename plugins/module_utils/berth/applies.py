"""What a changed option of an app means: which part of what stands on the server was made from it.

Every option of an app in the contract's schema is here, and what the contract derives (a test holds both
together): one that nobody lists would change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What a deploy renews by itself: role app's user, folders, packages and env files, and role service's units.
ENVIRONMENT = "environment"
UNIT = "unit"
# What needs a new release.
RELEASE = "release"
# What a deploy only tells of, because site.yml alone applies it: the roles of that name.
PROXY = "proxy"
DATABASE = "database"
REDIS = "redis"
# Nothing that stands: each run reads it anew. What comes of a source is compared by itself.
NOTHING = "nothing"

_OPTIONS: dict[tuple[str, ...], str] = {
    (ENVIRONMENT,): "name system_packages env secrets.name secrets.generate secrets.length",
    (ENVIRONMENT, RELEASE): "processes.workers migrations.env persistent",
    (ENVIRONMENT, UNIT, RELEASE): "processes.command",
    (UNIT, RELEASE): """
        source.subdir
        processes.name processes.app processes.directory processes.instances processes.stop_timeout
        processes.overlap processes.memory
        jobs.name jobs.command jobs.schedule jobs.timeout jobs.memory
        scratch drain.requests drain.websocket
        limits.cpu limits.tasks limits.files limits.build_memory
    """,
    (RELEASE,): """
        python.version python.install python.extras python.groups python.directory build
        migrations.enabled migrations.command migrations.directory
        migrations.lock_timeout migrations.lock_retries migrations.timeout
        health.path health.timeout health.interval health.successes health.hold
        static.path
    """,
    (RELEASE, PROXY): "static.url static.max_age",
    (PROXY,): """
        domains proxy.max_body proxy.read_timeout proxy.write_timeout proxy.upstream_host proxy.headers
        proxy.tls
    """,
    (ENVIRONMENT, RELEASE, DATABASE): """
        database.enabled database.name database.owner database.user database.extensions database.role
        database.scheme
        database.variables.url database.variables.host database.variables.port
        database.variables.name database.variables.user database.variables.password
    """,
    (ENVIRONMENT, UNIT, REDIS): "redis.enabled",
    (ENVIRONMENT, REDIS): """
        redis.memory redis.policy redis.persistence
        redis.variables.url redis.variables.host redis.variables.port
        redis.variables.user redis.variables.password redis.variables.db
    """,
    (NOTHING,): """
        source.path source.git source.version source.deploy_key source.host_keys
        packages.index_url packages.install_mirror packages.downloads_json
        migrations.destructive drain.releases keep_releases state
    """,
}
APPLIES = {path: frozenset(kinds) for kinds, paths in _OPTIONS.items() for path in paths.split()}


def part(entry: Mapping[str, Any], *kinds: str, path: str = "") -> dict[str, Any]:
    """What of an app's entry applies to one of `kinds`, in the shape of the entry."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        below = f"{path}{key}"
        if not any(APPLIES[name] & set(kinds) for name in APPLIES if f"{name}.".startswith(f"{below}.")):
            continue
        if below in APPLIES:
            found[key] = value
        elif isinstance(value, list):
            found[key] = [part(one, *kinds, path=f"{below}.") for one in value]
        else:
            found[key] = part(value or {}, *kinds, path=f"{below}.")
    return found
