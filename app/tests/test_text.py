"""Cleaning and digesting text."""

import pytest

from board.attachments import readable_size, safe_name, sniff
from board.limits import network
from board.text import (
    clean_name,
    clean_text,
    count_words,
    find_keywords,
    has_ink,
    linkify,
    looks_like_spam,
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("nul\0 bell\a", "nul bell"),
        ("  e\u0301  ", "\u00e9"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("family 👩‍👩‍👧", "family 👩‍👩‍👧"),
    ],
)
def test_clean_text(given: str, kept: str) -> None:
    assert clean_text(given) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (" Ada \n Lovelace\t", "Ada Lovelace"),
        ("\u202eecarG", "ecarG"),
        ("A\u200bd\u2060a", "Ada"),
        ("Z" + "\u0301" * 40, "\u0179" + "\u0301" * 2),
    ],
)
def test_clean_name(given: str, kept: str) -> None:
    assert clean_name(given) == kept


def test_has_ink() -> None:
    assert has_ink("👍")
    assert not has_ink(" \u200b\u2060\u3164\u00a0")


def test_linkify_escapes() -> None:
    html = str(linkify('<b> https://a.example/?x=1&y="2 (https://b.example/c).'))
    assert html.startswith("&lt;b&gt; <a href=")
    assert '<a href="https://a.example/?x=1&amp;y=" rel=' in html
    assert "&#34;2 (" in html
    assert '<a href="https://b.example/c" rel="nofollow ugc noopener">https://b.example/c</a>).' in html
    assert "<a" not in str(linkify("javascript:alert(1) data:text/html,x ftp://a.example"))


def test_digest() -> None:
    text = "Weaving, weaving and weaving: the loom's patterns. https://example.org/ignored"
    assert count_words(text) == 7
    assert find_keywords(text) == ["weaving", "patterns", "loom's"]
    assert count_words("") == 0
    assert not looks_like_spam(text)
    assert looks_like_spam("http://a.ex/1 " * 5)
    assert looks_like_spam("BUY NOW " * 10)


@pytest.mark.parametrize(
    ("given", "content_type", "safe"),
    [
        ("../../etc/passwd", "text/plain", "passwd.txt"),
        ("..\\..\\boot.ini", "text/plain", "boot.ini.txt"),
        ("evil.html", "text/plain", "evil.html.txt"),
        ("Photo.JPEG", "image/jpeg", "Photo.JPEG"),
        (".htaccess", "text/plain", "htaccess.txt"),
        ("...", "image/png", "file.png"),
        ("", "application/pdf", "file.pdf"),
        ('a"b;c\r\nX: y\0.txt', "text/plain", "a_b_c X_ y .txt"),
        ("naïve 文.md", "text/plain", "naïve 文.md"),
        ("x" * 300 + ".png", "image/png", "x" * 116 + ".png"),
    ],
)
def test_safe_name(given: str, content_type: str, safe: str) -> None:
    assert safe_name(given, content_type) == safe


def test_sniff() -> None:
    assert sniff(b"\x89PNG\r\n\x1a\n...") == "image/png"
    assert sniff(b"RIFF\0\0\0\0WEBPVP8 ") == "image/webp"
    assert sniff(b"RIFF\0\0\0\0WAVE") == "text/plain"


def test_readable_size() -> None:
    sizes = [readable_size(size) for size in (7, 1536, 5 * 1024 * 1024)]
    assert sizes == ["7 bytes", "1.5 kB", "5.0 MB"]


def test_network() -> None:
    assert network("192.0.2.7") == "192.0.2.7"
    assert network("::ffff:192.0.2.7") == "192.0.2.7"
    assert network("2001:db8::1") == network("2001:db8::ffff:1")
    assert network("2001:db8::1") != network("2001:db8:0:1::1")
    assert network("unix") == "unix"
