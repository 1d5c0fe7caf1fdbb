"""A server that somebody else archives or backs up is not taken over without a word."""

from __future__ import annotations

import pytest
import yaml

from plugins.modules import backup_takeover as module
from tests.unit.contract_case import ROOT

OURS = 'pgbackrest --stanza=main archive-push "%p"'
AUTO = "/var/lib/postgresql/17/main/postgresql.auto.conf"


def answer(command: str, file: str = "", mode: str = "on", library: str = "") -> str:
    return f"archive_command|{file}|{command}\narchive_library||{library}\narchive_mode||{mode}\n"


@pytest.mark.parametrize(
    "found",
    [
        "", answer("(disabled)", mode="off"), answer("(disabled)"), answer(""), answer(OURS, AUTO),
        answer("cp %p /x/%f", mode="off"),
        # An earlier Berth's.
        answer("pgbackrest archive-push | tee", "/etc/postgresql/17/main/conf.d/50-berth.conf"),
    ],
)  # fmt: skip
def test_a_server_that_nobody_archives_is_taken(found: str) -> None:
    assert module.archived_by_others(found, OURS) == ""


def test_one_that_archives_already_is_left_to_whoever_does() -> None:
    said = module.archived_by_others(answer("KEY=s3cret wal-g wal-push %p | tee /log", AUTO), OURS)
    assert said == (
        f"PostgreSQL archives its WAL already: archive_command runs wal-g, in {AUTO}. Berth's backups would "
        "take its place. Nothing was changed. To keep it, set server.backup.enabled to false; to have "
        "Berth's, alter system reset archive_command, reload it and run again."
    )
    assert "take archive_command out there" in module.archived_by_others(
        answer("barman-wal-archive %p", "/etc/x.conf", mode="always"), OURS
    )
    assert "archive_library runs basic_archive" in module.archived_by_others(
        answer("", library="basic_archive"), OURS
    )


def test_so_is_a_configuration_of_pgbackrest() -> None:
    assert module.configured_by_others("", "[global]\nrepo1-path=/x\n#[main]\n#pg1-path=y\n") == ""
    assert module.configured_by_others("", "[global]\n[global:archive-push]\ncompress-level=3\n") == ""
    said = module.configured_by_others("", "[global]\nrepo1-path=/x\n [shop]\npg1-path=/y\n")
    assert said.startswith("/etc/pgbackrest.conf configures pgBackRest for shop already")
    # Ignored since Berth's is there.
    assert module.configured_by_others("# Ansible managed\n[global]\n", "[shop]\n") == ""
    assert "not Berth's" in module.configured_by_others("[global]\n", "")


def test_it_is_asked_before_postgres_is_changed() -> None:
    (play,) = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
    imported = [task.get("ansible.builtin.import_role", {}) for task in play["tasks"]]
    roles = [(one.get("name"), one.get("tasks_from", "")) for one in imported]
    before = ("backup", "takeover")
    assert roles.index(before) < roles.index(("postgresql", ""))
