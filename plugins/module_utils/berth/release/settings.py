"""What the server was given before, against what the inventory says now. Reads only, but for one mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import environment, journal
from .paths import Paths, template_files, text_digest
from .plan import PROVISIONED

PROXIED = "proxied.json"
# The digest of the settings that both roles, app and service, have been through.
APPLIED = "applied"
CADDYFILE = "etc/caddy/berth.caddyfile"


def compare(
    paths: Paths, app: dict[str, Any], vault: dict[str, Any], after_site: bool, check: bool
) -> dict[str, Any]:
    """`stale`: a deploy has to renew env files or units first. `problem`: what it cannot renew by itself."""
    try:
        provisioned = json.loads((paths.etc / PROVISIONED).read_text())
    except (OSError, ValueError):
        provisioned = {}
    if not provisioned.get("digest"):
        return {"stale": False, "secrets": [], "problem": ""}  # the plan says what to do
    secrets = changed_secrets(paths, app, vault)
    stale = bool(
        secrets
        or provisioned["digest"] != environment.provision_digest(app)
        or _cut_off(paths, provisioned["digest"])
        or not all((paths.units / name).is_file() for name in template_files(app))
    )
    problem = "" if after_site else _problem(paths, app, provisioned)
    if not check and not problem:
        _remember(paths, app)
    return {"stale": stale and not problem, "secrets": secrets, "problem": problem}


def _cut_off(paths: Paths, digest: str) -> bool:
    """Whether a run ended between the role that writes the env files and the one that writes the units."""
    try:
        return (paths.state / APPLIED).read_text().strip() != digest
    except OSError:
        return False


def remember_applied(paths: Paths, app: dict[str, Any]) -> None:
    """Called where both roles have been through."""
    digest = environment.provision_digest(app)
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
    names = {secret["name"] for secret in app.get("secrets", [])}
    names.add(app.get("source", {}).get("deploy_key") or "")
    return sorted(
        name for name in names if name in vault and stored.get(name) != environment.as_text(vault[name])
    )


def _problem(paths: Paths, app: dict[str, Any], provisioned: dict[str, Any]) -> str:
    if provisioned.get("database") != app.get("database"):
        what = "The database settings"
    elif (provisioned.get("redis") or {}) != environment.redis_settings(app):
        what = "The Redis settings"
    elif (known := _known(paths)) and known["digest"] != proxied(app) and known["file"] == _proxy_file(paths):
        what = "domains, static or proxy"
    else:
        return ""
    return (
        f"{what} of {app['name']} changed since the server was prepared: run site.yml, which applies them "
        "and deploys."
    )


def proxied(app: dict[str, Any]) -> str:
    """Everything of an app that the proxy is configured with."""
    shape = {key: app.get(key) for key in ("domains", "proxy")}
    shape["static"] = [{key: one.get(key) for key in ("url", "max_age")} for one in app.get("static") or []]
    return text_digest(json.dumps(shape, sort_keys=True, default=str))


def _proxy_file(paths: Paths) -> str:
    """The proxy's configuration as it is: when it changed since, somebody has run the role."""
    try:
        return text_digest((paths.root / CADDYFILE).read_text())
    except OSError:
        return ""


def _known(paths: Paths) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((paths.state / PROXIED).read_text())
        return known if {"digest", "file", "domains", "static"} <= set(known) else {}
    except (OSError, ValueError):
        return {}


def _remember(paths: Paths, app: dict[str, Any]) -> None:
    now = {
        "digest": proxied(app),
        "file": _proxy_file(paths),
        "domains": app.get("domains") or [],
        "static": [one["url"] for one in app.get("static") or []],
        "upstream_host": app.get("proxy", {}).get("upstream_host", ""),
    }
    if now != _known(paths) and Path(paths.state).is_dir():
        journal.replace_text(paths.state / PROXIED, json.dumps(now, sort_keys=True) + "\n", 0o600)


def unserved(paths: Paths, app: dict[str, Any]) -> list[str]:
    """Static paths of a release that the proxy, as it is set up today, leaves to the app."""
    known = _known(paths)
    return [one["url"] for one in app.get("static") or [] if known and one["url"] not in known["static"]]


def served(paths: Paths, app: dict[str, Any]) -> dict[str, Any]:
    """A release's own description, under the names of today: the proxy knows no others."""
    known = _known(paths)
    if not known.get("domains"):
        return app
    proxy = {**app.get("proxy", {}), "upstream_host": known.get("upstream_host", "")}
    return {**app, "domains": known["domains"], "proxy": proxy}
