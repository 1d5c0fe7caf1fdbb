"""An app's environment: systemd's file format, secrets born on the server, variables."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping
from typing import Any

from .errors import ReleaseError

_ALPHABET = string.ascii_letters + string.digits
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPED = '"\\`$'
REFERENCE = re.compile(r"\$?\$\{([^{}]*)\}")
SECRET = re.compile(r"secret\(\s*(['\"])([A-Za-z_][A-Za-z0-9_]*)\1\s*\)")


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
    if not VARIABLE.fullmatch(name):
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


def variables(
    app: Mapping[str, Any],
    secret_values: Mapping[str, str],
    backing: Mapping[str, str],
    known: Mapping[str, str] | None = None,
    *,
    migrate: bool = False,
) -> dict[str, str]:
    """Everything the app's processes get; the user's own `env` wins over what Berth fills in.

    `backing`: the variables of its backing services, `known`: what its templates may say of them.
    """
    result = {"HOME": f"/srv/{app['name']}/home", **backing}
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
    known = {**(known or {}), **app_parts(app)}
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
