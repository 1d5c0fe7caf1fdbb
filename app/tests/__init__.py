"""Tests against a real Postgres and real servers."""
