"""How answers are told to people: tables, and the times in them."""

from __future__ import annotations

from ..payload.backup import seconds_of as seconds

__all__ = ["capital", "columns", "minute", "seconds"]


def columns(rows: list[list[str]]) -> list[str]:
    """A line for each row, with columns as wide as they must be."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def minute(stamp: str) -> str:
    """A time stamp to the minute, as `2026-11-30 02:30 UTC`."""
    return f"{stamp[:10]} {stamp[11:16]} UTC" if stamp else "an unknown time"


def capital(text: str) -> str:
    """With a capital letter, as a sentence begins."""
    return f"{text[0].upper()}{text[1:]}"
