"""The folders of one app that outlive releases, are written to, or are served by the proxy."""

from __future__ import annotations

import re
from typing import Any

from . import names as names
from .files import in_project, overlap
from .problem import Report, show


def check_folders(report: Report, app: dict[str, Any], path: str) -> None:
    """No folder is of two kinds, and none leads out of the project."""
    persistent: dict[str, str] = {}
    for index, value in enumerate(app["persistent"]):
        below = f"{path}.persistent[{index}]"
        normal = in_project(report, below, value)
        for other in persistent:
            if normal and overlap(normal, other):
                report.add(below, f'"{normal}" overlaps with "{other}"; keep the outer one alone')
                break
        persistent[normal or value] = below
    app["persistent"] = list(persistent)
    for index, value in enumerate(app["scratch"]):
        below = f"{path}.scratch[{index}]"
        normal = in_project(report, below, value)
        if any(normal and overlap(normal, other) for other in persistent):
            report.add(below, f'"{normal}" is persistent already; keep one of them')
        elif normal and not re.fullmatch(r"[A-Za-z0-9._/@+-]+", normal):
            report.add(below, f"{show(below, value)} is not valid; write letters, digits and ._/@+-")
        app["scratch"][index] = normal or value
    urls: dict[str, str] = {}
    for index, entry in enumerate(app["static"]):
        below = f"{path}.static[{index}]"
        if not report.touches(f"{below}.url"):
            entry["url"] = _static_url(report, entry["url"], f"{below}.url", urls)
        if not report.touches(f"{below}.path"):
            entry["path"] = in_project(report, f"{below}.path", entry["path"])
            kinds = {"persistent": persistent, "scratch": app["scratch"]}
            for kind, folders in kinds.items():
                if not any(entry["path"] and overlap(entry["path"], folder) for folder in folders):
                    continue
                report.add(
                    f"{below}.path",
                    f'"{entry["path"]}" is {kind}, and the proxy must not read what the app writes; '
                    "let the app serve it, or name another folder",
                )
        names.check_range(report, f"{below}.max_age", entry["max_age"], 0, 10 * 365 * names.DAY, "seconds")


def _static_url(report: Report, value: str, path: str, urls: dict[str, str]) -> str:
    url = value.rstrip("/") if value.startswith("/") else value
    if value.strip("/") == "" and value:
        report.add(path, '"/" would hide the whole app; write a path below it, e.g. "/static"')
    elif not names.is_url_path(url):
        report.add(path, f'{show(path, value)} is not a path; write e.g. "/static"')
    else:
        for other, where in urls.items():
            if overlap(url, other):
                report.add(
                    path, f'"{url}" overlaps with {where.split(".", 1)[1]} ("{other}"); write another path'
                )
        urls[url] = path
    return url
