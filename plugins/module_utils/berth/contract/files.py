"""Paths of an inventory: on the controller, and inside of a project."""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from pathlib import Path

from .problem import Report, show

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s(.+?)-----END CERTIFICATE-----", re.DOTALL)


def on_controller(report: Report, path: str, value: str, inventory_dir: str) -> Path | None:
    """An absolute path of what the user wrote relative to the inventory."""
    if "\0" in value:
        report.add(path, "contains a NUL character; write a path")
        return None
    try:
        wanted = Path(value).expanduser()
    except RuntimeError:
        report.add(
            path, f"{show(path, value)} names a home folder that does not exist; write an absolute path"
        )
        return None
    if not wanted.is_absolute():
        if not inventory_dir:
            report.add(
                path,
                f"{show(path, value)} is relative, but there is no inventory folder; write an absolute path",
            )
            return None
        wanted = Path(inventory_dir) / wanted
    return Path(posixpath.normpath(wanted))


def check_folder(report: Report, path: str, folder: Path) -> bool:
    """Report a folder that is not there, is no folder, or is empty."""
    try:
        if not folder.exists():
            report.add(path, f'"{folder}" does not exist; paths are relative to the inventory\'s folder')
        elif not folder.is_dir():
            report.add(path, f'"{folder}" is not a folder; write the folder that holds the project')
        elif not any(folder.iterdir()):
            report.add(path, f'"{folder}" is empty; write the folder that holds the project')
        else:
            return True
    except OSError as error:
        report.add(path, f'"{folder}" cannot be read: {error.strerror or "invalid path"}')
    return False


def check_certificate(report: Report, path: str, value: str, inventory_dir: str) -> str:
    """Check a file on the controller with certificates and no key; its absolute path."""
    file = on_controller(report, path, value, inventory_dir)
    if file is None:
        return value
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        report.add(path, f'"{file}" does not exist; paths are relative to the inventory\'s folder')
        return str(file)
    except (OSError, ValueError) as error:
        report.add(path, f'"{file}" cannot be read: {getattr(error, "strerror", None) or "invalid path"}')
        return str(file)
    bodies = _CERTIFICATE.findall(text)
    if "PRIVATE KEY-----" in text:
        report.add(path, f'"{file}" contains a private key; write a file with the certificate alone')
    elif not bodies or not all(map(_is_der, bodies)):
        report.add(
            path, f'"{file}" is not a PEM certificate; it must begin with "-----BEGIN CERTIFICATE-----"'
        )
    return str(file)


def _is_der(body: str) -> bool:
    try:
        return base64.b64decode("".join(body.split()), validate=True)[:1] == b"\x30"
    except (binascii.Error, ValueError):
        return False


def in_project(report: Report, path: str, value: str, *, top: bool = False) -> str:
    """A relative path, normalised; `top` says whether the project's folder itself is allowed (as "")."""
    if value.startswith("/"):
        report.add(path, f"{show(path, value)} is absolute; write it relative to the project")
        return ""
    if value.startswith("~"):
        report.add(path, f"{show(path, value)} names a home folder; write it relative to the project")
        return ""
    if ".." in value.split("/"):
        report.add(path, f'{show(path, value)} leads out of the project; write it without ".."')
        return ""
    if any(ord(c) < 32 or c in '\\"\x7f{}' for c in value):
        report.add(path, f"{show(path, value)} contains characters that do not belong in a path")
        return ""
    normal = posixpath.normpath(value) if value else ""
    if normal in {"", "."}:
        if not top:
            report.add(path, f"{show(path, value)} is the project itself; write a folder inside of it")
        return ""
    return normal


def overlap(one: str, other: str) -> bool:
    """Whether two normalised paths are the same or one lies in the other."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
