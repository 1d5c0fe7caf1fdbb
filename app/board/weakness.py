"""Says what is wrong with a secret, without ever repeating it."""

import math
from collections import Counter
from itertools import pairwise

MIN_LENGTH = 32
MIN_BITS = 90.0

# Only words long enough never to turn up by chance inside a random secret.
PLACEHOLDERS = (
    "changeme", "change-me", "change_me", "change me", "changethis", "change-this", "change_this",
    "placeholder", "example", "secret", "password", "insecure", "default", "replace", "notsecure",
    "your-key", "your_key", "yourkey", "development", "supersecret", "letmein", "todo-todo",
)  # fmt: skip


def weakness(value: str) -> str:
    """Return why ``value`` is no secret, as the rest of a sentence, or "" when it is strong enough."""
    if not value:
        return "is missing"
    lowered = value.lower()
    if any(word in lowered for word in PLACEHOLDERS):
        return "is a placeholder, not a secret"
    if len(value) < MIN_LENGTH:
        return f"is too short ({len(value)} characters, at least {MIN_LENGTH} are needed)"
    if _repeats(value) or _climbs(value) or _bits(value) < MIN_BITS:
        return "is too easy to guess (repeated or sequential characters)"
    return ""


def _bits(value: str) -> float:
    """Shannon's estimate of the information in ``value``."""
    total = len(value)
    return -sum(count * math.log2(count / total) for count in Counter(value).values())


def _repeats(value: str) -> bool:
    """True when the value is one short piece written again and again."""
    return any(value[period:] == value[:-period] for period in range(1, len(value) // 2 + 1))


def _climbs(value: str) -> bool:
    """True when most characters just follow the one before (abcdef…, 112233…)."""
    steps = sum(abs(ord(right) - ord(left)) <= 1 for left, right in pairwise(value))
    return steps > len(value) // 2
