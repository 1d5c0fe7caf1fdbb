"""What a benchmark measures has its place in the README."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import backups, bench


@pytest.mark.parametrize("markers", [bench.MARKERS, backups.MARKERS])
def test_figures_are_put_between_their_markers_and_nothing_else_is_touched(
    markers: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (bench.ROOT / "README.md").read_text()
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(before)
    bench.record(markers, "| what | measured |")
    after = (tmp_path / "README.md").read_text()
    head, rest = before.split(markers[0])
    assert after == f"{head}{markers[0]}\n| what | measured |\n{markers[1]}{rest.split(markers[1])[1]}"


def test_a_readme_without_a_place_for_them_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(SystemExit, match="has <!-- figures --> 0 times"):
        bench.record(bench.MARKERS, "text")
