"""git's work without systemd: as whoever runs the tests, in no sandbox."""

from __future__ import annotations

import getpass
import grp
import os
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from ansible.module_utils.berth.runtime.transient import Work
from ansible.module_utils.berth.sources import source


def unconfined(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run in a unit."""
    commands = []

    def plain(work: Work) -> list[str]:
        options = [getattr(work, one.name) for one in fields(work) if one.name not in ("unit", "argv")]
        commands.append([*work.argv, *map(str, options)])
        return list(work.argv)

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
