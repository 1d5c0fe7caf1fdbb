"""Running other programs: what they print is bounded, and a unit is asked one thing after another."""

from __future__ import annotations

import sys

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.runtime import transient

MIB = 1 << 20


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_of_an_endless_output_the_beginning_and_the_end_are_kept() -> None:
    code = f"import sys; print('first'); sys.stdout.write('x' * {40 * MIB}); print('\\nlast')"
    out = command.run(python(code)).out
    assert out.startswith("first\nxxx")
    assert out.endswith("xxx\nlast\n")
    assert len(out) < 9 * MIB
    lines = [line for line in out.splitlines() if not line.startswith("x")]
    left_out = 40 * MIB + len("first\n\nlast\n") - 8 * MIB
    assert lines == ["first", f"[… {left_out} bytes are left out …]", "last"]


@pytest.mark.parametrize("size", [0, 7, 8, 9, 10, 17, 18, 19, 25, 26, 27, 100])
def test_what_is_kept_is_what_was_printed(size: int) -> None:
    kept, text = command.Kept(8, 9), "".join(chr(ord("a") + number % 26) for number in range(size))
    for start in range(0, size, 3):
        kept.add(text[start : start + 3].encode())
        assert len(kept.head) + len(kept.tail) <= 8 + 2 * 9
    between = f"\n[… {size - 17} bytes are left out …]\n" if size > 17 else ""
    assert kept.text() == (text[:8] + between + text[max(8, size - 9) :])


def test_input_exit_status_and_both_outputs() -> None:
    code = "import sys; print(sys.stdin.read()); print('e', file=sys.stderr); sys.exit(3)"
    done = command.run(python(code), stdin="i" * MIB)
    assert (done.code, done.out, done.err) == (3, "i" * MIB + "\n", "e\n")
    # Who does not read all of its input is no problem.
    assert command.run(python("print(1)"), stdin="i" * MIB).out == "1\n"


def test_what_takes_too_long_is_stopped_and_what_is_missing_named() -> None:
    with pytest.raises(ReleaseError, match="took longer than 1 s and was stopped"):
        command.run(python("import time; print(1, flush=True); time.sleep(600)"), timeout=1)
    with pytest.raises(ReleaseError, match="no-such-program is not installed on the server"):
        command.run(["no-such-program"])


def test_a_session_answers_line_by_line_and_ends_with_its_input() -> None:
    echo = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    session = transient.Session("berth-x", python(echo))
    assert session.ask({"a": "é" * MIB}, 60) == {"a": "é" * MIB}
    assert session.ask({"b": 1}, 60) == {"b": 1}
    assert "berth-x" in transient.TRANSIENT
    session.end()
    session.end()
    assert session.process.returncode == 0
    assert "berth-x" not in transient.TRANSIENT


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import sys; sys.exit('Unit berth-x.service could not be started.')",
            "answer: Unit berth-x.service could",
        ),
        ("pass", "without an answer: it was killed"),
        ("print('[1]')", "gave an answer that is none"),
        ("print('{')", "gave an answer that is none"),
    ],
)
def test_a_session_without_an_answer_is_a_sentence(code: str, said: str) -> None:
    session = transient.Session("berth-x", python(code))
    with pytest.raises(ReleaseError, match=said):
        session.ask({}, 60)
    session.end()
