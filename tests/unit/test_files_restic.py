"""A repository at a place off the server: how it is reached, what is made of answers, and whose locks go."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, restic
from ansible.module_utils.berth.payload.parts import FilesError

from tests.support.offsite import S3, SFTP, answering, place


def test_secrets_are_files_of_roots_or_in_the_environment(tmp_path: Path) -> None:
    nas, cloud = place(tmp_path, SFTP), place(tmp_path, S3)
    words = " ".join([*nas.words(), *cloud.words()])
    assert not [one for one in ("correct horse", "BEGIN", "ACCESS", "very secret") if one in words]
    assert (nas.folder / "password").read_text() == "correct horse\n"
    assert (nas.folder / "key").read_text() == "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc\n"
    assert (nas.folder / "known_hosts").read_text() == "[nas.example.net]:23 ssh-ed25519 AAAAkey\n"
    assert {path.stat().st_mode & 0o777 for path in nas.folder.iterdir()} == {0o600}
    assert cloud.environment()["AWS_SECRET_ACCESS_KEY"] == "very secret"
    assert "s3:https://s3.example.net:9000/backups/berth/files" in cloud.words()
    assert "s3.bucket-lookup=path" in cloud.words()


def test_no_host_key_is_trusted_but_the_one_that_is_known(tmp_path: Path) -> None:
    ssh = place(tmp_path, SFTP).ssh()
    for option in (
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "BatchMode=yes",
    ):
        assert option in ssh
    assert ssh[:3] == ["ssh", "-F", "/dev/null"]
    assert ssh[-7:] == ["-p", "23", "-l", "keeper", "nas.example.net", "-s", "sftp"]


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("subprocess ssh: Host key verification failed.\r\nFatal: unable to open repository: unexpected EOF",
         "it shows a host key that is not in its host_key"),
        ("subprocess ssh: keeper@nas: Permission denied (publickey).",
         "it does not let in the user with this private_key"),
        ("subprocess ssh: connect to host nas port 23: Connection refused\r",
         "nas cannot be reached (Connection refused)"),
        ("ssh: connect to host nas port 22: Connection timed out",
         "nas cannot be reached (Connection timed out)"),
        ("ssh: Could not resolve hostname nas.invalid: Name or service",
         "no address is known of nas.invalid"),
        ("Get \"https://s3.test/\": dial tcp: lookup s3.test on 1.1.1.1:53: no such host",
         "no address is known of s3.test"),
        ("dial tcp 192.0.2.1:9000: connect: connection refused",
         "192.0.2.1:9000 cannot be reached (connection refused)"),
        ("Fatal: wrong password or no key found", "another key than vault.server.backup.key made"),
        ("Fatal: client.BucketExists: The specified bucket does not exist", "it has no such bucket"),
        ("server response unexpected: Access Denied.", "it refuses access"),
        ("tls: failed to verify: x509: certificate signed by unknown", "its certificate is not trusted"),
        ("rclone: write: no space left on device", "its disk is full"),
        ("Fatal: sftp: \"Permission denied\" (SSH_FX_PERMISSION_DENIED)",
         "it does not let the user write there"),
        ("error for tree 1234: ciphertext verification failed", "the repository there is damaged"),
        ('{"message_type":"exit_error","code":1,"message":"Fatal: something new."}', "something new"),
        # What is said of one file, and where the repository is, may hold any word.
        ('{"message_type":"error","error":{"message":"open /x/certificate: bad"},"item":"/x"}\nFatal: other',
         "other"),
        ("sftp:quota-exceeded:/berth/certificate\nFatal: other", "other"),
    ],
)  # fmt: skip
def test_what_restic_says_becomes_one_sentence(printed: str, said: str) -> None:
    assert said in restic.why(restic.Answer(1, "", printed))


def test_a_repository_is_made_once_and_never_again_where_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Fatal: repository does not exist: unable to open config file\nIs there a repository at"
    calls = answering(monkeypatch, {"cat": restic.Answer(10, "", text)})
    with pytest.raises(FilesError, match="gone or its disk is not mounted"):
        restic.open_repository(place(tmp_path, SFTP), {"repository": "abc"})
    assert [call[0] for call in calls] == ["cat"]
    with pytest.raises(FilesError):
        restic.open_repository(place(tmp_path, SFTP), {})
    assert "init" in [call[0] for call in calls]


def test_nothing_is_made_at_a_place_that_does_not_let_us_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "Fatal: unable to open config file: Access Denied\nIs there a repository at the following location?"
    )
    calls = answering(monkeypatch, {"cat": restic.Answer(1, "", text)})
    with pytest.raises(FilesError, match="it refuses access"):
        restic.open_repository(place(tmp_path, S3), {})
    assert [call[0] for call in calls] == ["cat"]


def test_locks_of_this_servers_dead_runs_go_and_those_of_another_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, calls = "", []

    def run(_place: restic.Place, *words: str, **_: float) -> restic.Answer:
        calls.append(" ".join(words))
        return restic.Answer(0, "abc\n" if words[0] == "list" else json.dumps({"hostname": owner}), "")

    monkeypatch.setattr(restic, "run", run)
    owner = os.uname().nodename
    restic.unlock(place(tmp_path, SFTP))
    assert "unlock --remove-all" in calls
    owner, calls = "other", []
    with pytest.raises(FilesError, match="server other is at work in it"):
        restic.unlock(place(tmp_path, SFTP))
    assert "unlock --remove-all" not in calls


@pytest.mark.parametrize(
    "text",
    ["2026-11-30T03:37:21.512345678Z", "2026-11-30T04:37:21+01:00", "2026-11-30T03:37:21Z"],
)
def test_times_of_restic_are_read(text: str) -> None:
    assert backup.stamp(restic.moment(text)) == "2026-11-30T03:37:21Z"


def test_what_a_place_that_does_not_answer_said_meanwhile_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = b"Load(<config>) returned error, retrying after 1s: x509: certificate signed by unknown authority"

    def run(argv: list[str], **how: Any) -> None:
        raise subprocess.TimeoutExpired(argv, how["timeout"], None, said)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(FilesError, match="its certificate is not trusted"):
        restic.asked(place(tmp_path, S3), "snapshots")
    said = b""
    with pytest.raises(FilesError, match="it did not answer within 120 s"):
        restic.asked(place(tmp_path, S3), "snapshots")


def snapshot(number: int, *tags: str) -> dict[str, Any]:
    return {"id": f"s{number}", "time": f"2026-11-{number:02}T04:00:00Z", "tags": list(tags)}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a server keeps its state, and whether it was built anew."""
    monkeypatch.setattr(restic, "STATE", tmp_path / "state")
    monkeypatch.setattr(restic, "RECOVERY", tmp_path / "recovery")
    (tmp_path / "state").mkdir()
    return tmp_path


def opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], *found: dict[str, Any]
) -> list[str]:
    """What restic was asked to do at a place that holds these snapshots."""
    answers = {"cat": restic.Answer(0, '{"id": "r1"}', ""), "list": restic.Answer(0, "", "")}
    answers["snapshots"] = restic.Answer(0, json.dumps(found), "")
    calls = answering(monkeypatch, answers)
    try:
        restic.open_repository(place(folder, SFTP), known)
    finally:
        words = [call[0] for call in calls]
    return words


def test_a_server_that_another_was_built_anew_from_stores_nothing_more(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lost one comes back: neither does it store there, nor does it forget what the new one stored."""
    known: dict[str, Any] = {"repository": "r1"}
    mine = restic.MAKER + restic.identity()
    # Those of an earlier Berth say nobody.
    opened(server, monkeypatch, known, snapshot(1, "server"), snapshot(2, "server", mine))
    with pytest.raises(FilesError, match="another server was built anew from what lies there"):
        opened(server, monkeypatch, known, snapshot(2, "server", mine), snapshot(3, "server", "by:new"))
    assert restic.identity() == mine.removeprefix(restic.MAKER)


def test_a_server_that_was_built_anew_goes_on_after_those_before_it(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server / "recovery").mkdir()
    before, known = snapshot(1, "server", "by:old"), dict[str, Any]()
    opened(server, monkeypatch, known, before)
    mine = restic.MAKER + restic.identity()
    opened(server, monkeypatch, known, before, snapshot(2, "server", mine))
    assert known == {"before": ["old"], "repository": "r1"}
    with pytest.raises(FilesError, match="another server was built anew"):
        opened(server, monkeypatch, known, snapshot(2, "server", mine), snapshot(3, "server", "by:third"))


def test_a_path_of_another_server_is_refused_before_anything_is_written(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Any] = {}
    for _ in range(2):
        with pytest.raises(FilesError, match="it holds the files of another server"):
            opened(server, monkeypatch, known, snapshot(1, "server", "by:other"))
    assert known == {}
