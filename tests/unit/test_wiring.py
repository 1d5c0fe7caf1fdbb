"""What the playbooks' own filters say."""

from __future__ import annotations

from plugins.filter.wiring import deploy_summary


def test_a_run_over_several_apps_ends_with_one_line_each() -> None:
    failed = {"shop": "The new release did not start: no module named x."}
    assert deploy_summary(failed, ["board", "shop", "notes"]) == (
        "1 of 3 apps failed:\n"
        "  board  live\n"
        "  shop   failed: The new release did not start: no module named x.\n"
        "  notes  live\n"
        "Next: correct it, then repeat with -e app=shop (berth deploy shop)."
    )
    assert "  board  would be deployed\n" in deploy_summary(failed, ["board", "shop"], check=True)
