"""Answers that change nothing: each a dict, and the table that is made of it."""
