"""Where the code of one app comes from: a repository, or a folder on the controller."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from . import names as names
from .files import check_folder, in_project, on_controller
from .problem import Report, show

_SSH_GIT = re.compile(r"ssh://[^\s/]+/\S+|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s/]\S*")
_HOST_KEY = re.compile(r"[^\s#@|][^\s]* (ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( [^\n]*)?")
_HTTPS_GIT = re.compile(r"https://[^\s/]+/\S+")
_FILE_GIT = re.compile(r"file:///\S+")


def check_source(
    report: Report, source: dict[str, Any], path: str, given: Collection[str], inventory_dir: str
) -> None:
    """Where the code comes from: a repository by an address without a secret, or a folder that is there."""
    source["subdir"] = in_project(report, f"{path}.subdir", source["subdir"], top=True)
    if source["git"]:
        _git(report, source, path)
        return
    for key in ("version", "deploy_key", "host_keys"):
        if f"{path}.{key}" in given and source["path"]:
            report.add(
                f"{path}.{key}", 'has no effect with "path"; remove it, or write "git" instead of "path"'
            )
    if not source["path"]:
        return
    folder = on_controller(report, f"{path}.path", source["path"], inventory_dir)
    if folder is None:
        return
    source["path"] = str(folder)
    if not check_folder(report, f"{path}.path", folder) or not source["subdir"]:
        return
    if not (folder / source["subdir"]).is_dir():
        report.add(f"{path}.subdir", f'"{source["subdir"]}" is not a folder in {folder}')


def _git(report: Report, source: dict[str, Any], path: str) -> None:
    address = source["git"]
    by_ssh = bool(_SSH_GIT.fullmatch(address))
    # An address may carry a token, so it is never repeated.
    if address.startswith("http://"):
        report.add(f"{path}.git", "is not encrypted; write an https:// or ssh address")
    elif re.match(r"https://[^/]*@", address):
        report.add(
            f"{path}.git",
            "contains a user or a token, which would end up in logs; write git@host:owner/repository "
            'and give the key with "deploy_key"',
        )
    elif not (by_ssh or _HTTPS_GIT.fullmatch(address) or _FILE_GIT.fullmatch(address)):
        report.add(
            f"{path}.git",
            "is not the address of a repository; "
            "write https://host/owner/repository or git@host:owner/repository",
        )
    elif source["deploy_key"] and not by_ssh:
        report.add(f"{path}.deploy_key", 'works with ssh alone; write "git: git@host:owner/repository"')
    version = source["version"]
    if version.startswith("-") or ".." in version or not re.fullmatch(r"[A-Za-z0-9._/+@-]+", version):
        report.add(
            f"{path}.version",
            f'{show(path, version)} is not a branch, tag or commit; write e.g. "main" or "v1.4.0"',
        )
    for index, line in enumerate(source["host_keys"]):
        below = f"{path}.host_keys[{index}]"
        if not by_ssh:
            report.add(below, 'works with ssh alone; write "git: git@host:owner/repository"')
        else:
            rule = "write a line of ssh-keyscan: host, kind and key"
            names.check_pattern(report, below, line, _HOST_KEY, rule)
    key = source["deploy_key"]
    if key and not names.VARIABLE.fullmatch(key):
        # Somebody may have put the key itself here.
        report.add(
            f"{path}.deploy_key",
            'is not the name of a secret in vault.<app>; write its name, e.g. "DEPLOY_KEY"',
        )
