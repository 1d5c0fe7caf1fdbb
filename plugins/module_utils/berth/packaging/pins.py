"""What Berth itself brings into an environment, by version."""

from __future__ import annotations

# What the kit's own server brings where the app does not: the newest that were tested with the hook.
SERVER = {
    "gunicorn": "27.0.1",
    "uvicorn": "0.54.0",
    "uvicorn-worker": "0.4.0",
    "httptools": "0.9.0",
    "uvloop": "0.23.0",
    "websockets": "17.4",
}
# The last one with pkg_resources. Virtual environments brought a setuptools until Python 3.12, and images of
# Python do, so older packages import it without asking for it.
IMPLIED = {"setuptools": "81.0.0"}
# Poetry reads its lock itself, run by uv in an environment of its own.
POETRY = ["--from", "poetry==2.2.1", "--with", "poetry-plugin-export==1.9.0", "poetry"]
