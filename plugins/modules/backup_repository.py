#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""The repository of backups of a PostgreSQL cluster, and what fills it by the clock."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_repository
short_description: Keep a repository of backups on the server, filled from the first run on
description:
  - Writes pgBackRest's configuration, Berth's program and its units, makes the stanza, starts the timers, and
    has the first full backup made where there is none; one that fails is a warning. One round trip.
  - The key of the repository is born on the server, in C(/etc/berth/backup/key), and stays. A repository that
    is of another cluster, or whose key is gone, is never overwritten.
  - Options of pgBackRest that the installed one does not know yet are left out.
options:
  enabled:
    description: Whether there are backups. Without, the timers end; nothing that was backed up is deleted.
    type: bool
    default: true
  only_reach:
    description:
      - Write no more than the programs and how the places off the server are reached, for a restore from
        there. Nothing is begun, and no place is written to.
    type: bool
    default: false
  configuration:
    description: Content of C(/etc/pgbackrest/pgbackrest.conf); C(${key}) is filled in here.
    type: str
    required: true
  settings:
    description: What the program works by, as it finds it in C(/etc/berth/backup/settings.json).
    type: dict
    required: true
  schedules:
    description:
      - When C(full), C(incremental), C(dump) and C(drill) run, as systemd's C(OnCalendar). Empty is never.
    type: dict
    required: true
  units:
    description: Content of the unit files, by name.
    type: dict
    required: true
  offsite:
    description:
      - Places off the server, each with its C(name), C(type), C(where) for people, C(known_hosts) and
        C(configuration) of pgBackRest; C(${key}), C(${access_key}) and C(${secret_key}) are filled in here.
      - Each gets a relay that always runs. One that cannot be reached is a warning.
    type: list
    elements: dict
    default: []
  secrets:
    description:
      - C(key), which encrypts what lies at those places, and C(places), by name what opens each. A repository
        on the server that is new gets this key, too.
    type: dict
    default: {}
  patience:
    description: Seconds to wait for the first backup. It goes on after them.
    type: int
    default: 600
author: Berth (@berth)
attributes:
  check_mode:
    support: full
    description: Tells what would be done, also where nothing is installed yet.
  diff_mode:
    support: full
    description: Shows the files, without the key.
"""

EXAMPLES = r"""
- name: Back up the cluster
  backup_repository:
    configuration: "{{ lookup('ansible.builtin.template', 'pgbackrest.conf.j2') }}"
    settings: {stanza: main, repository: /var/lib/pgbackrest}
    schedules: {full: 'Sun 02:30', incremental: 'Mon..Sat 02:30', dump: '04:00', drill: '05:00'}
    units: "{{ lookup('ansible.builtin.template', 'units.yml.j2') | from_yaml }}"
"""

RETURN = r"""
actions:
  description: What was, or would be, done, in plain words.
  type: list
  elements: str
  returned: always
offsite:
  description: A sentence for each place off the server that cannot be used now.
  type: list
  elements: str
  returned: success
backup:
  description: What is to be said of the first backup; empty where there was one already.
  type: str
  returned: success
"""

import grp  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import pwd  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import stat  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth import environment  # noqa: E402
from ansible.module_utils.berth.host.command import module_source  # noqa: E402
from ansible.module_utils.berth.payload import backup as program  # noqa: E402
from ansible.module_utils.berth.payload import (  # noqa: E402
    clock,
    drill,
    exchange,
    offsite,
    reasons,
    rehearsal,
    rescue,
    restore,
    side,
)
from ansible.module_utils.berth.runtime import units  # noqa: E402
from ansible.module_utils.berth.store import journal  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402

MARK = "# Ansible managed"
OWNER = "postgres"
UNITS = Path("/etc/systemd/system")
CONFIGURATION = Path("/etc/pgbackrest/pgbackrest.conf")
KEY = Path("/etc/berth/backup/key")
PROGRAM = Path("/usr/local/lib/berth/backup.py")
PROGRAMS = {
    "backup": program,
    "side": side,
    "drill": drill,
    "restore": restore,
    "exchange": exchange,
    "offsite": offsite,
    "rescue": rescue,
    "rehearsal": rehearsal,
    "reasons": reasons,
}
# What a power cut left of a drill goes when the server boots.
LEFTOVERS = Path("/etc/tmpfiles.d/berth-drill.conf")
# Since which pgBackRest there is an option; Debian 12 has 2.45, Ubuntu 22.04 2.37.
SINCE = {"repo1-bundle": (2, 39), "repo1-block": (2, 46)}
NEWEST = (99, 0)
# The first that reaches a place by SFTP.
SFTP = (2, 46)
# pgBackRest's words for a stanza of which there is nothing, or not all.
MISSING = (1, 3)
FIRST = "berth-backup-full.service"
RELAY = "berth-backup-relay@"
OFFSITE = "berth-backup-offsite.service"
# Seconds for the relays to tell whether they reach their places.
REACHED = 30
# What is not for eyes: an option whose name says so.
SECRET = re.compile(r"(?mi)^(\s*[\w-]*(?:pass|secret|key|token)[\w-]*\s*=).*$")


class WrongError(Exception):
    """What keeps backups from being made; the text says what to do."""


def known_options(text: str, version: tuple[int, ...]) -> str:
    """The configuration without what this pgBackRest does not know, and what was said of that."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if version >= SINCE.get(line.split("=")[0].strip(), (0,)))


def masked(text: str) -> str:
    """For people who look at a difference."""
    return SECRET.sub(r"\1(hidden)", text)


def access(path: Path) -> tuple[int, int, int] | None:
    """A file's mode, owner and group; None where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def group_id(name: str) -> int:
    """Of a group; -1 where it is not there yet, as in check mode."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return -1


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class Repository:
    """From what is there to what should be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check = bool(module.check_mode)
        self.settings: dict[str, Any] = dict(module.params["settings"])
        self.units: dict[str, str] = module.params["units"]
        self.timers = [name for name in self.units if name.endswith(".timer")]
        schedules: dict[str, str] = module.params["schedules"]
        self.schedules = {kind: schedule for kind, schedule in schedules.items() if schedule}
        self.unwanted = [f"berth-backup-{kind}.timer" for kind in schedules if kind not in self.schedules]
        self.places: list[dict[str, Any]] = module.params["offsite"]
        self.secrets: dict[str, Any] = module.params["secrets"]
        self.begun: list[str] = []
        self.actions: list[str] = []
        self.diff: list[dict[str, str]] = []

    # What there is ------------------------------------------------------------------------------------------

    def run(self, *words: str) -> tuple[int, str, str]:
        code, out, err = self.module.run_command(list(words), environ_update={"LC_ALL": "C.UTF-8"})
        return code, out, err

    def version(self) -> tuple[int, ...]:
        """The installed pgBackRest's; in check mode, before it is installed, one that knows everything."""
        if shutil.which("pgbackrest") is None:
            return NEWEST
        found = re.search(r"(\d+)\.(\d+)", self.run("pgbackrest", "version")[1])
        return tuple(map(int, found.groups())) if found else NEWEST

    def as_owner(self, *words: str) -> tuple[int, str, str]:
        return self.run("runuser", "-u", OWNER, "--", *words)

    def info(self) -> dict[str, Any]:
        """The stanza as pgBackRest sees it; code 1 where there is none, or no pgBackRest."""
        stanza, nothing = str(self.settings["stanza"]), {"status": {"code": 1}, "backup": [], "db": []}
        if shutil.which("pgbackrest") is None or not CONFIGURATION.exists():
            return nothing
        words = ("pgbackrest", f"--stanza={stanza}", "info", "--output=json", "--log-level-console=error")
        code, out, err = self.as_owner(*words)
        if code != 0:
            raise WrongError(f"pgBackRest cannot read its repository: {program.reason(err + out)}")
        return next((one for one in json.loads(out, strict=False) if one.get("name") == stanza), nothing)

    def expected(self) -> dict[str, int]:
        """Seconds from a backup of any kind, a full one, a dump and a drill to the next, at most."""
        times = {}
        for kind, schedule in self.schedules.items():
            code, out, err = self.calendar(*clock.calendar(schedule))
            if code != 0:
                # The schedule is none, or systemd knows no such option.
                code, out, err = self.calendar(*clock.calendar(schedule, newer=False))
            if code != 0:
                raise WrongError(f"{schedule!r} is no schedule of systemd's: {(err or out).strip()}")
            times[kind] = clock.instants(out)
        return {
            "backup": clock.longest_gap(times["full"], times["incremental"]),
            "full": clock.longest_gap(times["full"]),
            "dump": clock.longest_gap(times["dump"]),
            "drill": clock.longest_gap(times.get("drill", [])),
        }

    def calendar(self, *words: str) -> tuple[int, str, str]:
        """When a schedule comes, in the words of systemd."""
        code, out, err = self.module.run_command(
            list(words),
            environ_update={"LC_ALL": "C.UTF-8", "TZ": "UTC"},
        )
        return code, out, err

    # What there should be -----------------------------------------------------------------------------------

    def key(self) -> str:
        """Born here once. Never anew for a repository that another one has encrypted."""
        found = read(KEY).strip()
        if found:
            if (access(KEY) or ())[:2] != (0o600, os.geteuid()):
                self.actions.append(f"make {KEY} root's alone again")
                if not self.check:
                    journal.replace_text(KEY, found + "\n", 0o600)
            return found
        stanza = Path(self.settings["repository"]) / "backup" / str(self.settings["stanza"])
        if stanza.exists():
            raise WrongError(
                f"The backups in {self.settings['repository']} are encrypted, and their key is gone ({KEY}). "
                "Put it back; or move that folder away, and run again"
            )
        self.actions.append("make the key of the backups")
        # The vault's, where there is one: whoever has that can read what is on the server, too.
        born: str = self.secrets.get("key") or environment.generate(48)
        if not self.check:
            self.folder(KEY.parent, 0o750, "root", OWNER)
            journal.replace_text(KEY, born + "\n", 0o600)
        return born

    def files(self, key: str | None = None) -> dict[Path, tuple[str, int, str]]:
        """Each file with its content, mode and group; all are root's."""
        text = known_options(self.module.params["configuration"], self.version())
        settings = {
            **self.settings, "expected": self.expected(), "offsite": list(map(self.place, self.places)),
        }  # fmt: skip
        return {
            **{
                PROGRAM.with_name(f"{name}.py"): (module_source(one), 0o644, "root")
                for name, one in PROGRAMS.items()
            },
            CONFIGURATION: (text.replace("${key}", self.key() if key is None else key), 0o640, OWNER),
            LEFTOVERS: (f"{MARK}\nR! {self.settings['drill']}/*\n", 0o644, "root"),
            **{UNITS / name: (content, 0o644, "root") for name, content in self.units.items()},
            **{path: one for place in self.places for path, one in self.files_of(place).items()},
            # Always the last: where it is, all else is.
            program.SETTINGS: (json.dumps(settings, indent=2, sort_keys=True) + "\n", 0o640, OWNER),
        }

    def place(self, place: dict[str, Any]) -> dict[str, str]:
        """What the programs know of a place off the server, and why it cannot be used at all."""
        problem, version = "", self.version()
        if place["type"] == "sftp" and version < SFTP:
            problem = (
                f"pgBackRest {'.'.join(map(str, version))} of this server knows no SFTP; write a "
                "place of type s3, or move to Debian 13 or Ubuntu 24.04"
            )
        config = self.files_of_place(place["name"])[0]
        return {"name": place["name"], "where": place["where"], "config": str(config), "problem": problem}

    def files_of(self, place: dict[str, Any]) -> dict[Path, tuple[str, int, str]]:
        """How a place is reached: postgres, which reaches it, may read that and not change it."""
        opened = (self.secrets.get("places") or {}).get(place["name"]) or {}
        text = known_options(place["configuration"], self.version())
        for name in ("access_key", "secret_key"):
            text = text.replace(f"${{{name}}}", opened.get(name) or "")
        text = text.replace("${key}", self.secrets.get("key") or "")
        config, hosts, key = self.files_of_place(place["name"])
        found = {config: (text, 0o640, OWNER)}
        if place["type"] == "sftp":
            found[hosts] = (place["known_hosts"], 0o640, OWNER)
            found[key] = (opened.get("private_key", "").strip() + "\n", 0o640, OWNER)
        return found

    def folder(self, path: Path, mode: int, owner: str, group: str) -> None:
        """Make it where it is missing; its parent is root's."""
        if path.exists():
            return
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.mkdir(mode=mode)
        os.chown(path, pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid, follow_symlinks=False)
        path.chmod(mode)

    def refuse_foreign(self) -> None:
        """Somebody else's configuration of pgBackRest stays as it is."""
        before = read(CONFIGURATION)
        if before and MARK not in before:
            raise WrongError(
                f"{CONFIGURATION} is there already and not Berth's; move it away (its backups stay), or set "
                "server.backup.enabled to false"
            )

    def write(self, files: dict[Path, tuple[str, int, str]]) -> list[Path]:
        """Write what differs; the files that did."""
        changed = []
        for path, (text, mode, group) in files.items():
            known = read(path)
            if known == text and access(path) == (mode, os.geteuid(), group_id(group)):
                continue
            changed.append(path)
            if path.parent != PROGRAM.parent and path.suffix != ".key" and known != text:
                self.diff.append(
                    {
                        "before_header": str(path),
                        "after_header": str(path),
                        "before": masked(known),
                        "after": masked(text),
                    }
                )
            if not self.check:
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                journal.replace_text(path, text, mode, 0, grp.getgrnam(group).gr_gid)
        if changed:
            self.actions.append(f"write {', '.join(map(str, changed))}")
        return changed

    def stanza(self) -> bool:
        """Make it where it is missing; whether it has a backup."""
        info = self.info()
        if info["status"]["code"] == program.OTHER:
            raise WrongError(f"pgBackRest cannot read its repository: {program.status(info)['message']}")
        if info["status"]["code"] in MISSING:
            self.actions.append("make the repository")
            if self.check:
                return False
            words = ("pgbackrest", f"--stanza={self.settings['stanza']}", "--log-level-console=error")
            code, out, err = self.as_owner(*words, "stanza-create")
            if code != 0:
                raise WrongError(f"The repository cannot be made: {program.reason(err + out)}")
        elif not self.check or not self.actions:
            self.refuse_another_cluster(info)
        return bool(program.current(info))

    def refuse_another_cluster(self, info: dict[str, Any]) -> None:
        """A server that was set up anew must not write into what was saved of the one before."""
        words = ("psql", "-XAtq", "-h", self.settings["socket"], "-p", str(self.settings["port"]))
        query = "select system_identifier from pg_control_system()"
        code, out, _ = self.as_owner(*words, "-d", "postgres", "-c", query)
        known = {str(one.get("system-id")) for one in info["db"]}
        if code == 0 and known and out.strip() not in known:
            raise WrongError(
                f"{self.settings['repository']} holds the backups of another cluster. Move that folder and "
                f"{KEY} away, keep both as long as you may need them, and run again"
            )

    def folders_to_restore_into(self) -> None:
        """Those of drills and of restores: in a folder of the owner's, so it is the owner who makes them."""
        for name in ("drill", "restored"):
            self.folder_of_the_owner(str(self.settings[name]))

    def folder_of_the_owner(self, path: str) -> None:
        if self.as_owner("test", "-d", path)[0] == 0:
            return
        self.actions.append(f"make {path}")
        if not self.check:
            code, out, err = self.as_owner("mkdir", "-p", "-m", "700", path)
            if code != 0:
                raise WrongError(f"{path} cannot be made: {(err or out).strip()}")

    def forget_unwanted(self) -> None:
        """What shall not run by the clock any more."""
        for timer in self.unwanted:
            path = UNITS / timer
            if path.exists():
                self.actions.append(f"remove {timer}")
                if not self.check:
                    units.end_for_good(timer)
                    path.unlink()
                    units.reload()

    def relays(self, changed: list[Path]) -> None:
        """Have one run for each place, and remember which are reached otherwise than before."""
        self.end_relays({place["name"] for place in self.places})
        common = {PROGRAM, PROGRAM.with_name("offsite.py"), UNITS / f"{RELAY}.service"}
        for place in map(self.place, self.places):
            unit, own = f"{RELAY}{place['name']}.service", set(self.files_of_place(place["name"]))
            state = units.show(unit, "ActiveState", "UnitFileState")
            if own & set(changed):
                self.begun.append(place["name"])
            if place["problem"]:
                continue
            verbs = [] if state.get("UnitFileState") == "enabled" else ["enable"]
            if state.get("ActiveState") not in ("active", "activating"):
                verbs.append("start")
            elif (common | own) & set(changed):
                verbs.append("restart")
            for verb in verbs:
                self.actions.append(f"{verb} {unit}")
                if not self.check:
                    self.systemctl(verb, unit)

    def files_of_place(self, name: str) -> list[Path]:
        """Configuration, host keys and private key: where they are, or would be."""
        path = KEY.with_name(f"offsite-{name}.conf")
        return [path, path.with_suffix(".hosts"), path.with_suffix(".key")]

    def end_relays(self, wanted: set[str]) -> None:
        """Of places that are no more. What lies there stays, and so does what is known of it."""
        for path in sorted(KEY.parent.glob("offsite-*.conf")):
            name = path.stem.removeprefix("offsite-")
            if name in wanted:
                continue
            self.actions.append(f"end what goes to {name}")
            if self.check:
                continue
            unit = f"{RELAY}{name}.service"
            units.end_for_good(unit)
            # The file that says where it is goes last: a run that ends before that does it again.
            for one in reversed(self.files_of_place(name)):
                one.unlink(missing_ok=True)

    def told_by_relay(self, name: str) -> dict[str, Any]:
        """What it last said. Asked for by its owner, in whose folder that lies."""
        code, out, _ = self.as_owner("cat", str(offsite.file_of(self.settings, name, "relay")))
        try:
            found = json.loads(out) if code == 0 else {}
        except ValueError:
            found = {}
        return found if isinstance(found, dict) and {"at", "problem"} <= set(found) else {}

    def unreachable(self, began: float) -> list[str]:
        """A sentence for each place that cannot be used, from what its relay says since this run began."""
        said, end = [], time.monotonic() + REACHED
        for place in map(self.place, self.places):
            problem = place["problem"]
            while not problem and time.monotonic() < end:
                known = self.told_by_relay(place["name"])
                if known and program.seconds_of(known["at"]) >= int(began):
                    problem = known["problem"]
                    break
                time.sleep(0.3)
            if problem:
                said.append(
                    f"Off-site {place['name']}: {problem}. Backups on the server go on, and go there as "
                    "soon as that is set right; berth check-backups tells."
                )
        return said

    def run_by_the_clock(self, changed: list[Path]) -> None:
        names = {path.name for path in changed} & set(self.units)
        # What a run wrote that ended before it came here.
        shown = units.shown(sorted(self.units), "NeedDaemonReload")
        stale = {one.get("Id", "") for one in shown if one.get("NeedDaemonReload") == "yes"} - names
        if stale:
            self.actions.append("have systemd read its units again")
        names |= stale
        if not self.check and names:
            units.reload()
        for timer in self.timers:
            state = units.show(timer, "ActiveState", "UnitFileState")
            verbs = [] if state.get("UnitFileState") == "enabled" else ["enable"]
            if state.get("ActiveState") != "active":
                verbs.append("start")
            elif timer in names:
                verbs.append("restart")
            for verb in verbs:
                self.actions.append(f"{verb} {timer}")
                if not self.check:
                    self.systemctl(verb, timer)

    def systemctl(self, verb: str, *names: str) -> None:
        code, out, err = self.run("systemctl", "--quiet", verb, *names)
        if code != 0:
            raise WrongError(f"systemctl {verb} {' '.join(names)}: {(err or out).strip()}")

    # The whole ----------------------------------------------------------------------------------------------

    def converge(self) -> bool:
        """Everything but the first backup; whether that is missing.

        Where there were to be no backups for a while, WAL is missing: what there is does not lead on.
        """
        begins = not program.SETTINGS.exists()
        if not self.check:
            self.folder(Path(self.settings["state"]), 0o700, OWNER, OWNER)
            self.folder(Path(self.settings["repository"]), 0o750, OWNER, OWNER)
        self.refuse_foreign()
        files = self.files()
        # Written when the repository is there: a run that ends before that has to begin anew.
        settings = {program.SETTINGS: files.pop(program.SETTINGS)}
        changed = self.write(files)
        self.folders_to_restore_into()
        backed_up = self.stanza()
        self.write(settings)
        self.run_by_the_clock(changed)
        self.forget_unwanted()
        self.relays(changed)
        return begins or not backed_up

    def reach(self) -> None:
        """As much of it as a restore from a place off the server needs."""
        if not self.check:
            self.folder(Path(self.settings["state"]), 0o700, OWNER, OWNER)
            self.folder(KEY.parent, 0o750, "root", OWNER)
        wanted = (PROGRAM.parent, KEY.parent)
        # The key of the repository here is born with that.
        self.write({path: one for path, one in self.files(key="").items() if path.parent in wanted})

    def first(self) -> str:
        """Have the first backup made by its unit; what is to be said of it, with a warning where it fails."""
        self.actions.append("make a full backup to begin with")
        if self.check:
            return ""
        began = time.time()
        self.systemctl("start", "--no-block", FIRST)
        end = time.monotonic() + float(self.module.params["patience"])
        while time.monotonic() < end:
            time.sleep(0.3)
            state = units.show(FIRST, "ActiveState", "Job")
            if state.get("Job", "") not in ("", "0"):
                # What it says of itself may be of the run before.
                continue
            if state.get("ActiveState") == "failed":
                said = units.journal(FIRST, 20, began)
                why = next((line for line in reversed(said) if line.startswith("No ")), "")
                why = (why or f"The first backup failed (journalctl -u {FIRST})").rstrip(".")
                # All that makes backups is in place: the clock, and the next run, try again.
                self.module.warn(
                    f"{why}. All else goes on, and Postgres is not backed up until one is made by "
                    "berth backup --full, the next run or the clock. berth check-backups says whether it was."
                )
                return f"{why}."
            if state.get("ActiveState") == "inactive":
                said = units.journal(FIRST, 20, began)
                return next((line for line in reversed(said) if line.startswith("Made")), "Made.")
        return f"The first backup is still at work; berth backups tells when it is made ({FIRST})."

    def end(self) -> None:
        """No more backups by the clock; what there is stays."""
        self.forget_unwanted()
        self.end_relays(set())
        for timer in self.timers:
            state = units.show(timer, "ActiveState", "UnitFileState")
            if state.get("ActiveState") == "active" or state.get("UnitFileState") == "enabled":
                self.actions.append(f"stop {timer}")
                if not self.check:
                    units.end_for_good(timer)
        if program.SETTINGS.exists():
            self.actions.append("leave the backups that there are alone")
            if not self.check:
                program.SETTINGS.unlink()


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "enabled": {"type": "bool", "default": True},
            "only_reach": {"type": "bool", "default": False},
            "configuration": {"type": "str", "required": True, "no_log": False},
            "settings": {"type": "dict", "required": True},
            "schedules": {"type": "dict", "required": True},
            "units": {"type": "dict", "required": True},
            "offsite": {"type": "list", "elements": "dict", "default": []},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "patience": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    repository, said, unreachable = Repository(module), "", []
    began = time.time()
    only_reach = bool(module.params["only_reach"])
    try:
        # Two runs may be given all apps at once: one reads, compares and writes at a time.
        with hostwide():
            if only_reach:
                missing = False
                repository.reach()
            elif module.params["enabled"]:
                missing = repository.converge()
            else:
                missing = False
                repository.end()
        if missing:
            said = repository.first()
        if module.params["enabled"] and not only_reach and not module.check_mode:
            # Of those that were begun now, word is waited for; of the others there is some.
            unreachable = repository.unreachable(began if repository.begun else 0)
        # After the first one here it is begun by that one's unit.
        if repository.begun and not missing and not only_reach and not module.check_mode:
            repository.systemctl("start", "--no-block", OFFSITE)
        for one in unreachable:
            module.warn(one)
    except WrongError as error:
        module.fail_json(msg=f"{error}.", actions=repository.actions)
    actions = repository.actions
    module.exit_json(
        changed=bool(actions), actions=actions, backup=said, offsite=unreachable, diff=repository.diff
    )


if __name__ == "__main__":
    main()
