"""What keeps processes is known to `runtime` alone: no word or suffix of systemd's stands elsewhere.

Each exception stands here with its reason; whoever adds one asks `runtime` instead, or has a reason.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.words import words

ENGINE = Path(__file__).resolve().parents[2] / "plugins/module_utils/berth"
WORDS = re.compile(r"systemctl|systemd-run|journalctl|\.(?:service|socket|timer|wants)\b")
REASONS: dict[str, tuple[str, ...]] = {
    "runs by itself, as text in a Python without the engine": ("payload/guard", "payload/retire"),
    "tells where the logs are of what is no app's": (
        "reports/backups",
        "reports/elsewhere",
        "reports/places",
        "reports/files",
        "reports/findings",
        "reports/recovery",
        "reports/upgrades",
        "services/pgbouncer",
        "services/postgresql",
    ),
}
ALLOWED = {module for modules in REASONS.values() for module in modules}


def test_nobody_else_knows_what_keeps_processes() -> None:
    found = {}
    for path in sorted(ENGINE.rglob("*.py")):
        module = path.relative_to(ENGINE).with_suffix("").as_posix()
        if not module.startswith("runtime/"):
            found.update({(module, line): word for word, line in words(path, WORDS)})
    assert [f"{at[0]}:{at[1]}: {word}" for at, word in found.items() if at[0] not in ALLOWED] == []
    assert sorted(ALLOWED - {module for module, _ in found}) == []


def test_a_new_word_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "switch.py"
    path.write_text(
        '"""What systemctl does."""\n'
        'run(["systemctl", "stop"])\nname = f"{app}-web@{release}.socket"\nother = "host.sockets"\n'
        'def f():\n    "Of board@.service."\n    return "board-web@.service"\n'
    )
    assert sorted(words(path, WORDS), key=lambda one: one[1]) == [
        ("systemctl", 2),
        (".socket", 3),
        (".service", 7),
    ]
