"""Fills persistent folders from what a release brings. Run on the server as the app's user, by text.

The app owns these folders and may have put anything into them, so nobody else writes there. What is there
already stays as it is.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def missing(source: Path, target: Path) -> bool:
    """Whether the release brings a file or a folder that is not there."""
    return not target.is_dir() or any(
        not os.path.lexists(target / Path(folder).relative_to(source) / name)
        for folder, folders, files in os.walk(source)
        for name in (*folders, *files)
    )


def fill(source: Path, target: Path) -> None:
    for folder, folders, files in os.walk(source):
        there = target / Path(folder).relative_to(source)
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in folders:
            if name not in links:
                (there / name).mkdir(exist_ok=True, mode=0o750)
        for name in (*files, *links):
            if not os.path.lexists(there / name):
                shutil.copy2(Path(folder) / name, there / name, follow_symlinks=False)


if __name__ == "__main__":
    for source, target in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        # What is brought may be nothing; the folder is there afterwards all the same.
        Path(target).mkdir(parents=True, exist_ok=True, mode=0o750)
        if source:
            fill(Path(source), Path(target))
