#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Look at a server once: can it be a Berth host, and what do the roles need to know of it?"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.berth.host import admins, sshd
from ansible.module_utils.berth.host.command import over_ssh
from ansible.module_utils.berth.services import clusters

DOCUMENTATION = r"""
module: host_preflight
short_description: Judge a server and gather the facts that Berth's roles use
description:
  - Reads, in one round trip, what the roles ask of a host, and publishes it under the names that
    M(ansible.builtin.setup) uses. What only the role base asks for is in C(base_host).
  - Fails with every reason at once, one sentence each, when the server cannot be what Berth needs.
  - Changes nothing.
author: Berth (@berth)
options:
  host:
    description: The host's name in the inventory, for the messages.
    type: str
    required: true
  minimum_memory_mb:
    description: Megabytes of memory, swap included, below which the host is refused.
    type: int
    required: true
  minimum_disk_mb:
    description:
      - Megabytes that must be free on each of C(/), C(/var) and C(/srv), below which the host is refused.
      - A tenth of it is enough once Berth is on the host: a filling disk must not stand in a repair's way.
    type: int
    required: true
  controller_time:
    description: Seconds since 1970 on the machine that runs Ansible; 0 leaves the clocks uncompared.
    type: float
    default: 0
  timezone:
    description: A time zone that the host should know; empty for none.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Reads only.
"""

EXAMPLES = r"""
- name: Look at the host
  host_preflight:
    host: "{{ inventory_hostname }}"
    minimum_memory_mb: 900
    minimum_disk_mb: 3000
"""

RETURN = r"""
ansible_facts:
  description: Facts, under the names of M(ansible.builtin.setup); C(base_host) holds the rest.
  type: dict
  returned: success
"""

# The oldest releases whose packages the roles are tested with.
OLDEST = {"debian": (12, "Debian 12"), "ubuntu": (22, "Ubuntu 22.04")}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MAXIMUM_SKEW = 300
MARKER = Path("/etc/systemd/journald.conf.d/50-berth.conf")
# A swap file needs a file system that maps it onto blocks once and for all.
SWAP_FILESYSTEMS = ("ext2", "ext3", "ext4", "xfs")
UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "systemd-timesyncd.service",
    "chrony.service",
    "ntpsec.service",
    "ntp.service",
    "openntpd.service",
)


def output_of(*command: str) -> str:
    """What a command prints; empty where it is missing or fails without a word."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def text_of(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def parse_os_release(text: str) -> dict[str, str]:
    """The fields of /etc/os-release."""
    fields = re.findall(r"""(?m)^([A-Z_]+)=["']?(.*?)["']?\s*$""", text)
    return dict(fields)


def parse_meminfo(text: str) -> dict[str, int]:
    """The fields of /proc/meminfo in megabytes."""
    return {name: int(kilobytes) // 1024 for name, kilobytes in re.findall(r"(?m)^(\w+):\s+(\d+) kB", text)}


def memory_limit_mb(cgroups: str, root: Path = Path("/sys/fs/cgroup")) -> int:
    """The least limit of the groups above a process, from the text of /proc/<pid>/cgroup; 0 for none."""
    limits = []
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        for group in (top / path.lstrip("/"), *(top / path.lstrip("/")).parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                value = text_of(str(group / name)).strip()
                if value.isdigit():
                    limits.append(int(value) // 2**20)
            if group == top:
                break
    return min(limits, default=0)


def file_system(path: str, mounts: str) -> str:
    """The type of the file system that holds a path, from the text of /proc/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        inside = point == "/" or path == point or path.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def free_megabytes(paths: tuple[str, ...]) -> dict[str, int]:
    """What ordinary users may still write on each of the file systems, by the first path that is on it."""
    found: dict[int, tuple[str, int]] = {}
    for path in paths:
        if Path(path).is_dir():
            state = os.statvfs(path)
            found.setdefault(Path(path).stat().st_dev, (path, state.f_bavail * state.f_frsize // 2**20))
    return dict(found.values())


def distribution_problem(release: dict[str, str]) -> str:
    """What is wrong with the operating system; empty when nothing is."""
    name = release.get("PRETTY_NAME", "an unknown system")
    wanted = (
        "Berth needs Debian 12 or later, or Ubuntu 22.04 or later: reinstall the server with one of these."
    )
    if release.get("ID") not in OLDEST:
        return f"it runs {name}. {wanted}"
    oldest, _ = OLDEST[release["ID"]]
    version = re.match(r"\d+", release.get("VERSION_ID", ""))
    # Debian testing and sid have no version, and are newer than every release that has.
    if version and int(version[0]) < oldest:
        return f"it runs {name}. {wanted}"
    return ""


def span(seconds: float) -> str:
    """A time span as a person says it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def resource_problems(
    memory: int, swap: int, free: dict[str, int], minimum_memory: int, minimum_disk: int
) -> list[str]:
    """What the host has too little of."""
    found = []
    if memory + swap < minimum_memory:
        found.append(
            f"it has {memory} MB of memory and {swap} MB of swap; Berth needs {minimum_memory} MB together: "
            "choose a larger server or add swap (or lower base_minimum_memory_mb, if you know why)."
        )
    found += [
        f"{path} has {megabytes} MB free; Berth needs {minimum_disk} MB: make room or use a larger disk "
        "(or lower base_minimum_disk_mb, if you know why)."
        for path, megabytes in free.items()
        if megabytes < minimum_disk
    ]
    return found


def clock_problem(host_time: float, controller_time: float) -> str:
    """Whether host and controller disagree so much that certificates and apt will fail."""
    skew = host_time - controller_time
    if not controller_time or abs(skew) <= MAXIMUM_SKEW:
        return ""
    return (
        f"its clock is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's, so "
        "certificates would be refused: correct it (`timedatectl set-ntp true`, or `date -s`)."
    )


def swap_refusal(container: str, filesystem: str) -> str:
    """Why the host gets no swap file; empty when it can have one."""
    if container:
        return f"it is a container ({container}), whose memory its machine manages"
    if filesystem not in SWAP_FILESYSTEMS:
        return f"/ is {filesystem or 'unknown'}, where a swap file is not safe"
    return ""


def timezone_of(link: Path) -> str:
    """The zone that /etc/localtime points to; empty where it is no link or points nowhere."""
    # One step only: the zone's own file may be a link too, Etc/UTC to UTC.
    return str(link.readlink()).partition("/zoneinfo/")[2] if link.is_symlink() and link.exists() else ""


def cloud_init_running() -> bool:
    """Whether cloud-init is at work on this boot."""
    return Path("/run/cloud-init/enabled").exists() and not Path("/run/cloud-init/result.json").exists()


def packages() -> dict[str, list[dict[str, str]]]:
    """The installed packages and their versions, in the shape of M(ansible.builtin.package_facts)."""
    found: dict[str, list[dict[str, str]]] = {}
    form = "${db:Status-Status} ${Package} ${Version} ${Architecture}\\n"
    for line in output_of("dpkg-query", "--show", f"--showformat={form}").splitlines():
        state, name, version, architecture = line.split(" ")
        if state == "installed":
            found.setdefault(name, []).append({"version": version, "arch": architecture})
    return found


def unit_states() -> dict[str, str]:
    """Each unit's `systemctl is-enabled`; `absent` where there is none."""
    lines = output_of("systemctl", "is-enabled", *UNITS).splitlines()
    # Before systemd 254 an unknown unit prints nothing on standard output: then ask one by one.
    if len(lines) != len(UNITS):
        lines = [output_of("systemctl", "is-enabled", unit) for unit in UNITS]
    return {
        unit: {"": "absent", "not-found": "absent"}.get(state, state)
        for unit, state in zip(UNITS, lines, strict=True)
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "minimum_memory_mb": {"type": "int", "required": True},
            "minimum_disk_mb": {"type": "int", "required": True},
            "controller_time": {"type": "float", "default": 0},
            "timezone": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    release = parse_os_release(text_of("/etc/os-release"))
    memory = parse_meminfo(text_of("/proc/meminfo"))
    memory_mb, swap_mb = memory.get("MemTotal", 0), memory.get("SwapTotal", 0)
    # A container may use less than it sees; without a limit the kernel says an absurd one.
    memory_mb = min(memory_mb, memory_limit_mb(text_of("/proc/1/cgroup")) or memory_mb)
    machine = os.uname().machine
    architecture = output_of("dpkg", "--print-architecture") or ARCHITECTURES.get(machine, machine)
    systemd = Path("/run/systemd/system").is_dir()

    problems = [distribution_problem(release)]
    if architecture not in ARCHITECTURES.values():
        problems.append(f"its architecture is {architecture}; Berth runs on amd64 and arm64.")
    if not systemd:
        problems.append("systemd is not its init (PID 1), so there is nothing to run services with.")
    minimum_disk = module.params["minimum_disk_mb"] // (10 if MARKER.exists() else 1)
    problems += resource_problems(
        memory_mb,
        swap_mb,
        free_megabytes(("/", "/var", "/srv")),
        module.params["minimum_memory_mb"],
        minimum_disk,
    )
    problems.append(clock_problem(time.time(), module.params["controller_time"]))
    zone, zones = module.params["timezone"], Path("/usr/share/zoneinfo")
    if zone and (zones / "Etc/UTC").exists() and not (zones / zone).is_file():
        problems.append(
            f"it knows no time zone {zone} (base_timezone): write one of `timedatectl list-timezones`, "
            "such as Europe/Berlin or Etc/UTC."
        )
    problems = [problem for problem in problems if problem]
    if problems:
        module.fail_json(
            msg=f"Host {module.params['host']} cannot be set up: {' Also: '.join(problems)}",
            problems=problems,
        )

    # Its status is 1, and it prints `none`, on bare metal and in virtual machines.
    container = output_of("systemd-detect-virt", "--container").replace("none", "")
    version = release.get("VERSION_ID", "")
    if release.get("ID") == "debian":
        version = text_of("/etc/debian_version").strip() or version
    nodename = os.uname().nodename
    login, connection = os.environ.get("SUDO_USER") or "root", over_ssh(os.getpid())
    base_host: dict[str, Any] = {
        "container": container,
        "swap_refusal": swap_refusal(container, file_system("/swapfile", text_of("/proc/mounts"))),
        "free_mb": free_megabytes(("/",)).get("/", 0),
        "cloud_init_running": cloud_init_running(),
        "timezone": timezone_of(Path("/etc/localtime")),
        "timezone_file": text_of("/etc/timezone").strip(),
        "locales": output_of("locale", "-a").splitlines(),
        "units": unit_states(),
        "sudo": Path("/etc/sudoers.d").is_dir(),
        "admins": admins.present(admins.recorded()),
        "login": login,
        # A connection of before goes on beside settings that let nobody of this name in any more.
        "kept_out": sshd.keeps_out(login, connection[0]) if connection else "",
        "authorities": Path("/usr/local/share/ca-certificates/berth").is_dir(),
    }
    facts = {
        "distribution": {"debian": "Debian", "ubuntu": "Ubuntu"}[release["ID"]],
        "distribution_version": version,
        "distribution_major_version": version.split(".", maxsplit=1)[0],
        "distribution_release": release.get("VERSION_CODENAME", ""),
        "os_family": "Debian",
        "system": "Linux",
        "kernel": os.uname().release,
        "architecture": machine,
        "apt_architecture": architecture,
        "memtotal_mb": memory_mb,
        "swaptotal_mb": swap_mb,
        "processor_vcpus": len(os.sched_getaffinity(0)),
        "hostname": nodename.split(".", maxsplit=1)[0],
        "nodename": nodename,
        "service_mgr": "systemd",
        "pkg_mgr": "apt",
        # As package_facts names it: a role need not ask for what is here already.
        "packages": packages(),
        "postgresql_clusters": [str(clusters.etc(one)) for one in clusters.in_use()],
    }
    module.exit_json(
        changed=False,
        ansible_facts={f"ansible_{name}": value for name, value in facts.items()} | {"base_host": base_host},
    )


if __name__ == "__main__":
    main()
