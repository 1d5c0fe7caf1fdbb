"""Caches grow with every deploy: once a day what nothing refers to any more is taken out, beside a deploy."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host import sandbox
from ..host.command import run
from ..paths import UV, Paths
from ..runtime import naming
from ..runtime.transient import Work, in_unit
from . import journal

_EVERY = 86400.0
_LIMIT = 1800.0
# A fetch takes the same lock on the mirror, and does not wait for it.
_SCRIPT = """
[ ! -d "$2" ] || UV_CACHE_DIR=$2 "$1" cache prune --quiet
[ ! -e "$3/HEAD" ] || flock --nonblock "$3" git --git-dir "$3" -c core.hooksPath=/dev/null \
  -c core.fsmonitor=false -c gc.autoDetach=false gc --auto --quiet
"""


def begin(paths: Paths, app: dict[str, Any]) -> None:
    """Start it, as the build user and after everybody else; no deploy waits for it or fails through it."""
    mark = paths.state / "trimmed"
    with contextlib.suppress(OSError):
        if 0 <= time.time() - mark.stat().st_mtime < _EVERY:
            return
    folders = [folder for folder in (paths.build_home, paths.git) if folder.is_dir()]
    if not folders:
        return
    with contextlib.suppress(OSError, ReleaseError):
        journal.replace_text(mark, "", 0o600)
        run(command(paths, app, folders), timeout=30)


def command(paths: Paths, app: dict[str, Any], folders: list[Path]) -> list[str]:
    """The command line that starts it."""
    return in_unit(
        Work(
            naming.transient("trim", paths.app),
            ["/bin/sh", "-c", _SCRIPT, "sh", str(UV), str(paths.uv_cache), str(paths.mirror)],
            user=paths.build_user,
            sandbox=sandbox.build(paths, app),
            writable=folders,
            timeout=_LIMIT,
            env={"HOME": "/tmp", "GIT_CONFIG_NOSYSTEM": "1"},  # noqa: S108 - private to the sandbox
            properties=["Nice=15", "IOSchedulingClass=idle", "PrivateNetwork=yes"],
        ),
        wait=False,
    )
