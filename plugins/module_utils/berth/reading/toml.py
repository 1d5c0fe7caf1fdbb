"""Reading a TOML file of a source, with whatever reader this Python has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host import untrusted

# Locks of large projects have some megabytes.
LOCK = 32 << 20


def load_toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib as reader
    except ImportError:  # Python 3.10: the copy inside the tool environment's pip
        tools = Path("/usr/local/lib/berth/uv/lib").glob("python3*/site-packages")
        sys.path.extend(str(found) for found in tools)
        from pip._vendor import tomli as reader  # type: ignore[import-untyped, no-redef, unused-ignore]
    try:
        loaded: dict[str, Any] = reader.loads(untrusted.read_text(path, LOCK))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path.name} cannot be read: {error}.") from error
    return loaded
