"""One step of the release engine: opens the engine on the server when needed, and asks it."""

from __future__ import annotations

import getpass
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Ansible ships module_utils to hosts, but does not put this folder where actions could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth.diagnosis import masking
    from plugins.module_utils.berth.errors import ReleaseError
    from plugins.module_utils.berth.release.steps import table
    from plugins.module_utils.berth.reports import detect, diff
    from plugins.module_utils.berth.sources import pack
    from plugins.module_utils.berth.transport import session
else:
    from ansible.module_utils.berth.diagnosis import masking
    from ansible.module_utils.berth.errors import ReleaseError
    from ansible.module_utils.berth.release.steps import table
    from ansible.module_utils.berth.reports import detect, diff
    from ansible.module_utils.berth.sources import pack
    from ansible.module_utils.berth.transport import session

TRUE = {"true", "yes", "on", "1"}


def truthy(value: Any) -> bool:
    """Extra variables come as strings: `-e force=false` must not force."""
    return value if isinstance(value, bool) else str(value).strip().lower() in TRUE


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _requires_connection = True
    _VALID_ARGS = frozenset(
        {
            "step",
            *(argument for step in table.STEPS for argument in step.takes if argument != "body"),
            # Of the lock, and of what needs none.
            *("app", "name", "version", "wait"),
            *("apps", "vault", "secrets", "connections", "absent", "only"),
            *("to_time", "to_release", "place", "request"),
            *("role", "restored", "terminal", "handover", "wal"),
            *("job", "processes", "lines", "secret"),
            *("to", "confirm", "undo", "drop_old", "inventory"),
            *("mode", "failed", "unattended"),
        }
    )

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = dict(self._task.args)
        step = str(args.pop("step"))
        check = bool(self._task.check_mode)
        app: dict[str, Any] = args.get("app") or {}
        name = args.get("name") or app.get("name", "")
        known = table.find(step)
        if check and (step == "unlock" or (known and known.phase != table.Phase.DECIDE)):
            return {**result, "changed": bool(known and known.changes), "msg": f"Step {step} would run."}
        if step == "detect":
            text, refused = self._detect(args["apps"], int(args.get("connections") or 0))
            return {**result, "changed": False, "table": text, "refused": refused}
        try:
            request = {**args, "name": name, "check": check}
            for flag in ("force", "purge", "declared", "restored", "terminal", "undo", "drop_old"):
                request[flag] = truthy(args.get(flag, False))
            engine = self._engine(task_vars or {})
            if step in ("upgrade", "redeploy", "redeployed"):
                request["holder"] = self._holder("")
            if step == "lock":
                if check:
                    return {**result, "changed": False, "msg": "No lock is needed to look."}
                version = str(args.get("version") or app.get("source", {}).get("version", ""))
                request["holder"] = {
                    **self._holder(version),
                    "unattended": truthy(args.get("unattended", False)),
                }
            if step in ("plan", "plan_rehearsal", "diff", "redeploy") and not app.get("source", {}).get(
                "git"
            ):
                root = Path(app["source"]["path"])
                names = pack.list_files(root)
                detect.refuse_code(app, root)
                request["digest"] = pack.digest(root, names)
                if step == "diff" or check:
                    request["scripts"] = diff.scripts(root, app)
                if step == "diff":
                    # The server compares it with what is live.
                    request["files"] = diff.manifest(root, names)
            if known and "body" in known.takes and app.get("source", {}).get("path"):
                answer = self._upload(engine, step, request, Path(app["source"]["path"]))
            else:
                answer = engine.call(step, request)
            if step == "diff" and answer.pop("upload"):
                answer = self._upload(engine, step, request, Path(app["source"]["path"]))
            if "command" in answer:
                command, terminal = answer.pop("command"), request["terminal"]
                answer["argv"] = session.shell_argv(self._connection, command, terminal=terminal)
                if args.get("handover"):
                    Path(args["handover"]).write_text(json.dumps(answer["argv"]))
        except ReleaseError as error:
            raise self._failure(error.text(), args) from None
        except (ConnectionError, OSError, ValueError) as error:
            raise self._failure(f"The release engine cannot run on the server: {error}", args) from None
        result.update(answer)
        return result

    @staticmethod
    def _failure(text: str, args: dict[str, Any]) -> AnsibleActionFail:
        """What goes wrong on this machine, without the secrets that came with the task."""
        return AnsibleActionFail(masking.Mask(masking.of_request(args))(text))

    @staticmethod
    def _detect(apps: list[dict[str, Any]], connections: int) -> tuple[str, list[str]]:
        """On this machine: a folder as it is, a repository as a shallow copy made with the user's own git.

        One app that cannot be looked at keeps no other from being shown; its name is told beside the tables.
        """
        tables, refused = [], []
        for app in apps:
            origin, name = app["source"], str(app["name"])
            try:
                with tempfile.TemporaryDirectory(prefix="berth-detect-") as folder:
                    root = Path(origin.get("path") or folder)
                    if origin.get("git"):
                        root = Path(folder)
                        pack.clone(origin["git"], origin.get("version") or "HEAD", root)
                    rows = detect.describe(app, root, connections)
            except ReleaseError as error:
                refused.append(name)
                rows = [("refused", "", masking.Mask(masking.of_request({"app": app}))(error.sentence))]
            tables.append(detect.table(name, rows))
        return "\n\n".join(tables), refused

    @staticmethod
    def _upload(engine: session.Session, step: str, request: dict[str, Any], root: Path) -> dict[str, Any]:
        with tempfile.TemporaryFile() as body:
            size = pack.archive(root, pack.list_files(root), body)
            return dict(engine.call(step, request, body, size))

    def _engine(self, task_vars: dict[str, Any]) -> session.Session:
        engine = session.Session(
            constants.DEFAULT_LOCAL_TMP, str(task_vars.get("inventory_hostname", "host"))
        )
        if engine.open:
            return engine
        if self._connection.transport == "ssh" and self._connection.get_option("password"):
            # The master connection is opened by ansible itself, which knows how to give the password.
            self._low_level_execute_command("true", sudoable=False)
        python = str(task_vars.get("ansible_python_interpreter") or "/usr/bin/python3")
        if python.startswith("auto"):
            python = "/usr/bin/python3"
        argv = session.engine_argv(self._connection, python)
        password = self._connection.become.get_option("become_pass") if self._connection.become else None
        # sudo takes the line if it asks; if it does not, the engine skips it.
        preamble = f"{password}\n" if password else ""
        code = session.pack_engine(Path(session.__file__).parent.parent)
        engine.start(argv, code, preamble, session.run_pid())
        return engine

    @staticmethod
    def _holder(version: str) -> dict[str, Any]:
        return {
            "user": os.environ.get("SUDO_USER") or getpass.getuser(),
            "host": socket.gethostname(),
            "pid": session.run_pid(),
            "version": version,
        }
