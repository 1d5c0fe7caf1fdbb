"""What the server was given before, against what the inventory says now. Reads only, but for one mark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .. import environment
from ..paths import Paths, text_digest
from ..runtime import naming
from ..services import table as services
from . import applies, journal, public

# What role proxy applied last, site by site, as it was given.
PROXY_RECEIPT = "etc/caddy/berth.applied.json"
# The digest of the settings that both roles, app and service, have been through.
APPLIED = "applied"
_FORMAT = 4  # of the files that are written; a newer one has them written again


def provision_digest(app: Mapping[str, Any]) -> str:
    """Of what role app and role service made of an app; a deploy compares it with its own inventory's."""
    shape = applies.part(app, applies.ENVIRONMENT, applies.UNIT)
    shape["format"] = _FORMAT
    shape["subdir"] = shape.pop("source")["subdir"]
    shape["migrations.env"] = shape.pop("migrations")["env"]
    return text_digest(json.dumps(shape, sort_keys=True, default=str))


def provisioned(app: Mapping[str, Any]) -> dict[str, Any]:
    """What a deploy compares itself with, and what removing the app must know when no release is left."""
    return {"digest": provision_digest(app)} | {one.key: one.settings(app) for one in services.ALL}


def compare(
    paths: Paths, app: dict[str, Any], vault: dict[str, Any], after_site: bool, check: bool
) -> dict[str, Any]:
    """`stale`: a deploy has to renew env files or units first. `problem`: what it cannot renew by itself.

    `after_site`: in check mode, whether this run is one that would have renewed that too.
    """
    try:
        given = json.loads(paths.provisioned.read_text())
    except (OSError, ValueError):
        given = {}
    if not given.get("digest"):
        return {"stale": False, "secrets": [], "problem": ""}  # the plan says what to do
    secrets = changed_secrets(paths, app, vault)
    stale = bool(
        secrets
        or given["digest"] != provision_digest(app)
        or _cut_off(paths, given["digest"])
        or not all((paths.units / name).is_file() for name in naming.template_files(app))
    )
    problem = "" if after_site and check else _problem(paths, app, given)
    return {"stale": stale and not problem, "secrets": secrets, "problem": problem}


def _cut_off(paths: Paths, digest: str) -> bool:
    """Whether a run ended between the role that writes the env files and the one that writes the units."""
    try:
        return (paths.state / APPLIED).read_text().strip() != digest
    except OSError:
        return False


def remember_applied(paths: Paths, app: dict[str, Any]) -> None:
    """Called where both roles have been through."""
    digest = provision_digest(app)
    try:
        if (paths.state / APPLIED).read_text().strip() == digest:
            return
    except OSError:
        pass
    journal.replace_text(paths.state / APPLIED, digest + "\n", 0o600)


def changed_secrets(paths: Paths, app: dict[str, Any], vault: dict[str, Any]) -> list[str]:
    """Names of the secrets whose value in the vault is not the one on the server."""
    try:
        stored = json.loads((paths.etc / "secrets.json").read_text())
    except (OSError, ValueError):
        stored = {}
    names = {secret["name"] for secret in app["secrets"]}
    names.add(app["source"]["deploy_key"])
    return sorted(
        name for name in names if name in vault and stored.get(name) != environment.as_text(vault[name])
    )


def _problem(paths: Paths, app: dict[str, Any], given: dict[str, Any]) -> str:
    whats = [
        f"The {one.what} settings"
        for one in services.ALL
        if _differs(one.key, {one.key: given.get(one.key)}, {one.key: one.settings(app)})
    ]
    if (known := site(paths)) and _differs(applies.PROXY, _entry(known, app), app):
        whats.append("domains, static or proxy")
    if not whats:
        return ""
    since = "changed since the server was prepared, and a deploy does not apply them"
    return f"{whats[0]} of {app['name']} {since}."


def _differs(kind: str, applied: dict[str, Any], app: dict[str, Any]) -> bool:
    return applies.part(applied, kind) != applies.part(app, kind)


def _entry(site: dict[str, Any], app: dict[str, Any]) -> dict[str, Any]:
    """A site as it was applied, in the shape of the app's entry."""
    proxy = {key: site.get(key) for key in app["proxy"]}
    return {"domains": site.get("domains"), "static": site.get("static") or [], "proxy": proxy}


def site(paths: Paths) -> dict[str, Any]:
    """The app's site as role proxy applied it; nothing on a server that has no such receipt yet."""
    try:
        sites: dict[str, dict[str, Any]] = json.loads((paths.root / PROXY_RECEIPT).read_text())
        return sites.get(paths.app, {})
    except (OSError, ValueError):
        return {}


def unserved(paths: Paths, app: dict[str, Any]) -> list[str]:
    """Static paths of a release that the proxy, as it is set up today, leaves to the app."""
    known = site(paths)
    urls = [one["url"] for one in known.get("static") or []]
    return [one["url"] for one in app["static"] if known and one["url"] not in urls]


def served(paths: Paths, app: dict[str, Any], release: str) -> dict[str, Any]:
    """A release's own description, under the names that the proxy asks it by today."""
    known = site(paths)
    if not known.get("domains"):
        return app
    host = known.get("upstream_host", "")
    before = known.get("before", "")
    if before and not public.expects(paths.release(release), known["host"]):
        host = before
    return {**app, "domains": known["domains"], "proxy": {**app.get("proxy", {}), "upstream_host": host}}


def expects_another_name(paths: Paths, app: dict[str, Any], release: str) -> bool:
    """Whether a release was made for being asked under another host name than the app's of today."""
    host = public.asked_as(app)
    folder = paths.release(release)
    told = (folder / public.HOSTS).is_dir() or bool(site(paths).get("before"))
    return told and not public.expects(folder, host)
