"""An app's environment: systemd's file format, secrets born on the server, database variables."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import applies
from .errors import UP, ReleaseError
from .paths import text_digest

_ALPHABET = string.ascii_letters + string.digits
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPED = '"\\`$'
REFERENCE = re.compile(r"\$?\$\{([^{}]*)\}")
SECRET = re.compile(r"secret\(\s*(['\"])([A-Za-z_][A-Za-z0-9_]*)\1\s*\)")
DATABASE_HOST = "127.0.0.1"
DATABASE_PORT = "5432"
REDIS_HOST = "127.0.0.1"
# Each app has an instance to itself, so the user that every client takes for granted is that app's alone.
REDIS_USER = "default"
REDIS_DB = "0"


def quote(value: str) -> str:
    """One value for `EnvironmentFile=`: any character arrives as it is, newlines included."""
    return '"' + "".join("\\" + char if char in _ESCAPED else char for char in value) + '"'


def render(variables: Mapping[str, str]) -> str:
    lines = ["# Ansible managed"]
    for name in sorted(variables):
        check(name, variables[name])
        lines.append(f"{name}={quote(variables[name])}")
    return "\n".join(lines) + "\n"


def check(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise ReleaseError(f"env.{name}: an environment variable's name is letters, digits and _ only.")
    bad = next((char for char in value if (ord(char) < 32 and char not in "\t\n\r") or ord(char) == 127), "")
    if bad:
        raise ReleaseError(f"env.{name}: holds the control character U+{ord(bad):04X}, which systemd drops.")


def parse(text: str) -> dict[str, str]:
    """What systemd makes of an environment file (the subset that `render` writes, strictly)."""
    variables: dict[str, str] = {}
    at = 0
    while at < len(text):
        if text[at] in "#;":
            at = text.find("\n", at) + 1 or len(text)
        elif text[at] in " \t\r\n":
            at += 1
        else:
            equals = text.index("=", at)
            name, at = text[at:equals], equals + 1
            if text[at] != '"':
                raise ValueError(f"{name} is not in double quotes")
            value, at = [], at + 1
            while text[at] != '"':
                if text[at] == "\\" and text[at + 1] in _ESCAPED:
                    at += 1
                elif text[at] == "\\" and text[at + 1] == "\n":
                    at += 2
                    continue
                value.append(text[at])
                at += 1
            variables[name], at = "".join(value), at + 1
    return variables


def as_text(value: Any) -> str:
    """Numbers and booleans as YAML writes them; lists and maps as JSON, which settings libraries read."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def merge_secrets(
    app: Mapping[str, Any], vault: Mapping[str, Any], stored: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """All secrets of an app and the names of those just born. A vault value wins, a born one stays."""
    result: dict[str, str] = {}
    born: list[str] = []
    for secret in app["secrets"]:
        name = secret["name"]
        if name in vault:
            result[name] = as_text(vault[name])
        elif secret["generate"]:
            if name not in stored:
                born.append(name)
            result[name] = stored.get(name) or generate(secret["length"])
        else:
            raise ReleaseError(
                f"apps[{app['name']}].secrets: {name} is missing: put it under vault.{app['name']}.{name} or "
                "set generate: true to have it made on the server."
            )
    key = app["source"]["deploy_key"]
    if key:
        if key not in vault:
            raise ReleaseError(
                f"apps[{app['name']}].source.deploy_key: vault.{app['name']}.{key} is missing."
            )
        result[key] = as_text(vault[key])
    # A born secret that is not listed any more is kept: taking it back into the list must not change it.
    for name, value in stored.items():
        result.setdefault(name, value)
    return result, born


def generate(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def database_parts(database: Mapping[str, Any], user: str, password: str) -> dict[str, str]:
    """Everything there is to know of the database, for one of its roles."""
    name, scheme = database["name"], database["scheme"]
    return {
        "url": f"{scheme}://{user}:{password}@{DATABASE_HOST}:{DATABASE_PORT}/{name}",
        "host": DATABASE_HOST,
        "port": DATABASE_PORT,
        "name": name,
        "user": user,
        "password": password,
    }


def database_variables(database: Mapping[str, Any], user: str, password: str) -> dict[str, str]:
    """The database under the names the app reads: a URL, or its parts."""
    parts = database_parts(database, user, password)
    return {variable: parts[part] for part, variable in database["variables"].items() if variable}


def redis_parts(port: str, password: str) -> dict[str, str]:
    """Everything there is to know of the app's Redis."""
    return {
        # Without a user: not every client knows that there are any.
        "url": f"redis://:{password}@{REDIS_HOST}:{port}/{REDIS_DB}",
        "host": REDIS_HOST,
        "port": port,
        "user": REDIS_USER,
        "password": password,
        "db": REDIS_DB,
    }


def variables(
    app: Mapping[str, Any],
    secret_values: Mapping[str, str],
    database: Mapping[str, str],
    parts: Mapping[str, str] | None = None,
    redis: Mapping[str, str] | None = None,
    *,
    migrate: bool = False,
) -> dict[str, str]:
    """Everything the app's processes get; the user's own `env` wins over what Berth fills in."""
    result = {"HOME": f"/srv/{app['name']}/home", **database}
    if redis:
        told = app["redis"]["variables"]
        result.update({variable: redis[part] for part, variable in told.items() if variable})
    web = app["processes"][0]
    # Many apps size their pools by it. A command of the app's own knows its workers, and `uvicorn.run(app)`
    # refuses to start where the variable asks for more than one.
    if not web["command"]:
        result["WEB_CONCURRENCY"] = str(web["workers"])
    for secret in app["secrets"]:
        result[secret["name"]] = secret_values[secret["name"]]
    own = dict(app["env"])
    if migrate:
        own.update(app["migrations"]["env"])
    known = {f"db.{name}": value for name, value in (parts or {}).items()} | app_parts(app)
    known |= {f"redis.{name}": value for name, value in (redis or {}).items()}
    for name, value in own.items():
        result[name] = (
            fill_in(value["template"], known, secret_values) if isinstance(value, Mapping) else as_text(value)
        )
    return result


def app_parts(app: Mapping[str, Any]) -> dict[str, str]:
    """What a template may say of the app."""
    domain = (app.get("domains") or [""])[0]
    return {
        "app.name": app["name"],
        "app.domain": domain,
        "app.url": f"https://{domain}",
        "app.data": f"/srv/{app['name']}/data",
        "app.home": f"/srv/{app['name']}/home",
    }


def fill_in(template: str, known: Mapping[str, str], secret_values: Mapping[str, str]) -> str:
    """Replace each `${…}`; everything else arrives as it stands, and `$${` stands for `${`."""

    def one(match: re.Match[str]) -> str:
        if match.group(0).startswith("$$"):
            return match.group(0)[1:]
        secret = SECRET.fullmatch(match.group(1).strip())
        return secret_values[secret.group(2)] if secret else known[match.group(1).strip()]

    return REFERENCE.sub(one, template)


def read_redis(folder: Path, app: str) -> dict[str, str]:
    """The parts of an app's Redis, from what was born for it on this server."""
    try:
        port, password = ((folder / app / name).read_text().strip() for name in ("port", "password"))
    except OSError as error:
        raise ReleaseError(
            f"The server has no Redis for {app} ({folder / app}).", advice=f"{UP} sets it up first."
        ) from error
    return redis_parts(port, password)


def read_password(folder: Path, role: str) -> str:
    try:
        return (folder / role).read_text().strip()
    except OSError as error:
        raise ReleaseError(
            f"The server has no password for the database role {role} ({folder / role}).",
            advice=f"{UP} sets up PostgreSQL before the apps.",
        ) from error


_FORMAT = 4  # of the files that are written; a newer one has them written again


def redis_settings(app: Mapping[str, Any]) -> dict[str, Any]:
    """What the app's Redis is set up from; empty where it has none, whatever else is written."""
    return dict(app["redis"]) if app["redis"]["enabled"] else {}


def provision_digest(app: Mapping[str, Any]) -> str:
    """Of what role app and role service made of an app; a deploy compares it with its own inventory's."""
    shape = applies.part(app, applies.ENVIRONMENT, applies.UNIT)
    shape["format"] = _FORMAT
    shape["subdir"] = shape.pop("source")["subdir"]
    shape["migrations.env"] = shape.pop("migrations")["env"]
    return text_digest(json.dumps(shape, sort_keys=True, default=str))
