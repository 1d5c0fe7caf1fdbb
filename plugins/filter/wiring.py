"""Filters that turn resolved apps into the inputs of roles that know nothing of apps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils

# Ansible ships module_utils to hosts, but does not put this folder where filters could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth.contract.offsite import host_keys
    from plugins.module_utils.berth.paths import build_user
    from plugins.module_utils.berth.payload.drill import span
    from plugins.module_utils.berth.services import external
    from plugins.module_utils.berth.services.postgresql import reader
    from plugins.module_utils.berth.store.receipts import given
else:
    from ansible.module_utils.berth.contract.offsite import host_keys
    from ansible.module_utils.berth.paths import build_user
    from ansible.module_utils.berth.payload.drill import span
    from ansible.module_utils.berth.services import external
    from ansible.module_utils.berth.services.postgresql import reader
    from ansible.module_utils.berth.store.receipts import given

App = Mapping[str, Any]
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_STAMP = "%Y-%m-%dT%H:%M:%SZ"


def databases(apps: Sequence[App]) -> list[dict[str, Any]]:
    """The role postgresql's `postgresql_databases` for these apps."""
    keys = ("name", "owner", "user", "extensions")
    return [
        {**{key: database[key] for key in keys}, "reader": reader(database)}
        for app in apps
        if external.here(database := app["database"])
    ]


def database_servers(apps: Sequence[App]) -> list[dict[str, Any]]:
    """The role postgresql's `postgresql_servers`: those of others, each with the databases to be there.

    `ca` is the file of its authority on the controller, if it has one of its own.
    """
    found: dict[str, dict[str, Any]] = {}
    keys = ("name", "owner", "user", "extensions")
    for app in apps:
        database = app["database"]
        if not external.elsewhere(database):
            continue
        host = database["host"]
        one = found.setdefault(
            host,
            {**{key: database[key] for key in external.OPTIONS}, "databases": []},
        )
        one["databases"].append({**{key: database[key] for key in keys}, "reader": reader(database)})
    return list(found.values())


def dumped_elsewhere(apps: Sequence[App], backup: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The role dumps' `dumps_databases` for these apps; none where there are to be no backups."""
    keys = ("name", "owner", "host", "port", "extensions")
    return [
        {
            "app": app["name"],
            **{key: database[key] for key in keys},
            "roles": [database["user"], reader(database)],
            "checks": [one["query"] for one in backup.get("checks", []) if one["app"] == app["name"]],
            **external.tls(database),
        }
        for app in apps
        if backup["enabled"] and external.elsewhere(database := app["database"])
    ]


def administrators(vault: Mapping[str, Any] | None) -> dict[str, str]:
    """The role postgresql's `postgresql_secrets`: by host the password of who makes databases there."""
    return dict(((vault or {}).get("server") or {}).get("postgresql") or {})


def own_cluster(apps: Sequence[App]) -> bool:
    """Whether the server needs a PostgreSQL of its own: not where every database there is, is elsewhere."""
    return bool(databases(apps)) or not database_servers(apps)


def pools(apps: Sequence[App]) -> list[dict[str, Any]]:
    """The role pgbouncer's `pgbouncer_pools` for these apps."""
    return [
        {"app": app["name"], "database": app["database"]["name"], "user": app["database"]["user"]}
        for app in apps
        if app["pooler"]["enabled"]
    ]


def drill_checks(checks: Sequence[Mapping[str, str]], apps: Sequence[App]) -> list[dict[str, str]]:
    """The role backup's `backup_checks`: each with the database that is asked, and the role that asks.

    Those of a database elsewhere are put to its dump (`dumped_elsewhere`).
    """
    found = {app["name"]: database for app in apps if external.here(database := app["database"])}
    return [
        {**check, "database": found[check["app"]]["name"], "role": reader(found[check["app"]])}
        for check in checks
        if check["app"] in found
    ]


# The stanza that role backup makes of the cluster `main`.
_ARCHIVE = 'pgbackrest --stanza=main archive-push "%p"'


def archive_command(backup: Mapping[str, Any]) -> str:
    """How the cluster archives its WAL into the repository of backups; empty where there are to be none."""
    return _ARCHIVE if backup["enabled"] else ""


def offsite(backup: Mapping[str, Any], vault: Mapping[str, Any] | None) -> dict[str, Any]:
    """Off the server: `places` that backups go to as in the inventory, and `key`, which encrypts them there.

    Each place has its `secrets`, its `known_hosts` as SSH reads them, and `where` it is, for people. There
    are none where there are to be no backups.
    """
    secrets = ((vault or {}).get("server") or {}).get("backup") or {}
    opened = secrets.get("offsite") or {}
    places = backup["offsite"] if backup["enabled"] else []
    return {
        "key": secrets.get("key") or "",
        "places": [
            {
                **place,
                "secrets": dict(opened.get(place["name"]) or {}),
                "known_hosts": _known_hosts(place) if place["type"] == "sftp" else "",
                "where": _where(place),
            }
            for place in places
        ],
    }


def _known_hosts(place: Mapping[str, Any]) -> str:
    host = place["host"] if place["port"] == 22 else f"[{place['host']}]:{place['port']}"
    return "".join(f"{host} {kind} {key}\n" for kind, key in host_keys(place["host_key"]))


def _where(place: Mapping[str, Any]) -> str:
    if place["type"] == "sftp":
        port = "" if place["port"] == 22 else f":{place['port']}"
        return f"{place['user']}@{place['host']}{port}:{place['path']}"
    return f"{place['endpoint']}/{place['bucket']}{place['path']}"


def redis_of_apps(apps: Sequence[App]) -> list[dict[str, Any]]:
    """The role redis's `redis_instances` for these apps."""
    keys = ("memory", "policy", "persistence")
    return [
        {"name": app["name"], **{key: app["redis"][key] for key in keys}}
        for app in apps
        if app["redis"]["enabled"]
    ]


def egress_of_apps(apps: Sequence[App]) -> list[dict[str, Any]]:
    """The role firewall's `firewall_apps`: who each app and its builds are, and where they may connect to."""
    return [
        {
            "name": app["name"],
            "user": app["name"],
            "build_user": build_user(app["name"]),
            "database": external.here(app["database"]),
            "server": _server(app["database"]),
            **app["egress"],
        }
        for app in apps
    ]


def _server(database: Mapping[str, Any]) -> dict[str, Any]:
    """Where a database is that is elsewhere."""
    return {key: database[key] for key in ("host", "port")} if external.elsewhere(database) else {}


def proxy_sites(apps: Sequence[App]) -> list[dict[str, Any]]:
    """The role proxy's `proxy_sites` for these apps: one site each, at the app's live socket."""
    return [
        {
            "name": app["name"],
            "domains": app["domains"],
            "socket": f"/srv/{app['name']}/web.sock",
            # What only the live release can say is asked of it there, at each request.
            "marks": f"/srv/{app['name']}/current/.berth",
            **app["proxy"],
            # Each release says there which folder a path stands for, so a rollback brings that back too.
            "static": [
                {
                    "url": folder["url"],
                    "root": f"/srv/{app['name']}/current/.berth/static",
                    # A page that a browser has open still asks for files of the release before.
                    "kept": f"/srv/{app['name']}/public",
                    "max_age": folder["max_age"],
                }
                for folder in app["static"]
            ],
        }
        for app in apps
    ]


def receipt(apps: Sequence[App], role: str) -> dict[str, str]:
    """What a role records when all is applied: per app the digest of what it is given, if anything."""
    return {app["name"]: digest for app in apps if (digest := given(app, role))}


def deploy_summary(failed: Mapping[str, str], names: Sequence[str], check: bool = False) -> str:
    """How a run over several apps ended: a line each, those that failed with their reason."""
    width = max(map(len, names))
    well = "would be deployed" if check else "live"
    lines = [f"  {name:{width}}  {'failed: ' + failed[name] if name in failed else well}" for name in names]
    retry = " or ".join(f"-e app={name} (berth deploy {name})" for name in names if name in failed)
    head = f"{len(failed)} of {len(names)} apps failed:"
    return "\n".join([head, *lines, f"Next: correct it, then repeat with {retry}."])


def redeploy_ends(
    looked: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What came of a look for new code: each app's `status`, what is `said`, and whether that is `news`."""
    ended = {one["redeploy_name"]: one for one in done if "status" in one}
    keys, found = ("status", "said", "news"), []
    for one in looked:
        name = one["redeploy_item"]["name"]
        end = ended.get(name, one)
        if "status" in end:
            found.append({"name": name, **{key: end[key] for key in keys}})
    return found


def redeploy_summary(ends: Sequence[Mapping[str, Any]], status: int) -> str:
    """A line for each app that ended so."""
    return "\n".join(f"{one['name']}: {one['said']}" for one in ends if one["status"] == status)


def files_to_recover(apps: Sequence[App]) -> dict[str, dict[str, bool]]:
    """The role recovery's `recovery_apps`: whose files come back, and whether what Redis held does."""
    return {
        app["name"]: {"redis": bool(app["redis"]["enabled"] and app["redis"]["persistence"])} for app in apps
    }


def live_versions(live: Mapping[str, Mapping[str, str]], apps: Sequence[App]) -> dict[str, str]:
    """The commit that was live of each app that comes from a git repository; of a folder there is but one."""
    return {
        app["name"]: version
        for app in apps
        if app["source"].get("git")
        and _COMMIT.fullmatch(version := live.get(app["name"], {}).get("version", ""))
    }


def recovery_summary(
    answers: Mapping[str, Any], times: Sequence[Sequence[Any]], failed: Mapping[str, str], apps: Sequence[App]
) -> str:
    """What a server that was built anew has again, what was lost, and how long it took.

    `answers` are those of the parts of role recovery, and `rows`; `times` are pairs of what ended, and when,
    in seconds, from the beginning on.
    """
    looked, rows, files = answers["look"], answers["rows"], answers["files"]["files"]
    last = str(rows["last"])
    began = datetime.strptime(looked["run"], _STAMP).replace(tzinfo=UTC)
    lines = [f"From {looked['place']} ({looked['where']}):"]
    if last:
        commit = datetime.strptime(last, "%Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=UTC)
        before = span(max(0.0, (began - commit).total_seconds()))
        lines.append(
            f"  rows    up to the commit of {last.partition('.')[0]} UTC, {before} before this began; what "
            "was committed later is lost"
        )
    else:
        lines.append("  rows    of a cluster that does not tell when it committed")
    for app in apps:
        name = app["name"]
        release = looked["live"].get(name, {}).get("release", "")
        of = files.get(name, {}).get("of", "")
        deployed = f"not live: {failed[name]}" if name in failed else "live"
        parts = [
            deployed,
            f"was {release}" if release else "had no release",
            f"files of {of}" if of else "no files stored",
        ]
        if app["source"].get("path"):
            parts.append("its code is that of the folder today")
        lines.append(f"  {name}    {'; '.join(parts)}")
    steps = [
        f"{what} {round(float(end) - float(start))} s"
        for (_, start), (what, end) in itertools.pairwise(times)
    ]
    total = round(float(times[-1][1]) - float(times[0][1]))
    lines.append(f"It took {total} s: {', '.join(steps)}.")
    return "\n".join(lines)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {
            "administrators": administrators,
            "archive_command": archive_command,
            "database_servers": database_servers,
            "databases": databases,
            "dumped_elsewhere": dumped_elsewhere,
            "egress_of_apps": egress_of_apps,
            "files_to_recover": files_to_recover,
            "live_versions": live_versions,
            "deploy_summary": deploy_summary,
            "drill_checks": drill_checks,
            "offsite": offsite,
            "own_cluster": own_cluster,
            "pools": pools,
            "proxy_sites": proxy_sites,
            "receipt": receipt,
            "recovery_summary": recovery_summary,
            "redeploy_ends": redeploy_ends,
            "redeploy_summary": redeploy_summary,
            "redis_of_apps": redis_of_apps,
        }
