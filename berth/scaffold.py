"""`berth init`: the questions, what makes a good answer, and the files that come of them."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from berth import kit
from plugins.module_utils.berth.contract import names
from plugins.module_utils.berth.contract.moved import CONFIG

INVENTORY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Of one that is there already.
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
GIT = re.compile(r"(https?|ssh|git)://\S+|[\w.-]+@[\w.-]+:\S+")
ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass
class Site:
    """The answers."""

    host: str
    user: str
    port: int
    key: str
    domains: list[str]
    app: str
    source: str
    version: str
    email: str
    tls: str
    database: bool


class Questions:
    """Asks for what the command line left open, until the answer is good."""

    def __init__(self, *, asking: bool) -> None:
        self.asking = asking

    def __call__(self, kind: str, text: str, given: str | None, default: str | None = None) -> str:
        if given is not None:
            return validate(kind, given)
        if not self.asking:
            if default is None:
                raise kit.BerthError(f"--{kind} is missing, and --yes lets nothing be asked.")
            return validate(kind, default)
        while True:
            answer = str(typer.prompt(text, default=default, show_default=bool(default)))
            try:
                return validate(kind, answer)
            except kit.BerthError as error:
                typer.secho(str(error), err=True, fg="red")


def validate(kind: str, answer: str) -> str:
    """The answer as it goes into the inventory, or one sentence on what is wrong with it."""
    answer = answer.strip().lower() if kind == "domain" else answer.strip()
    accepts, complaint = RULES[kind]
    if accepts(answer):
        return answer
    raise kit.BerthError(f"{answer!r} {complaint}" if answer else f"An empty answer {complaint}")


def place(name: str | None, option: str | None, folder: Path | None) -> Path:
    """Where an inventory goes, whichever way it was named: NAME, `-i NAME`, `-i PATH` or `--folder PATH`."""
    if name and option and name != option:
        raise kit.BerthError(f"NAME says {name}, and -i says {option}: name the inventory once.")
    given = name or option or Path(kit.DEFAULT_INVENTORY).name
    path = Path(given).expanduser()
    if folder is None and path.parent != Path():
        # A folder of the kit is written from wherever the command is run, as it is found.
        below = path.parent == Path(kit.DEFAULT_INVENTORY).parent
        folder, given = kit.ROOT / path if below else path, path.name
    validate("name", given)
    return (folder or kit.ROOT / "inventories" / given).absolute()


def _is_host(text: str) -> bool:
    return _is_address(text) or names.is_host(text.lower())


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_domain(text: str) -> bool:
    return "." in text and names.is_host(text)


def _is_source(text: str) -> bool:
    return bool(GIT.fullmatch(text)) or (bool(text) and Path(text).expanduser().is_dir())


RULES: dict[str, tuple[Callable[[str], bool], str]] = {
    "name": (
        lambda text: bool(INVENTORY_NAME.fullmatch(text)),
        "is no name for an inventory: use letters, digits, dots, dashes and underscores.",
    ),
    "host": (_is_host, "is no address or host name of a server. Example: 203.0.113.7"),
    "user": (lambda text: bool(USER.fullmatch(text)), "is no user name on Linux. Example: root"),
    "domain": (_is_domain, "is no full domain name. Without https:// and path: board.example.com"),
    "app": (
        lambda text: bool(names.APP.fullmatch(text)),
        "is no name for an app: small letters, digits and dashes, a letter first, at most 31.",
    ),
    "source": (
        _is_source,
        "is neither a folder on this machine nor a git URL (https://…, ssh://…, git@…).",
    ),
    "email": (
        lambda text: not text or bool(names.EMAIL.fullmatch(text)),
        "is no e-mail address. Leave it empty to go without one.",
    ),
    "tls": (
        lambda text: text in ("acme", "internal"),
        "is no kind of TLS: acme gets public certificates, internal uses an authority of the server's own.",
    ),
}


def guess_name(source: str | None) -> str | None:
    """A name for the app from the last part of its source."""
    last = re.sub(r"\.git$", "", re.split(r"[/:]", (source or "").rstrip("/"))[-1])
    name = re.sub(r"[^a-z0-9-]+", "-", last.lower()).strip("-")[:31]
    return name if names.APP.fullmatch(name) else None


def refuse_overwriting(target: Path) -> None:
    """An inventory holds secrets that exist nowhere else: never write over one."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise kit.BerthError(
            f"{target} exists already, and init never writes over anything. Choose another name."
        )


def write(target: Path, site: Site) -> list[str]:
    """Write the inventory; return what to tell the user."""
    is_git = bool(GIT.fullmatch(site.source))
    vault: dict[str, str] = {"SECRET_KEY": _random()}
    public_key = ""
    if is_git and not site.source.startswith("http"):
        vault["DEPLOY_KEY"], public_key = _ssh_key(f"{site.app}-deploy")
    password = secrets.token_urlsafe(32)

    variables = target / "group_vars" / "all"
    variables.mkdir(parents=True)
    _file(target / "hosts.yml", _hosts(site))
    _file(variables / "server.yml", _server(site))
    _file(variables / "apps.yml", _apps(target, site, deploy_key=bool(public_key)))
    _file(target / kit.VAULT_PASSWORD_FILE, password + "\n", mode=0o600)
    _file(variables / "vault.yml", _encrypt(_vault(site.app, vault), password), mode=0o600)
    return _next_steps(target, site, public_key)


def _random() -> str:
    return "".join(secrets.choice(ALPHANUMERIC) for _ in range(48))


def _file(path: Path, content: str, mode: int = 0o644) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)


def _scalar(value: str) -> str:
    """A value as YAML writes it on one line, quoted where it must be."""
    return str(yaml.safe_dump(value, width=10_000, allow_unicode=True)).removesuffix("...\n").strip()


def _hosts(site: Site) -> str:
    name = re.sub(r"[^A-Za-z0-9.-]", "-", site.host)
    lines = [
        "---",
        "# The server, as SSH reaches it. Its host key has to be in your known_hosts.",
        "all:",
        "  hosts:",
        f"    {_scalar(name)}:",
        f"      ansible_host: {_scalar(site.host)}",
        f"      ansible_user: {_scalar(site.user)}",
    ]
    if site.port != 22:
        lines.append(f"      ansible_port: {site.port}")
    if site.key:
        lines.append(f"      ansible_ssh_private_key_file: {_scalar(site.key)}")
    return "\n".join(lines) + "\n"


def _server(site: Site) -> str:
    return f"""---
# The server itself. All there is to say about it: docs/inventory.md
server:
  timezone: Etc/UTC
  proxy:
    tls: {site.tls}
    email: {_scalar(site.email)}
  config: {CONFIG} # the version that this is written in: a Berth of another one says what to change
"""


def _apps(target: Path, site: Site, *, deploy_key: bool) -> str:
    if GIT.fullmatch(site.source):
        source = [f"git: {_scalar(site.source)}", f"version: {_scalar(site.version)}"]
        if deploy_key:
            source.append("deploy_key: DEPLOY_KEY")
    else:
        folder = Path(site.source).expanduser().absolute()
        # Inside the kit the path travels with it; elsewhere it is this machine's.
        inside = folder.is_relative_to(kit.ROOT) and target.is_relative_to(kit.ROOT)
        source = [f"path: {_scalar(os.path.relpath(folder, target) if inside else str(folder))}"]
    lines = [
        "---",
        "# The apps on the server. A name, domains and a source are enough; the rest has defaults or is",
        "# found out from the source. Every key: docs/inventory.md. By example: docs/your-app.md",
        "apps:",
        f"  - name: {site.app}",
        f"    domains: [{', '.join(_scalar(domain) for domain in site.domains)}]",
        "    source:",
        *(f"      {line}" for line in source),
        "    # Values from vault.yml, given to the app as environment variables.",
        "    secrets:",
        "      - name: SECRET_KEY",
    ]
    if not site.database:
        lines += ["    database:", "      enabled: false"]
    return "\n".join(lines) + "\n"


def _vault(app: str, values: dict[str, str]) -> str:
    # The server's own: what opens backups that are stored elsewhere, once there is such a place.
    content: dict[str, Any] = {"vault": {app: values, "server": {"backup": {"key": _random()}}}}
    return "---\n" + str(yaml.safe_dump(content, sort_keys=False, default_style=None))


def _encrypt(text: str, password: str) -> str:
    from ansible.parsing.vault import VaultLib, VaultSecret

    vault = VaultLib([("default", VaultSecret(password.encode()))])
    encrypted: bytes = vault.encrypt(text.encode())
    return encrypted.decode()


def _ssh_key(comment: str) -> tuple[str, str]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}"


def _next_steps(target: Path, site: Site, public_key: str) -> list[str]:
    here = Path(os.path.relpath(target))
    shown = target if str(here).startswith("..") else here
    option = f" -i {shown}" if target != kit.ROOT / kit.DEFAULT_INVENTORY else ""
    lines = [f"Wrote {shown}: hosts.yml, group_vars/all/server.yml, apps.yml and vault.yml (encrypted)."]
    folder = Path(site.source).expanduser()
    if (folder / "alembic.ini").is_file():
        lines.append("Found alembic.ini: each release runs `alembic upgrade head` before it goes live.")
    lines += [
        f"The vault's password is in {shown / kit.VAULT_PASSWORD_FILE}: keep a copy in a safe place, "
        "and keep it out of git.",
        "The vault also holds a new key for backups off the server (vault.server.backup.key, for "
        "server.backup.offsite): once the server is gone, they can be read with a copy of the vault and its "
        "password, and with nothing else.",
    ]
    if public_key:
        lines += ["", "Give this deploy key read access to the repository:", f"  {public_key}"]
    port = f" -p {site.port}" if site.port != 22 else ""
    key = f" -i {site.key}" if site.key else ""
    lines += [
        "",
        "Next:",
        f"  ssh{port}{key} {site.user}@{site.host} true    # once, to see and accept the server's host key",
        f"  berth check{option}",
        f"  berth up{option}",
        "or without the command line:",
        f"  ansible-playbook site.yml -i {shown} --vault-password-file {shown / kit.VAULT_PASSWORD_FILE}",
        f"Edit the secrets with: ansible-vault edit --vault-password-file {shown / kit.VAULT_PASSWORD_FILE} "
        f"{shown / 'group_vars/all/vault.yml'}",
    ]
    return lines
