"""Runs migrations against DATABASE_URL: the only setting they need.

The deployment runs this as the role that owns the tables; the app itself may only read and write rows.
Time-outs (lock_timeout, statement_timeout) come from outside, in PGOPTIONS.
"""

import logging
import sys
from typing import Any

from alembic import context
from sqlalchemy import create_engine, pool

from board.models import Base
from board.settings import DatabaseSettings, load_settings

if not logging.getLogger().handlers:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, level="WARNING")
    logging.getLogger("alembic.runtime.migration").setLevel("INFO")


options: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "compare_server_default": True,
    "transaction_per_migration": True,
}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(
        load_settings(DatabaseSettings).db_url, poolclass=pool.NullPool, connect_args={"connect_timeout": 10}
    )
    with engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
