"""A rehearsal: what it refuses, what it reaches, what it tells, and that nothing is left of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import sandbox
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.migrations import lint, migrate, offline, rehearsal
from ansible.module_utils.berth.migrations.schema import Revision
from ansible.module_utils.berth.packaging import once
from ansible.module_utils.berth.packaging.once import Code
from ansible.module_utils.berth.packaging.tree import Tree
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.payload import backup
from ansible.module_utils.berth.release import engine, recover
from ansible.module_utils.berth.release.deploy import Deploy, Kind
from ansible.module_utils.berth.release.perform import perform
from ansible.module_utils.berth.release.steps import migrate as migrate_step
from ansible.module_utils.berth.release.steps import plan_rehearsal, rehearse
from ansible.module_utils.berth.reports import rehearsals
from ansible.module_utils.berth.runtime import units
from ansible.module_utils.berth.runtime.transient import Work
from ansible.module_utils.berth.store import disk, journal, prune, settings

from tests.support.entry import board

APP = board(name="shop", database={"enabled": True})
NOBODY = {"user": "me", "host": "here"}


# What it begins with --------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """One that backs up, and that was prepared for the app."""
    paths = Paths("shop", tmp_path)
    for folder in (paths.etc, paths.state, paths.releases):
        folder.mkdir(parents=True)
    paths.provisioned.write_text(json.dumps({"digest": settings.provision_digest(APP)}))
    for name in ("env", "migrate.env"):
        (paths.etc / name).write_text("A=1\n")
    for name in ("SETTINGS", "PROGRAM"):
        (tmp_path / name).touch()
    monkeypatch.setattr(backup, "SETTINGS", tmp_path / "SETTINGS")
    monkeypatch.setattr(rehearsal, "PROGRAM", tmp_path / "PROGRAM")
    monkeypatch.setattr(plan_rehearsal.plan, "server_side", lambda *_: ("", []))
    monkeypatch.setattr(disk, "distrust", lambda _: None)
    return paths


def plan(paths: Paths, **more: Any) -> tuple[Deploy, dict[str, Any]]:
    deploy = Deploy(paths, NOBODY)
    return deploy, plan_rehearsal.run(deploy, {"app": APP, "digest": "1a2b3c4d", **more})


def test_a_release_is_planned_that_no_deploy_takes_for_its_own(server: Paths) -> None:
    deploy, answer = plan(server)
    assert (deploy.kind, answer["changed"]) == (Kind.REHEARSAL, False)
    assert deploy.release.endswith("-1a2b3c4")
    assert answer["msg"] == "Rehearsing the migrations of shop 1a2b3c4 on a copy of its live rows."
    assert plan(server, check=True)[1]["msg"].startswith("Would rehearse the migrations of shop")


@pytest.mark.parametrize(
    ("app", "gone", "sentence"),
    [
        (APP, "SETTINGS", "There are no backups on this server, so there is no copy to rehearse on: set "),
        (APP, "PROGRAM", "An earlier Berth set this server up, which rehearses nothing; berth up "),
        (
            {**APP, "database": {**APP["database"], "host": "db.example.net", "port": 5432}},
            "",
            "The database of shop is at db.example.net, and there is no backup of it here",
        ),
        (board(name="shop"), "", "shop has no database on this server, so it migrates nothing here."),
        (
            {**APP, "migrations": {**APP["migrations"], "enabled": False}},
            "",
            "Migrations of shop are switched off (migrations.enabled), so there are none to rehearse.",
        ),
    ],
)
def test_where_there_is_nothing_to_rehearse_it_says_so(
    server: Paths, app: dict[str, Any], gone: str, sentence: str
) -> None:
    if gone:
        (server.root / gone).unlink()
    with pytest.raises(ReleaseError) as refused:
        plan(server, app=app)
    assert refused.value.sentence.startswith(sentence)


def test_what_cannot_be_built_for_it_is_tried_again_by_its_own_verb(
    server: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "undo", lambda *_: None)
    one = engine.Engine()
    one.deploys["shop"] = plan(server)[0]
    with pytest.raises(ReleaseError) as failed:
        one.run("fetch", {"name": "shop", "upload_failed": "full"}, None)
    assert failed.value.advice == "correct it, then: berth rehearse shop (rehearse.yml -e app=shop)"


def test_settings_that_wait_for_a_deploy_are_told_and_not_applied(
    server: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: Any) -> None:
        raise ReleaseError("They changed.")

    monkeypatch.setattr(plan_rehearsal.plan, "server_side", stale)
    assert "a rehearsal applies none" in plan(server)[1]["msg"]
    # An app that was never set up has no settings at all.
    server.provisioned.unlink()
    with pytest.raises(ReleaseError, match="They changed"):
        plan(server)


# What it reaches ------------------------------------------------------------------------------------------


def test_what_runs_on_the_copy_reaches_nothing_that_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Work] = []

    def transient(work: Work) -> Result:
        seen.append(work)
        return Result(0, "", "")

    monkeypatch.setattr(once, "transient", transient)
    monkeypatch.setattr(migrate.Blockers, "start", lambda _: None)
    paths = Paths("shop", tmp_path)
    copy = rehearsal.Copy(paths, APP)
    copy.network, copy.facts = 7, {"socket": "/drill/socket", "port": 5432}
    code = Code(paths, "r", Path("env"), [])
    migrate.run(APP, code, "alembic upgrade head", Path(), beside=copy.beside)
    migrate.run(APP, code, "alembic upgrade head", Path())
    there, live = seen
    # The descriptor keeps the network: the number of a process that ended may be another's.
    assert list(there.properties) == [
        f"NetworkNamespacePath=/proc/{os.getpid()}/fd/7",
        f"TemporaryFileSystem={paths.home}:mode=1777,nosuid,nodev",
        "InaccessiblePaths=-/run/postgresql",
        "InaccessiblePaths=-/run/redis",
    ]
    assert list(there.writable) == []
    assert (list(live.properties), list(live.writable)) == ([], [paths.data, paths.home])
    # Both with the same settings, and the address in them.
    assert there.env_file == live.env_file == paths.migrate_env("r")
    assert copy.beside.psql[-4:] == ("-h", "/drill/socket", "-p", "5432")


@pytest.mark.parametrize(
    ("pids", "sentence"),
    [
        # As if a process of the host's had the number by now.
        ([os.getpid(), os.getpid()], "has no network of its own"),
        ([0], "ended"),
    ],
)
def test_the_hosts_own_network_is_never_taken_for_the_copys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pids: list[int], sentence: str
) -> None:
    left = list(pids)
    monkeypatch.setattr(units, "main_pid", lambda _: left.pop(0))
    with pytest.raises(ReleaseError, match=rf"The copy of the live rows {sentence}\. Nothing was changed"):
        rehearsal.Copy(Paths("shop", tmp_path), APP)._hold_network()


def test_the_copys_server_is_closed_and_leaves_the_live_ones_memory_alone() -> None:
    lines = sandbox.restoring()
    assert {"PrivateNetwork=yes", "MemoryMax=1G", "CapabilityBoundingSet=", "KillMode=mixed"} <= set(lines)
    # systemd would remove what the live server's user has.
    assert not [line for line in lines if line.startswith(("RemoveIPC=", "PrivateUsers="))]
    hidden = {line.partition("-")[2] for line in lines if line.startswith("InaccessiblePaths=")}
    assert hidden == {"/var/log/berth", "/etc/ssh", "/run/dbus", "/run/docker.sock"}


# What comes of it -----------------------------------------------------------------------------------------


PENDING = [Revision("2", ["1"], "0002_index.py", ""), Revision("3", ["2"], "0003_drop.py", "")]
SCHEMA = [
    {"revision": "2", "sql": "CREATE INDEX i ON things (name)"},
    {"revision": "", "sql": "ALTER TABLE things DROP name"},
]
TOLD = {
    "revisions": [{"revision": "2", "seconds": 12.34}],
    "statements": [
        {
            "revision": "2",
            "sql": "CREATE INDEX i ON things (name)",
            "times": 1,
            "seconds": 12.1,
            "failed": False,
        }
    ],
    "schema": SCHEMA,
    "locks": [{"table": "public.things", "reads": False, "seconds": 12.0}],
    "left_out": False,
    "full": False,
    "ended": False,
}
FACTS = {
    "backup": "F",
    "bytes": 30 << 20,
    "seconds": 4.2,
    "last_commit": "",
    "notes": ["all is well"],
    "socket": "/s",
    "port": 5432,
}


class Copy:
    """One that is made of nothing."""

    facts = FACTS
    beside = migrate.Beside((), ())

    def __init__(self, told: dict[str, Any]) -> None:
        self.answer = told
        self.open = False

    def __enter__(self) -> Copy:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def database(self) -> Any:
        return SimpleNamespace(revision=lambda: "3", objects=lambda: ())

    def told(self) -> dict[str, Any]:
        assert self.open
        return json.loads(json.dumps(self.answer))  # type: ignore[no-any-return]


def rehearsed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fails: ReleaseError | None = None,
    policy: str = "warn",
    pending: bool = True,
    ended: str = "",
) -> tuple[Deploy, dict[str, Any]]:
    """A rehearsal of two revisions, and what it says."""
    deploy = Deploy(Paths("shop", tmp_path), NOBODY)
    deploy.paths.state.mkdir(parents=True, exist_ok=True)
    deploy.app = {**APP, "migrations": {**APP["migrations"], "destructive": policy}}
    deploy.kind, deploy.action, deploy.release = Kind.REHEARSAL, plan_rehearsal.Action.DEPLOY, "r2"
    deploy.previous = "r1"
    deploy.record = {"version": "1a2b3c4d", "schema": {"from": "", "to": ""}}
    deploy.folder.mkdir(parents=True, exist_ok=True)
    asked: Any = SimpleNamespace(sizes=lambda _: {"things": 1 << 30})
    decision: Any = SimpleNamespace(command="alembic upgrade head", directory=tmp_path)
    deploy.looked = migrate_step.Look(decision, asked, "digest", "1", pending)
    copy = Copy({**TOLD, **({ended: True} if ended else {})})

    def attempt(_deploy: Deploy, _tree: Tree, seen: migrate_step.Look, *_: Any, repeatable: bool) -> int:
        assert (copy.open, seen.beside, repeatable) == (True, Copy.beside, False)
        if fails:
            raise fails
        return 1

    monkeypatch.setattr(rehearsal, "Copy", lambda *_: copy)
    monkeypatch.setattr(migrate_step, "attempt", attempt)
    monkeypatch.setattr(migrate_step, "revisions", lambda *_: PENDING)
    monkeypatch.setattr(rehearse.tables, "makes_itself", lambda *_: "")
    monkeypatch.setattr(Tree, "project", tmp_path)

    def linted(_paths: Paths, _app: dict[str, Any], text: str) -> offline.Sql:
        lines = text.split("\n")
        rules = ("require-concurrent-index-creation", "ban-drop-column")
        words = ("CREATE INDEX", "ALTER TABLE")
        report = [
            {"line": number, "rule_name": rule}
            for rule, word in zip(rules, words, strict=True)
            for number, line in enumerate(lines)
            if line.startswith(word)
        ]
        return offline.Sql(text, "", tuple(lint.read(json.dumps(report), text, str)))

    monkeypatch.setattr(offline, "linted", linted)
    removed: list[str] = []
    monkeypatch.setattr(prune, "remove_release", lambda _, release: removed.append(release))
    monkeypatch.setattr(prune, "remove_unused_envs", lambda *_: [])
    monkeypatch.setattr(units, "kill", lambda _: None)
    monkeypatch.setattr(recover.history, "today", lambda _: "1")
    try:
        answer = perform(deploy, "rehearse", rehearse.run, {"wait": "0"})
    finally:
        assert removed == ["r2"]
        assert not copy.open
        # The next run finds nothing to settle.
        assert journal.unfinished(deploy.paths) is None
    return deploy, answer


def test_it_tells_what_a_deploy_would_take_and_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy, answer = rehearsed(tmp_path, monkeypatch)
    assert (answer["changed"], answer["verdict"]) == (False, "")
    text = answer["table"]
    assert "Copy: 30 MB from backup F and all WAL after it, in 4 s" in text
    assert "alembic upgrade head: 0.0 s, schema from 1 to 3." in text
    assert "0002_index  12.3 s" in text
    assert "nobody writes to public.things for 12.0 s" in text
    # What has no number of its own is of the revision that came next.
    assert "(destructive) 0003_drop: ALTER TABLE things DROP name: the live release fails where it" in text
    assert "(locks) 0002_index: CREATE INDEX i ON things (name): nobody writes to the table while" in text
    assert "(note) All is well." in text
    assert text.endswith(rehearsals.UNTOUCHED)
    assert "refuse" not in text
    (line,) = journal.entries(deploy.paths.audit)
    assert (line["what"], line["result"], line["schema_from"], line["schema_to"]) == (
        "rehearsal",
        "ok",
        "1",
        "1",
    )


def test_what_a_deploy_would_refuse_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, answer = rehearsed(tmp_path, monkeypatch, policy="refuse")
    assert answer["answer"]["refused"]
    assert "migrations.destructive is refuse: a deploy would stop before them" in answer["table"]
    assert answer["verdict"] == ""


def test_a_migration_that_fails_is_an_answer_without_values_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [
        "DETAIL:  Key (email)=(ann@example.com) is duplicated.",
        "[SQL: INSERT INTO things VALUES ('Ann')]",
        "[parameters: ('Ann', 4711)]",
    ]
    fails = ReleaseError("The migration failed: could not create unique index.", log)
    fails.advice = "correct the migration and deploy again."
    cure = "Clear them with: psql -c 'DROP'; then make them."
    fails.also = ["Nothing of it stays.", f"Indexes broke off. {cure}"]
    deploy, answer = rehearsed(tmp_path, monkeypatch, fails=fails)
    verdict = answer["verdict"]
    assert verdict.startswith(
        "A deploy of shop 1a2b3c4 would fail: The migration failed: could not create unique index."
    )
    assert "DETAIL:  Key (email)=(…) is duplicated." in verdict
    assert verdict.endswith("Next: correct the migration and rehearse again.")
    for value in ("Ann", "ann@", "4711"):
        assert value not in json.dumps(answer)
    assert "Left in the copy: Nothing of it stays.\nLeft in the copy: Indexes broke off.\n" in answer["table"]
    (line,) = journal.entries(deploy.paths.audit)
    assert (line["result"], line["step"]) == ("failed", "rehearse")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('invalid input syntax for type integer: "Ann"', 'invalid input syntax for type integer: "…"'),
        ("Failing row contains (1, Ann (b), null).", "Failing row contains (…)."),
        ("Key (lower(a), (1))=(x, 1) is duplicated.", "Key (lower(a), (1))=(…) is duplicated."),
        ('Key (a, b)=(1, x) is not present in table "t".', 'Key (a, b)=(…) is not present in table "t".'),
        ('column "price" of relation "t" contains null values', None),
    ],
)
def test_what_postgres_quotes_of_a_row_is_not_shown(text: str, shown: str | None) -> None:
    assert rehearsals.without_rows(text) == (shown or text)


def test_nothing_new_needs_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, answer = rehearsed(tmp_path, monkeypatch, pending=False)
    assert answer["table"].startswith(
        "shop 1a2b3c4: The schema is at 1, and there are no new revisions. Nothing is to be rehearsed."
    )
    assert answer["answer"]["copy"] is None


@pytest.mark.parametrize(("told", "sentence"), [("full", rehearsals.ENDED_FULL), ("ended", rehearsals.ENDED)])
def test_a_copy_that_ended_is_no_verdict_on_the_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, sentence: str
) -> None:
    with pytest.raises(ReleaseError) as failed:
        rehearsed(tmp_path, monkeypatch, ended=told)
    assert failed.value.sentence == sentence
    assert failed.value.also == ["r1 serves on."]
