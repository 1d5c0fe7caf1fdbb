"""A Python that uv can download: made from an interpreter of this machine, as uv's own are laid out."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tarfile
from pathlib import Path

_LEFT_OUT = {
    *("test", "tests", "__pycache__", "dist-packages", "idlelib", "tkinter", "ensurepip", "lib2to3"),
    "sitecustomize.py",  # a link out of the tree
}


def other_than(minor: str, system: Path = Path("/usr")) -> str:
    """A Python of this machine's distribution with another minor version; empty where there is none."""
    found = (
        re.fullmatch(r"python(3\.\d+)", path.name) for path in sorted((system / "bin").glob("python3.*"))
    )
    names = [match[1] for match in found if match and match[1] != minor]
    return next((name for name in names if (system / "lib" / f"python{name}" / "os.py").exists()), "")


def pack(minor: str, folder: Path, served_from: str, system: Path = Path("/usr")) -> None:
    """Write python.tar.gz and the list pythons.json, for a server that has both under `served_from`."""
    archive = folder / "python.tar.gz"
    name = f"python{minor}"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add((system / "bin" / name).resolve(), f"python/bin/{name}")
        tar.add(system / "lib" / name, f"python/lib/{name}", filter=_wanted)
    major, second = map(int, minor.split("."))
    entry = {
        "name": "cpython",
        "arch": {"family": platform.machine(), "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": second,
        "patch": 1,
        "prerelease": "",
        "url": f"{served_from}/{archive.name}",
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "variant": None,
        "build": "20260101",
    }
    key = f"cpython-{minor}.1-linux-{platform.machine()}-gnu"
    (folder / "pythons.json").write_text(json.dumps({key: entry}))


def _wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(info.name).parts
    out = _LEFT_OUT.intersection(parts) or any(part.startswith("config-") for part in parts)
    return None if out else info
