"""Rate limits and daily digests."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rate_limits",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("used_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        # Losing these rows in a crash is fine, so they cost no write-ahead log.
        prefixes=["UNLOGGED"],
    )
    op.create_index("ix_rate_limits_used_until", "rate_limits", ["used_until"])
    op.create_table(
        "daily_digests",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("posts", sa.Integer, nullable=False),
        sa.Column("authors", sa.Integer, nullable=False),
        sa.Column("words", sa.Integer, nullable=False),
        sa.Column("attachments", sa.Integer, nullable=False),
        sa.Column("keywords", ARRAY(sa.Text), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("written", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("day"),
    )


def downgrade() -> None:
    op.drop_table("daily_digests")
    op.drop_table("rate_limits")
