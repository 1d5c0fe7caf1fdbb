"""A secret that nobody may see: it is put into everything that may hold one, then looked for everywhere."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.kit import Kit

GIVEN = "cAnaryGivenPass"
LINE = "cAnaryLineOfTheKey"
TYPED = "cAnaryTypedPass"
VAULT = {
    # Survives no quoting as it is; the word in it survives all of them.
    "CANARY_TOKEN": f"{GIVEN}'\" 100%\\&é+/",
    "CANARY_KEY": f"-----BEGIN KEY-----\n{LINE}\n-----END KEY-----\n",
}
# An address with a typing error, as no library can read it: only its place tells which part is secret.
ENV = {"MAIL_URL": f"smtp//me:{TYPED}@mail.example.com/x"}

# Everything on the host that holds a needle and may not: the journal but for the app's own units; what Berth
# writes; what all users may read. The needles come over standard input, and no argument has one.
_SEARCH = r"""
import os, re, stat, subprocess, sys
app, *needles = sys.stdin.read().split()
pattern = re.compile(b"|".join(re.escape(one.encode()) for one in needles))
journal = subprocess.run(["journalctl", "--no-pager", "-o", "with-unit"], stdout=subprocess.PIPE).stdout
for line in journal.splitlines():
    if pattern.search(line) and f" {app}-".encode() not in line:
        print("journal:", line[:200])
everything = ("/var/log/berth", "/var/lib/berth", "/run/berth")
# What the app's own user reads is no secret to it, but a release has none all the same.
readable = ("/srv", "/etc", "/var", "/run", "/tmp", "/root", "/usr/local", "/home", "/opt")
for top in (*everything, *readable):
    for folder, folders, files in os.walk(top):
        folders[:] = [one for one in folders if one not in ("envs", "node_modules", "site-packages")]
        for name in files:
            path = os.path.join(folder, name)
            try:
                state = os.lstat(path)
                shown = state.st_mode & (0o044 if top == "/srv" else 0o004) or path.startswith(everything)
                if stat.S_ISREG(state.st_mode) and shown and state.st_size < 1 << 24:
                    with open(path, "rb") as file:
                        if pattern.search(file.read()):
                            print("file:", path, oct(state.st_mode))
            except OSError:
                pass
"""
# Arguments of all processes, every 20 ms, until its input ends.
_WATCH = r"""
import glob, re, select, sys
needles = sys.stdin.readline().split()
pattern = re.compile(b"|".join(re.escape(one.encode()) for one in needles))
seen = set()
while not select.select([sys.stdin], [], [], 0.02)[0]:
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read()
        except OSError:
            continue
        if pattern.search(words) and words not in seen:
            seen.add(words)
            print(words[:300], flush=True)
"""


def forms(value: str) -> set[str]:
    """The value, and what of it survives in base64 whatever stands around it."""
    found = {value}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + value.encode()).decode()
        found.add(encoded[4 * bool(shift) : -4])
    return found


def values(kit: Kit, app: str) -> set[str]:
    """The given ones, and those that were born on this host; the owner's password is for migrations alone."""
    born = json.loads(kit.host.sh(f"cat /etc/berth/{app}/secrets.json"))
    passwords = kit.host.sh(f"cat /etc/berth/postgresql/{app} /etc/berth/postgresql/{app}_owner").split()
    return {GIVEN, LINE, TYPED, born["CANARY_BORN"], *passwords}


def needles(secrets: set[str]) -> set[str]:
    """What to look for."""
    return {form for value in secrets for form in forms(value)}


def found_in(text: str, wanted: set[str]) -> list[str]:
    """The lines of a text that hold one."""
    return [line[:400] for line in text.splitlines() if any(one in line for one in wanted)]


def search(kit: Kit, app: str, wanted: set[str]) -> list[str]:
    """Where on the host one is that must not be."""
    done = subprocess.run(
        ["docker", "exec", "-i", kit.host.container, "python3", "-c", _SEARCH],
        input=" ".join([app, *sorted(wanted)]),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@contextlib.contextmanager
def watched(kit: Kit, wanted: set[str]) -> Iterator[list[str]]:
    """Arguments of processes on the host that hold one, while the block runs; known at its end."""
    seen: list[str] = []
    process = subprocess.Popen(
        ["docker", "exec", "-i", kit.host.container, "python3", "-c", _WATCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(" ".join(sorted(wanted)) + "\n")
    process.stdin.flush()
    try:
        yield seen
    finally:
        out, _ = process.communicate("\n", timeout=60)
        seen += out.splitlines()


def berth(kit: Kit, scratch: Path, wanted: set[str], *words: str, status: int = 0) -> tuple[str, list[str]]:
    """The command line's output, and which of its runner's files held one while it ran."""
    scratch.mkdir(exist_ok=True)
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            # Files and folders go while they are looked at.
            for folder, _, names in os.walk(scratch):
                for path in (Path(folder, name) for name in names):
                    with contextlib.suppress(OSError):
                        if path.is_file() and found_in(path.read_text(errors="replace"), wanted):
                            seen.add(str(path.relative_to(scratch)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        said = kit.berth(*words, status=status, env={"XDG_RUNTIME_DIR": str(scratch)})
    finally:
        over.set()
        watcher.join()
    return said, sorted(seen)
