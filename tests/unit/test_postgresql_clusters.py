"""Which clusters of PostgreSQL hold what the apps work with."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.berth.services import clusters


def cluster(root: Path, version: int, start: str | None = "auto", port: int = 5432) -> None:
    folder = clusters.etc(version, root)
    folder.mkdir(parents=True)
    (folder / "postgresql.conf").write_text(f"port = {port}\n")
    if start is not None:
        (folder / "start.conf").write_text(f"# auto: start the cluster\n\n{start}\n")


@pytest.mark.parametrize(
    ("there", "used"),
    [
        ({}, []),
        ({15: "auto"}, [15]),
        # Somebody starts the only one by hand: it holds the data all the same.
        ({15: "manual"}, [15]),
        ({15: None}, [15]),
        ({9: "auto", 15: "auto", 17: "auto"}, [9, 15, 17]),
        # Kept beside the one that it was moved to, or that was gone back from.
        ({15: "manual", 17: "auto"}, [17]),
        ({15: "auto", 17: "manual"}, [15]),
        ({15: "disabled", 17: ""}, [17]),
    ],
)
def test_a_cluster_that_is_kept_beside_is_not_taken_for_the_live_one(
    tmp_path: Path, there: dict[int, str | None], used: list[int]
) -> None:
    for version, start in there.items():
        cluster(tmp_path, version, start)
    assert clusters.in_use(tmp_path) == used


def test_a_folder_without_settings_is_no_cluster(tmp_path: Path) -> None:
    clusters.etc(16, tmp_path).mkdir(parents=True)
    (tmp_path / "etc/postgresql/old/main").mkdir(parents=True)
    assert clusters.in_use(tmp_path) == []
