"""Whether a shell line can end in one command that takes the shell's place, so that signals reach it."""

from __future__ import annotations

import re

_VALUE = r"""(?:[^\s'"\\]|'[^']*'|"(?:[^"\\]|\\.)*"|\\.)*"""
_ASSIGNMENTS = re.compile(rf"\s*(?:[A-Za-z_]\w*={_VALUE}\s+)*")
# Words that are not programs, or, like trap, need the shell to stay.
_SHELLS_OWN = frozenset(
    """
    . : ! { } [[ alias bg break case cd continue do done elif else esac eval exit export fg fi for function
    if in local read readonly return select set shift source then time times trap ulimit umask unset until
    wait while
    """.split()  # noqa: SIM905 - as one reads them
)
_BEFORE = _SHELLS_OWN - {".", ":", "cd", "export", "set", "source", "ulimit", "umask", "unset"}


def as_main(line: str) -> str:
    """The line with `exec` before its last command; empty where the shell has to stay."""
    starts = _commands(line)
    if not starts:
        return ""
    ends = [*starts[1:], len(line)]
    for start, end in zip(starts[:-1], ends, strict=False):
        if _first(line[start:end]) in _BEFORE:
            return ""
    last = line[starts[-1] :]
    first = _first(last)
    if not first or first in _SHELLS_OWN:
        return ""
    found = _ASSIGNMENTS.match(last)
    at = starts[-1] + (found.end() if found else 0)
    return line if first == "exec" else f"{line[:at]}exec {line[at:].rstrip().rstrip(';')}"


def keeps_shell(line: str) -> bool:
    """Whether the main process of a unit with this command is its shell, which passes no signal on."""
    return not as_main(line)


def _first(command: str) -> str:
    """The first word that is no assignment."""
    found = _ASSIGNMENTS.match(command)
    words = command[found.end() if found else 0 :].split(None, 1)
    word = words[0].rstrip(";&") if words else ""
    return "" if re.fullmatch(rf"[A-Za-z_]\w*={_VALUE}", word) else word


def _commands(line: str) -> list[int]:
    """Where the commands of `one && two; three` begin; nothing for a line of any other kind."""
    starts, at = [0], 0
    while at < len(line):
        sign, two = line[at], line[at : at + 2]
        if sign == "\\":
            at += 2
        elif sign in "'\"":
            closed = re.match(r"'[^']*'|\"(?:[^\"\\`$]|\\.|\$(?!\())*\"", line[at:])
            if not closed:
                return []  # a command within quotes, or quotes that do not end
            at += closed.end()
        elif two == "&&" or sign == ";":
            at += 2 if two == "&&" else 1
            if line[at:].strip():
                starts.append(at)
        elif sign == "&" and line[at - 1 : at] in ("<", ">") and at:
            at += 1  # 2>&1
        elif (
            sign in "&|()`\n" or two in ("$(", "<<") or (sign == "#" and line[at - 1 : at] in ("", " ", "\t"))
        ):
            return []
        else:
            at += 1
    return starts
