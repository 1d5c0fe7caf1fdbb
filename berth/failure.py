"""The result of an Ansible task as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugins.module_utils.berth.diagnosis import masking

NOT_SHOWN = {"changed", "deprecations", "exception", "failed", "results", "skipped", "warnings"}
HIDDEN = "Its output is hidden, as it may hold secrets."


def as_text(value: Any) -> str:
    """A message as its author meant it: text as it is, a list as lines, anything else as YAML."""
    if isinstance(value, str):
        return value.rstrip()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value).rstrip()
    import yaml

    return (
        yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000).removesuffix("...\n").rstrip()
    )


def failure_text(result: Mapping[str, Any]) -> str:
    """Why a task failed, whole: the message, then what the command printed where the message lacks it."""
    items = [item for item in result.get("results") or [] if isinstance(item, Mapping)]
    failing = [item for item in items if item.get("failed") or item.get("unreachable")]
    if failing:
        return "\n".join(_item_text(item) for item in failing)
    if "censored" in result:
        return HIDDEN
    parts = [as_text(result.get("msg") or "").removeprefix("Task failed: ")]
    for key in ("stderr", "stdout", "module_stderr", "module_stdout"):
        printed = as_text(result.get(key) or "").strip()
        if printed and not any(printed in part for part in parts):
            parts.append(printed)
    # Whatever failed may quote an address with a password in it.
    text = masking.by_place("\n".join(part for part in parts if part))
    return text or "It failed without saying why. Repeat it with: -- -vvv"


def _item_text(item: Mapping[str, Any]) -> str:
    label = item.get("_ansible_item_label", item.get("item"))
    text = failure_text(item)
    return f"{label}: {text}" if isinstance(label, str | int) else text


def message_text(result: Mapping[str, Any]) -> str:
    """What a debug task wants to say; empty for a result that wants to say nothing."""
    if not result.get("_ansible_verbose_always") or "censored" in result:
        return ""
    if "msg" in result:
        return as_text(result["msg"])
    shown = {key: value for key, value in result.items() if _is_shown(key)}
    return as_text(shown) if shown else ""


def release_text(result: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """What a step of the release engine did: worth a line when it changed something, planned or ended."""
    if data.get("task_action") != "release" or "censored" in result:
        return ""
    worth = result.get("changed") or "action" in result or "seconds" in result
    text = as_text(result.get("msg") or "")
    # What check mode says of a step that was not taken: the line itself says as much.
    return text if worth and not text.endswith(" would run.") else ""


def _is_shown(key: str) -> bool:
    return not key.startswith("_ansible_") and key not in NOT_SHOWN
