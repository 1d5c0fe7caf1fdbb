"""What a status says about the facts: what is well, what is not, and how old news may be."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.release.steps import remove
from ansible.module_utils.berth.reports import asking, certificate, facts, findings, running, status
from ansible.module_utils.berth.runtime import naming, noted, units
from ansible.module_utils.berth.store import journal, presence

NOW = datetime.now(UTC)
SERVER: dict[str, Any] = {
    "host": "web1", "proxy": "active", "proxy_program": "Caddy", "proxy_unit": "caddy", "postgres": "accepts",
    "pgbouncer": "", "backups": None,
    "memory": {"total_mb": 1000, "available_mb": 500},
    "disks": [{"path": "/", "free_mb": 5000, "used_percent": 50, "inodes_used_percent": 5}], "reboot": "",
    "unknown": [],
}  # fmt: skip


def stamp(seconds: float) -> str:
    """A time so many seconds ago."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def process(**more: Any) -> dict[str, Any]:
    return {
        "name": "worker", "unit": "board-worker@r2.service", "state": "active", "waits_to_restart": False,
        "result": "success", "exit_status": 0, "up_seconds": 90000, "restarts": 0, "restarts_last_hour": 0,
        "out_of_memory_last_hour": 0, "out_of_memory_seconds_ago": None, "memory_mb": 50, **more,
    }  # fmt: skip


def job(**more: Any) -> dict[str, Any]:
    return {
        "name": "nightly", "timer": "active", "next": stamp(-100_000), "last": stamp(4000), "failed": "",
        "exit_status": 0, "running": False, **more,
    }  # fmt: skip


def app(**more: Any) -> dict[str, Any]:
    """One that is well, and what is otherwise with it."""
    return {
        **facts._nothing("board", "present"),
        "here": True, "release": "r2", "record": True, "age": "3 d", "url": "https://board.localhost",
        "socket": {"path": "/readyz", "status": 200, "well": True},
        "public": {"status": 200, "well": True, "problem": "", "said": "", "url": "https://board.localhost/readyz"},
        "certificate": {"expires": stamp(-60 * 86400), "days_left": 60, "soon": False, "issuer": "E5",
                        "own": False, "wanted": "acme"},
        "processes": [process(name="web"), process()], "jobs": [job()], "releases_mb": 120, **more,
    }  # fmt: skip


def judged(one: dict[str, Any], **server: Any) -> tuple[str, str]:
    """State and findings of an app, as printed."""
    answer = status.judged({**SERVER, **server}, [one])
    return answer["apps"][0]["state"], status.table(answer).partition("\n\n")[2]


def test_what_is_well_is_called_well_and_needs_no_word() -> None:
    answer = status.judged(SERVER, [app()])
    assert (answer["state"], status.verdict(answer)) == ("well", "")
    assert answer["apps"][0]["findings"] == answer["server"]["findings"] == []
    head, line = status.table(answer).splitlines()
    assert head.split() == [
        *("APP", "STATE", "RELEASE", "LIVE", "FOR", "PROCESSES", "NEXT", "JOB", "URL", "SIZE", "BEFORE"),
    ]
    assert line.startswith("board  well")
    assert "3 active" in line
    assert "nightly in 1 d" in line


SILENT = {"status": 0, "well": False, "said": "Connection refused", "url": "https://board.localhost/readyz"}


@pytest.mark.parametrize(
    ("more", "state", "said"),
    [
        ({"socket": {"path": "/readyz", "status": 500, "well": False}}, "sick", "answers 500 on /readyz"),
        ({"socket": {"path": "/readyz", "status": 0, "well": False}}, "down", "release does not answer"),
        ({"public": {**SILENT, "problem": "silent"}}, "down", "on port 443 (Connection refused)"),
        ({"public": {**SILENT, "problem": "certificate"}}, "down", "no certificate for board.localhost"),
        ({"public": {**SILENT, "status": 502, "problem": ""}}, "sick", "answers 502 through the proxy"),
        ({"replaced": ["libcrypto.so.3", "libssl.so.3", "libz.so.1", "python3.13"]}, "well",
         "board (note): its processes run on what updates have replaced (libcrypto.so.3, libssl.so.3, "
         "libz.so.1 and 1 more). Next: berth deploy board --force"),
        ({"record": False}, "sick", "r2 is live, and its record cannot be read. Next: berth deploy board"),
        ({"jobs": [job(failed="exit-code", exit_status=3, last=stamp(60000))]}, "sick",
         "board: nightly failed at " + stamp(60000)[:10]),
        ({"jobs": [job(failed="exit-code", exit_status=3)]}, "sick",
         "exit status 3. Next: berth logs board --process nightly."),
        ({"jobs": [job(failed="timeout")]}, "sick", "it took longer than its time limit"),
        ({"jobs": [job(failed="exit-code", running=True)]}, "well", ""),
        ({"jobs": [job(timer="inactive")]}, "sick", "its timer is inactive"),
        ({"processes": [process(state="failed", result="exit-code", exit_status=2)]}, "sick",
         "worker is failed (exit status 2)"),
        ({"processes": [process(state="activating", waits_to_restart=True, result="exit-code", exit_status=1,
                                restarts=7)]}, "sick",
         "worker ends and is started again (exit status 1; 7 restarts). Next: berth logs board --process"),
        ({"processes": [process(out_of_memory_last_hour=2, out_of_memory_seconds_ago=600)]}, "sick",
         "worker ran out of memory 2 times in the last hour, the last time 10 min 0 s ago"),
        ({"redis": "inactive"}, "sick", "its Redis is inactive"),
        ({"cut_off": {"release": "r3", "step": "build", "at": stamp(500)}}, "sick",
         "a run was cut off in step build (at "),
        ({"left": ["prune (slow)"]}, "sick", "could not tidy up: prune (slow). Next: berth deploy board"),
        ({"lock": {"user": "ann", "host": "laptop", "since": "", "age": "2 min", "version": ""}}, "well",
         "board (note): ann@laptop has been deploying it for 2 min."),
        ({"retiring": [{"release": "r1", "memory_mb": 120, "connections": 3, "processes": ["board-web"],
                        "awaited": True}]}, "well", "r1 ends its work: 120 MB of memory, 3 open connections"),
        ({"retiring": [{"release": "r1", "memory_mb": 120, "connections": 0, "processes": ["board-web"],
                        "awaited": False}]}, "sick", "nothing waits for its end"),
        ({"wanted": "orphan"}, "orphan", "not in apps.yml: nobody reaches it, and its workers"),
        ({"wanted": "absent"}, "sick", "its state is absent, and it is still here"),
        ({"release": "", "here": False}, "not deployed", ""),
        ({"release": "", "here": True}, "not deployed", ""),
        ({"release": "", "here": False, "wanted": "orphan"}, "not deployed", ""),
        ({"release": "", "here": False, "wanted": "absent"}, "absent", ""),
        ({"unknown": ["The state of its units is unknown: no answer within 6 s."]}, "unknown", "within 6 s"),
    ],
)  # fmt: skip
def test_each_trouble_has_its_word_and_a_line(more: dict[str, Any], state: str, said: str) -> None:
    word, lines = judged(app(**more))
    assert word == state
    assert said in lines
    assert bool(said) == bool(lines)
    answer = status.judged(SERVER, [app(**more)])
    assert (answer["state"] == "well") == (state in ("well", "absent"))
    assert (status.verdict(answer) == "") == (state in ("well", "absent"))


@pytest.mark.parametrize(
    ("more", "bad"),
    [
        # A week ago Postgres was away: hundreds of restarts, none of them news.
        ({"restarts": 400, "restarts_last_hour": 0, "up_seconds": 600000}, False),
        # Every five minutes.
        ({"restarts": 12, "restarts_last_hour": 12, "up_seconds": 200}, True),
        # At boot, until the database had recovered, and it has been up since.
        ({"restarts": 5, "restarts_last_hour": 5, "up_seconds": 2400}, False),
        # It crash-looped, and somebody has started it anew.
        ({"restarts": 0, "restarts_last_hour": 40, "up_seconds": 30}, False),
        # Once is told of, and is no loop.
        ({"restarts": 1, "restarts_last_hour": 1, "up_seconds": 30}, False),
    ],
)
def test_an_old_restart_is_no_news(more: dict[str, Any], bad: bool) -> None:
    assert bool(findings.crash_loops(process(**more))) is bad
    word, lines = judged(app(processes=[process(**more)]))
    assert word == ("sick" if bad else "well")
    assert ("restart" in lines) == bool(more["restarts"] and more["restarts_last_hour"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"proxy": "failed"}, "server: Caddy is failed: no app is reached."),
        ({"postgres": "silent"}, "server: Postgres is down. Next: pg_lsclusters"),
        ({"postgres": "rejects"}, "server: Postgres starts or recovers"),
        ({"pgbouncer": "silent"}, "server: PgBouncer is down. Next: journalctl -u berth-pgbouncer"),
        ({"pgbouncer": "queues"}, "server: requests wait longer than 5 s for a database connection"),
        ({"disks": [{"path": "/srv", "free_mb": 900, "used_percent": 97, "inodes_used_percent": 5}]},
         "server: the disk at /srv is 97 % full, 900 MB are free."),
        ({"disks": [{"path": "/", "free_mb": 9000, "used_percent": 40, "inodes_used_percent": 99}]},
         "server: the disk at / has 99 % of its inodes in use."),
        ({"memory": {"total_mb": 1000, "available_mb": 20}}, "server: 20 of 1000 MB of memory are"),
        ({"unknown": ["Postgres is unknown: no answer within 6 s."]}, "server: Postgres is unknown"),
    ],
)  # fmt: skip
def test_the_server_has_its_own_lines(more: dict[str, Any], said: str) -> None:
    _, lines = judged(app(), **more)
    assert said in lines
    assert status.verdict(status.judged({**SERVER, **more}, [app()])) == "Not well: the server is sick."


def test_a_pending_reboot_is_a_note_and_a_large_disk_is_not_full() -> None:
    disks = [{"path": "/", "free_mb": 90_000, "used_percent": 95, "inodes_used_percent": 5}]
    answer = status.judged({**SERVER, "reboot": "an update asks for it", "disks": disks}, [app()])
    assert answer["state"] == "well"
    assert "server (note): a reboot is pending: an update asks for it." in status.table(answer)


def test_a_certificate_is_told_of_when_it_should_have_been_renewed() -> None:
    fine = app()["certificate"]
    for more, said in (
        ({"soon": True, "days_left": 10, "expires": stamp(-10 * 86400)}, "and should have been renewed"),
        ({"days_left": -1, "expires": stamp(86400)}, "its certificate ended at"),
        ({"own": True, "issuer": "Caddy Local Authority - ECC"}, "which no browser trusts"),
        ({"own": True, "wanted": "internal"}, ""),
    ):
        word, lines = judged(app(certificate={**fine, **more}))
        assert said in lines
        assert word == ("sick" if said else "well")


def test_a_certificate_is_read_and_knows_its_own_hurry(tmp_path: Path) -> None:
    key, made = tmp_path / "key", tmp_path / "cert"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", made, "-outform", "DER", "-days", "60", "-subj", "/O=Kit/CN=a.localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    known = certificate.read(made.read_bytes())
    assert (known.issuer, known.own, (known.ends - known.begins).days) == ("a.localhost", True, 60)
    assert not known.ends_soon(known.begins + timedelta(days=45))
    assert known.ends_soon(known.begins + timedelta(days=47))
    # One of twelve hours is renewed at the last third.
    short = certificate.Certificate(NOW, NOW + timedelta(hours=12), "x", True)
    assert not short.ends_soon(NOW + timedelta(hours=8))
    assert short.ends_soon(NOW + timedelta(hours=10))
    for nonsense in (b"", b"\x30", b"no certificate at all", made.read_bytes()[:100]):
        with pytest.raises(ValueError, match="no certificate"):
            certificate.read(nonsense)


def test_one_question_hides_no_other_and_a_late_one_is_unknown() -> None:
    def refuse() -> int:
        raise ReleaseError("systemctl took longer than 5 s and was stopped.")

    def hang() -> int:
        time.sleep(60)
        return 3

    ask = asking.Questions()
    asked: dict[str, Callable[[], int]] = {"A": lambda: 1, "B": refuse, "C": hang}
    assert ask.all(asked, 0, 0.5) == {"A": 1, "B": 0, "C": 0}
    assert ask.unknown == [
        "B is unknown: systemctl took longer than 5 s and was stopped.",
        "C is unknown: no answer within 0 s.",
    ]


def test_counting_what_releases_take_never_holds_a_status_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """du stands for itself: one that a slow disk keeps busy, and one that comes to its end."""
    paths = Paths("board", tmp_path)
    paths.releases.mkdir(parents=True)
    du = tmp_path / "du"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(facts, "_FOR_SIZES", 0.2)
    du.write_text("#!/bin/sh\nexec sleep 8\n")
    du.chmod(0o755)
    began = time.monotonic()
    assert facts._size(paths) is None
    assert time.monotonic() - began < 4
    monkeypatch.setattr(facts, "_FOR_SIZES", 30)
    du.write_text("#!/bin/sh\nprintf '2048\\t%s\\n' x\nprintf '3072\\ttotal\\n'\n")
    assert facts._size(paths) == 3


def test_an_app_that_cannot_be_looked_at_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noted, "events", lambda *_: [])

    def one(paths: Paths, wanted: str, *_: object) -> dict[str, Any]:
        if paths.app == "bad":
            raise OSError("Input/output error")
        return app(app=paths.app, wanted=wanted)

    monkeypatch.setattr(facts, "app", one)
    found, unknown = facts.apps({"bad": "present", "board": "present", "No name": "present"}, tmp_path)
    answer = status.judged(SERVER, found)
    assert unknown == []
    assert [one["state"] for one in answer["apps"]] == ["unknown", "well", "unknown"]
    assert "is no app's name" in status.table(answer)
    assert "bad: bad is unknown: Input/output error." in status.table(answer)
    assert status.verdict(answer) == "Not well: bad is unknown, No name is unknown."


def test_a_size_that_takes_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths("board", tmp_path)
    paths.releases.mkdir(parents=True)
    asked: list[list[str]] = []

    def slow(argv: list[str], **_: object) -> command.Result:
        asked.append(argv)
        raise ReleaseError("du took longer than 3 s and was stopped.")

    monkeypatch.setattr(command, "run", slow)
    assert facts._size(paths) is None
    assert asked == [["du", "-xskc", str(paths.releases)]]
    assert "  -  " in status.table(status.judged(SERVER, [app(releases_mb=None)]))


@pytest.mark.parametrize(
    ("running", "files", "newest"),
    [
        ("6.1.0-25-amd64", ["vmlinuz-6.1.0-25-amd64", "vmlinuz-6.1.0-9-amd64"], ""),
        ("6.1.0-9-amd64", ["vmlinuz-6.1.0-25-amd64", "vmlinuz-6.1.0-9-amd64"], "6.1.0-25-amd64"),
        ("6.1.0-9-amd64", ["vmlinuz-6.1.0-25-cloud-amd64"], ""),
        ("6.8.0-45-generic", ["vmlinuz-6.8.0-48-generic", "vmlinuz"], "6.8.0-48-generic"),
        ("6.6.1-custom", [], ""),
    ],
)
def test_a_newer_kernel_of_its_own_kind_asks_for_a_reboot(
    running: str, files: list[str], newest: str
) -> None:
    assert facts.newest_kernel(running, files) == newest


def run(when: float, state: str = "failed", **more: str) -> dict[str, Any]:
    text = (NOW - timedelta(seconds=when)).strftime("%a %Y-%m-%d %H:%M:%S UTC")
    return {"ExecMainStartTimestamp": text, "ActiveState": state, **more}


def test_the_last_run_of_a_job_is_the_one_that_counts() -> None:
    failed = run(1000, Result="exit-code", ExecMainStatus="3")
    began = NOW.timestamp() - 1000
    known = running.last_run([failed], began)
    assert known == {"last": stamp(1000), "failed": "exit-code", "exit_status": 3, "running": False}
    # Under the next release it ran well, and systemd kept that run's properties or forgot them.
    for runs in ([failed, run(500, "inactive", Result="success")], [failed]):
        known = running.last_run(runs, NOW.timestamp() - 500)
        assert known
        assert (known["failed"], known["last"]) == ("", stamp(500))
    # Started by hand since then, and failed.
    known = running.last_run([run(100, Result="timeout")], NOW.timestamp() - 500)
    assert known
    assert known["failed"] == "timeout"
    known = running.last_run([failed, run(5, "activating")], began)
    assert known
    assert known["running"]
    assert running.last_run([{"ActiveState": "inactive"}], began) is None


def test_what_systemd_forgot_at_a_reboot_the_journal_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest word of any of the job's runs; half a line, or no answer in time, is no word."""
    entry = {"__REALTIME_TIMESTAMP": str(int((time.time() - 3600) * 1e6)), "UNIT_RESULT": "timeout"}
    asked: list[list[str]] = []

    def said(kind: str) -> Callable[..., command.Result]:
        def run(argv: list[str], **_: object) -> command.Result:
            asked.append(argv)
            return command.Result(0, json.dumps({**entry, "MESSAGE_ID": kind}) + '\n{"half', "")

        return run

    monkeypatch.setattr(command, "run", said(noted.FAILED))
    known = running._last_noted(["board-nightly@r1.service", "board-nightly@r2.service"])
    assert known["failed"] == "timeout"
    assert 3590 < (running.ago(known["last"]) or 0) < 3700
    assert {"UNIT=board-nightly@r1.service", "UNIT=board-nightly@r2.service", "_PID=1"} <= set(asked[0])
    monkeypatch.setattr(command, "run", said(noted.FINISHED))
    assert running._last_noted(["board-nightly@r1.service"])["failed"] == ""
    monkeypatch.setattr(command, "run", _late)
    assert running._last_noted(["board-nightly@r1.service"])["last"] == ""


def _late(argv: list[str], **_: object) -> command.Result:
    raise ReleaseError(f"{argv[0]} took longer than 5 s and was stopped.")


def test_a_held_lock_is_seen_without_touching_it(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "42/fd").mkdir(parents=True)
    (proc / "42/fd/3").symlink_to("/var/lib/berth/board/lock")
    (proc / "locks").write_text(
        "1: FLOCK  ADVISORY  WRITE 42 fe:00:123 0 EOF\n2: POSIX  ADVISORY  READ 43 fe:00:9 0 EOF\n"
    )
    held = facts.held_locks(proc)
    assert held == {"/var/lib/berth/board/lock"}
    paths = Paths("board", tmp_path)
    paths.state.mkdir(parents=True)
    (paths.state / "lock").write_text(
        json.dumps({"user": "ann", "host": "laptop", "since": stamp(8_640_100)})
    )
    assert facts._holder(paths, held) is None  # what a killed run left in the file holds nothing
    holder = facts._holder(paths, {str(paths.state / "lock")})
    assert holder
    assert holder["user"] == "ann"
    assert holder["age"].startswith("100 d")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root folder with an app that is live, one that was removed, and folders that are no app's."""
    for name, digest in (("board", "d"), ("gone", "")):
        paths = Paths(name, tmp_path)
        for folder in (paths.etc, paths.state, paths.releases, paths.units):
            folder.mkdir(parents=True, exist_ok=True)
        (paths.etc / "provisioned.json").write_text(json.dumps({"digest": digest, "database": {}}))
        journal.note(paths, "r1", "finish", "end")
    board = Paths("board", tmp_path)
    journal.write_record(board.release("r1").parent, {})
    board.release("r1").mkdir()
    units.replace_link(board.web_sock, naming.socket(board, "r1"))
    # Of somebody else's making, and after a run that took a lock there and did nothing.
    (tmp_path / "var/lib/berth/other").mkdir()
    (tmp_path / "srv/other/releases/1").mkdir(parents=True)
    (tmp_path / "etc/berth/redis").mkdir()
    monkeypatch.setattr(command, "run", lambda *_args, **_more: command.Result(0, "", ""))
    return tmp_path


def test_a_proxy_whose_receipt_cannot_be_read_is_unknown(server: Path) -> None:
    def said() -> bool:
        return any("its receipt cannot be read" in one for one in facts.server(server)["unknown"])

    assert not said()
    receipt = server / "var/lib/berth/proxy.json"
    receipt.write_text('{"format": 1, "published"')
    assert said()
    receipt.write_text('{"format": 1, "published": {"program": "Caddy", "unit": "caddy"}, "sites": {}}')
    assert not said()


def test_marks_tell_which_apps_are_here_and_removed_ones_are_not(server: Path) -> None:
    assert presence.unnamed([], server) == ["board"]
    assert presence.unnamed(["board"], server) == []
    assert presence.deployed(server) == ["board", "gone"]
    answer = status.census(["x"], ["gone"], server)
    assert (answer["absent"], answer["orphans"]) == ([], ["board"])
    assert "board is on this server and not in apps.yml" in answer["said"][0]
    assert "berth remove board" in answer["said"][0]
    assert status.census(["x"], ["board", "gone"], server)["absent"] == ["board"]
    assert "site.yml" not in remove.remove(Paths("board", server), False, {}, False, True)["msg"]
    assert presence.unnamed([], server) == []


def test_a_run_that_was_cut_off_counts_while_the_app_is_here(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts.health.Probe, "ask", lambda *_: 200)
    for name in ("board", "gone"):
        journal.note(Paths(name, server), "r2", "build", "begin")
    cut = facts.app(Paths("board", server), "present", [], set())["cut_off"]
    assert (cut["release"], cut["step"]) == ("r2", "build")
    assert facts.app(Paths("gone", server), "absent", [], set())["cut_off"] is None
    # As long as the run goes on it is not cut off.
    held = {str(Paths("board", server).state / "lock")}
    assert facts.app(Paths("board", server), "present", [], held)["cut_off"] is None


def test_a_live_release_without_a_record_is_live(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts.health.Probe, "ask", lambda *_: 200)
    found = facts.app(Paths("board", server), "present", [], set())
    assert (found["release"], found["record"]) == ("r1", False)
    assert status.judged(SERVER, [found])["apps"][0]["state"] == "sick"
    (Paths("board", server).release("r1") / "release.json").write_text("[1]")
    assert not facts.app(Paths("board", server), "present", [], set())["record"]


def test_the_shape_that_is_printed_is_the_one_that_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/operations.md").read_text()
    text = page.partition("`--json` prints JSON and nothing else")[2].partition("Times are UTC")[0]
    words = set(re.findall(r"\w+", text))
    answer = status.judged(SERVER, [app(retiring=[{"awaited": True, "memory_mb": 1, "connections": 0,
                                                   "release": "r1", "processes": []}])])  # fmt: skip

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    assert keys(answer) - words == set()
