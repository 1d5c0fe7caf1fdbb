"""Ansible's events, as they come, turned into a short account of the run."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from berth.failure import failure_text, message_text, release_text

# All was asked, and something is not well.
REFUSED = 1
# How the name of a task ends that repeats what was told before.
KNOWN = " still"


class Account:
    """Prints a line per task that changed or failed, says which task runs now, and sums up at the end.

    Where the run is a question (`status`, `logs`), its answer alone goes to standard output and the account
    to standard error, so that the answer can be piped on.
    """

    def __init__(
        self, title: str, *, answer: bool, verdict: Mapping[str, int] | None = None, quiet: bool = False
    ) -> None:
        self.title = title
        self.answer = answer
        # The tasks whose failure is an answer too; the exit status of those that did, and on how many hosts.
        self.verdict = verdict or {}
        self.refused = 0
        self.answers = 0
        # Kept back until there is something to tell.
        self.kept = io.StringIO() if quiet else None
        self.news = False
        stream = self.kept or (sys.stderr if answer else sys.stdout)
        self.out = Console(
            file=self.kept or sys.stdout, soft_wrap=True, highlight=False, markup=False, emoji=False
        )
        self.log = Console(file=stream, soft_wrap=True, highlight=False, markup=False, emoji=False)
        # FORCE_COLOR, as CI sets it, asks for colour, not for a spinner that repaints a log file.
        self.live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.spinner = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self.log,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.current: TaskID | None = None
        self.started = time.monotonic()
        self.pid = 0
        self.told = ""
        self.hosts: set[str] = set()
        self.stats: Mapping[str, Any] = {}

    def __enter__(self) -> Account:
        if not self.answer:
            self.log.print(Text(self.title, "bold"))
        if self.live:
            self.spinner.start()
            self.say_now("starting")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.spinner.stop()
        self.tell()

    @property
    def broken(self) -> bool:
        """Whether something failed that is no answer, and was not rescued."""
        counts = (self.stats.get("failures") or {}, self.stats.get("dark") or {})
        return not self.stats or sum(number for one in counts for number in one.values()) > self.answers

    def tell(self) -> None:
        """What was kept back, where it is news."""
        if self.kept and self.news:
            sys.stdout.write(self.kept.getvalue())
            sys.stdout.flush()
            self.kept.seek(0)
            self.kept.truncate()

    def say_now(self, description: str) -> None:
        """Show the task that runs, with a clock of its own."""
        if not self.live:
            return
        if self.current is not None:
            self.spinner.remove_task(self.current)
        self.current = self.spinner.add_task(description, total=None)

    def event(self, event: Mapping[str, Any]) -> bool:
        """Handle one event of ansible-runner. Returns False: no event is kept on disk."""
        # The process to interrupt: ansible-playbook itself, the one that emits the events.
        self.pid = self.pid or int(event.get("pid") or 0)
        handler = getattr(self, "_on_" + str(event.get("event", "")), None)
        if handler is not None:
            handler(event.get("event_data") or {}, event)
        return False

    def _on_playbook_on_task_start(self, data: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        self.say_now(_task(data))

    def _on_runner_on_ok(self, data: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        result = data.get("res") or {}
        self.hosts.add(str(data.get("host")))
        if not data.get("event_loop"):
            self._say(message_text(result))
        done = release_text(result, data)
        if result.get("changed"):
            self.news = True
            self._line("changed", "yellow", data)
        elif done:
            self._line("ok", "green", data)
        self._block(done)
        self.told = done or self.told

    def _on_runner_item_on_ok(self, data: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        self._say(message_text(data.get("res") or {}))

    def _on_runner_on_failed(self, data: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        self.hosts.add(str(data.get("host")))
        if data.get("ignore_errors"):
            return
        if status := self.verdict.get(str(data.get("task"))):
            self.answers += 1
            # Of several hosts, what failed outweighs what waits, and that what is held back.
            self.refused = REFUSED if REFUSED in (status, self.refused) else max(status, self.refused)
            self.news |= not str(data.get("task")).endswith(KNOWN)
            self.log.print(Text(failure_text(data.get("res") or {}), "bold red"))
            return
        self.news = True
        self._line("FAILED", "bold red", data)
        self._block(failure_text(data.get("res") or {}))

    def _on_runner_on_unreachable(self, data: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        self.news = True
        self._line("UNREACHABLE", "bold red", data)
        self._block(failure_text(data.get("res") or {}))

    def _on_runner_retry(self, data: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        attempts = (data.get("res") or {}).get("attempts", "?")
        self.say_now(f"{_task(data)}, attempt {attempts}")

    def _on_runner_on_file_diff(self, _: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        lines = str(event.get("stdout") or "").splitlines()
        # Ansible prints a task's banner with the first thing that the task says.
        self._text("\n".join(line for line in lines if not line.endswith("****")))

    def _on_playbook_on_no_hosts_matched(self, _: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        self._text(str(event.get("stdout") or ""), "red")

    def _on_warning(self, _: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        self._text(str(event.get("stdout") or ""), "magenta")

    _on_deprecated = _on_warning
    _on_system_warning = _on_warning

    def _on_error(self, _: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        self._text(str(event.get("stdout") or ""), "red")

    def _on_verbose(self, _: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        self._text(str(event.get("stdout") or ""))

    def _on_playbook_on_stats(self, data: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        self.stats = data

    def recap(self, status: int) -> None:
        """The last lines: per host what happened, and how long it took."""
        if self.answer and status == 0:
            return
        seconds = time.monotonic() - self.started
        for host in sorted(self.stats.get("processed") or {}):
            counts = {
                "changed": (self.stats.get("changed") or {}).get(host, 0),
                "ok": (self.stats.get("ok") or {}).get(host, 0),
                "failed": (self.stats.get("failures") or {}).get(host, 0),
                "unreachable": (self.stats.get("dark") or {}).get(host, 0),
                "rescued": (self.stats.get("rescued") or {}).get(host, 0),
            }
            # The same words as ansible's own recap, so that one grep fits both.
            words = " ".join(
                f"{name}={count}" for name, count in counts.items() if count or name in ("ok", "changed")
            )
            self.log.print(Text(f"{host}: {words}"))
        verdict = ("Done", "bold green") if status == 0 else (f"Failed with status {status}", "bold red")
        self.log.print(Text.assemble(verdict, f" after {seconds:.1f} s"))

    def note(self, text: str) -> None:
        """A line of berth's own."""
        self.log.print(Text(text, "bold"))

    def _line(self, word: str, style: str, data: Mapping[str, Any]) -> None:
        parts: list[str | tuple[str, str]] = [("  "), (f"{word:8}", style), " ", _task(data)]
        if len(self.hosts) > 1 or word not in ("ok", "changed"):
            parts.append((f" [{data.get('host')}]", "cyan"))
        duration = data.get("duration")
        if isinstance(duration, int | float) and duration >= 0.1:
            parts.append((f" {duration:.1f} s", "dim"))
        self.log.print(Text.assemble(*parts))

    def _block(self, text: str) -> None:
        for line in Text.from_ansi(text).plain.splitlines():
            self.log.print(Text(f"    {line}".rstrip()))

    def _say(self, text: str) -> None:
        # A playbook may repeat what the engine said, for those who run it without this account.
        if text and text != self.told:
            # Through the spinner's console where both are one terminal, so that it does not paint over.
            console = (
                self.log if self.log.file is sys.stdout or (self.live and sys.stdout.isatty()) else self.out
            )
            console.print(Text.from_ansi(text))

    def _text(self, text: str, style: str = "") -> None:
        plain = Text.from_ansi(text.strip("\r\n").replace("\r\n", "\n"))
        if plain.plain.strip():
            plain.stylize(style)
            self.log.print(plain)


def _task(data: Mapping[str, Any]) -> str:
    name = str(data.get("task") or data.get("name") or "").strip()
    role = str(data.get("role") or "").rsplit(".", 1)[-1]
    return f"{role}: {name}" if role and not name.startswith(f"{role} : ") else name.replace(" : ", ": ", 1)
