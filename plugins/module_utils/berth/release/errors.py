"""The one exception that carries a sentence for people."""

from __future__ import annotations


class ReleaseError(Exception):
    """A step cannot go on. `str()` is one sentence; `log` and `advice` follow it on lines of their own."""

    def __init__(self, sentence: str, log: list[str] | None = None, advice: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.log = log or []
        self.advice = advice

    def text(self) -> str:
        parts = [self.sentence]
        if self.log:
            parts.append("Last log lines:\n" + "\n".join(f"  {line}" for line in self.log))
        if self.advice:
            parts.append(f"Next: {self.advice}")
        return "\n".join(parts)
