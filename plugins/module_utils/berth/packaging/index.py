"""Which index packages come from on this server, and whether a lock names another one."""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..reading.toml import load_toml

_UV = "etc/uv/uv.toml"
_PIP = ("etc/pip.conf", "etc/xdg/pip/pip.conf")


@dataclass(frozen=True)
class Index:
    """An index by its simple API, and what names it."""

    url: str
    where: str

    @property
    def public(self) -> str:
        """Without the user and password that pip.conf may give."""
        return public(self.url)


def public(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def named(app: dict[str, Any]) -> Index | None:
    """What the inventory says."""
    url = app["packages"]["index_url"]
    return Index(str(url), "server.python.index_url") if url else None


def configured(app: dict[str, Any], root: Path = Path("/")) -> Index | None:
    """What the inventory says, else uv's own settings on this server, else pip's; None for the public one."""
    known = named(app)
    if known:
        return known
    try:
        toml = load_toml(root / _UV)
    except ReleaseError:
        toml = {}
    defaults = [one.get("url") for one in toml.get("index", []) if one.get("default")]
    for url in (*defaults, toml.get("index-url"), toml.get("pip", {}).get("index-url")):
        if url:
            return Index(str(url), f"/{_UV}")
    for file in _PIP:
        parser = configparser.RawConfigParser()
        try:
            parser.read(root / file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in ("install", "global"):
            url = parser.get(section, "index-url", fallback="").strip()
            if url:
                return Index(url, f"/{file}")
    return None


def other(lock: Path, allowed: Index | None) -> str:
    """An index in a uv.lock that is not the one allowed here; empty where they agree, or any will do."""
    if allowed is None:
        return ""
    packages = load_toml(lock).get("package", [])
    registries = {str(one.get("source", {}).get("registry", "")) for one in packages} - {""}
    return next((url for url in sorted(registries) if _plain(url) != _plain(allowed.url)), "")


def _plain(url: str) -> str:
    return public(url).rstrip("/").lower()


def all_hashed(requirements: str) -> bool:
    """Whether every requirement of an exported lock carries a hash: those from git have none."""
    text = requirements.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return all("--hash=" in line for line in lines if line and not line.startswith(("#", "-")))
