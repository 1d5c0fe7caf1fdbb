#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""One Redis per app: port, passwords, configuration and unit, in one go on the server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_instances
short_description: Runs one instance of Redis for each app, and stops those that nothing uses any more
description:
  - Gives each instance a port that stays its own and two passwords, born here and kept for root alone in
    C(/etc/berth/redis/<name>). Neither controller nor log ever sees one.
  - Writes C(/etc/redis/redis-<name>.conf) and a drop-in for C(redis-server@<name>.service), and runs it now
    and at boot. What Redis can change while it runs is changed so; anything else restarts it. Where it
    does not come up, the former files are put back.
  - Restarts one whose program was replaced by an update, or that does not take its password.
  - An instance that is not listed is stopped when no release of its app was made with a Redis. Nothing is
    ever deleted.
options:
  instances:
    description:
      - Configuration by name. C(${port}), and the sums C(${password}) and C(${admin}) of the passwords, are
        filled in here.
    type: dict
    required: true
  drop_in:
    description: Content of the drop-in of every instance's unit.
    type: str
    required: true
  receipt:
    description:
      - Per app the digest of what it is given here. Recorded in C(/var/lib/berth/redis.json) when all else
        has succeeded, for a deploy to compare with.
    type: dict
    default: {}
author: Berth (@berth)
attributes:
  check_mode:
    support: full
    description: Tells what would be done, also where Redis is not installed yet.
  diff_mode:
    support: full
    description: Shows the files, without the sums of the passwords.
"""

EXAMPLES = r"""
- name: Run one instance per app
  redis_instances:
    instances: "{{ lookup('ansible.builtin.template', 'instances.yml.j2') | from_yaml }}"
    drop_in: "{{ lookup('ansible.builtin.file', '50-berth.conf') }}"
"""

RETURN = r"""
actions:
  description: What was, or would be, done, in plain words.
  type: list
  elements: str
  returned: always
"""

import errno  # noqa: E402
import grp  # noqa: E402
import hashlib  # noqa: E402
import re  # noqa: E402
import socket  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth import environment  # noqa: E402
from ansible.module_utils.berth.runtime import naming, units  # noqa: E402
from ansible.module_utils.berth.services import redis as place  # noqa: E402
from ansible.module_utils.berth.store import journal, presence, receipts  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402

# Directives that CONFIG SET changes while Redis runs.
LIVE = {"maxmemory", "maxmemory-policy", "appendonly"}
WAIT = 30.0
MARK = "# Ansible managed"


class WrongError(Exception):
    """What keeps an instance from running; the text says what to do."""


class RefusedError(Exception):
    """Redis does not answer, or not as it should."""


def ask(port: int, user: str, password: str, *words: str) -> str:
    """One command as one user; the first line of the answer."""
    request = b""
    for line in (["AUTH", user, password], words):
        request += b"*%d\r\n" % len(line)
        request += b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in line)
    try:
        with socket.create_connection((place.HOST, port), timeout=10) as connection:
            connection.sendall(request)
            with connection.makefile("r", encoding="utf-8", errors="replace") as answers:
                said = [answers.readline().strip() for _ in range(2)]
    except OSError as error:
        raise RefusedError(f"does not answer on port {port}: {error}") from error
    bad = next((line for line in said if not line.startswith("+")), None)
    if bad is not None:
        raise RefusedError(f"says {bad.lstrip('-') or 'nothing'}")
    return said[1]


def is_free(port: int) -> bool:
    """Whether nothing listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((place.HOST, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def taken_ports() -> set[int]:
    """The ports of all instances that there ever were; one that is stopped keeps its own."""
    found = (read(place.Redis(name).born / "port").strip() for name in place.there())
    return {int(port) for port in found if port.isdecimal()}


def birth(one: place.Redis, taken: set[int], check_mode: bool) -> dict[str, str]:
    """Its port and passwords; what is missing is made, and in check mode forgotten again."""
    born = {name: read(one.born / name).strip() for name in ("port", "password", "admin")}
    fresh: dict[str, str] = {}
    if not born["port"].isdecimal():
        port = next((port for port in place.PORTS if port not in taken and is_free(port)), 0)
        if not port:
            raise WrongError(
                f"Redis of {one.app}: no port from {place.PORTS[0]} to {place.PORTS[-1]} is free on "
                "the server"
            )
        taken.add(port)
        fresh["port"] = str(port)
    for name in ("password", "admin"):
        if not re.fullmatch("[A-Za-z0-9]{32,}", born[name]):
            fresh[name] = environment.generate(40)
    if fresh and not check_mode:
        one.born.parent.parent.mkdir(mode=0o755, exist_ok=True)
        one.born.parent.mkdir(mode=0o700, exist_ok=True)
        one.born.mkdir(mode=0o700, exist_ok=True)
        for name, value in fresh.items():
            journal.replace_text(one.born / name, value + "\n", 0o600)
    return born | fresh


def fill_in(text: str, born: dict[str, str]) -> str:
    """The configuration with what was born here; of the passwords it holds sums alone."""
    sums = {name: hashlib.sha256(born[name].encode()).hexdigest() for name in ("password", "admin")}
    for name, value in (born | sums).items():
        text = text.replace(f"${{{name}}}", value)
    return text


def masked(text: str) -> str:
    return re.sub("#[0-9a-f]{64}", "#(hidden)", text)


def live_changes(before: str, after: str) -> dict[str, str] | None:
    """Directives to change while Redis runs; None where one of the others differs too."""
    old, new = (
        {line for line in text.splitlines() if line and not line.startswith("#")} for text in (before, after)
    )
    changed = {line.split()[0] for line in old ^ new}
    if not changed <= LIVE:
        return None
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in new - old}


class Instance:
    """One instance, from what is there to what should be."""

    def __init__(self, module: AnsibleModule, name: str, conf: str, drop_in: str, taken: set[int]) -> None:
        self.module = module
        self.one = place.Redis(name)
        self.unit = naming.distributions(self.one.unit)
        self.drop_in = naming.drop_in(self.unit)
        self.pending = self.one.born / "pending"
        self.actions: list[str] = []
        before = read(self.one.conf)
        if before and MARK not in before:
            raise WrongError(
                f"Redis of {name}: {self.one.conf} is there already and not Berth's; give the app or that "
                "instance another name"
            )
        self.born = birth(self.one, taken, module.check_mode)
        self.before = {self.one.conf: before, self.drop_in: read(self.drop_in)}
        self.after = {self.one.conf: fill_in(conf, self.born), self.drop_in: drop_in}
        self.state = units.show(self.unit, "ActiveState", "UnitFileState", "MainPID")

    @property
    def running(self) -> bool:
        return self.state.get("ActiveState") in ("active", "activating", "reloading")

    def diff(self) -> list[dict[str, str]]:
        return [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": masked(self.before[path]),
                "after": masked(text),
            }
            for path, text in self.after.items()
            if self.before[path] != text
        ]

    def converge(self) -> None:
        """Does, or in check mode lists, what is missing."""
        name, conf = self.one.app, self.one.conf
        reason = self.why_restart()
        live = live_changes(self.before[conf], self.after[conf]) if self.running and not reason else None
        if live is not None:
            self.set_live(live)
        else:
            if self.before != self.after:
                self.actions.append(f"configure Redis of {name}")
            verb = "restart" if self.running else "start"
            self.actions.append(f"{verb} Redis of {name}{': ' if reason else ''}{reason}")
            if not self.module.check_mode:
                self.restart()
        if self.state.get("UnitFileState") != "enabled":
            self.actions.append(f"start Redis of {name} at boot")
            if not self.module.check_mode:
                self.systemctl("enable", "--quiet", self.unit)

    def why_restart(self) -> str:
        """What only a restart brings about; empty where nothing of it is wrong."""
        if not self.running:
            return ""
        if self.pending.exists():
            return "a former run was interrupted"
        if self.before[self.drop_in] != self.after[self.drop_in]:
            return "its unit changed"
        if live_changes(self.before[self.one.conf], self.after[self.one.conf]) is None:
            return "its configuration changed"
        try:
            if str(Path(f"/proc/{self.state['MainPID']}/exe").readlink()).endswith(" (deleted)"):
                return "its program was updated"
        except OSError:
            pass
        try:
            self.answers()
        except RefusedError as error:
            return f"it {error}"
        return ""

    def answers(self) -> None:
        """Both users get in, or RefusedError says what happens."""
        port = int(self.born["port"])
        ask(port, place.USER, self.born["password"], "PING")
        ask(port, "berth", self.born["admin"], "PING")

    def set_live(self, live: dict[str, str]) -> None:
        """The running one first: a run that ends in between finds the file unchanged and repeats it."""
        for directive, value in live.items():
            self.actions.append(f"set {directive} of Redis of {self.one.app} to {value}")
            if not self.module.check_mode:
                try:
                    ask(
                        int(self.born["port"]), "berth", self.born["admin"], "CONFIG", "SET", directive, value
                    )
                except RefusedError as error:
                    raise WrongError(f"Redis of {self.one.app}: {directive} {value}: it {error}") from error
        if self.before != self.after:
            if not live:
                self.actions.append(f"configure Redis of {self.one.app}")
            if not self.module.check_mode:
                self.write(self.after)

    def write(self, files: dict[Path, str]) -> None:
        group = grp.getgrnam("redis").gr_gid
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path == self.one.conf:
                journal.replace_text(path, text, 0o640, 0, group)
            else:
                journal.replace_text(path, text, 0o644)

    def restart(self) -> None:
        """With the new files; where it does not come up, with the former ones."""
        port = int(self.born["port"])
        if not self.running and not is_free(port):
            raise WrongError(
                f"Redis of {self.one.app}: another process listens on its port {port} "
                f"(ss -ltnp 'sport = :{port}' names it); stop that, or remove {self.one.born}/port to have "
                "another port chosen"
            )
        # As long as this is there, a run that ends here is not the last word.
        journal.replace_text(self.pending, "", 0o600)
        self.write(self.after)
        try:
            self.start()
        except RefusedError as error:
            outcome = "Nothing was there before it."
            if self.before[self.one.conf]:
                self.write(self.before)
                outcome = "The former configuration is back."
                try:
                    self.start()
                    self.pending.unlink()
                except RefusedError:
                    outcome += " Redis does not run with it either."
            raise WrongError(
                f"Redis of {self.one.app} {error}. {outcome} More: journalctl -u {self.unit}"
            ) from error
        self.pending.unlink()

    def start(self) -> None:
        """Restart, and wait for the first answer."""
        since = time.time()
        self.systemctl("daemon-reload")
        # Type=notify: this returns when all data is in memory.
        code, _, _ = self.module.run_command(["systemctl", "restart", self.unit])
        if code != 0:
            raise RefusedError(f"does not start: {self.reason(since)}")
        end = time.monotonic() + WAIT
        while True:
            try:
                return self.answers()
            except RefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def reason(self, since: float) -> str:
        """What Redis said last before it ended."""
        _, out, _ = self.module.run_command(
            ["journalctl", "-q", "-o", "cat", "-u", self.unit, f"--since=@{since:.0f}"]
        )
        said = [line for line in out.splitlines() if re.match(r"\d+:[CM] ", line) or ">>>" in line]
        return re.sub(r"^\d+:[CM] .*? [*#] ", "", said[-1]) if said else "it gave no reason"

    def systemctl(self, *words: str) -> None:
        self.module.run_command(["systemctl", *words], check_rc=True)


def stop_unused(wanted: set[str], check_mode: bool) -> list[str]:
    """Instances that left the list; one that a release may still ask, or ask again, runs on."""
    actions = []
    for name in place.there():
        one = place.Redis(name)
        if name in wanted or presence.uses(place.SERVICE, name):
            continue
        unit = naming.distributions(one.unit)
        state = units.show(unit, "ActiveState", "UnitFileState")
        if state.get("ActiveState") == "inactive" and state.get("UnitFileState") != "enabled":
            continue
        actions.append(f"stop Redis of {name}, which nothing uses any more")
        if not check_mode:
            units.end_for_good(unit)
    return actions


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "dict", "required": True},
            "drop_in": {"type": "str", "required": True},
            "receipt": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    wanted: dict[str, Any] = module.params["instances"]
    actions: list[str] = []
    diff: list[dict[str, str]] = []
    taken = taken_ports()
    try:
        for name, conf in wanted.items():
            instance = Instance(module, name, conf, module.params["drop_in"], taken)
            diff += instance.diff()
            try:
                instance.converge()
            finally:
                actions += instance.actions
        actions += stop_unused(set(wanted), module.check_mode)
    except WrongError as error:
        module.fail_json(msg=f"{error}.", actions=actions)
    if receipts.write("redis", module.params["receipt"], module.check_mode):
        actions.append("record what the apps were given")
    module.exit_json(changed=bool(actions), actions=actions, diff=diff)


if __name__ == "__main__":
    # Two runs may be given all apps at once: one reads, compares and writes at a time.
    with hostwide():
        main()
