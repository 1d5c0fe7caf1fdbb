"""Times of the week, as people write them: "22:00-06:00", "Sat,Sun", "Fri 16:00-24:00"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "|".join(_DAYS)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d"
_WINDOW = re.compile(
    rf"(?P<days>(?:{_DAY})(?:-(?:{_DAY}))?(?:,(?:{_DAY})(?:-(?:{_DAY}))?)*)?"
    rf"(?:(?:^|(?<=[a-z]) )(?P<begin>{_TIME})-(?P<end>{_TIME}|24:00))?"
)


def understood(text: str) -> bool:
    """Whether it is a window: days, a time of the day, or both."""
    found = _WINDOW.fullmatch(text)
    return bool(text and found and found["begin"] != (found["end"] or ""))


def open_window(windows: Iterable[str], moment: datetime) -> str:
    """The first of them that `moment` lies in; empty where it lies in none.

    One that ends before it begins goes on into the next day, and its days are those on which it begins.
    """
    now, today = moment.strftime("%H:%M"), moment.weekday()
    for text in windows:
        found = _WINDOW.fullmatch(text)
        if not found:
            continue
        days = _days(found["days"] or "")
        begin, end = found["begin"] or "00:00", found["end"] or "24:00"
        if begin < end:
            within = today in days and begin <= now < end
        else:
            within = (today in days and now >= begin) or ((today - 1) % 7 in days and now < end)
        if within:
            return text
    return ""


def _days(text: str) -> set[int]:
    if not text:
        return set(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        start = _DAYS.index(first)
        found |= {(start + more) % 7 for more in range((_DAYS.index(last or first) - start) % 7 + 1)}
    return found
