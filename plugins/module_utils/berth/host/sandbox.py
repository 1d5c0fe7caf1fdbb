"""What other people's code may touch on a server: one list for processes, jobs, builds and migrations.

Memory that is written and then executed stays allowed (no MemoryDenyWriteExecute): node, numba and every
other just-in-time compiler need it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..paths import Paths
from .command import Result

# Nobody's code has to see these: settings and keys of all apps, doors to other services' privileges.
_HIDDEN = ("/etc/berth", "/var/lib/berth", "/var/log/berth", "/etc/ssh", "/run/dbus", "/run/docker.sock")
_OF_BACKUPS = _HIDDEN[:2]
_HIDDEN_FROM_BUILDS = ("/run/postgresql", "/run/redis")

COMMON = (
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    # Shared memory of its own, where gunicorn's workers tell that they live.
    "PrivateDevices=yes",
    "TemporaryFileSystem=/dev/shm:mode=1777,nosuid,nodev",
    "PrivateIPC=yes",
    "PrivateMounts=yes",
    # Also what keeps an app from the environment of its own migrations, which hold the owner's password.
    "PrivateUsers=yes",
    "ProtectProc=invisible",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    *(f"InaccessiblePaths=-{path}" for path in _HIDDEN),
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "KeyringMode=private",
    "LimitCORE=0",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM",
)
_FAMILIES = "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"
# One peer at a time: no multicast (224.0.0.0/4, ff00::/8) and no broadcast, by which neighbours are found,
# told lies and flooded. Which peers is role firewall's matter, which knows ports too.
_UNICAST = (
    "IPAddressDeny=any",
    "IPAddressAllow=0.0.0.0/1 128.0.0.0/2 192.0.0.0/3 "
    "::/1 8000::/2 c000::/3 e000::/4 f000::/5 f800::/6 fc00::/7 fe00::/8",
)
_NETWORK = (_FAMILIES, *_UNICAST)

# Beside live apps and their database: slower than they are, and the first to go where memory ends.
_BESIDE = ("UMask=0027", "CPUWeight=50", "IOWeight=50", "TasksMax=4096", "OOMScoreAdjust=800")
BUILD_MEMORY = "75%"
# What compilers and node say of a child that was killed; nobody but the kernel kills in a build.
_STARVED = re.compile(
    r"Killed signal terminated program|\(signal: 9, SIGKILL|heap out of memory|(^|: )Killed$", re.MULTILINE
)


def unit() -> list[str]:
    """For a process or a job of an app."""
    return [*COMMON, *_NETWORK]


def proof() -> list[str]:
    """For what runs once as an app: its import, its migrations."""
    return [*COMMON, *_NETWORK, *_BESIDE, f"MemoryMax={BUILD_MEMORY}"]


def out_of_memory(result: Result, app: dict[str, Any]) -> str:
    """Where a build met its limit: what that is, and where to raise it. Empty where it did not."""
    if not (result.killed or _STARVED.search("\n".join(result.lines))):
        return ""
    return f"it used more memory than a build may ({memory(app)}): raise limits.build_memory"


def restoring() -> list[str]:
    """For a server of PostgreSQL that is restored beside the live one, as that one's user: with a network of
    its own, behind all apps. What it writes to is not said here."""
    # It reads what is told of backups, and asks the live server as its superuser. That one's memory is of the
    # same user.
    without = ("PrivateUsers=", "RemoveIPC=", *(f"InaccessiblePaths=-{path}" for path in _OF_BACKUPS))
    return [
        *(line for line in COMMON if not line.startswith((*without, "SystemCallFilter=~"))),
        "PrivateNetwork=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "MemoryDenyWriteExecute=yes",
        "MemoryMax=1G",
        "Nice=19",
        "IOSchedulingClass=idle",
        "CPUWeight=20",
        "IOWeight=20",
        "OOMScoreAdjust=500",
        "UMask=0077",
        # What it began it ends itself, and removes.
        "KillMode=mixed",
        "TimeoutStopSec=2min",
    ]


def beside(network: str, home: Path, sockets: Iterable[str]) -> list[str]:
    """Added to what runs as an app, for it to reach nothing that is live: neither by `network`, which is that
    of something else, nor by the `sockets` of services. What it keeps at home is nobody's afterwards."""
    return [
        f"NetworkNamespacePath={network}",
        f"TemporaryFileSystem={home}:mode=1777,nosuid,nodev",
        *(f"InaccessiblePaths=-{folder}" for folder in sockets),
    ]


def memory(app: dict[str, Any]) -> str:
    """How much memory a build of this app may use: of the server's, where the app names no limit."""
    return str(app["limits"]["build_memory"] or BUILD_MEMORY)


def git(app: dict[str, Any], local: str) -> list[str]:
    """For git: of /srv and of homes nothing, but for a repository that lies there."""
    common = COMMON
    if re.match(r"/(home|root|run/user)/", local):
        # Below a folder that is not to be entered, nothing could be shown.
        common = tuple(line.replace("ProtectHome=yes", "ProtectHome=tmpfs") for line in COMMON)
    return [
        *common,
        *_NETWORK,
        *_BESIDE,
        "TasksMax=512",
        f"MemoryMax={memory(app)}",
        "TemporaryFileSystem=/srv:ro",
        *(f"InaccessiblePaths=-{path}" for path in _HIDDEN_FROM_BUILDS),
        *([f"BindReadOnlyPaths=-{local}"] if local else []),
    ]


def ready(folder: Path, user: str) -> None:
    """A build user's folder below /var/cache, should somebody have emptied that."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        shutil.chown(folder, user, user)


def build(paths: Paths, app: dict[str, Any]) -> list[str]:
    """For what builds an app: the network, and of /srv nothing but its code and its environments."""
    environments = sorted(path for path in paths.envs.glob("*") if path.is_dir())
    return [
        *COMMON,
        # node asks for the names of interfaces.
        f"{_FAMILIES} AF_NETLINK",
        *_UNICAST,
        *_BESIDE,
        f"MemoryMax={memory(app)}",
        "TemporaryFileSystem=/srv:ro",
        # Each by itself: the folder they are in is the app's to read.
        *(f"BindReadOnlyPaths=-{path}" for path in (paths.releases, *environments)),
        *(f"InaccessiblePaths=-{path}" for path in _HIDDEN_FROM_BUILDS),
    ]
