"""Signed tokens, the form's protection against other sites, and security headers."""

import hashlib
import hmac
import re
import secrets
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

COOKIE = "board_form"
_COOKIE_VALUE = re.compile(r"[A-Za-z0-9_-]{20,64}")

CSP = "content-security-policy"
HEADERS = {
    CSP: (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "strict-origin-when-cross-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Signer:
    """Tokens only this app can make: for one visitor's form, and for one post's author."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def _sign(self, purpose: str, value: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{value}".encode(), hashlib.sha256).hexdigest()[:40]

    def edit_token(self, post_id: int) -> str:
        return self._sign("edit", str(post_id))

    def may_edit(self, post_id: int, token: str) -> bool:
        return hmac.compare_digest(self.edit_token(post_id).encode(), token.encode("utf-8", "replace"))

    def form_token(self, visitor: str) -> str:
        return self._sign("form", visitor)

    def form_is_ours(self, visitor: str, token: str) -> bool:
        expected = self.form_token(visitor).encode()
        return bool(visitor) and hmac.compare_digest(expected, token.encode("utf-8", "replace"))


def visitor_of(connection: HTTPConnection) -> str:
    """The visitor's random cookie, or "" when there is none."""
    value = connection.cookies.get(COOKIE, "")
    return value if _COOKIE_VALUE.fullmatch(value) else ""


def new_visitor() -> str:
    return secrets.token_urlsafe(24)


def set_visitor(response: Response, visitor: str, secure: bool) -> None:
    response.set_cookie(COOKIE, visitor, max_age=30 * 86400, secure=secure, httponly=True, samesite="lax")


def same_origin(connection: HTTPConnection) -> bool:
    """False when a browser says that another site sent this."""
    origin = connection.headers.get("origin")
    if origin is None:
        return connection.headers.get("sec-fetch-site", "same-origin") in {"same-origin", "same-site", "none"}
    return urlsplit(origin).netloc.lower() == connection.headers.get("host", "").lower()
