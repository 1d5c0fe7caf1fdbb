"""What the server was given before, against what the inventory says now."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import environment
from ..errors import ReleaseError
from ..paths import Paths, text_digest
from ..runtime import naming
from ..services import table as services
from ..services.service import Service
from . import applies, proxy, public, receipts


def provision_digest(app: Mapping[str, Any]) -> str:
    """Of what role app and role service made of an app; a deploy compares it with its own inventory's."""
    shape = applies.part(app, applies.ENVIRONMENT, applies.UNIT)
    shape["format"] = receipts.FORMAT
    shape["subdir"] = shape.pop("source")["subdir"]
    shape["migrations.env"] = shape.pop("migrations")["env"]
    return text_digest(json.dumps(shape, sort_keys=True, default=str))


def provisioned(app: Mapping[str, Any]) -> dict[str, Any]:
    """What a deploy compares itself with, and what removing the app must know when no release is left."""
    return {"digest": provision_digest(app), "services": {one.key: one.settings(app) for one in services.ALL}}


def recorded(paths: Paths) -> dict[str, dict[str, Any]]:
    """What role app was told of each service, for whoever removes the app when no release is left."""
    known = marks(paths)
    # At the top level until the roles of services left receipts.
    found = known.get("services", known)
    return {service.key: found.get(service.key) or {} for service in services.ALL}


def marks(paths: Paths) -> dict[str, Any]:
    """What role app left of an app, in `provisioned.json`; nothing where that cannot be read."""
    try:
        found = json.loads(paths.provisioned.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def compare(
    paths: Paths, app: dict[str, Any], vault: dict[str, Any], predicted: Collection[str] = ()
) -> dict[str, Any]:
    """`stale`: a deploy has to renew env files or units first. `problem`: what it cannot renew by itself.

    `predicted`: the roles that this run has been through in check mode, where they leave no receipt.
    """
    known = marks(paths)
    if not known.get("digest"):
        return {"stale": False, "secrets": [], "problem": ""}  # the plan says what to do
    secrets = changed_secrets(paths, app, vault)
    stale = bool(
        secrets
        or known["digest"] != provision_digest(app)
        or _units_differ(paths, known, app)
        or not all((paths.units / name).is_file() for name in naming.template_files(app))
        or _told_otherwise(paths, app)
    )
    problem = _problem(paths, app, predicted)
    return {"stale": stale and not problem, "secrets": secrets, "problem": problem}


def _units_differ(paths: Paths, known: Mapping[str, Any], app: Mapping[str, Any]) -> bool:
    if "services" in known or receipts.path(receipts.UNITS, paths.root).exists():
        made = receipts.read(receipts.UNITS, paths.root).get(paths.app)
        return made != receipts.given(app, receipts.UNITS)
    # An earlier Berth kept the digest that both roles, app and service, had been through.
    try:
        return (paths.state / "applied").read_text().strip() != str(known["digest"])
    except OSError:
        return False


def _told_otherwise(paths: Paths, app: Mapping[str, Any]) -> bool:
    """Whether a service is reached otherwise by now than the env file says: its role alone was run."""
    try:
        told = environment.parse((paths.etc / "env").read_text())
        given = services.given(app, paths.root).variables
    except (OSError, ValueError, IndexError, ReleaseError):
        return False  # whoever writes it, or starts with it, says what is wrong
    return any(told.get(name) != value for name, value in given.items())


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


def _problem(paths: Paths, app: dict[str, Any], predicted: Collection[str]) -> str:
    whats = [
        f"The {one.what} settings"
        for one in services.ALL
        if one.ansible_role not in predicted and _applied(paths, one) != receipts.given(app, one.ansible_role)
    ]
    if receipts.EGRESS not in predicted:
        applied = receipts.read(receipts.EGRESS, paths.root).get(paths.app, "")
        if applied != receipts.given(app, receipts.EGRESS):
            whats.append("The egress settings")
    if "proxy" not in predicted and _differs_from_site(paths, app):
        whats.append("domains, static or proxy")
    if not whats:
        return ""
    since = "changed since the server was prepared, and a deploy does not apply them"
    return f"{whats[0]} of {app['name']} {since}."


def _applied(paths: Paths, service: Service) -> str:
    """The digest of what a service was last set up from for the app."""
    if receipts.path(service.ansible_role, paths.root).exists():
        return receipts.read(service.ansible_role, paths.root).get(paths.app, "")
    return _noted(marks(paths), service)


def _noted(known: Mapping[str, Any], service: Service) -> str:
    """The same of a server on which role app noted it, on behalf of a role that left no receipt."""
    entry = {service.key: known.get(service.key)}  # below `services` since such roles leave receipts
    return receipts.given(entry, service.ansible_role) if known.get("digest") else ""


def adopt(apps: Iterable[str], root: Path = Path("/")) -> None:
    """Make receipts of what role app of an earlier Berth noted, before it is overwritten.

    Of a role that has left a receipt since, that is what holds.
    """
    known = {app: marks(Paths(app, root)) for app in apps}
    for service in services.ALL:
        found = {app: digest for app, one in known.items() if (digest := _noted(one, service))}
        if found and not receipts.path(service.ansible_role, root).exists():
            receipts.write(service.ansible_role, found, False, root)


def _differs_from_site(paths: Paths, app: dict[str, Any]) -> bool:
    if not proxy.here(paths.root):
        return False  # of a Berth whose role proxy left none
    return applies.part(_entry(site(paths), app), applies.PROXY) != applies.part(app, applies.PROXY)


def _entry(site: dict[str, Any], app: dict[str, Any]) -> dict[str, Any]:
    """A site as it was applied, in the shape of the app's entry."""
    own = {key: site.get(key) for key in app["proxy"]}
    return {"domains": site.get("domains"), "static": site.get("static") or [], "proxy": own}


def site(paths: Paths) -> dict[str, Any]:
    """The app's site as role proxy applied it; nothing where it left no receipt of one."""
    return proxy.read(paths.root).sites.get(paths.app, {})


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
