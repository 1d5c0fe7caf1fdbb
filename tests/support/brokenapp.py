"""An app with a database that tests copy and break, and parts to break it with."""

from __future__ import annotations

from tests.support.kit import ROOT

FIXTURE = ROOT / "tests" / "fixtures" / "brokenapp"
# An env.py that connects whatever it is asked for, so that there is no SQL beforehand.
ONLINE_ONLY = """
import os

from alembic import context
from sqlalchemy import create_engine

with create_engine(os.environ["DATABASE_URL"]).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
