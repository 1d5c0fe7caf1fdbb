"""The engine's folders stand on each other: imports go down alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.tree import write

ENGINE = Path(__file__).resolve().parents[2] / "plugins/module_utils/berth"
# From the bottom to the top. The files that lie in no folder are below all of them.
FOLDERS = (
    "payload",
    "host",
    "services",
    "contract",
    "reading",
    "diagnosis",
    "runtime",
    "sources",
    "store",
    "packaging",
    "migrations",
    "reports",
    "release",
    "transport",
)


def level(parts: tuple[str, ...]) -> int:
    return FOLDERS.index(parts[0]) if len(parts) > 1 else -1


def imported(path: Path, parts: tuple[str, ...], root: Path) -> Iterator[tuple[str, ...]]:
    """The modules of the package that a file imports, wherever in it, as paths without their suffix."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = (*parts[: len(parts) - node.level], *(node.module or "").split("."))
            base = tuple(part for part in start if part)
            for one in node.names:
                there = (*base, one.name)
                yield there if (root.joinpath(*there).with_suffix(".py")).is_file() else base


def upward(root: Path) -> list[str]:
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        for there in imported(path, parts, root):
            if level(there) > level(parts):
                found.append(f"{'/'.join(parts)} imports {'/'.join(there)}")
    return found


def test_no_folder_imports_one_above_it() -> None:
    assert upward(ENGINE) == []
    folders = {path.name for path in ENGINE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FOLDERS)


def test_an_import_upwards_is_noticed(tmp_path: Path) -> None:
    files = {
        "store/journal.py": "from ..release import plan\nfrom ..host import command\nfrom . import lock\n",
        "release/steps/gate.py": "from ...transport.agent import main\nfrom ..deploy import Deploy\n",
        "host/command.py": "def later():\n    from ..store.journal import note\n",
        "errors.py": "from .host import command\n",
        "release/plan.py": "",
        "release/deploy.py": "",
        "store/lock.py": "",
        "transport/agent.py": "",
    }
    write(tmp_path, files)
    assert upward(tmp_path) == [
        "errors.py imports host/command",
        "host/command.py imports store/journal",
        "release/steps/gate.py imports transport/agent",
        "store/journal.py imports release/plan",
    ]
