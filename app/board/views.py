"""Templates and the helpers they use."""

import hashlib
from datetime import datetime
from functools import cache

from starlette.templating import Jinja2Templates

from board.attachments import ACCEPT, INLINE, readable_size
from board.models import AUTHOR_LENGTH, TEXT_LENGTH
from board.schemas import PostOut
from board.settings import PROJECT
from board.text import linkify

STATIC = PROJECT / "static"


@cache
def static_url(name: str) -> str:
    """`/static/name` with a mark of its content, so that it can be cached for ever and still change."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]
    return f"/static/{name}?v={digest}"


def show_time(value: datetime) -> str:
    return value.strftime("%-d %b %Y, %H:%M UTC")


def hue(name: str) -> int:
    """A colour for a name, the same everywhere; one of 12, as the stylesheet has them."""
    return hashlib.sha256(name.encode()).digest()[0] % 12


TEMPLATES = Jinja2Templates(PROJECT / "board" / "templates")
TEMPLATES.env.trim_blocks = TEMPLATES.env.lstrip_blocks = True
TEMPLATES.env.filters.update(linkify=linkify, show_time=show_time, readable_size=readable_size, hue=hue)
TEMPLATES.env.globals.update(
    static_url=static_url,
    inline_types=INLINE,
    accept=ACCEPT,
    author_length=AUTHOR_LENGTH,
    text_length=TEXT_LENGTH,
    title="Board",
)


def render_post(post: PostOut) -> str:
    """One post as HTML: the same on the page and in the live feed."""
    return TEMPLATES.env.get_template("_post.html").render(post=post)
