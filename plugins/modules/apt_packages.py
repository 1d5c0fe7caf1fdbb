#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Install Debian packages: instant when nothing is missing, truthful in check mode on a bare host."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: apt_packages
short_description: Install Debian packages, quickly and with patience
description:
  - Makes sure that packages are installed, with C(dpkg-query) and C(apt-get) alone.
  - Unlike M(ansible.builtin.apt) it needs no C(python3-apt), so check mode predicts on a bare host too,
    where neither that package nor apt's lists are there yet; and it does not read apt's whole cache to
    find that nothing is to be done.
  - Waits for whoever holds the locks of apt and dpkg (a first boot's cloud-init, unattended-upgrades), and
    names the holder when it gives up. Finishes what an interrupted dpkg left behind.
  - Refreshes the package lists only when something is to be installed and the lists are missing, older than
    O(cache_valid_time) or older than a source that was added or changed since.
author: Berth (@berth)
options:
  name:
    description: Names of packages.
    type: list
    elements: str
    required: true
  state:
    description: V(latest) also upgrades what is installed to the version that the sources and pins prefer.
    type: str
    choices: [present, latest]
    default: present
  install_recommends:
    description: Whether recommended packages come along.
    type: bool
    default: false
  default_release:
    description: The release to prefer, as in C(apt-get -t); empty for none.
    type: str
    default: ""
  cache_valid_time:
    description: Seconds for which the package lists are fresh enough.
    type: int
    default: 3600
  lock_timeout:
    description: Seconds to wait for another process that holds the locks of apt or dpkg.
    type: int
    default: 600
attributes:
  check_mode:
    support: full
    description: Runs C(apt-get --simulate) where there are lists; otherwise tells the names.
  diff_mode:
    support: full
    description: Lists packages before and after.
"""

EXAMPLES = r"""
- name: Install the proxy
  apt_packages:
    name: [redis-server]
"""

RETURN = r"""
packages:
  description: What was, or would be, installed or upgraded.
  type: list
  elements: str
  returned: always
refreshed:
  description: Whether the package lists were refreshed.
  type: bool
  returned: always
waited:
  description: Seconds spent waiting for locks.
  type: float
  returned: always
"""

LISTS = Path("/var/lib/apt/lists")
STAMP = Path("/var/lib/apt/periodic/berth-refreshed")
LOCKS = (
    Path("/var/lib/dpkg/lock-frontend"),
    Path("/var/lib/dpkg/lock"),
    Path("/var/lib/apt/lists/lock"),
    Path("/var/cache/apt/archives/lock"),
)
# struct flock of 64-bit Linux: type, whence, start, length, pid.
FLOCK = "@hhqqi4x"
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


def lock_holder(path: Path) -> str:
    """Who holds a lock file, as `name (pid 12)`; empty when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return ""
    try:
        question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    finally:
        os.close(descriptor)
    if kind == fcntl.F_UNLCK:
        return ""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        name = "a process"
    return f"{name} (pid {pid})"


def installed(status: str) -> set[str]:
    """The installed packages in `dpkg-query -W -f '${db:Status-Status} ${Package} ${Architecture}\\n'`."""
    found: set[str] = set()
    for line in status.splitlines():
        state, name, architecture = line.split(" ")
        if state == "installed":
            found |= {name, f"{name}:{architecture}"}
    return found


def planned(simulation: str) -> list[str]:
    """The packages that `apt-get --simulate install` would install or upgrade."""
    return sorted(set(re.findall(r"(?m)^Inst (\S+)", simulation)))


def lists_age(now: float, lists: Path, stamp: Path, sources: list[Path]) -> float:
    """Seconds since the lists were refreshed; infinite where they are missing or a source is newer."""
    if not any(lists.glob("*_Packages*")):
        return float("inf")
    refreshed = stamp.stat().st_mtime if stamp.exists() else lists.stat().st_mtime
    if any(path.stat().st_mtime > refreshed for path in sources if path.exists()):
        return float("inf")
    return max(0.0, now - refreshed)


def source_files(etc: Path) -> list[Path]:
    """What decides where apt looks: the folder too, since removing a file changes only that."""
    folder = etc / "sources.list.d"
    return [etc / "sources.list", folder, *(folder.glob("*") if folder.is_dir() else [])]


def said(output: str, error: str) -> str:
    """The lines of apt's or dpkg's output that say what went wrong."""
    lines = [
        line for line in (error + "\n" + output).splitlines() if re.match(r"(E:|dpkg: error|Err:)", line)
    ]
    return " ".join(lines[:6]) or (error.strip() or output.strip())[-600:]


class Apt:
    """apt-get on this host, one call at a time, after whoever has the locks."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.patience = int(module.params["lock_timeout"])
        self.waited = 0.0

    def wait(self) -> None:
        """Return once nobody holds a lock; fail with the holder's name when patience ends."""
        while holder := next((who for who in map(lock_holder, LOCKS) if who), ""):
            if self.waited >= self.patience:
                self.module.fail_json(
                    msg=f"apt is still in use by {holder} after {self.patience} s. Let it finish, or look at "
                    f"what it does (`ps aux`, `journalctl -u apt-daily-upgrade`), then run again.",
                    waited=self.waited,
                )
            time.sleep(1)
            self.waited += 1

    def run(self, *arguments: str, locks: bool = True, purpose: str = "") -> str:
        """Run apt-get or dpkg; return its output, or fail with what it said."""
        while True:
            if locks:
                self.wait()
            code, output, error = self.module.run_command(list(arguments), environ_update=ENVIRONMENT)
            if code == 0:
                return str(output)
            # Somebody was quicker between the look and the call: wait for them too.
            if not (locks and "Could not get lock" in error and self.waited < self.patience):
                break
            time.sleep(1)
            self.waited += 1
        return str(
            self.module.fail_json(
                msg=f"Cannot {purpose or 'run ' + ' '.join(arguments)}: {said(output, error)}",
                rc=code,
                stdout=output,
                stderr=error,
            )
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "required": True},
            "state": {"choices": ["present", "latest"], "default": "present"},
            "install_recommends": {"type": "bool", "default": False},
            "default_release": {"default": ""},
            "cache_valid_time": {"type": "int", "default": 3600},
            "lock_timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    names: list[str] = list(dict.fromkeys(module.params["name"]))
    latest = module.params["state"] == "latest"
    result: dict[str, object] = {"changed": False, "packages": [], "refreshed": False, "waited": 0.0}

    # Its status is 1 as soon as one of the names is unknown: no error.
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Architecture}\n", *names]
    _, status, _ = module.run_command(query, environ_update=ENVIRONMENT)
    present = installed(status)
    missing = [name for name in names if name not in present]
    if not missing and not latest:
        module.exit_json(**result)

    apt = Apt(module)
    stale = (
        lists_age(time.time(), LISTS, STAMP, source_files(Path("/etc/apt")))
        > module.params["cache_valid_time"]
    )
    install = [
        *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
        *("-o", f"APT::Install-Recommends={str(module.params['install_recommends']).lower()}"),
        *(("-t", module.params["default_release"]) if module.params["default_release"] else ()),
        *("install", *names),
    ]

    if module.check_mode:
        # The lists may be missing or older than a repository of an earlier task that was only predicted,
        # so a failed simulation is no verdict.
        # Without its caches on disk, which are a change too.
        simulate = ["apt-get", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "--simulate"]
        code, output, _ = module.run_command([*simulate, *install], environ_update=ENVIRONMENT)
        packages = planned(output) if code == 0 else missing
        result.update(packages=packages, changed=bool(packages))
    else:
        purpose = f"install {' '.join(missing or names)}"
        if any(Path("/var/lib/dpkg/updates").iterdir()):
            apt.run("dpkg", "--configure", "-a")
        if stale:
            apt.run("apt-get", "-q", "update", purpose="refresh the package lists")
            STAMP.parent.mkdir(parents=True, exist_ok=True)
            STAMP.touch()
        packages = planned(apt.run("apt-get", "--simulate", *install, locks=False, purpose=purpose))
        if packages:
            apt.run("apt-get", "-q", "-y", *install, purpose=purpose)
        result.update(packages=packages, changed=bool(packages), refreshed=stale, waited=apt.waited)

    if packages:
        result["diff"] = {"before": "", "after": "".join(f"{name}\n" for name in packages)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
