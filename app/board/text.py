"""Cleaning, linking and digesting what people write."""

import re
import unicodedata
from collections import Counter

from markupsafe import Markup, escape

# Marks that reorder or hide text: harmless in a sentence, a disguise in a name.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad\u115f\u1160\u3164\uffa0]")
_URL = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:!?)\]}]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")  # noqa: RUF001
_STOP = frozenset(
    """
    about after again also because been before being could does doing down each every from have having
    here hers into itself just like made make many more most much must only other over really same should
    since some such than that their them then there these they thing this those through under until very
    want were what when where which while will with without would your yours
    """.split()
)


def clean_text(value: str) -> str:
    """Normalise line ends and Unicode, and drop control characters (Postgres has no room for NUL)."""
    value = unicodedata.normalize("NFC", value.replace("\r\n", "\n").replace("\r", "\n"))
    kept = "".join(c for c in value if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs"})
    return re.sub(r"\n{4,}", "\n\n\n", kept).strip()


def clean_name(value: str) -> str:
    """One visible line; nothing that makes a name look like another one."""
    value = _INVISIBLE.sub("", unicodedata.normalize("NFC", value))
    kept = "".join(" " if unicodedata.category(c)[0] in "ZC" else c for c in value)
    # More than two combining marks in a row only serve to paint over the lines around.
    kept = re.sub(r"([\u0300-\u036f]{2})[\u0300-\u036f]+", r"\1", kept)
    return " ".join(kept.split())


def has_ink(value: str) -> bool:
    """False for text that nobody could see."""
    return any(unicodedata.category(c)[0] in "LNPS" for c in _INVISIBLE.sub("", value))


def linkify(value: str) -> Markup:
    """Escape everything and turn http(s) addresses into links."""
    parts, end = [], 0
    for match in _URL.finditer(value):
        parts.append(escape(value[end : match.start()]))
        parts.append(Markup('<a href="{0}" rel="nofollow ugc noopener">{0}</a>').format(match[0]))
        end = match.end()
    parts.append(escape(value[end:]))
    return Markup("").join(parts)


def count_words(value: str) -> int:
    return len(_WORD.findall(_URL.sub(" ", value)))


def find_keywords(value: str, limit: int = 4) -> list[str]:
    """The words that say most: frequent, long, and no filler."""
    words = (word.lower() for word in _WORD.findall(_URL.sub(" ", value)))
    counts = Counter(word for word in words if 4 <= len(word) <= 30 and word not in _STOP)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], -len(item[0]), item[0]))
    return [word for word, _ in ranked[:limit]]


def looks_like_spam(value: str) -> bool:
    """Many links, or a long text in capitals only: worth hiding behind a click, not worth deleting."""
    if len(_URL.findall(value)) > 4:
        return True
    letters = [c for c in value if c.isalpha() and c.upper() != c.lower()]
    return len(letters) > 40 and sum(c.isupper() for c in letters) > 0.9 * len(letters)
