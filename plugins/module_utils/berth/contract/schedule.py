"""Whether systemd would understand a schedule. Asks systemd itself where the controller has it."""

from __future__ import annotations

import re
import shutil
import subprocess

from .problem import Report, show, words

_HINT = 'write systemd\'s OnCalendar, e.g. "*-*-* 03:00:00" (every night at three) or "hourly"'
_WORDS = words(
    """
    minutely hourly daily weekly monthly quarterly semiannually yearly annually biannually
    """
)


def check_schedule(report: Report, path: str, value: str) -> None:
    """Report what cannot be an OnCalendar expression."""
    text = value.strip()
    if not text:
        report.add(path, f"is empty; {_HINT}")
    elif text.lower() in _WORDS or text.lower() in {"bi-annually", "semi-annually"}:
        return
    elif text.isdecimal() and len(text) < 5 and int(text) < 24 * 60:
        # YAML takes 12:30 without quotes for a number of base 60.
        hours, minutes = divmod(int(text), 60)
        report.add(
            path,
            f'{show(path, text)} is a number; write it in quotes, e.g. "*-*-* {hours:02}:{minutes:02}:00"',
        )
    elif text.startswith("@") or re.fullmatch(r"[0-9*/,-]+(\s+[0-9A-Za-z*/,-]+){4,5}", text):
        report.add(path, f"{show(path, text)} is a cron expression; {_HINT}")
    elif not re.fullmatch(r"[A-Za-z0-9*:,./~_+ -]+", text) or not _systemd_agrees(text):
        report.add(path, f"{show(path, text)} is not a schedule; {_HINT}")


def _systemd_agrees(text: str) -> bool:
    command = shutil.which("systemd-analyze")
    if command is None:
        return bool(re.search(r"[0-9*]", text))
    try:
        answer = subprocess.run(
            [command, "calendar", "--iterations=1", "--", text],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    return answer.returncode == 0
