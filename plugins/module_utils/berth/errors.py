"""The one exception that carries a sentence for people."""

from __future__ import annotations

import re

CUT = "…"
# Of a log line so much is repeated.
_LINE = 1000


def cut(text: str, limit: int) -> str:
    """The beginning of a text, without its last word where that was cut: half a secret is not recognized."""
    if len(text) <= limit:
        return text
    kept = text[:limit]
    if not text[limit].isspace():
        kept = kept[: max((at for at, char in enumerate(kept) if char.isspace()), default=0)]
    return kept.rstrip() + CUT


# What applies the settings that a deploy does not, as both kinds of users write it.
UP = "berth up (site.yml)"


def run_of(verb: str, app: str, **options: str | bool) -> str:
    """A verb for one app, as both kinds of users write it."""
    words, extra = [f"berth {verb} {app}"], [f"{verb}.yml -e app={app}"]
    for name, value in options.items():
        words.append(f"--{name}" if value is True else f"--{name} {value}")
        extra.append(f"-e {name}={'true' if value is True else value}")
    return f"{' '.join(words)} ({' '.join(extra)})"


# Keys that a sentence may tell to write, and that a deploy does not apply.
_NOT_DEPLOYED = re.compile(
    r"\bredis: \{|\bredis\.variables\b|\bdatabase\.role\b|\bproxy\.upstream_host\b|\bserver\.swap_mb\b"
)


def next_run(verb: str, app: str, sentence: str) -> str:
    """What brings live what a sentence tells to correct."""
    return UP if _NOT_DEPLOYED.search(sentence) else run_of(verb, app)


class ReleaseError(Exception):
    """A step cannot go on. `str()` is one sentence.

    `also` follows it (what became of the releases), then `log` and `advice` on lines of their own.
    """

    def __init__(self, sentence: str, log: list[str] | None = None, advice: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.log = log or []
        self.advice = advice
        self.also: list[str] = []
        # Nothing is wrong, and it goes on when somebody says so.
        self.waits = False

    def text(self) -> str:
        parts = [" ".join([self.sentence, *self.also])]
        if self.log:
            parts.append("Last log lines:\n" + "\n".join(f"  {cut(line, _LINE)}" for line in self.log))
        if self.advice:
            parts.append(f"Next: {self.advice}")
        return "\n".join(parts)
