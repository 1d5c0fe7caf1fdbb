"""Places off a server as programs are given them, and a restic that answers as a test says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import restic

SFTP: dict[str, Any] = {
    "name": "nas", "type": "sftp", "host": "nas.example.net", "port": 23, "user": "keeper", "path": "/berth",
    "where": "keeper@nas.example.net:23:/berth", "known_hosts": "[nas.example.net]:23 ssh-ed25519 AAAAkey\n",
    "secrets": {"private_key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc\n"},
}  # fmt: skip
S3: dict[str, Any] = {
    "name": "cloud", "type": "s3", "bucket": "backups", "endpoint": "s3.example.net:9000", "region": "eu",
    "uri_style": "path", "path": "/berth", "where": "s3.example.net:9000/backups/berth", "known_hosts": "",
    "secrets": {"access_key": "ACCESS", "secret_key": "very secret"},
}  # fmt: skip


def place(folder: Path, known: dict[str, Any]) -> restic.Place:
    """One that is laid out in a folder, as for a run."""
    found = restic.Place(known, folder / known["name"])
    found.prepare("correct horse")
    return found


def answering(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, restic.Answer]) -> list[list[str]]:
    """Have restic answer by its verb; what it is asked from now on."""
    calls: list[list[str]] = []

    def run(_place: restic.Place, *words: str, **_: float) -> restic.Answer:
        calls.append(list(words))
        return answers.get(words[0], restic.Answer(0, "", ""))

    monkeypatch.setattr(restic, "run", run)
    return calls
