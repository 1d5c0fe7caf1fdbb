"""The engine's main on a server that deploys by itself: one look, and a deploy where there is something new.

Whoever stops it has it end as an engine whose run is gone: what it began is undone before the switch, and is
finished after it.
"""

from __future__ import annotations

import os
import signal
import threading

from ..diagnosis import masking
from ..errors import ReleaseError
from ..paths import Paths
from ..release import unattended
from ..release.engine import Engine
from ..runtime import transient
from .agent import settle
from .bytecode import Bytecode


def main(app: str, bytecode: Bytecode) -> int:
    """The exit status: 0 nothing new or live, 1 failed, 10 held back, 11 waits for somebody."""
    settle()
    engine = Engine()
    _end_when_asked(engine)
    secrets: set[str] = set()
    try:
        paths = Paths(app)
        # Before the run, which may take away what is on the server.
        secrets = masking.of_app(paths)
        answer = unattended.tick(paths, engine)
    except ReleaseError as error:
        answer = {"status": 1, "said": error.text(), "news": True}
    if answer.get("news"):
        print(masking.Mask(secrets)(str(answer["said"])), flush=True)
    bytecode.keep()
    return int(answer["status"])


def _end_when_asked(engine: Engine) -> None:
    """A handler would run between two lines of a step, so another thread is told."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        while os.read(told, 1):
            if engine.abandon():
                transient.stop_all()
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
