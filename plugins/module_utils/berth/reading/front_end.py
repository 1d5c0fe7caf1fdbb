"""Whether a source has a front end that nobody has built."""

from __future__ import annotations

import json
from pathlib import Path

from ..host import untrusted

_NODE = "package.json"


def unbuilt(root: Path, folder: Path) -> list[str]:
    """A hint where a package.json says how to build and nothing was built; it may lie beside the project."""
    for path in sorted(
        {one for top in (root, folder) for one in (*top.glob(_NODE), *top.glob(f"*/{_NODE}"))}
    ):
        try:
            scripts = json.loads(untrusted.read_text(path)).get("scripts", {})
        except (OSError, ValueError, AttributeError):
            continue
        built = any((path.parent / name).is_dir() for name in ("dist", "build", "out", ".next"))
        if "build" in scripts and not built:
            where = path.relative_to(root)
            return [f"{where} has a build script and nothing is built: name the commands under build."]
    return []
