"""What the JSON API takes and gives."""

from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, computed_field

from board.models import AUTHOR_LENGTH, TEXT_LENGTH
from board.text import clean_name, clean_text, has_ink


def _author(value: str) -> str:
    cleaned = clean_name(value)
    if not has_ink(cleaned):
        raise ValueError("Please give a name.")
    if len(cleaned) > AUTHOR_LENGTH:
        raise ValueError(f"A name has at most {AUTHOR_LENGTH} characters.")
    return cleaned


def _text(value: str) -> str:
    cleaned = clean_text(value)
    if not has_ink(cleaned):
        raise ValueError("Please write something.")
    if len(cleaned) > TEXT_LENGTH:
        raise ValueError(f"A post has at most {TEXT_LENGTH} characters (this one has {len(cleaned)}).")
    return cleaned


class PostIn(BaseModel):
    """A new post."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    author: Annotated[str, AfterValidator(_author)]
    text: Annotated[str, AfterValidator(_text)]


class AttachmentOut(BaseModel):
    """A file of a post; `url` downloads it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    content_type: str
    size: int
    sha256: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def url(self) -> str:
        return f"/attachments/{self.id}"


class PostOut(BaseModel):
    """A post. word_count is null until the background worker has read it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    author: str
    text: str
    created: datetime
    word_count: int | None
    keywords: list[str]
    flagged: bool
    attachments: list[AttachmentOut]


class PostCreated(PostOut):
    """The answer to its author only."""

    edit_token: str = Field(description="Send it as X-Edit-Token to attach files to the post or delete it.")


class PostPage(BaseModel):
    """Posts, newest first. Ask again with `before=next_before` for older ones."""

    items: list[PostOut]
    next_before: int | None


class DigestOut(BaseModel):
    """One day in numbers."""

    model_config = ConfigDict(from_attributes=True)

    day: date
    posts: int
    authors: int
    words: int
    attachments: int
    keywords: list[str]


class VersionOut(BaseModel):
    """What is running. `release` is set by the deployment; `schema_revision` is what Alembic last applied."""

    name: str
    version: str
    release: str | None
    schema_revision: str | None


class Problem(BaseModel):
    """Every error looks like this; `errors` names the fields where there are any."""

    detail: str
    request_id: str
    errors: list[dict[str, Any]] | None = None
