"""How far a move of PostgreSQL came decides whether it goes on or back, whoever cut it off."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host import command
from ansible.module_utils.berth.payload import backup
from ansible.module_utils.berth.release import upgrade
from ansible.module_utils.berth.runtime import lasting, units
from ansible.module_utils.berth.services import clusters
from ansible.module_utils.berth.store import upgrades

from tests.unit.test_postgresql_clusters import cluster

FORWARD = ["backup before", "quiet", "copy", "switch", "freshen", "prove", "start", "archive", "backup after"]


class Traced(upgrade.Move):  # type: ignore[misc]
    """One that does nothing but tell in which order it would; `fails` names a step that does not succeed."""

    fails = ""

    def __init__(self, root: Path, phase: str, kind: str = "upgrade") -> None:
        closed = {"closed": 1.0} if phase not in ("asked", "failed") else {}
        super().__init__({"kind": kind, "old": 15, "new": 17, "phase": phase, "by": "me", **closed}, root)
        self.did: list[str] = []

    def _do(self, step: str, phase: str = "") -> None:
        if phase:
            self.note(phase)
        self.did.append(step)
        if step == self.fails:
            raise ReleaseError(f"{step} went wrong.")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        yield

    def back_up(self, when: str) -> None:
        self._do(f"backup {when}")

    def quiet(self) -> None:
        self.state["closed"] = 1.0
        self._do("quiet", "quiet")

    def copy_over(self) -> None:
        self._do("copy", "copy")

    def switch(self) -> None:
        self._do("switch", "switch")

    def freshen(self) -> None:
        self._do("freshen")

    def prove(self) -> None:
        self._do("prove", "prove")

    def archive(self) -> None:
        self._do("archive")

    def make_live(self, live: int, beside: int) -> None:
        self._do(f"live {live} beside {beside}")

    def open_web(self) -> None:
        self._do("web")

    def start_apps(self) -> None:
        self._do("start")


@pytest.fixture(autouse=True)
def quiet_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "stop", lambda *_, **__: None)
    monkeypatch.setattr(lasting, "forget", lambda *_: None)
    monkeypatch.setattr(clusters, "sweep", lambda _: None)


def run(move: Traced) -> list[str]:
    with contextlib.suppress(ReleaseError):
        move.run()
    return move.did


def test_it_goes_from_one_step_to_the_next(tmp_path: Path) -> None:
    move = Traced(tmp_path, "asked")
    assert run(move) == FORWARD
    assert upgrades.read(tmp_path)["phase"] == "done"


@pytest.mark.parametrize("phase", ["quiet", "copy", "back"])
def test_cut_off_before_the_new_one_served_it_goes_back(tmp_path: Path, phase: str) -> None:
    cluster(tmp_path, 15)
    move = Traced(tmp_path, phase)
    assert (
        run(move)
        == ["live 15 beside 17", "web", "start", "start", "archive", "backup after"][:3] + move.did[3:]
    )
    assert "copy" not in move.did
    state = upgrades.read(tmp_path)
    assert (state["phase"], state["back"], state["problem"]) == (
        "failed",
        True,
        f"it was cut off in step {phase}",
    )
    assert not upgrades.unfinished(state)


@pytest.mark.parametrize(("kind", "removed"), [("upgrade", ["drop 17", "sweep 17"]), ("undo", [])])
def test_what_was_begun_of_the_new_one_is_removed_and_one_that_was_there_before_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, removed: list[str]
) -> None:
    did: list[str] = []
    monkeypatch.setattr(clusters, "drop", lambda version: did.append(f"drop {version}"))
    monkeypatch.setattr(clusters, "sweep", lambda version: did.append(f"sweep {version}"))
    # It has settings when its data folder was begun long before.
    for made in (False, True):
        did.clear()
        if made:
            cluster(tmp_path, 17)
        run(Traced(tmp_path, "copy", kind))
        assert did == (removed if made else removed[1:])


@pytest.mark.parametrize("phase", ["switch", "prove"])
def test_cut_off_when_it_may_have_served_it_goes_on(tmp_path: Path, phase: str) -> None:
    move = Traced(tmp_path, phase)
    assert run(move) == ["switch", "freshen", "prove", "start", "archive", "backup after"]
    assert upgrades.read(tmp_path)["phase"] == "done"


@pytest.mark.parametrize("step", ["switch", "freshen"])
def test_cut_off_and_not_to_be_gone_on_with_nothing_is_taken_back(tmp_path: Path, step: str) -> None:
    move = Traced(tmp_path, "switch")
    move.fails = step
    assert run(move)[-1] == step
    move.fail("it does not start")
    state = upgrades.read(tmp_path)
    assert upgrades.unfinished(state)
    assert state["step"] == "switch"


@pytest.mark.parametrize("phase", ["asked", "prove"])
def test_every_app_is_asked_and_one_that_is_sick_counts_as_long_as_there_is_a_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    apps = {
        name: {"release": "r", "web": web, "well": well}
        for name, web, well in (("a", ["w"], True), ("b", ["w"], False), ("c", ["w"], True), ("d", [], False))
    }
    began, asked = [], []

    def prove(_self: upgrade.Move, app: str, *_: Any) -> None:
        asked.append(app)
        raise ReleaseError(f"{app} says 500.")

    monkeypatch.setattr(units, "begin", lambda paths, _: began.append(paths.app))
    monkeypatch.setattr(upgrade.Move, "prove_one", prove)
    move = upgrade.Move({"kind": "upgrade", "old": 15, "new": 17, "phase": phase, "apps": apps}, tmp_path)
    if phase == "asked":
        with pytest.raises(ReleaseError, match="a says 500"):
            move.prove()
    else:
        move.prove()
        assert move.state["sick"] == ["a says 500.", "c says 500."]
    assert (began, asked) == (["a", "b", "c"], ["a", "c"])
    assert move.state["notes"] == ["b was not well before"]


def test_cut_off_after_it_was_proved_only_the_rest_is_done(tmp_path: Path) -> None:
    assert run(Traced(tmp_path, "live")) == ["start", "archive", "backup after"]


@pytest.mark.parametrize("step", ["quiet", "copy", "switch", "freshen", "prove"])
def test_what_fails_before_it_served_goes_back(tmp_path: Path, step: str) -> None:
    cluster(tmp_path, 15)
    move = Traced(tmp_path, "asked")
    move.fails = step
    did = run(move)
    assert did == [*FORWARD[: FORWARD.index(step) + 1], "live 15 beside 17", "web", "start"]
    state = upgrades.read(tmp_path)
    assert (state["back"], state["problem"]) == (True, f"{step} went wrong.")


def test_where_a_job_does_not_end_nobody_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(units, "stop", lambda names, **_: stopped.extend(names))
    web = {"release": "r", "web": ["board-web@r.socket"], "well": True}
    for shut in (False, True):
        move = Traced(tmp_path, "quiet")
        move.state |= {"apps": {"board": web}, "shut": shut}
        run(move)
        assert stopped == (["board-web@r.socket"] if shut else [])


def test_without_a_backup_before_it_nothing_is_changed(tmp_path: Path) -> None:
    move = Traced(tmp_path, "asked")
    move.fails = "backup before"
    assert run(move) == ["backup before"]
    move.fail("no room")
    assert not upgrades.unfinished(upgrades.read(tmp_path))


def test_archiving_that_fails_is_told_and_takes_nothing_back(tmp_path: Path) -> None:
    move = Traced(tmp_path, "asked")
    move.fails = "archive"
    assert run(move) == FORWARD
    assert upgrades.read(tmp_path)["notes"] == ["WAL is not archived: archive went wrong"]


def test_a_way_back_that_fails_keeps_the_step_to_go_on_from(tmp_path: Path) -> None:
    move = Traced(tmp_path, "copy")
    move.fails = "live 15 beside 17"
    run(move)
    move.fail("the old one does not start")
    state = upgrades.read(tmp_path)
    assert (state["phase"], state["step"]) == ("failed", "back")
    assert upgrades.unfinished(state)


def test_backups_look_at_the_cluster_that_serves(tmp_path: Path) -> None:
    conf, settings = tmp_path / "etc/pgbackrest/pgbackrest.conf", tmp_path / "etc/berth/backup/settings.json"
    upgrade.point_backups(17, tmp_path)
    for path in (conf, settings):
        path.parent.mkdir(parents=True)
    conf.write_text("[global]\nrepo1-path=/x\n[main]\npg1-path=/var/lib/postgresql/15/main\npg1-port=5432\n")
    settings.write_text(json.dumps({"version": 15, "stanza": "main"}))
    place = settings.with_name("offsite-storage.conf")
    place.write_text(conf.read_text())
    upgrade.point_backups(17, tmp_path)
    assert "\npg1-path=/var/lib/postgresql/17/main\npg1-port=5432\n" in conf.read_text()
    assert place.read_text() == conf.read_text()
    assert place.stat().st_mode & 0o777 == 0o640
    assert json.loads(settings.read_text()) == {"version": 17, "stanza": "main"}
    before = conf.stat().st_ino
    upgrade.point_backups(17, tmp_path)
    assert conf.stat().st_ino == before


def test_databases_that_are_kept_are_copied_too_and_take_no_connections_on_either_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, asked = ["board", 'board_before_"x"', "template0"], []

    def ask(query: str, *_: Any, **__: Any) -> str:
        if "not datallowconn" in query:
            return there[1]
        if query.startswith("select"):
            return "\n".join(there)
        asked.append(query)
        return ""

    monkeypatch.setattr(clusters, "ask", ask)
    monkeypatch.setattr(clusters, "write", lambda *_: None)
    monkeypatch.setattr(upgrade, "SETTINGS", ())
    monkeypatch.setattr(upgrade.command, "run", lambda *_, **__: command.Result(1, "", "no room"))
    move = upgrade.Move({"kind": "upgrade", "old": 15, "new": 17, "phase": "asked"}, tmp_path)
    with pytest.raises(ReleaseError, match="no room"):
        move.copy_over()
    name = '"board_before_""x"""'
    assert asked.pop() == f"alter database {name} allow_connections true"
    # Whoever begins again after a kill knows it from the state, and a way back from a copy, too.
    state = upgrades.read(tmp_path)
    upgrade.Move(state, tmp_path).let_into_kept(False)
    assert asked == [f"alter database {name} allow_connections false"]
    there.remove('board_before_"x"')
    upgrade.Move(state, tmp_path).let_into_kept(False)
    assert len(asked) == 1, "dropped in the meantime"


class Clusters:
    """Those of a server, as the programs that change them leave them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, live: int) -> None:
        self.ports, self.start, self.up = {15: 5432, 17: 5433}, {15: "auto", 17: "auto"}, {live}
        self.did: list[str] = []
        monkeypatch.setattr(clusters, "versions", lambda _=None: sorted(self.ports))
        monkeypatch.setattr(clusters, "port", lambda version, _=None: self.ports[version])
        monkeypatch.setattr(clusters, "spare_port", lambda _=None: 5434)
        monkeypatch.setattr(clusters, "set_port", self.ports.__setitem__)
        monkeypatch.setattr(
            clusters, "set_start", lambda version, word, _=None: self.start.update({version: word})
        )
        monkeypatch.setattr(clusters, "ask", lambda *_, **__: "1")
        monkeypatch.setattr(units, "reload", lambda: None)
        monkeypatch.setattr(units, "states", self.states)
        monkeypatch.setattr(upgrade, "_systemd", self.systemd)

    def states(self, names: list[str]) -> dict[str, str]:
        return {
            name: "active" if any(f"@{one}-" in name for one in self.up) else "inactive" for name in names
        }

    def systemd(self, verb: str, version: int) -> None:
        self.did.append(f"{verb} {version}")
        if verb == "stop":
            self.up.discard(version)
            return
        assert self.ports[version] == 5432
        self.up.add(version)


def test_one_cluster_has_the_port_and_starts_at_boot_however_often_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Clusters(monkeypatch, live=15)
    move = upgrade.Move({"kind": "undo", "old": 17, "new": 15, "phase": "asked"}, tmp_path)
    move.make_live(17, 15)
    assert (known.ports, known.start, known.up) == ({15: 5434, 17: 5432}, {15: "manual", 17: "auto"}, {17})
    assert known.did == ["stop 15", "start 17"]
    move.make_live(17, 15)
    assert known.did == ["stop 15", "start 17"]
    move.make_live(15, 17)
    assert (known.ports[15], known.start, known.up) == (5432, {15: "auto", 17: "manual"}, {15})
    known.ports.pop(17)
    with pytest.raises(ReleaseError, match="17 is not there any more"):
        move.make_live(17, 15)


@pytest.mark.parametrize(
    ("old", "answers", "wanted"),
    [
        (15, ["f|C.UTF-8", ""], []),
        (13, ["f|C.UTF-8", ""], []),
        (15, ["f|en_US.UTF-8", ""], []),
        # It did not know the order's version, so nobody can tell.
        (13, ["f|en_US.UTF-8", ""], ['reindex database "a""b"']),
        (15, ["t|de_DE.UTF-8", ""], [
            'reindex database "a""b"', 'alter database "a""b" refresh collation version']),
        (15, ["f|C", "alter collation x.y refresh version"], [
            'reindex database "a""b"', "alter collation x.y refresh version"]),
    ],
)  # fmt: skip
def test_indexes_are_built_anew_where_their_order_may_be_another(
    monkeypatch: pytest.MonkeyPatch, old: int, answers: list[str], wanted: list[str]
) -> None:
    left = iter(answers)
    monkeypatch.setattr(clusters, "ask", lambda *_, **__: next(left))
    assert upgrade.stale_collations('a"b', old) == wanted


def test_the_work_starts_at_boot_until_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[tuple[str, ...]] = []

    def systemctl(*words: str, **_: Any) -> Any:
        did.append(words)
        return type("Result", (), {"code": 0, "lines": []})()

    monkeypatch.setattr(units, "systemctl", systemctl)
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    lasting.begin(
        "berth-x", "Berth: x", ["/usr/bin/python3", "-c", 'a "b" $c %d'], "postgresql.service", tmp_path
    )
    text = (folder / "berth-x.service").read_text()
    assert 'ExecStart="/usr/bin/python3" "-c" "a \\"b\\" $$c %%d"\n' in text
    assert "After=network-online.target postgresql.service\n" in text
    assert (folder / "multi-user.target.wants/berth-x.service").is_symlink()
    assert ("start", "berth-x.service") in did
    monkeypatch.undo()
    monkeypatch.setattr(units, "reload", lambda: None)
    lasting.forget("berth-x", tmp_path)
    assert list(folder.rglob("*.service")) == []


def test_backups_of_before_are_not_restored_with_the_new_version() -> None:
    first, second = ({"label": label, "database": {"id": number}} for label, number in (("A", 1), ("B", 2)))
    known: dict[str, Any] = {
        "db": [{"id": 1, "version": "15"}, {"id": 2, "version": "17"}],
        "backup": [first, second],
    }
    assert backup.current(known) == [second]
    assert backup.current({**known, "db": known["db"][:1], "backup": [first]}) == [first]
    assert backup.current({"backup": [first]}) == [first]
