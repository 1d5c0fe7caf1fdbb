"""The sites as role proxy renders them for a provider: by Ansible's own template engine, on no host."""

from __future__ import annotations

import functools
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template

from tests.unit.contract_case import ROOT

ROLE = ROOT / "roles/proxy"


@functools.cache
def _prepared() -> None:
    init_plugin_loader()
    filter_loader.add_directory(str(ROOT / "plugins/filter"))


def variables(*files: str) -> dict[str, Any]:
    """What the role's own files say, as templates that are not rendered yet."""
    found: dict[str, Any] = {}
    for file in files:
        for name, value in yaml.safe_load((ROLE / file).read_text()).items():
            found[name] = trust_as_template(value) if isinstance(value, str) else value
    return found


TEMPLATES = {"caddy": "berth.caddyfile", "nginx": "berth.nginx"}


def render(
    sites: list[dict[str, Any]],
    receipt: str = "",
    version: str = "2.6",
    provider: str = "caddy",
    state: dict[str, Any] | None = None,
    **inputs: Any,
) -> str:
    """The whole file; `inputs` are those of the role that differ from its defaults.

    `state` is what the role has found on the server, beside the version.
    """
    _prepared()
    templar = Templar(
        DataLoader(),
        {
            **variables("defaults/main.yml", "vars/main.yml", f"vars/{provider}.yml"),
            "ansible_managed": "Ansible managed",
            "role_path": str(ROLE),
            "__proxy_state": {
                "version": version, "receipt": receipt, "paths": [], "groups": [], "ipv6": True,
                **(state or {}),
            },
            "proxy_sites": sites,
            **inputs,
        },
    )  # fmt: skip
    file = f"'{ROLE}/templates/{TEMPLATES[provider]}'"
    text: str = templar.template(trust_as_template("{{ lookup('ansible.builtin.template', " + file + ") }}"))
    return text
