"""Secrets: declared ones are in the vault, the vault holds nothing else, and none is a placeholder.

No message of this file contains a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import names as names
from .problem import Report, did_you_mean, words
from .spec import ABSENT, Walker, plain

# After removing everything but letters and digits.
_PLACEHOLDERS = words(
    """
    admin abc abc123 abcdef asdf bar baz changeit changeme changemenow changethis default dev
    development dummy empty example fillin fillme fixme foo foobar insecure insert key letmein mykey
    mypassword mysecret mysecretkey mytoken na nil none notasecret notsecret null nopassword pass passwd
    password pleasechange pleasechangeme postgres private qwerty replace replaceme replacethis root
    sample secret secretkey secretkeyhere secretpassword secrettoken setme something string supersecret
    supersecretkey supersecretpassword tba tbd temp test testing testkey testsecret tmp todo token
    undefined unset value welcome yourkey yourkeyhere yourpassword yoursecret yoursecrethere
    yoursecretkey yoursecretkeyhere yourtoken yourtokenhere
    """
)
# Long enough never to begin a random value by chance.
_PLACEHOLDER_STARTS = tuple(
    words(
        """
        changeme changethis djangoinsecure dummysecret enteryour examplesecret insertyour notsosecret
        placeholder pleasechange replaceme replacethis replacewith supersecret yourpassword yoursecret
        yourtoken
        """
    )
)
_SEQUENCES = ("0123456789", "1234567890", "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm")
_KEY_NAME = re.compile(r"(^|_)(SECRETS?|KEY|TOKEN|SALT|PEPPER|JWT|SIGNING|HMAC|CREDENTIALS?)(_|$)")
_PASSWORD_NAME = re.compile(r"(PASSWORD|PASSWD|PASSPHRASE)(_|$)|(^|_)(PASS|PWD)(_|$)")
# Beside the apps, the server's own secrets; no app is called so.
SERVER = "server"
_NO_SECRET = re.compile(
    r"(_ID|_NAME|_URL|_URI|_FILE|_PATH|_USER|_HOST|_PORT|_ALGORITHM|_PUBLIC|_PUBLIC_KEY|_LENGTH)$"
)


def shortest(name: str) -> int:
    """How many characters a secret of this name must have: what signs or opens something more than a password
    (which others may have issued), and what we cannot tell at least one.
    """
    upper = name.upper()
    if _NO_SECRET.search(upper):
        return 1
    if _KEY_NAME.search(upper):
        return 16
    return 12 if _PASSWORD_NAME.search(upper) else 1


def looks_secret(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret."""
    return shortest(name) > 1


def is_placeholder(value: str) -> bool:
    """Whether nobody has filled in the value yet."""
    text = value.strip().lower()
    letters = re.sub(r"[^a-z0-9]", "", text)
    if not letters:
        return len(set(text)) <= 2
    return (
        letters in _PLACEHOLDERS
        # secret1, changeme123
        or letters.rstrip("0123456789!") in _PLACEHOLDERS
        or letters.startswith(_PLACEHOLDER_STARTS)
        or len(set(letters)) <= 1 + (len(letters) > 5)
        or any(len(letters) >= 4 and row.startswith(letters) for row in _SEQUENCES)
        or (text.startswith(("<", "[", "{{")) and text.endswith((">", "]", "}}")))
    )


def check_vault(report: Report, vault: object, apps: list[dict[str, Any]], walker: Walker) -> None:
    """Check the vault against what the apps declare, and plain variables for forgotten placeholders."""
    present = [(index, app) for index, app in enumerate(apps) if app["state"] != "absent"]
    for index, app in present:
        _check_env(report, app, f"apps[{index}].env")
    if vault is None or vault is ABSENT:
        vault = {}
    if not isinstance(vault, Mapping):
        text = "is not a mapping; write the apps' names, and below each its secrets: board: {SECRET_KEY: …}"
        if isinstance(vault, str) and vault.startswith("$ANSIBLE_VAULT"):
            text = "is still encrypted; pass the right --vault-password-file (or --ask-vault-pass)"
        report.add("vault", text)
        return
    by_name = {app["name"]: (index, app) for index, app in reversed(list(enumerate(apps))) if app["name"]}
    found: dict[str, dict[str, object]] = {}
    for name, secrets in walker.items(vault, "vault"):
        if name == SERVER:
            continue
        if name not in by_name:
            hint = did_you_mean(name, by_name)
            report.add(f"vault.{name}", f"there is no app of this name{hint or '; remove it'}")
        elif not isinstance(secrets, Mapping):
            report.add(f"vault.{name}", "is not a mapping; write one line for each secret: SECRET_KEY: …")
            found[name] = {}
        else:
            found[name] = dict(walker.items(secrets, f"vault.{name}"))
    for name, (index, app) in by_name.items():
        if app["state"] != "absent" and not report.touches(f"apps[{index}].name"):
            _check_app(report, name, app, f"apps[{index}]", found.get(name, {}))


def _check_env(report: Report, app: dict[str, Any], path: str) -> None:
    for name, value in app["env"].items():
        if isinstance(value, str) and value and looks_secret(name) and is_placeholder(value):
            report.add(
                f"{path}.{name}",
                f'is a placeholder; remove it, and write "- {{name: {name}, generate: true}}" under secrets',
            )


def _check_app(report: Report, name: str, app: dict[str, Any], path: str, values: dict[str, object]) -> None:
    declared = {
        secret["name"]: (number, secret) for number, secret in enumerate(app["secrets"]) if secret["name"]
    }
    key = app["source"]["deploy_key"]
    for secret, (number, entry) in declared.items():
        if not names.VARIABLE.fullmatch(secret):
            continue
        below = f"vault.{name}.{secret}"
        if entry["generate"]:
            if secret in values:
                report.add(
                    f"{path}.secrets[{number}]",
                    f'"{secret}" is to be generated, but {below} has a value; '
                    'remove "generate: true" or that value',
                )
        elif secret in values:
            _check_value(report, below, secret, values[secret])
        elif not report.touches(below):
            report.add(
                below,
                "missing; write its value there (ansible-vault edit), "
                f'or "generate: true" at {path}.secrets[{number}]',
            )
    if key and names.VARIABLE.fullmatch(key):
        wanted = f"the private SSH key there, as {path}.source.deploy_key says"
        check_private_key(report, f"vault.{name}.{key}", values.get(key, ABSENT), wanted)
    for secret in values:
        if secret not in declared and secret != key:
            hint = did_you_mean(secret, declared) if declared else ""
            hint = hint if "did you mean" in hint else ""
            report.add(
                f"vault.{name}.{secret}",
                f"is not declared{hint or ';'} "
                f'write "- name: {_shown(secret)}" under {path}.secrets, or remove it',
            )


def _check_value(report: Report, path: str, name: str, value: object) -> None:
    if value is None:
        report.add(path, "is empty; write its value")
    elif not isinstance(value, str):
        report.add(path, "is not text; write the value in quotes, so that it arrives as you wrote it")
    elif not value.strip():
        report.add(path, "is empty; write its value")
    elif is_placeholder(value):
        report.add(path, f"is a placeholder; write a real value{_generator(name)}")
    elif len(plain(value)) < shortest(name):
        report.add(path, f"is too short; write at least {shortest(name)} characters{_generator(name)}")
    else:
        names.check_value(report, path, plain(value))


def _generator(name: str) -> str:
    return ', e.g. the output of "openssl rand -hex 32"' if looks_secret(name) else ""


def check_private_key(report: Report, path: str, value: object, wanted: str) -> bool:
    """Report what is not a private SSH key; `wanted` says which one belongs there."""
    if value is ABSENT:
        if not report.touches(path):
            report.add(path, f"missing; write {wanted}")
    elif not isinstance(value, str) or not value.strip():
        report.add(path, "is empty; write the private SSH key")
    elif re.match(r"\s*(ssh-|ecdsa-|sk-)", value):
        report.add(path, "is a public key; write the private one (it goes with the file without .pub)")
    elif not re.match(r"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----\s", value) or "\n" not in value.strip():
        report.add(
            path, 'is not a private SSH key; write all its lines, after "|" (-----BEGIN … PRIVATE KEY-----)'
        )
    else:
        return True
    return False


def below(
    report: Report, values: object, path: str, known: tuple[str, ...] | None, walker: Walker
) -> dict[str, Any]:
    """A mapping of the vault, with no other keys than `known`; of what is there by name, any."""
    if values is None or values is ABSENT:
        return {}
    if not isinstance(values, Mapping):
        example = f"{known[0]}: …" if known else "a name, and below it its secrets"
        report.add(path, f"is not a mapping; write {example}")
        return {}
    # Not by the schema's own walk, which shows what it does not know: here that may be a secret.
    found = dict(walker.items(values, path))
    for key in found if known is not None else ():
        if key not in (known or ()):
            report.add(f"{path}.{key}", f"unknown key{did_you_mean(key, known or ())}")
    return found


def _shown(name: str) -> str:
    return name if names.VARIABLE.fullmatch(name) else "NAME"
