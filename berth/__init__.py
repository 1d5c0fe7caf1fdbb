"""Berth's command line: thin verbs over the playbooks of this kit."""

__version__ = "0.1.0"
