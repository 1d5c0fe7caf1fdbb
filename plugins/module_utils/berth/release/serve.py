"""Starts the web server of one release on its socket. Copied into every release as `.berth/serve.py`.

The socket is made here and handed over the way systemd does it. Gunicorn would give a socket of its own to
the app's group, and so lock out the proxy, whose group the socket inherits from its folder.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path


def main() -> None:
    here = Path(__file__).resolve().parent
    settings = json.loads((here / "serve.json").read_text())
    os.umask(0o007)
    # Left behind by a process that was killed.
    Path(settings["socket"]).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(settings["socket"])
    listener.listen(2048)
    if listener.fileno() != 3:
        os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ["LISTEN_FDS"] = "1"
    os.environ["LISTEN_PID"] = str(os.getpid())
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", str(here / "gunicorn.conf.py"), settings["target"]]
    os.execv(sys.executable, gunicorn)  # noqa: S606


if __name__ == "__main__":
    main()
