"""Places off the server: what is passed on and in which order, what waits, and which backup is made there."""

# ruff: noqa: E501 (sentences are to be read as they are)
from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import backup, drill, offsite, reasons, restore

SEGMENTS = [f"0000000100000000000000{number:02X}" for number in range(1, 9)]
TLI2 = "000000020000000000000009"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "state").mkdir()
    return {
        "stanza": "main", "repository": str(tmp_path / "repository"), "state": str(tmp_path / "state"),
        "socket": "/run/postgresql", "port": 5432,
        "offsite": [{"name": "storage", "where": "b", "config": "/etc/x.conf", "problem": ""}],
    }  # fmt: skip


@pytest.fixture
def archive(settings: dict[str, Any]) -> Callable[..., None]:
    """Put segments and histories into the local archive."""

    def put(*names: str, part: str = "17-1") -> None:
        top = Path(settings["repository"]) / "archive/main" / part
        for name in names:
            folder = top if name.endswith(".history") else top / name[:16]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / (name if name.endswith(".history") else f"{name}-0a1b.zst")).touch()

    return put


class There:
    """pgBackRest: of the local repository, and of a place that may be away."""

    def __init__(self) -> None:
        self.pushed: list[str] = []
        self.got: list[str] = []
        self.away = ""
        self.held: list[dict[str, Any]] = []
        self.histories: list[str] = []
        # Clusters of the place and of the local repository, the newest last.
        self.there, self.here = [1], [1]

    def __call__(self, settings: dict[str, Any], *words: str, **_: Any) -> str:
        if words[0] == "archive-get":
            Path(words[2]).touch()
            self.got.append(words[1])
            return ""
        assert settings["config"] == "/etc/x.conf", "the place by its own configuration"
        if self.away:
            raise backup.BackupError(self.away)
        if words[0] == "stanza-create" and self.there[-1:] != self.here[-1:]:
            raise backup.BackupError("backup and archive info files exist but do not match the database")
        if words[0] == "repo-ls":
            return "\n".join(["0000000100000000", *self.histories]) if words[1] == "archive/main/17-1" else ""
        if words[0] == "stanza-upgrade":
            self.there.append(self.here[-1])
        if words[0] == "archive-push":
            assert Path(words[1]).exists()
            self.pushed.append(Path(words[1]).name)
        return ""


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> There:
    made = There()
    monkeypatch.setattr(backup, "pgbackrest", made)

    def info(given: dict[str, Any], *_: Any) -> dict[str, Any]:
        clusters = made.there if given.get("config") else made.here
        known = [{"system-id": one, "version": "17", "id": at} for at, one in enumerate(clusters, 1)]
        return {"status": {"code": 0}, "archive": made.held, "backup": [], "db": known}

    monkeypatch.setattr(backup, "info", info)
    monkeypatch.setattr(backup, "segment_size", lambda _: backup.SEGMENT)
    return made


def test_a_relay_passes_on_what_comes_and_begins_with_the_newest(
    settings: dict[str, Any], archive: Callable[..., None], there: There
) -> None:
    archive(*SEGMENTS[:3])
    relay = offsite.Relay(settings, "storage")
    assert relay.turn() == offsite.LOOK
    assert there.pushed == [SEGMENTS[2]], "no backup there needs what was archived before"
    archive(*SEGMENTS[3:5])
    relay.turn()
    assert there.pushed == SEGMENTS[2:5]
    known = offsite.read(settings, "storage", "relay")
    assert (known["pushed"], known["behind"], known["problem"], known["gap"]) == (SEGMENTS[4], 0, "", None)
    # A new one goes on where the last one was, and where its notes are lost, from what is there.
    archive(SEGMENTS[5])
    offsite.Relay(settings, "storage").turn()
    assert there.pushed[-1] == SEGMENTS[5]
    offsite.file_of(settings, "storage", "relay").unlink()
    there.held = [{"id": "17-1", "max": SEGMENTS[5]}]
    archive(SEGMENTS[6])
    offsite.Relay(settings, "storage").turn()
    assert there.pushed == SEGMENTS[2:7]


def test_of_a_place_that_is_away_it_says_what_waits_and_makes_up_for_it(
    settings: dict[str, Any], archive: Callable[..., None], there: There
) -> None:
    archive(SEGMENTS[0])
    relay = offsite.Relay(settings, "storage")
    relay.turn()
    there.away = "unable to connect to 'b.net:22': [111] Connection refused"
    archive(*SEGMENTS[1:4])
    waits = [relay.turn() for _ in range(6)]
    assert waits == [5, 10, 20, 40, 60, 60]
    known = offsite.read(settings, "storage", "relay")
    assert known["problem"] == "b.net:22 cannot be reached (Connection refused)"
    assert (known["behind"], known["pushed"]) == (3, SEGMENTS[0])
    assert known["since"]
    assert known["failing_since"]
    there.away = ""
    assert relay.turn() == offsite.LOOK
    assert there.pushed == SEGMENTS[:4]
    known = offsite.read(settings, "storage", "relay")
    assert (known["behind"], known["problem"], known["failing_since"]) == (0, "", "")


def test_a_new_timeline_comes_after_its_history_and_a_half_written_file_not_at_all(
    settings: dict[str, Any], archive: Callable[..., None], there: There
) -> None:
    archive(*SEGMENTS[:1])
    relay = offsite.Relay(settings, "storage")
    relay.turn()
    archive(TLI2, "00000002.history")
    half = (
        Path(settings["repository"])
        / f"archive/main/17-1/{TLI2[:16]}"
        / f"{TLI2[:-1]}A-0a1b.zst.pgbackrest.tmp"
    )
    half.touch()
    relay.turn()
    assert there.pushed == [SEGMENTS[0], "00000002.history", TLI2]
    assert offsite.read(settings, "storage", "relay")["gap"] is None
    relay.turn()
    assert len(there.pushed) == 3


def test_a_server_that_another_one_was_built_anew_from_writes_there_no_more(
    settings: dict[str, Any], archive: Callable[..., None], there: There
) -> None:
    archive(*SEGMENTS[:2])
    relay = offsite.Relay(settings, "storage")
    relay.turn()
    assert there.pushed == [SEGMENTS[1]]
    # It is asked anew after a while, and when the place was out of reach.
    there.histories = ["00000002.history"]
    archive(SEGMENTS[2])
    relay.turn()
    assert there.pushed[-1] == SEGMENTS[2]
    there.away = "unable to connect to 'b.net:22': [111] Connection refused"
    archive(SEGMENTS[3])
    relay.turn()
    there.away = ""
    relay.turn()
    known = offsite.read(settings, "storage", "relay")
    assert known["problem"].startswith("another server was built anew from what lies there, and goes on with")
    assert (known["behind"], there.pushed[-1]) == (1, SEGMENTS[2])
    relay.sole, relay.known["problem"] = time.monotonic() - offsite.SOLE, ""
    relay.turn()
    assert there.pushed[-1] == SEGMENTS[2]
    # The one that goes on there knows the timeline, and so does one that was restored in place.
    archive(TLI2)
    relay.turn()
    assert there.pushed[-2:] == [SEGMENTS[3], TLI2]
    # In the next major version timelines begin anew.
    there.here = [1, 2]
    archive(*SEGMENTS[4:6], part="18-2")
    relay.sole = -offsite.SOLE
    relay.turn()
    assert (relay.known["problem"], there.pushed[-1]) == ("", SEGMENTS[5])


def test_a_server_that_another_one_was_built_anew_from_makes_no_backup_there(
    settings: dict[str, Any], archive: Callable[..., None], there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(*SEGMENTS[:2])
    there.histories = ["00000002.history"]
    monkeypatch.setattr(offsite, "caught_up", lambda *_: None)
    with pytest.raises(
        backup.BackupError, match="switch this one off for good, or write another path for it"
    ):
        offsite.back_up(settings, settings["offsite"][0], [made("full", 1)])
    assert "goes on with it" in offsite.read(settings, "storage", "backups")["problem"]


def test_a_place_goes_on_with_a_cluster_that_was_moved_and_never_with_another_one(
    settings: dict[str, Any], archive: Callable[..., None], there: There
) -> None:
    archive(SEGMENTS[0], part="15-1")
    relay = offsite.Relay(settings, "storage")
    relay.turn()
    relay.known["gap"] = {"after": "x", "before": "y", "segments": 1}
    there.here = [1, 2]
    archive(*SEGMENTS[1:3], part="17-2")
    there.away = "libssh2 handshake failed"
    relay.turn()
    there.away = ""
    relay.turn()
    assert there.there == [1, 2]
    assert there.pushed == [SEGMENTS[0], SEGMENTS[2]]
    assert (relay.known["problem"], relay.known["gap"]) == ("", None)
    # And back to the one before.
    there.here = [1, 2, 1]
    archive(SEGMENTS[3], part="15-3")
    relay.turn()
    assert there.there == [1, 2, 1]
    assert there.pushed[2:] == [SEGMENTS[3]]
    # A server that was set up anew.
    there.here = [7]
    relay = offsite.Relay(settings, "storage")
    relay.turn()
    assert there.there == [1, 2, 1]
    assert relay.known["problem"].startswith("it holds the backups of another cluster")


def test_a_backup_of_the_version_before_is_none_to_add_to() -> None:
    of = {"database": {"id": 1}}
    known = {
        "db": [{"id": 1, "version": "15"}, {"id": 2, "version": "17"}],
        "backup": [{**made("full", 1), **of}],
    }
    assert offsite.wanted([made("full", 5)], backup.current(known), None) == "full"
    row = backup.backup_row(known["backup"][0], backup.versions(known))
    assert row["version"] == 15


def test_what_was_removed_here_before_it_was_there_is_a_gap(
    settings: dict[str, Any], archive: Callable[..., None], there: There
) -> None:
    archive(SEGMENTS[0])
    relay = offsite.Relay(settings, "storage")
    relay.turn()
    archive(*SEGMENTS[3:5])
    relay.turn()
    assert there.pushed == [SEGMENTS[0], *SEGMENTS[3:5]]
    gap = offsite.read(settings, "storage", "relay")["gap"]
    assert gap == {"after": SEGMENTS[0], "before": SEGMENTS[3], "segments": 2}
    before = made("full", 5, SEGMENTS[0])
    assert offsite.wanted([made("full", 1), made("incr", 9)], [before], gap) == "full"
    assert offsite.wanted([made("full", 1)], [made("full", 5, SEGMENTS[3])], gap) == ""


def made(kind: str, at: int, start: str = SEGMENTS[0]) -> dict[str, Any]:
    return {
        "label": f"{kind}{at}", "type": kind, "timestamp": {"start": at * 100, "stop": at * 100 + 50},
        "archive": {"start": start, "stop": start},
        "info": {"size": 1 << 20, "repository": {"delta": 1 << 20}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("local", "there", "kind"),
    [
        ([], [], ""),
        ([made("full", 1)], [], "full"),
        ([made("full", 1), made("incr", 2)], [], "full"),
        ([made("full", 1)], [made("full", 2)], ""),
        ([made("full", 1), made("incr", 3)], [made("full", 2)], "incremental"),
        ([made("full", 1), made("incr", 3)], [made("full", 2), made("incr", 4)], ""),
        ([made("full", 1), made("incr", 3), made("full", 5)], [made("full", 2), made("incr", 4)], "full"),
    ],
)
def test_a_place_follows_the_server(
    local: list[dict[str, Any]], there: list[dict[str, Any]], kind: str
) -> None:
    assert offsite.wanted(local, there, None) == kind


def test_a_backup_there_is_made_and_told_and_one_that_fails_leaves_the_others_alone(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings["offsite"].insert(0, {"name": "away", "where": "a", "config": "/etc/a.conf", "problem": ""})
    held: list[dict[str, Any]] = []

    def info(given: dict[str, Any], *_: Any) -> dict[str, Any]:
        backups = held if given.get("config") else [made("full", 1)]
        return {"status": {"code": 0}, "archive": [], "backup": backups}

    def pgbackrest(given: dict[str, Any], *words: str, **_: Any) -> str:
        assert words[0] == "--type=full"
        if given["config"] == "/etc/a.conf":
            raise backup.BackupError("public key authentication failed: libssh2 error [-18]")
        held.append(made("full", 2))
        return ""

    monkeypatch.setattr(backup, "info", info)
    monkeypatch.setattr(backup, "pgbackrest", pgbackrest)
    monkeypatch.setattr(offsite, "caught_up", lambda *_: None)
    assert offsite.back_up_everywhere(settings) == 1
    out, err = capsys.readouterr()
    assert out.startswith("Made: full backup full2 at storage: 1.0 MB")
    assert err == "No backup at away: it does not let in the user with this private_key.\n"
    known = offsite.read(settings, "storage", "backups")
    assert (known["backups"][0]["where"], known["problem"]) == ("storage", "")
    assert (
        offsite.read(settings, "away", "backups")["problem"]
        == "it does not let in the user with this private_key"
    )


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("known hosts failure: '1.2.3.4' mismatch in known hosts files: X", "it shows a host key that is not in"),
        ("unable to get address for 'nope.invalid': [-2] Name", "no address is known of nope.invalid"),
        ("libssh2 handshake failed [-13]: Failed getting banner", "it does not answer"),
        ("sftp error unable to create path '/x': libssh2 error [-31]: sftp error [3] permission denied",
         "it does not let the user write there"),
        ("HTTP request failed with 404 (Not Found) (NoSuchBucket)", "it has no such bucket"),
        ("HTTP request failed with 403 (Forbidden) (SignatureDoesNotMatch)", "it refuses access_key"),
        ("unable to load info file '/b/archive.info': CryptoError: unable to flush", "what lies there was written"),
        ("backup and archive info files exist but do not match the database", "it holds the backups of another"),
        ("something new", "something new"),
    ],
)  # fmt: skip
def test_why_is_told_in_words_of_the_inventory(said: str, plain: str) -> None:
    assert reasons.plainly(said).startswith(plain)


def test_a_backup_there_waits_for_a_relay_that_is_at_work(
    settings: dict[str, Any], archive: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsite, "CAUGHT_UP", 0)
    with pytest.raises(backup.BackupError, match="its relay is not at work"):
        offsite.caught_up(settings, "storage")
    now = {"at": backup.stamp(time.time()), "behind": 0, "problem": ""}
    offsite.keep(settings, "storage", "relay", now)
    offsite.caught_up(settings, "storage")
    archive(SEGMENTS[0])
    with pytest.raises(backup.BackupError, match="its relay is not at work"):
        offsite.caught_up(settings, "storage")
    offsite.keep(settings, "storage", "relay", {**now, "archive": "17-1"})
    offsite.caught_up(settings, "storage")
    offsite.keep(settings, "storage", "relay", {**now, "problem": "it does not answer"})
    with pytest.raises(backup.BackupError, match="it does not answer"):
        offsite.caught_up(settings, "storage")


def test_drills_take_turns_and_pass_over_a_place_that_is_away(settings: dict[str, Any]) -> None:
    assert drill.turn({**settings, "offsite": []}, {"from": "storage"}) == ""
    assert drill.turn(settings, {}) == ""
    assert drill.turn(settings, {"from": ""}) == "", "nothing is there yet"
    offsite.keep(settings, "storage", "relay", {"problem": ""})
    offsite.keep(settings, "storage", "backups", {"backups": [{}]})
    assert drill.turn(settings, {"from": ""}) == "storage"
    assert drill.turn(settings, {"from": "storage"}) == ""
    assert drill.turn(settings, {"from": "gone"}) == ""
    offsite.keep(settings, "storage", "relay", {"problem": "it does not answer"})
    assert drill.turn(settings, {"from": ""}) == ""


def test_a_restore_reads_from_the_place_that_is_asked_for(settings: dict[str, Any]) -> None:
    assert restore.source(settings, {"kind": "latest"}) is settings
    found = restore.source(settings, {"kind": "latest", "from": "storage"})
    assert (found["config"], found["from"]) == ("/etc/x.conf", "storage")
    with pytest.raises(
        backup.BackupError, match=r"there is no off-site place x \(server.backup.offsite has stor"
    ):
        restore.source(settings, {"from": "x"})


def test_a_segment_is_waited_for_until_it_is_there(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsite, "RECEIVED", 0)
    assert offsite.received(settings, SEGMENTS[3]), "on the server itself it is"
    there = offsite.at(settings, "storage")
    assert not offsite.received(there, SEGMENTS[3])
    offsite.keep(settings, "storage", "relay", {"pushed": SEGMENTS[3]})
    assert offsite.received(there, SEGMENTS[3])


def test_pgbackrest_is_given_the_configuration_of_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "run", lambda argv, *_: " ".join(argv))
    assert "--config" not in backup.pgbackrest({"stanza": "main"}, "info")
    said = backup.pgbackrest({"stanza": "main", "config": "/etc/x.conf"}, "info")
    assert said.startswith("pgbackrest --config=/etc/x.conf --stanza=main")


def test_the_oldest_that_waits_tells_since_when(
    settings: dict[str, Any], archive: Callable[..., None]
) -> None:
    archive(*SEGMENTS[:2])
    _, folder = offsite.archive(settings)
    assert folder is not None
    (file,) = (folder / SEGMENTS[0][:16]).glob(f"{SEGMENTS[0]}-*")
    os.utime(file, (1000, 1000))
    assert offsite.since(folder, SEGMENTS[0]) == 1000
    archive("000000010000000000000001", part="18-2")
    assert offsite.archive(settings)[0] == "18-2", "of two the newer one"


@pytest.mark.parametrize(
    "more", [[], ["archive/main/17-1/0000000100000000/000000010000000000000001-0a1b.zst"]]
)
def test_a_repository_that_was_half_made_is_made_again_and_a_damaged_one_left_alone(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    files = {"archive", "archive/main", "archive/main/archive.info", *more}

    def pgbackrest(_: dict[str, Any], *words: str, **__: Any) -> str:
        if words[0] == "stanza-create" and "archive/main/archive.info" in files:
            raise backup.BackupError("archive.info exists but backup.info is missing on repo1")
        if words[0] == "repo-rm":
            files.remove(words[1])
        return "\n".join(sorted(files)) if words[0] == "repo-ls" else ""

    monkeypatch.setattr(backup, "pgbackrest", pgbackrest)
    monkeypatch.setattr(backup, "info", lambda *_: {"archive": []})
    relay = offsite.Relay(settings, "storage")
    if more:
        with pytest.raises(backup.BackupError, match="a part of its repository is missing"):
            relay.begin()
        assert "archive/main/archive.info" in files
    else:
        relay.begin()
        assert files == {"archive", "archive/main"}
