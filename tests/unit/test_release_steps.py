"""One table has the order of the steps; the tasks and check mode go by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.module_utils.berth.release import steps
from ansible.module_utils.berth.release.steps import table
from ansible.module_utils.berth.release.steps.table import Phase
from ansible.plugins.action import ActionBase

from plugins.action import release as action

TASKS = Path(__file__).resolve().parents[2] / "roles/release/tasks"
LOCK = {
    "lock": {"app", "name", "version", "wait", "unattended"},
    "unlock": {"name"},
    "exchangeable": {"mode"},
}
WAY = [step.name for step in table.of(Phase.GO_LIVE, Phase.AFTER)]


def tasks(file: str) -> Iterator[dict[str, Any]]:
    """What a file asks of the engine, with what it includes."""

    def below(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in found:
            if "release" in task:
                yield task["release"]
            yield from below([*task.get("block", []), *task.get("rescue", [])])
            for way in ("include_tasks", "import_tasks"):
                if included := task.get(f"ansible.builtin.{way}"):
                    yield from tasks(included)

    yield from below(yaml.safe_load((TASKS / file).read_text()))


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("settings.yml", ["lock", "settings"]),
        ("main.yml", ["lock", "plan", *[step.name for step in table.of(Phase.MAKE)], *WAY, "unlock"]),
        ("rehearse.yml", ["lock", "plan_rehearsal", "fetch", "build", "rehearse", "unlock"]),
        ("rollback.yml", ["lock", "plan_rollback", *WAY, "unlock"]),
        ("remove.yml", ["lock", "remove"]),
        ("exchange.yml", ["lock", "exchange"]),
        # Looked at, copied, exchanged; and what is put back.
        ("exchange_all.yml", ["exchangeable", "lock", *["exchange"] * 4]),
    ],
)
def test_the_tasks_ask_for_the_steps_of_the_table_in_its_order(file: str, wanted: list[str]) -> None:
    assert [task["step"] for task in tasks(file)] == wanted


def test_every_file_of_tasks_is_looked_at_and_gives_what_the_step_takes() -> None:
    files = {path.name for path in TASKS.glob("*.yml")}
    assert files == {
        "settings.yml",
        "main.yml",
        "locked.yml",
        "make.yml",
        "rollback.yml",
        "remove.yml",
        "exchange.yml",
        "exchange_all.yml",
        "exchange_one.yml",
        "rehearse.yml",
        "live.yml",
    }
    for file in files:
        for task in tasks(file):
            known = table.find(task["step"])
            takes = set(known.takes) - {"body"} if known else LOCK[task["step"]]
            given = set(task) - {"step"}
            assert given == takes or (not known and given <= takes), f"{file}: {task['step']}"


def test_every_step_is_a_file_of_its_name_and_a_line() -> None:
    (folder,) = steps.__path__
    files = {path.stem for path in Path(folder).glob("*.py")} - {"__init__", "table"}
    assert {step.name for step in table.STEPS} == files
    assert len(table.STEPS) == len(files)
    for step in table.STEPS:
        assert step.run.__module__.rpartition(".")[2] == step.name
    order = [step.phase.value for step in table.STEPS]
    assert order == sorted(order)


def test_check_mode_tells_of_a_step_and_opens_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    told = {}
    for name in [*[step.name for step in table.STEPS if step.phase != Phase.DECIDE], "unlock"]:
        one = action.ActionModule.__new__(action.ActionModule)
        one._task = SimpleNamespace(args={"step": name, "name": "board"}, check_mode=True)
        told[name] = one.run()["changed"]
    assert [name for name, changed in told.items() if changed] == ["fetch", "build", "start", "switch"]
