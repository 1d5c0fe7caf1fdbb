"""The database schema: what a release brings, and how it is brought."""
