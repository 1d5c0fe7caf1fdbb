"""What the engine has git do. Run on the server by text, as the app's build user in a sandbox.

A server that others control sends what git reads here, so nobody does it who has anything to lose. Requests
are lines of JSON on standard input and get one such line each; when the input ends, so does this.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import json
import os
import queue
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOOK = 45.0
# A fetch may take as long as it makes progress, within reason.
STALLED, LONGEST = 120.0, 7200.0
# Every object is looked at as it comes in. Old tools wrote the three that are let through: harmless, and in
# repositories that people use.
_SETTINGS = (
    "transfer.fsckObjects=true",
    "fetch.fsck.zeroPaddedFilemode=ignore",
    "fetch.fsck.missingSpaceBeforeDate=ignore",
    "fetch.fsck.badTimezone=ignore",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    # The mirror is trimmed beside a deploy, not in it.
    "gc.auto=0",
    "maintenance.auto=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=20",
)
_ALL = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_PROGRESS = re.compile(r"(remote: )?(Enumerating|Counting|Compressing|Receiving|Resolving|Checking|Total)\b")
_LINES = 50


class Problem(Exception):  # noqa: N818 - it is an answer
    """What kind of work failed, and what git said."""

    def __init__(self, kind: str, said: list[str]) -> None:
        super().__init__(kind)
        self.kind, self.said = kind, said


def match_ref(listing: str, version: str) -> str:
    """The commit of a branch, tag or ref in the output of `git ls-remote`; empty when there is none."""
    refs = {}
    for line in listing.splitlines():
        commit, _, ref = line.partition("\t")
        refs[ref] = commit
    # `tag^{}` is the commit that an annotated tag points to.
    for name in (f"refs/tags/{version}^{{}}", f"refs/tags/{version}", f"refs/heads/{version}", version):
        if name in refs:
            return refs[name]
    if re.fullmatch(r"[0-9a-f]{7,39}", version):
        hits = {commit for commit in refs.values() if commit.startswith(version)}
        if len(hits) == 1:
            return hits.pop()
    return ""


_NUMBERS = re.compile(r"\D*(\d{1,18}(?:\.\d{1,18})*)(.{0,100})", re.ASCII)


def version_of(tag: str) -> tuple[tuple[int, ...], bool, list[tuple[int, int, str]]] | None:
    """A tag's version, to be compared as git's versionsort does; None where it has none.

    v1.10.0 is newer than v1.9, and v2.0.0-rc1 older than v2.0.0.
    """
    found = _NUMBERS.fullmatch(tag)
    if not found:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    rest = [
        (1, int(part), "") if part.isdecimal() else (0, 0, part)
        for part in re.findall(r"\d{1,18}|\D+", found[2], re.ASCII)
    ]
    return tuple(numbers), not found[2].startswith("-"), rest


def newest_tag(listing: str, pattern: str) -> tuple[str, str]:
    """The tag of the newest version that fits a pattern (`v*`), and its commit; both empty where none does.

    A pre-release, which has a dash behind its number, counts where the pattern has such a dash itself.
    """
    refs: dict[str, str] = {}
    for line in listing.splitlines():
        commit, _, ref = line.partition("\t")
        refs[ref] = commit
    best, found = None, ""
    for ref in refs:
        tag = ref.removeprefix("refs/tags/")
        if tag == ref or tag.endswith("^{}") or not fnmatch.fnmatchcase(tag, pattern):
            continue
        version = version_of(tag)
        if version is None or not (version[1] or "-" in pattern):
            continue
        if best is None or version > best:
            best, found = version, tag
    ref = f"refs/tags/{found}"
    return (found, refs.get(f"{ref}^{{}}") or refs[ref]) if found else ("", "")


def lines(text: str) -> list[str]:
    """What git said, less how far it was; the end of it."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    found = [line.strip() for line in re.split(r"[\r\n]+", plain)]
    return [line[:1000] for line in found if line and not _PROGRESS.match(line)][-_LINES:]


def sweep(mirror: Path) -> None:
    """What a git that was killed leaves behind: locks that stop the next one, and halves of packs."""
    halves = ("objects/pack/tmp_*", "objects/??/tmp_obj_*", "objects/tmp_objdir-*", "objects/pack/*.keep")
    # No branch may end in .lock.
    for path in (*mirror.rglob("*.lock"), *(path for half in halves for path in mirror.glob(half))):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class Work:
    """One request after another, for one repository."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.key = -1

    def environment(self, asked: dict[str, Any]) -> dict[str, str]:
        """How git reaches the repository. The key is a file in memory that ends with this process."""
        ssh = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
        ssh += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        listed, known = self.home / "listed", Path(asked["kept"]) / "known_hosts"
        if asked["trusted"]:
            listed.write_text("".join(f"{line}\n" for line in asked["trusted"]))
            ssh += ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={listed}"]
        else:
            listed.write_text(asked["system"])
            if not asked["write"]:
                known, lasting = self.home / "known_hosts", known
                text = lasting.read_text() if lasting.is_file() else asked["carried"]
                known.write_text(text)
            elif not known.exists() and asked["carried"]:
                known.write_text(asked["carried"])
            ssh += ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={known}"]
        ssh += ["-o", f"GlobalKnownHostsFile={listed}"]
        if asked["key"]:
            if self.key < 0:
                self.key = os.memfd_create("key")
                os.fchmod(self.key, 0o600)
                os.write(self.key, asked["key"].rstrip("\n").encode() + b"\n")
            ssh += ["-i", f"/proc/{os.getpid()}/fd/{self.key}", "-o", "IdentitiesOnly=yes"]
        if asked["local"]:
            # It may be anybody's; only this one is meant.
            names = [f"{asked['local'].rstrip('/')}{end}" for end in ("", "/.git", ".git", ".git/.git")]
            text = "".join(f'\tdirectory = "{os.path.realpath(name)}"\n' for name in names)
            (self.home / ".gitconfig").write_text(f"[safe]\n{text}")
        return {
            **os.environ,
            **asked["environment"],
            "GIT_SSH_COMMAND": " ".join(ssh),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(self.home),
            "LC_ALL": "C",
        }

    @staticmethod
    def options() -> list[str]:
        return ["git", *(word for setting in _SETTINGS for word in ("-c", setting))]

    def git(self, kind: str, asked: dict[str, Any], *words: str, limit: float = 300) -> str:
        """Run it to the end; what it printed."""
        try:
            done = subprocess.run(
                [*self.options(), *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=self.environment(asked),
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise Problem("late", [f"git {kind} took longer than {limit:.0f} s"]) from late
        if done.returncode != 0:
            raise Problem(kind, lines(f"{done.stderr}\n{done.stdout}"))
        return done.stdout

    def fetch(self, asked: dict[str, Any], repository: Path) -> None:
        """All branches and tags, for as long as something arrives."""
        words = ["--git-dir", str(repository), "fetch", "--progress", "--prune", "--", asked["url"], *_ALL]
        process = subprocess.Popen(
            [*self.options(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self.environment(asked),
        )
        assert process.stderr is not None
        end, said = time.monotonic() + LONGEST, b""
        with selectors.DefaultSelector() as selector, process.stderr:
            selector.register(process.stderr, selectors.EVENT_READ)
            while True:
                left = min(STALLED, end - time.monotonic())
                if left <= 0 or not selector.select(left):
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(10)
                    process.kill()
                    why = f"nothing came for {STALLED:.0f} s" if left > 0 else "it took longer than two hours"
                    raise Problem("fetch", [f"error: {why}"])
                part = os.read(process.stderr.fileno(), 1 << 16)
                if not part:
                    break
                said = (said + part)[-(1 << 16) :]
        if process.wait() != 0:
            raise Problem("fetch", lines(said.decode(errors="replace")))

    # What is asked for ------------------------------------------------------------------------------

    def resolve(self, asked: dict[str, Any]) -> dict[str, Any]:
        listed = self.git("resolve", asked, "ls-remote", "--", asked["url"], limit=LOOK)
        if "*" in asked["version"]:
            tag, commit = newest_tag(listed, asked["version"])
            return {"commit": commit, "tag": tag}
        commit = match_ref(listed, asked["version"])
        tagged = f"\trefs/tags/{asked['version']}" in listed
        return {"commit": commit, "tag": asked["version"] if tagged and commit else ""}

    def older(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Whether one commit came before another one; not where the mirror lacks either of them."""
        at = ("--git-dir", asked["mirror"])
        try:
            self.git("older", asked, *at, "merge-base", "--is-ancestor", asked["older"], asked["newer"])
        except Problem:
            return {"older": False}
        return {"older": True}

    def lay(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Bring the mirror up to date where it lacks the commit, and lay that one's files out."""
        with self.current(asked) as day:
            self.files(asked, Path(asked["mirror"]))
        return {"day": day}

    def descends(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Whether a commit came after another one; None where the mirror never had that one."""
        at, older = ("--git-dir", asked["mirror"]), asked["older"]
        with self.current(asked):
            try:
                self.git("older", asked, *at, "cat-file", "-e", f"{older}^{{commit}}")
            except Problem:
                return {"descends": None}
            found = self.older({**asked, "newer": asked["commit"]})
        return {"descends": found["older"]}

    @contextlib.contextmanager
    def current(self, asked: dict[str, Any]) -> Iterator[str]:
        """The mirror, which has the commit; when that was made."""
        mirror = Path(asked["mirror"])
        if not (mirror / "HEAD").exists():
            shutil.rmtree(mirror, ignore_errors=True)
            self.git("lay", asked, "init", "--quiet", "--bare", str(mirror))
        with alone(mirror) as nobody_else:
            if nobody_else:
                sweep(mirror)
            try:
                day = self.day(asked, mirror)
            except Problem:
                self.fetch(asked, mirror)
                day = self.day(asked, mirror)
            yield day

    def compare(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The same from a repository of the moment, which borrows what the mirror has."""
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            bare = Path(folder) / "git"
            there = Path(asked["mirror"]) / "objects"
            if there.is_dir():
                borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(there)}
                asked = {**asked, "environment": {**asked["environment"], **borrowed}}
            self.git("compare", asked, "init", "--quiet", "--bare", str(bare))
            self.fetch(asked, bare)
            self.day(asked, bare)
            answer: dict[str, Any] = {"commits": [], "files": [], "known": True}
            at, old, new = ("--git-dir", str(bare)), asked["older"], asked["commit"]
            try:
                self.git("compare", asked, *at, "cat-file", "-e", f"{old}^{{commit}}")
            except Problem:
                answer["known"] = False
            else:
                form = ("--date=short", "--format=%h %ad %an: %s")
                between = self.git("compare", asked, *at, "log", *form, f"{old}..{new}")
                changed = self.git("compare", asked, *at, "diff", "--name-status", "--no-renames", old, new)
                answer["commits"], answer["files"] = between.splitlines(), changed.splitlines()
            self.files(asked, bare)
            return answer

    def day(self, asked: dict[str, Any], repository: Path) -> str:
        """When the commit was made; or that it is not there."""
        words = ("log", "-1", "--format=%cI", f"{asked['commit']}^{{commit}}")
        return self.git("missing", asked, "--git-dir", str(repository), *words).strip()

    def files(self, asked: dict[str, Any], repository: Path) -> None:
        """With an index of its own, as archives would leave out what attributes say (export-ignore)."""
        target = asked["target"]
        index = {"GIT_INDEX_FILE": str(self.home / "index")}
        asked = {**asked, "environment": {**asked["environment"], **index}}
        at = ("-C", target, "--git-dir", str(repository), "--work-tree", target)
        self.git("lay", asked, *at, "read-tree", asked["commit"])
        self.git("lay", asked, *at, "checkout-index", "--all", limit=900)


@contextlib.contextmanager
def alone(mirror: Path) -> Iterator[bool]:
    """Whether nobody else is at work in it, for which others are not waited for."""
    descriptor = os.open(mirror, os.O_RDONLY | os.O_DIRECTORY)
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def answer(work: Work, asked: dict[str, Any]) -> dict[str, Any]:
    """What came of a request."""
    doing = {
        "resolve": work.resolve,
        "older": work.older,
        "descends": work.descends,
        "lay": work.lay,
        "compare": work.compare,
    }
    try:
        return doing[asked["do"]](asked)
    except Problem as problem:
        return {"problem": problem.kind, "said": problem.said}
    except OSError as problem:
        return {"problem": asked["do"], "said": [f"fatal: {problem}"]}


def _listen(requests: queue.Queue[str], busy: threading.Event) -> None:
    for line in sys.stdin:
        busy.set()
        requests.put(line)
    if busy.is_set():
        # Whoever asked is gone, and nobody waits for the answer: systemd ends what is left of git.
        os._exit(1)
    requests.put("")


def main() -> None:
    requests, busy = queue.Queue[str](), threading.Event()
    threading.Thread(target=_listen, args=(requests, busy), daemon=True).start()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        work = Work(Path(home))
        while line := requests.get():
            said = json.dumps(answer(work, json.loads(line)))
            busy.clear()
            print(said, flush=True)


if __name__ == "__main__":
    main()
