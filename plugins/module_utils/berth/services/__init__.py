"""Backing services: what an app gets of each."""
