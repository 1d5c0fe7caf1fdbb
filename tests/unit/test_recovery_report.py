"""Whether a host is bare, what is done already on one that is not, and how a part went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.reports import recovery

from tests.support.tree import write

STATE = "var/lib/berth-recovery"


def test_a_host_with_nothing_but_its_system_is_bare(tmp_path: Path) -> None:
    write(tmp_path, {"etc/hostname": "h", "var/lib/apt/x": ""})
    (tmp_path / "srv").mkdir()
    assert recovery.plan(tmp_path) == {"begun": "", "answers": {}}


@pytest.mark.parametrize(
    "path",
    ["etc/berth/x", "var/lib/berth/x", "srv/site/index.html", "etc/postgresql/17/main/postgresql.conf"],
)
def test_one_that_holds_something_is_refused_with_what_it_is(path: str, tmp_path: Path) -> None:
    write(tmp_path, {path: ""})
    with pytest.raises(ReleaseError) as refused:
        recovery.plan(tmp_path)
    said = str(refused.value)
    assert said.startswith(f"This host is not bare: it has /{path.split('/')[0]}/")
    assert said.endswith("take another one, or install this one anew. Nothing was changed.")


def test_of_many_three_are_named(tmp_path: Path) -> None:
    write(tmp_path, {f"srv/{name}/x": "" for name in "abcde"})
    with pytest.raises(ReleaseError, match="it has /srv/a, /srv/b, /srv/c and 2 more"):
        recovery.plan(tmp_path)


def test_what_was_begun_here_goes_on_and_knows_what_is_done(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"{STATE}/state.json": '{"begun": "2026-11-30T12:00:00Z"}',
            f"{STATE}/look.json": '{"problem": "", "place": "nas"}',
            f"{STATE}/born.json": '{"problem": "it was cut off"}',
            f"{STATE}/provision.json": '{"cluster": {"version": 17}}',
            f"{STATE}/rows.json": '{"last": ""}',
            "etc/berth/board/secrets.json": "{}",
        },
    )
    found = recovery.plan(tmp_path)
    assert found["begun"] == "2026-11-30T12:00:00Z"
    assert sorted(found["answers"]) == ["look", "provision", "rows"]


def test_once_it_is_done_nothing_begins_again(tmp_path: Path) -> None:
    write(tmp_path, {f"{STATE}/state.json": '{"finished": "2026-11-30T12:09:00Z"}'})
    with pytest.raises(ReleaseError, match="ended at 2026-11-30T12:09:00Z: it is not bare any more"):
        recovery.plan(tmp_path)


def test_an_answer_is_that_of_this_run(tmp_path: Path) -> None:
    write(tmp_path, {f"{STATE}/look.json": json.dumps({"run": "r", "problem": "", "place": "nas"})})
    assert recovery.describe("look", "r", tmp_path)["answer"]["place"] == "nas"
    with pytest.raises(
        ReleaseError, match=r"journalctl -u berth-recovery@look.service on the server tells why"
    ):
        recovery.describe("look", "other", tmp_path)
    write(tmp_path, {f"{STATE}/files.json": json.dumps({"run": "r", "problem": "nas does not answer"})})
    with pytest.raises(ReleaseError, match=r"Not brought back: nas does not answer\. What is done is kept"):
        recovery.describe("files", "r", tmp_path)
