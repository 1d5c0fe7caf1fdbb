"""What a changed option of an app means: which part of what stands on the server was made from it.

Every option of an app in the contract's schema is here or with its service, and what the contract derives (a
test holds all together): one that nobody lists would change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..services import table as services

# What a deploy renews by itself: role app's user, folders, packages and env files, and role service's units.
ENVIRONMENT = "environment"
UNIT = "unit"
# What needs a new release.
RELEASE = "release"
# What a deploy only tells of, because site.yml alone applies it: the role of that name, and a service's role,
# which goes by the key of the service.
PROXY = "proxy"
FIREWALL = "firewall"
# What the server's own timer goes by: role redeploy, which a deploy runs where it differs.
REDEPLOY = "redeploy"
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
        health.path health.timeout health.interval health.successes health.hold
        static.path
    """,
    (RELEASE, PROXY): "static.url static.max_age",
    (PROXY,): """
        domains proxy.max_body proxy.read_timeout proxy.write_timeout proxy.upstream_host proxy.headers
        proxy.tls
    """,
    (FIREWALL,): "egress.policy egress.allow.to egress.allow.port egress.allow.protocol egress.metadata",
    (REDEPLOY,): "redeploy.schedule redeploy.jitter redeploy.version redeploy.not_during",
    (NOTHING,): """
        source.path source.git source.version source.deploy_key source.host_keys
        packages.index_url packages.install_mirror packages.downloads_json
        migrations.lock_timeout migrations.lock_retries migrations.timeout migrations.destructive
        drain.releases keep_releases state
    """,
}


def collect() -> dict[str, frozenset[str]]:
    """Each option with its kinds: an app's own, and those of its services."""
    found = {path: frozenset(kinds) for kinds, paths in _OPTIONS.items() for path in paths.split()}
    for service in services.ALL:
        for kinds, paths in service.options.items():
            found |= {f"{service.key}.{path}": frozenset((*kinds, service.key)) for path in paths.split()}
    return found


APPLIES = collect()
_SERVICES = {service.key: service for service in services.ALL}


def part(entry: Mapping[str, Any], *kinds: str, path: str = "") -> dict[str, Any]:
    """What of an app's entry applies to one of `kinds`, in the shape of the entry."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        below = f"{path}{key}"
        if not any(APPLIES[name] & set(kinds) for name in APPLIES if f"{name}.".startswith(f"{below}.")):
            continue
        if below in _SERVICES:
            value = _SERVICES[below].meant(value or {})
        if below in APPLIES:
            found[key] = value
        elif isinstance(value, list):
            found[key] = [part(one, *kinds, path=f"{below}.") for one in value]
        else:
            found[key] = part(value or {}, *kinds, path=f"{below}.")
    return found
