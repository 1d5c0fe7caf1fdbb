"""Deploys of one app that nobody starts by hand."""

from __future__ import annotations

import re
from typing import Any

from .. import windows
from .problem import Report, show
from .schedule import check_schedule

_REF = re.compile(r"[A-Za-z0-9._/+@*-]+")


def check_redeploy(report: Report, app: dict[str, Any], path: str) -> None:
    """What it follows, and when."""
    entry, by_git = app["redeploy"], bool(app["source"]["git"])
    for key in ("schedule", "version"):
        if entry[key] and not by_git and not report.touches(f"{path}.{key}"):
            report.add(
                f"{path}.{key}",
                'is for a repository; write "git" instead of "path" in source',
            )
    if entry["schedule"]:
        check_schedule(report, f"{path}.schedule", entry["schedule"])
    version = entry["version"]
    if version and (version.startswith("-") or ".." in version or not _REF.fullmatch(version)):
        report.add(
            f"{path}.version",
            f'{show(path, version)} is not a branch or a pattern of tags; write e.g. "main" or "v*"',
        )
    for index, text in enumerate(entry["not_during"]):
        if not windows.understood(text):
            report.add(
                f"{path}.not_during[{index}]",
                f'{show(path, text)} is no time of the week; write e.g. "Fri 16:00-24:00", "Sat,Sun" or '
                '"22:00-06:00"',
            )
