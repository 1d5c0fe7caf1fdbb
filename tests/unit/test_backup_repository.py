"""The repository of backups: what is written and kept, what is refused, and what check mode tells."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.module_utils.berth.payload import backup as program
from ansible.module_utils.berth.payload import clock, drill, restore, side
from ansible.module_utils.berth.runtime import units

from plugins.filter.postgresql import postgresql_conf
from plugins.filter.wiring import archive_command
from plugins.modules import backup_repository as module
from tests.unit.contract_case import ROOT

CONF = "# Ansible managed\nrepo1-cipher-pass=${key}\nrepo1-bundle=y\nrepo1-block=y\ncompress-type=zst\n"
NIGHTS = "".join(f"  Iteration #{day}: Mon 2026-12-{day:02} 02:30:00 UTC\n" for day in (1, 2, 3, 4, 5, 7, 8))
SUNDAYS = "  Next elapse: Sun 2026-12-06 02:30:00 UTC\n  Iteration #2: Sun 2026-12-13 02:30:00 UTC\n"


class Host:
    """A host of which the programs are told; its files are below a folder."""

    def __init__(self, root: Path, check_mode: bool) -> None:
        self.check_mode = check_mode
        self.calls: list[list[str]] = []
        self.warnings: list[str] = []
        self.stanza: dict[str, Any] = {"name": "main", "status": {"code": 1}, "backup": [], "db": []}
        self.version = "pgBackRest 2.55.1"
        self.systemd = 257
        self.params: dict[str, Any] = {
            "configuration": CONF,
            "settings": {
                "stanza": "main", "repository": str(root / "repository"), "state": str(root / "state"),
                "drill": str(root / "drill"), "restored": str(root / "restored"),
                "socket": "/run/postgresql", "port": 5432,
            },
            "schedules": {
                "full": "Sun 02:30", "incremental": "Mon..Sat 02:30", "dump": "04:00", "drill": "05:00"
            },
            "units": {"berth-backup-full.service": "[Service]\n", "berth-backup-full.timer": "[Timer]\n"},
            "offsite": [],
            "secrets": {"key": "", "places": {}},
            "patience": 1,
        }  # fmt: skip

    def run_command(self, words: list[str], **_: Any) -> tuple[int, str, str]:
        self.calls.append(words)
        if words[0] == "systemd-analyze" and self.systemd < 250 and clock.FROM in words:
            return 1, "", "unrecognized option '--base-time'"
        if words[0] == "systemd-analyze":
            return 0, SUNDAYS if words[-1].startswith("Sun") else NIGHTS, ""
        if "version" in words:
            return 0, self.version, ""
        if "info" in words:
            return 0, json.dumps([self.stanza]), ""
        if "stanza-create" in words:
            self.stanza["status"] = {"code": 2}
        if "mkdir" in words:
            Path(words[-1]).mkdir()
        missing = "test" in words and not Path(words[-1]).is_dir()
        return int(missing), "7" if "psql" in words else "", ""

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def asked(self, word: str) -> bool:
        return any(word in call for call in self.calls)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Host]:
    for name in ("UNITS", "CONFIGURATION", "KEY", "PROGRAM", "LEFTOVERS"):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name).relative_to("/"))
    monkeypatch.setattr(program, "SETTINGS", tmp_path / "etc/berth/backup/settings.json")
    monkeypatch.setattr(module, "OWNER", "root")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(grp, "getgrnam", lambda _: SimpleNamespace(gr_gid=os.getgid()))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=os.getuid()))
    active = {"ActiveState": "inactive", "UnitFileState": "disabled"}
    monkeypatch.setattr(units, "show", lambda *_: active)
    monkeypatch.setattr(units, "shown", lambda *_: [])
    monkeypatch.setattr(units, "reload", lambda: None)

    def make(check_mode: bool = False) -> Host:
        return Host(tmp_path, check_mode)

    return make


def converge(host: Host) -> tuple[module.Repository, bool]:
    repository = module.Repository(host)
    return repository, repository.converge()


def test_a_bare_host_gets_all_of_it_and_a_first_backup(host: Callable[..., Host]) -> None:
    here = host()
    repository, missing = converge(here)
    assert missing
    assert here.asked("stanza-create")
    key = module.KEY.read_text().strip()
    assert len(key) == 48
    assert module.KEY.stat().st_mode & 0o777 == 0o600
    assert f"repo1-cipher-pass={key}\n" in module.CONFIGURATION.read_text()
    assert module.CONFIGURATION.stat().st_mode & 0o777 == 0o640
    assert key not in json.dumps([repository.diff, repository.actions])
    assert "(hidden)" in repository.diff[0]["after"]
    assert module.PROGRAM.read_text() == Path(program.__file__).read_text()
    settings = json.loads(program.SETTINGS.read_text())
    # On Sunday the full one comes in between.
    assert settings["expected"] == {"backup": 86400, "full": 7 * 86400, "dump": 2 * 86400, "drill": 2 * 86400}
    assert program_of(drill) == Path(drill.__file__).read_text()
    assert program_of(restore) == Path(restore.__file__).read_text()
    assert program_of(side) == Path(side.__file__).read_text()
    # Postgres makes them, in a folder of its own, and what is left of a drill goes at boot.
    for name in ("drill", "restored"):
        making = ["runuser", "-u", "root", "--", "mkdir", "-p", "-m", "700", here.params["settings"][name]]
        assert making in here.calls
    assert f"R! {here.params['settings']['drill']}/*\n" in module.LEFTOVERS.read_text()


def program_of(one: ModuleType) -> str:
    return module.PROGRAM.with_name(Path(one.__file__ or "").name).read_text()


def test_a_second_run_writes_nothing_and_keeps_the_key(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = host()
    converge(here)
    key = module.KEY.read_text()
    here.stanza |= {"status": {"code": 0}, "backup": [{}], "db": [{"system-id": 7}]}
    running = {"ActiveState": "active", "UnitFileState": "enabled"}
    monkeypatch.setattr(units, "show", lambda *_: running)
    repository, missing = converge(here)
    assert (repository.actions, missing) == ([], False)
    assert module.KEY.read_text() == key
    here.params["units"]["berth-backup-full.timer"] = "[Timer]\nOnCalendar=daily\n"
    repository, _ = converge(here)
    assert repository.actions[1:] == ["restart berth-backup-full.timer"]


def test_check_mode_tells_all_of_a_bare_host_and_writes_nothing(
    host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    repository, missing = converge(host(check_mode=True))
    assert missing
    assert repository.first() == ""
    assert list(tmp_path.rglob("*")) == []
    said = "; ".join(repository.actions)
    for part in (
        "make the key",
        "write ",
        "make the repository",
        "start berth-backup-full.timer",
        "full backup to begin",
    ):
        assert part in said


def test_options_that_an_older_one_does_not_know_are_left_out(host: Callable[..., Host]) -> None:
    here = host()
    here.version = "pgBackRest 2.45"
    converge(here)
    text = module.CONFIGURATION.read_text()
    assert "repo1-bundle=y" in text
    assert "repo1-block" not in text
    assert module.known_options(CONF, (2, 37)).count("repo1") == 1


def test_what_could_not_be_read_again_is_never_overwritten(host: Callable[..., Host]) -> None:
    here = host()
    (Path(here.params["settings"]["repository"]) / "backup/main").mkdir(parents=True)
    with pytest.raises(module.WrongError, match="their key is gone"):
        converge(here)
    assert not module.CONFIGURATION.exists()


def test_the_backups_of_another_cluster_are_left_alone(host: Callable[..., Host]) -> None:
    here = host()
    here.stanza |= {"status": {"code": 0}, "backup": [{}], "db": [{"system-id": 8}]}
    with pytest.raises(module.WrongError, match="holds the backups of another cluster"):
        converge(here)


def test_a_configuration_that_is_not_berths_is_left_alone(host: Callable[..., Host]) -> None:
    module.CONFIGURATION.parent.mkdir(parents=True)
    module.CONFIGURATION.write_text("[global]\n")
    with pytest.raises(module.WrongError, match="not Berth's"):
        converge(host())
    assert not module.KEY.exists()


def test_a_first_backup_that_fails_is_a_warning_in_its_own_words(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["Starting …", "No full backup: /var/lib/pgbackrest has 9 MB free.", "Failed with result"]
    monkeypatch.setattr(units, "show", lambda *_: {"ActiveState": "failed"})
    monkeypatch.setattr(units, "journal", lambda *_: said)
    here = host()
    # The run goes on: what else it sets up does not wait for room on a disk.
    assert module.Repository(here).first() == "No full backup: /var/lib/pgbackrest has 9 MB free."
    (warning,) = here.warnings
    assert warning.startswith("No full backup: /var/lib/pgbackrest has 9 MB free. All else goes on")
    assert "berth backup --full" in warning
    monkeypatch.setattr(units, "show", lambda *_: {"ActiveState": "activating"})
    assert "still at work" in module.Repository(host()).first()
    monkeypatch.setattr(units, "show", lambda *_: {"ActiveState": "inactive", "Job": ""})
    monkeypatch.setattr(units, "journal", lambda *_: ["Made: full backup x."])
    assert module.Repository(host()).first() == "Made: full backup x."


def test_the_end_of_the_run_before_is_not_taken_for_this_ones(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Asked to start, and still as the failed run before has left it.
    states = iter([{"ActiveState": "failed", "Job": "12"}, {"ActiveState": "inactive", "Job": "0"}])
    monkeypatch.setattr(units, "show", lambda *_: next(states))
    monkeypatch.setattr(units, "journal", lambda *_: ["Made: full backup y."])
    here = host()
    assert module.Repository(here).first() == "Made: full backup y."
    assert here.warnings == []


def test_whatever_keeps_backups_from_being_made_comes_last_and_is_said_last() -> None:
    (play,) = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
    *_, backups, dumps, files, last = play["tasks"]
    for blocks, role in ((backups, "backup"), (dumps, "dumps"), (files, "files")):
        assert [task["ansible.builtin.import_role"]["name"] for task in blocks["block"]] == [role]
        (noted,) = (task["ansible.builtin.set_fact"] for task in blocks["rescue"])
        assert set(noted) == {"provision_backup_problem"}
    assert "provision_backup_problem" in last["ansible.builtin.fail"]["msg"]
    first, *_, last = yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
    assert first["vars"] == {"provision_before_deploy": True}
    assert "provision_backup_problem" in last["tasks"][-1]["ansible.builtin.fail"]["msg"]


def test_what_is_expected_does_not_depend_on_the_hour(host: Callable[..., Host]) -> None:
    here = host()
    expected = module.Repository(here).expected()
    asked = [call for call in here.calls if call[0] == "systemd-analyze"]
    assert {(call[2], call[3]) for call in asked} == {("--iterations=400", clock.FROM)}
    # One that does not know where to begin begins now.
    here.systemd = 240
    assert module.Repository(here).expected() == expected


def test_what_a_run_wrote_that_failed_then_counts_in_the_next_one(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = host()
    here.stanza |= {"status": {"code": 99, "message": "other"}}
    reloads: list[str] = []
    monkeypatch.setattr(units, "reload", lambda: reloads.append("reload"))
    with pytest.raises(module.WrongError, match="cannot read its repository"):
        converge(here)
    assert reloads == []
    # That backups begin is not forgotten, though they were made before.
    assert not program.SETTINGS.exists()
    here.stanza |= {"status": {"code": 0}, "backup": [{}], "db": [{"system-id": 7}]}
    running = {"ActiveState": "active", "UnitFileState": "enabled"}
    monkeypatch.setattr(units, "show", lambda *_: running)
    stale = {"Id": "berth-backup-full.timer", "NeedDaemonReload": "yes"}
    monkeypatch.setattr(units, "shown", lambda *_: [stale])
    repository, missing = converge(here)
    assert missing
    assert repository.actions[1:] == ["have systemd read its units again", "restart berth-backup-full.timer"]
    assert reloads == ["reload"]


def test_what_others_could_read_meanwhile_is_closed_again(host: Callable[..., Host]) -> None:
    here = host()
    here.stanza |= {"status": {"code": 0}, "backup": [{}], "db": [{"system-id": 7}]}
    converge(here)
    for path in (module.KEY, module.CONFIGURATION):
        path.chmod(0o644)
    here.check_mode = True
    repository, _ = converge(here)
    assert repository.actions[:2] == [
        f"make {module.KEY} root's alone again", f"write {module.CONFIGURATION}"
    ]  # fmt: skip
    assert module.KEY.stat().st_mode & 0o777 == 0o644
    here.check_mode = False
    converge(here)
    assert [path.stat().st_mode & 0o777 for path in (module.KEY, module.CONFIGURATION)] == [0o600, 0o640]


def test_a_difference_shows_no_secret_however_it_was_written() -> None:
    text = (
        "repo1-cipher-pass=abc\n repo2-cipher-pass = abc\nrepo2-s3-key-secret= abc\nrepo2-s3-key=abc\n"
        "repo1-sftp-private-key-passphrase=abc\nrepo3-s3-token=abc\nrepo1-path=/x\n"
    )
    shown = module.masked(text)
    assert "abc" not in shown
    assert shown.count("(hidden)") == 6
    assert shown.endswith("\nrepo1-path=/x\n")


def test_without_backups_the_timers_end_and_nothing_is_deleted(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = host()
    ended: list[str] = []
    converge(here)
    monkeypatch.setattr(units, "show", lambda *_: {"ActiveState": "active"})
    monkeypatch.setattr(units, "end_for_good", ended.append)
    module.Repository(here).end()
    assert ended == ["berth-backup-full.timer"]
    assert module.KEY.exists()
    assert module.CONFIGURATION.exists()
    assert not program.SETTINGS.exists()
    # What was written meanwhile is not archived, so that the backups before it do not lead on.
    here.stanza |= {"status": {"code": 0}, "backup": [{}], "db": [{"system-id": 7}]}
    assert converge(here)[1]
    assert not converge(here)[1]


def test_what_is_not_to_run_by_the_clock_any_more_ends(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = host()
    here.params["units"]["berth-backup-drill.timer"] = "[Timer]\n"
    converge(here)
    del here.params["units"]["berth-backup-drill.timer"]
    here.params["schedules"]["drill"] = ""
    ended: list[str] = []
    monkeypatch.setattr(units, "end_for_good", ended.append)
    here.check_mode = True
    repository, _ = converge(here)
    assert "remove berth-backup-drill.timer" in repository.actions
    assert ended == []
    here.check_mode = False
    converge(here)
    assert ended == ["berth-backup-drill.timer"]
    assert not (module.UNITS / "berth-backup-drill.timer").exists()
    assert json.loads(program.SETTINGS.read_text())["expected"]["drill"] == 0
    repository, _ = converge(here)
    assert "remove berth-backup-drill.timer" not in repository.actions


def test_the_server_archives_as_long_as_there_are_backups() -> None:
    command = archive_command({"enabled": True})
    assert archive_command({"enabled": False}) == ""

    def settings(given: dict[str, Any], archived: str, *timeout: int) -> dict[str, Any]:
        groups = postgresql_conf(given, 2048, 2, 17, 50, "/hba", archived, *timeout)
        return {name: value for group in groups for name, value in group["settings"].items()}

    found = settings({}, command)
    assert found["archive_command"] == "'pgbackrest --stanza=main archive-push \"%p\"'"
    assert (found["archive_mode"], found["archive_timeout"]) == ("'on'", "'60s'")
    assert settings({}, command, 10)["archive_timeout"] == "'10s'"
    assert settings({"archive_timeout": "30s"}, command, 10)["archive_timeout"] == "'30s'"
    assert "archive_mode" not in settings({}, "")
    assert settings({"archive_mode": "on"}, "")["archive_mode"] == "'on'"
    for name, value in (("archive_mode", "off"), ("archive_command", "x"), ("wal_level", "minimal")):
        with pytest.raises(AnsibleFilterError, match=f"{name}: Berth decides"):
            settings({name: value}, command)


STORAGE = {
    "name": "storage", "type": "sftp", "where": "berth@b.net:/berth",
    "known_hosts": "b.net ssh-ed25519 AAAA\n",
    "configuration": "# Ansible managed\nrepo1-cipher-pass=${key}\nrepo1-bundle=y\n",
}  # fmt: skip
CLOUD = {
    "name": "cloud", "type": "s3", "where": "s3.net/backups/berth", "known_hosts": "",
    "configuration": "# Ansible managed\nrepo1-s3-key=${access_key}\nrepo1-s3-key-secret=${secret_key}\n",
}  # fmt: skip
OPENED = {"storage": {"private_key": "PRIVATE\nKEY"}, "cloud": {"access_key": "AK", "secret_key": "SK"}}


@pytest.fixture
def two(host: Callable[..., Host]) -> Host:
    """A host with two places off it."""
    here = host()
    here.params |= {"offsite": [STORAGE, CLOUD], "secrets": {"key": "K" * 20, "places": OPENED}}
    return here


def test_each_place_gets_its_files_and_a_relay_and_no_secret_is_shown(two: Host, tmp_path: Path) -> None:
    repository, _ = converge(two)
    folder = tmp_path / "etc/berth/backup"
    assert f"repo1-cipher-pass={'K' * 20}\n" in (folder / "offsite-storage.conf").read_text()
    assert (folder / "offsite-storage.key").read_text() == "PRIVATE\nKEY\n"
    assert (folder / "offsite-storage.hosts").read_text() == STORAGE["known_hosts"]
    assert "repo1-s3-key=AK\nrepo1-s3-key-secret=SK\n" in (folder / "offsite-cloud.conf").read_text()
    assert not (folder / "offsite-cloud.key").exists()
    for path in folder.glob("offsite-*"):
        assert path.stat().st_mode & 0o777 == 0o640, path
    assert "start berth-backup-relay@storage.service" in repository.actions
    assert repository.begun == ["storage", "cloud"]
    settings = json.loads(program.SETTINGS.read_text())
    assert settings["offsite"][0] == {
        "name": "storage", "where": "berth@b.net:/berth", "problem": "",
        "config": str(folder / "offsite-storage.conf"),
    }  # fmt: skip
    told = json.dumps([repository.diff, repository.actions, settings])
    assert not any(secret in told for secret in ("K" * 20, "PRIVATE", "=AK", "=SK"))
    again, _ = converge(two)
    assert again.begun == []


def test_a_new_repository_gets_the_key_of_the_vault_and_an_old_one_keeps_its_own(two: Host) -> None:
    converge(two)
    assert module.KEY.read_text() == "K" * 20 + "\n"
    two.params["secrets"] = {"key": "L" * 20, "places": OPENED}
    converge(two)
    assert module.KEY.read_text() == "K" * 20 + "\n"
    assert f"={'L' * 20}" in module.KEY.with_name("offsite-storage.conf").read_text()


def test_a_place_that_is_no_more_ends_and_its_secrets_go(two: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(units, "end_for_good", ended.append)
    converge(two)
    two.params |= {"offsite": [CLOUD]}
    repository, _ = converge(two)
    assert ended == ["berth-backup-relay@storage.service"]
    assert "end what goes to storage" in repository.actions
    assert not list(module.KEY.parent.glob("offsite-storage.*"))
    assert (module.KEY.parent / "offsite-cloud.conf").exists()
    repository.end()
    assert not list(module.KEY.parent.glob("offsite-*"))


def test_sftp_is_refused_in_a_sentence_where_pgbackrest_is_too_old_for_it(two: Host) -> None:
    two.version = "pgBackRest 2.45"
    repository, _ = converge(two)
    assert not any("relay@storage" in action for action in repository.actions)
    assert "start berth-backup-relay@cloud.service" in repository.actions
    said = json.loads(program.SETTINGS.read_text())["offsite"][0]["problem"]
    assert said == (
        "pgBackRest 2.45 of this server knows no SFTP; write a place of type s3, or move to Debian 13 or "
        "Ubuntu 24.04"
    )


def test_a_place_that_cannot_be_reached_is_a_warning_of_its_own_relay(
    two: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, _ = converge(two)
    monkeypatch.setattr(module, "REACHED", 0.5)
    known = {"at": "2026-11-30T12:00:00Z", "problem": "b.net:22 cannot be reached (Connection refused)"}
    answers = {"storage": json.dumps(known), "cloud": "no JSON"}
    monkeypatch.setattr(
        repository, "as_owner", lambda _, path: (0, answers[Path(path).name.split(".")[0]], "")
    )
    began = program.seconds_of(known["at"])
    assert repository.unreachable(began + 5) == []
    (said,) = repository.unreachable(began)
    assert said.startswith(
        "Off-site storage: b.net:22 cannot be reached (Connection refused). Backups on the"
    )


def test_for_a_restore_from_a_place_no_more_is_written_than_how_to_reach_it(two: Host) -> None:
    repository = module.Repository(two)
    repository.reach()
    folder = module.KEY.parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "offsite-cloud.conf", "offsite-storage.conf", "offsite-storage.hosts", "offsite-storage.key",
        "settings.json",
    ]  # fmt: skip
    assert (module.PROGRAM.parent / "rescue.py").exists()
    # No key is born, no repository made, and nothing begun that would write to a place.
    assert not module.CONFIGURATION.exists()
    assert not list(module.UNITS.glob("*"))
    assert not two.asked("stanza-create")
    assert not two.asked("systemctl")
