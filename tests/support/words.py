"""Words in Python files, for tests that hold modules to what they may know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path


def words(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, int]]:
    """What matches in a file's texts and the names of its arguments, each with its line.

    What is said in docstrings is for readers.
    """
    tree = ast.parse(path.read_text())
    said = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        text, line = "", 0
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            text, line = node.value, node.lineno
        elif isinstance(node, ast.keyword) and node.arg:  # env.update(PATH=…)
            text, line = node.arg, node.value.lineno
        for found in pattern.finditer(text):
            yield found[0], line
