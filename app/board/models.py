"""The tables. Migrations in `migrations/versions` create exactly these (tested with `alembic check`)."""

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    String,
    Text,
    Uuid,
    false,
    func,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

AUTHOR_LENGTH = 60
TEXT_LENGTH = 5000


class Base(DeclarativeBase):
    """Names every constraint, so that a later migration can address it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSONB, list[str]: ARRAY(Text)}


class Post(Base):
    """A message on the board. The worker fills word_count, keywords and flagged."""

    __tablename__ = "posts"
    __table_args__ = (
        CheckConstraint(f"char_length(text) between 1 and {TEXT_LENGTH}", name="text_length"),
        CheckConstraint("char_length(author) >= 1", name="author_length"),
        Index("ix_posts_created", "created"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    author: Mapped[str] = mapped_column(String(AUTHOR_LENGTH))
    text: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(server_default=func.now())
    word_count: Mapped[int | None]
    keywords: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"), default=list)
    flagged: Mapped[bool] = mapped_column(server_default=false(), default=False)

    attachments: Mapped[list["Attachment"]] = relationship(
        back_populates="post",
        lazy="raise",
        order_by="Attachment.created",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )


class Attachment(Base):
    """A file of a post. The bytes are in the attachments folder, under the id."""

    __tablename__ = "attachments"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("posts.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(160))
    content_type: Mapped[str] = mapped_column(String(60))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created: Mapped[datetime] = mapped_column(server_default=func.now())

    post: Mapped[Post] = relationship(back_populates="attachments", lazy="raise")


class Job(Base):
    """Work for `python -m board.worker`."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state in ('queued', 'done', 'failed')", name="state"),
        Index("ix_jobs_queued", "run_at", "id", postgresql_where=sql("state = 'queued'")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(10), server_default="queued", default="queued")
    attempts: Mapped[int] = mapped_column(server_default="0", default=0)
    run_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created: Mapped[datetime] = mapped_column(server_default=func.now())
    finished: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(String(128), server_default="", default="")


class RateLimit(Base):
    """One row a client: the moment at which it has used up all it asked for so far."""

    __tablename__ = "rate_limits"
    # Losing these rows in a crash is fine, so they cost no write-ahead log.
    __table_args__ = {"prefixes": ["UNLOGGED"]}

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    used_until: Mapped[datetime] = mapped_column(index=True)


class DailyDigest(Base):
    """What happened on one day (UTC), written by `python -m board.nightly`."""

    __tablename__ = "daily_digests"

    day: Mapped[date] = mapped_column(primary_key=True)
    posts: Mapped[int]
    authors: Mapped[int]
    words: Mapped[int]
    attachments: Mapped[int]
    keywords: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    written: Mapped[datetime] = mapped_column(server_default=func.now())
