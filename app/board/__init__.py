"""A small message board: posts, attachments, a live feed, a background worker and a nightly job."""

__version__ = "1.0.0"
