"""The engine reads and changes what others wrote through `untrusted` alone.

Each call that opens, reads, writes, walks, copies or changes owners and modes stands here with the reason why
it meets nothing of another user's; whoever adds one finds out here, and uses `untrusted` or has a reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2] / "plugins/module_utils/berth"
CALLS = {
    *("open", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes", "touch", "parser.read"),
    *("chmod", "fchmod", "chown", "fchown", "lchown", "walk", "fwalk", "rglob", "rmtree", "extractall"),
    *("copy", "copy2", "copyfile", "copytree", "move", "mkfifo", "mknod"),
}
REASONS: dict[str, tuple[str, ...]] = {
    "root's own folders: state, settings, units, the lock": (
        *("frozen.keep_unit read_text", "frozen.keep_settings read_text", "frozen.keep_settings chown"),
        *(
            *(
                "redeploy.main fdopen",
                "redeploy.main read_bytes",
                "clocks.own_code read_bytes",
                "clocks._bytes read_bytes",
            ),
            "redeploys._read read_text",
            "redeploys.changing open",
            "disk.begin read_text",
            "disk.distrust read_text",
            "journal._append open",
            "journal.entries read_text",
            "history.ran read_text",
        ),
        *("journal.read_record read_text", "journal.replace_text fdopen"),
        *(
            "journal.replace_text fchmod",
            "journal.replace_text fchown",
            "lock.take open",
            "lock.holder open",
            "presence.here read_text",
            "lock.hostwide open",
        ),
        *(
            "masking.of_app read_text",
            "masking._read read_text",
            "plan.server_side read_text",
            "naming.owned read_text",
        ),
        *("pythons.locked open", "receipts.read read_text", "proxy.text read_text"),
        *(
            "settings.changed_secrets read_text",
            "settings.marks read_text",
            "settings._told_otherwise read_text",
            "settings._units_differ read_text",
        ),
        *("pgbouncer.pool_size read_text", "postgresql.read_password read_text", "redis._born read_text"),
        *("index.configured parser.read", "source._deploy_key read_text", "source._plain_text read_text"),
        *("upgrade.begin write_bytes", "upgrade.copy_over read_text", "upgrade.archive read_text"),
        *("upgrade.point_backups read_text", "upgrades.read read_text", "upgrades.close touch"),
        *("lasting.begin write_text", "lasting.begin chmod"),
        "admins.recorded read_text",
        "restic.identity read_text",
        *("bytecode._read read_bytes", "bytecode.keep write_bytes"),
        *("holding.still open", "holding.still rmtree", "holding._wait_before write_text"),
        *("hold.main open", "hold.take_place chown", "hold.take_place chmod"),
        *("guard.sync open", "guard.alone open", "guard.unproved read_text", "guard.told read_text"),
        *("sessions.secret read_text", "rehearsal.__enter__ read_text", "dumps.passwords read_text"),
        *("keys.alike read_text", "jobs.hand_over touch", "jobs.make_locks touch", "jobs.make_locks chown"),
    ),
    "root's own files, in folders that were found to be root's alone": (
        *("guard.put fdopen", "guard.put fchown", "guard.put fchmod", "guard.picture read_bytes"),
    ),
    "a folder that root has just made, where nobody else can write": (
        *("environments._bring_python chown", "environments.get chown", "environments.get chmod"),
        *(
            "source.unpack extractall",
            "uv._index_file write_text",
            "sandbox.ready chown",
            "source.__init__ chown",
            "folders.serve chmod",
        ),
        *("public._make chmod", "public.mark touch", "switch.go_live chmod"),
    ),
    "a release that was taken: all of it is root's, and no link leads out": (
        *("site._install copytree", "tree.seal chmod", "tree.seal chown"),
        *(
            "start_scripts._script write_text",
            "start_scripts._script chmod",
            "start_scripts.write write_text",
        ),
        *("start_scripts.grow read_text", "start_scripts.crew read_text"),
        *("folders.open_scratch chmod", "folders.open_scratch chown"),
    ),
    "names only, of a tree that was taken; walks follow no link": (
        *("diff.file_changes walk", "alembic.find_ini walk", "tables.schema_at_start walk"),
        *("places._projects walk", "project.sources walk", "alembic.files rglob", "alembic.revisions rglob"),
        *("source._pointers walk", "seed.missing walk"),
    ),
    "goes down by descriptors and follows no link": (
        *("public.publish open", "public._copy open", "public._link open", "public._link fchmod"),
        *("redis.purge rmtree", "remove._purge rmtree", "remove.remove rmtree"),
        "units.forget_own rmtree",
    ),
    "not run by root: on the controller, or as the app's user or the build user": (
        *("gitwork.environment read_text", "gitwork.environment write_text", "gitwork.environment fchmod"),
        *("gitwork.alone open", "gitwork.current rmtree", "gitwork.sweep rmtree", "gitwork.sweep rglob"),
        *("keeper.end rmtree", "keeper.main open", "pack._from_walk walk", "pack.archive open"),
        *("pack.digest read_bytes", "seed.fill copy2", "seed.fill walk", "gunicorn_conf._load read_text"),
    ),
    "as the user postgres, in folders that are its alone": (
        *(
            "backup.alone open",
            "backup.dump_one open",
            "backup.lay open",
            "backup.lay fdopen",
            "backup.last_run read_text",
        ),
        *(
            "backup.taken walk",
            "side.configure write_text",
            "side.configure read_text",
            "side._log read_text",
        ),
        *(
            "side.ended_at read_text",
            "side.postmaster read_text",
            "side.remove rmtree",
            "side.pgbackrest_restore walk",
            "drill.main read_text",
        ),
        *("dumps.main read_text", "dumps.facts_of read_text"),
        *("dumps_drill.main read_text", "dumps_drill.make write_text"),
        *("dumps_drill.restore open", "dumps_drill.restore read_text"),
        *("drill.count write_text", "drill.keep read_text"),
        *("rehearsal.main read_text", "rehearsal.told open"),
        *("backup.main read_text", "restore.main read_text", "exchange.main read_text"),
        *("exchange.fill write_text", "offsite.main read_text"),
        *("rescue.__init__ read_text", "rescue.main read_text", "rescue.replay read_text"),
        "rescue.announce touch",
        *("rescue.replay rmtree", "rescue.remove rmtree", "rescue.carry copytree", "rescue.carry copy2"),
        *("rescue.bring open", "rescue.bring chmod"),
    ),
    "root's own notes of what is stored off the server, and what opens the places": (
        *("files.facts read_text", "files.main read_text", "files.plan read_text", "files.read read_text"),
        *("parts._text read_text", "parts.copy_of_redis open"),
    ),
    "root's own folder of certificates and keys, which the proxy reads": (
        *("certificates.put fdopen", "certificates.put fchown", "certificates.put fchmod"),
        "certificates._show touch",
        *("certificates.made write_text", "certificates.made read_text", "certificates.alone open"),
        *("certificates._public read_text", "certificates._former read_text"),
        *("certificates._wants read_text", "certificates.main read_text", "certificates.refusal read_text"),
    ),
    "root's own, on a host that is new": (*("recovery.main read_text", "recovery.chosen read_text"),),
    "restored by root into a folder that nobody else may enter": (
        *("files.give_back chmod", "files.give_back chown", "files.give_back walk"),
        "files.restored rmtree",
    ),
    "the kernel's": (
        *("module_server.main fdopen", "module_server.run fdopen", "module_server._child open"),
        *("replaced.files read_text", "agent.main fdopen"),
        *("listening.processes read_text", "listening._table read_text"),
        *("listening.accepting read_text", "listening._waited_for read_text"),
        *("memory._kilobytes read_text", "mounts.guard read_text"),
        *("temporary._other_engines read_bytes", "retire.connections read_text", "units.busy read_text"),
        *("hold.listens read_text", "journal.login read_text"),
        *("command.over_ssh read_bytes", "command.over_ssh read_text"),
        "rehearsal._hold_network open",
        *("facts._memory read_text", "running._started read_text", "facts.held_locks read_text"),
    ),
    "on the controller, in the checkout": (
        "session.pack rglob",
        "modules.ready touch",
    ),
    "the engine itself, in memory": ("bytecode.__init__ read_bytes", "upgrade.begin read_bytes"),
}
ALLOWED = {call for calls in REASONS.values() for call in calls}


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """`module.function call` and the line of each such call."""

    def below(node: ast.AST, function: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from below(child, child.name)
                continue
            if isinstance(child, ast.Call) and (name := _name(child.func)) in CALLS:
                yield f"{path.stem}.{function} {name}", child.lineno
            yield from below(child, function)

    yield from below(ast.parse(path.read_text()), "")


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    if not isinstance(function, ast.Attribute):
        return ""
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if owner in ("untrusted", "tarfile", "ast"):
        return ""
    return "parser.read" if (owner, function.attr) == ("parser", "read") else function.attr


def test_each_call_is_allowed_and_each_allowance_is_used() -> None:
    found = {}
    for path in sorted(ENGINE.rglob("*.py")):
        # The contract is checked on the controller.
        if path.stem != "untrusted" and path.parent.name != "contract":
            found.update({call: f"{path.name}:{line}" for call, line in calls(path)})
    new = [f"{where}: {call}" for call, where in found.items() if call not in ALLOWED]
    assert new == []
    assert sorted(set(ALLOWED) - set(found)) == []


def test_a_new_call_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "places.py"
    path.write_text(
        "import os\ndef locate(root):\n    for x in os.walk(root):\n        (root / 'a').read_text()\n"
        "    untrusted.read_text(root)\n    shutil.copytree(root, root)\nlazy = lambda p: open(p)\n"
    )
    assert list(calls(path)) == [
        ("places.locate walk", 3),
        ("places.locate read_text", 4),
        ("places.locate copytree", 6),
        ("places. open", 7),
    ]
