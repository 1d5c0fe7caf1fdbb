"""Posts, their attachments, and the job queue."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NOW = sa.text("now()")


def upgrade() -> None:
    op.create_table(
        "posts",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("author", sa.String(60), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("word_count", sa.Integer),
        sa.Column("keywords", ARRAY(sa.Text), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("flagged", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.CheckConstraint("char_length(text) between 1 and 5000", name="text_length"),
        sa.CheckConstraint("char_length(author) >= 1", name="author_length"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_posts_created", "posts", ["created"])
    op.create_table(
        "attachments",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("post_id", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(160), nullable=False),
        sa.Column("content_type", sa.String(60), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["post_id"], ["posts.id"], ondelete="CASCADE"),
    )
    op.create_index("ix_attachments_post_id", "attachments", ["post_id"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column("state", sa.String(10), server_default="queued", nullable=False),
        sa.Column("attempts", sa.Integer, server_default="0", nullable=False),
        sa.Column("run_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("finished", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text),
        sa.Column("request_id", sa.String(128), server_default="", nullable=False),
        sa.CheckConstraint("state in ('queued', 'done', 'failed')", name="state"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_jobs_queued", "jobs", ["run_at", "id"], postgresql_where=sa.text("state = 'queued'"))


def downgrade() -> None:
    op.drop_table("jobs")
    op.drop_table("attachments")
    op.drop_table("posts")
