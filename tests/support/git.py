"""git's work without systemd: as whoever runs the tests, in no sandbox."""

from __future__ import annotations

import getpass
import grp
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.sources import source


def unconfined(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run in a unit."""
    commands = []

    def plain(_unit: str, argv: list[str], **options: Any) -> list[str]:
        commands.append([*argv, *map(str, options.values())])
        return argv

    def ready(folder: Path, _user: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    me = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
    monkeypatch.setattr(source, "in_unit", plain)
    monkeypatch.setattr(source, "_account", lambda _: me)
    monkeypatch.setattr(source.sandbox, "ready", ready)
    return commands


def git(folder: Path, *words: str, text: str = "") -> str:
    """What git prints."""
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()
