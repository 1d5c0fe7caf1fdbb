"""True machines: kernel, modules, AppArmor, audit and boots of their own, where containers have the host's.

A machine is what a provider's minimal cloud image is: Debian's cloud kernel and the packages of a test host.
It is bootstrapped with mmdebstrap from this machine's package sources and runs in qemu by software emulation:
everywhere, and some ten times slower than hardware.

    vm.py image [--suite S]     build the disk if it is not there
    vm.py up NAME [--suite S]   boot a machine, or come back to the one of this name
    vm.py down NAME | --all     remove it with its disk
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import testhost
from testhost import TestHostError, run

STATE = testhost.ROOT / ".cache" / "vm"
KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
# What a cloud image has beside a container's packages.
PACKAGES = f"{testhost.PACKAGES},udev,e2fsprogs,initramfs-tools,apparmor,systemd-resolved,cron,libnss-systemd"
QEMU = "qemu-system-x86_64"
DISK = "12G"
MEMORY = "2048"
# As a boot loader would pass them; what Berth adds to these is a boot loader's file, which is not read here.
# Huge pages are gathered by a kernel thread that emulation on a busy machine has stand still.
KERNEL_LINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet transparent_hugepage=never"


@dataclasses.dataclass(frozen=True)
class Machine(testhost.Reached):
    """A machine that runs, with the methods of a test host that a kit of tests calls."""

    @property
    def folder(self) -> Path:
        """Where its disk, its console's log and its inventory are."""
        return STATE / self.name

    def ssh(self, *command: str, user: str = "root") -> list[str]:
        """The same; one that boots accepts connections long before it answers."""
        ssh, *words = super().ssh(*command, user=user)
        return [ssh, "-o", "ConnectTimeout=20", *words]

    def sh(self, script: str, *, check: bool = True, timeout: float = 3600, stdin: str | None = None) -> str:
        """Run a bash script as root there; return what it printed, stripped."""
        words = ["bash", "-euo", "pipefail", "-c", script]
        return run(*self.ssh(shlex.join(words)), check=check, timeout=timeout, stdin=stdin).strip()

    def restart(self) -> None:
        """Reboot in good order, and wait until somebody gets in again."""
        before = self.sh("cat /proc/sys/kernel/random/boot_id")
        run(*self.ssh("systemctl --no-block reboot"), check=False)
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                now = run(*self.ssh("cat /proc/sys/kernel/random/boot_id"), check=False, timeout=60).strip()
                if now not in ("", before):
                    _wait_booted(self, 900)
                    return
            time.sleep(5)
        raise TestHostError(f"{self.name} did not come back from a reboot: {self.folder / 'console.log'}.")

    def power_cut(self) -> None:
        """Take the power away, and boot again."""
        _stop(self.folder)
        _boot(self)


def ensure_image(suite: str) -> Path:
    """Build the disk of a suite where it is missing; return its folder: disk, kernel, initrd, keys."""
    kernel = KERNELS["ubuntu" if suite in testhost.SUITES["ubuntu"] else "debian"]
    sources = testhost.apt_lines(suite), testhost.extra_authorities()
    recipe = json.dumps([suite, PACKAGES, kernel, sources, DISK, 1])
    folder = STATE / f"image-{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with testhost.machine_lock(f"vm-{suite}"):
        if folder.exists():
            return folder
        needed = {"mmdebstrap": "mmdebstrap", QEMU: "qemu-system-x86", "qemu-img": "qemu-utils"}
        if missing := [package for program, package in needed.items() if shutil.which(program) is None]:
            testhost.apt_install(*missing)
        print(f"Bootstrapping a {suite} machine with mmdebstrap (a minute or two)", flush=True)
        STATE.mkdir(parents=True, exist_ok=True)
        work = STATE / f"making-{suite}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, work, ignore_errors=True)
            for key in ("id_ed25519", "host_key"):
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "berth-vm", "-f", str(work / key))
            root = work / "root"
            run(
                "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
                '--aptopt=Acquire::Check-Valid-Until "false"', f"--include={PACKAGES},{kernel}",
                *[f"--customize-hook={hook}" for hook in _hooks(work)],
                suite, str(root), *testhost.apt_lines(suite),
                timeout=1800,
            )  # fmt: skip
            for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
                shutil.copyfile(next((root / "boot").glob(pattern)), work / name)
            disk = work / "disk.raw"
            run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(disk), DISK, timeout=900)
            run("qemu-img", "convert", "-O", "qcow2", str(disk), str(work / "disk.qcow2"), timeout=900)
            disk.unlink()
            shutil.rmtree(root)
            work.rename(folder)
    return folder


def _hooks(work: Path) -> list[str]:
    """Shell lines that mmdebstrap runs with the new root in $1."""
    hooks = [
        'rm -f "$1"/usr/sbin/policy-rc.d "$1"/etc/ssh/ssh_host_*',
        f'install -m 0600 {work}/host_key "$1"/etc/ssh/ssh_host_ed25519_key',
        f'install -m 0644 {work}/host_key.pub "$1"/etc/ssh/ssh_host_ed25519_key.pub',
        'install -d -m 0700 "$1"/root/.ssh',
        f'install -m 0600 {work}/id_ed25519.pub "$1"/root/.ssh/authorized_keys',
        "printf '/dev/vda / ext4 errors=remount-ro 0 1\\n' > \"$1\"/etc/fstab",
        "printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=yes\\n' > \"$1\"/etc/systemd/network/10-eth0.network",
        'chroot "$1" systemctl enable -q systemd-networkd.service systemd-resolved.service ssh.service',
        'echo berth-vm > "$1"/etc/hostname; : > "$1"/etc/machine-id',
        'printf \'Acquire::Check-Valid-Until "false";\\nAcquire::Languages "none";\\n\' '
        '> "$1"/etc/apt/apt.conf.d/99testhost',
        'ln -sf /run/systemd/resolve/stub-resolv.conf "$1"/etc/resolv.conf',
    ]
    for number, pem in enumerate(testhost.extra_authorities()):
        path = work / f"machine-{number}.crt"
        path.write_text(pem + "\n")
        hooks.append(f'cp {path} "$1"/usr/local/share/ca-certificates/')
    return [*hooks, 'chroot "$1" update-ca-certificates >/dev/null 2>&1']


def up(name: str, *, suite: str = "", publish: Sequence[str] = ("80", "443")) -> Machine:
    """Boot a machine, or come back to the one of this name: same disk, same ports."""
    folder = STATE / name
    record = folder / "machine.json"
    if record.exists():
        machine = Machine(**json.loads(record.read_text()))
        if not _pid(folder):
            _boot(machine)
        return machine
    suite = suite or testhost.default_suite()
    image = ensure_image(suite)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    ports = {port: testhost.free_port() for port in publish}
    machine = Machine(name=name, suite=suite, ssh_port=testhost.free_port(), published=ports)
    backing = ["-F", "qcow2", "-b", str(image / "disk.qcow2")]
    run("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(folder / "disk"))
    for key in ("id_ed25519", "kernel", "initrd"):
        (folder / key).symlink_to(image / key)
    machine.write((image / "host_key.pub").read_text())
    record.write_text(json.dumps(dataclasses.asdict(machine)))
    _boot(machine)
    return machine


def _boot(machine: Machine, seconds: float = 900) -> None:
    forwards = "".join(
        f",hostfwd=tcp:127.0.0.1:{mine}-:{port}"
        for port, mine in {"22": machine.ssh_port, **machine.published}.items()
    )
    folder = machine.folder
    command = [
        QEMU, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
        "-m", MEMORY, "-display", "none", "-no-user-config", "-nodefaults",
        "-kernel", str(folder / "kernel"), "-initrd", str(folder / "initrd"), "-append", KERNEL_LINE,
        "-drive", f"file={folder / 'disk'},if=virtio,format=qcow2,cache=writeback",
        "-nic", f"user,model=virtio-net-pci{forwards}", "-device", "virtio-rng-pci",
        "-serial", f"file:{folder / 'console.log'}", "-pidfile", str(folder / "pid"), "-daemonize",
    ]  # fmt: skip
    run(*command)
    _wait_booted(machine, seconds)


def _wait_booted(machine: Machine, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            said = run(*machine.ssh("systemctl is-system-running"), check=False, timeout=120).strip()
            if said in ("running", "degraded"):
                return
        time.sleep(2)
    raise TestHostError(f"{machine.name} did not boot in {seconds:.0f} s: {machine.folder / 'console.log'}.")


def _pid(folder: Path) -> int:
    """The process of the machine of this folder; 0 where it does not run."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder / "pid").read_text())
        if str(folder) in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    return 0


def _stop(folder: Path) -> None:
    pid = _pid(folder)
    while pid and _pid(folder):
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def down(name: str) -> None:
    """Remove a machine with its disk. Nothing there is fine."""
    _stop(STATE / name)
    shutil.rmtree(STATE / name, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("image", "up"):
        one = verbs.add_parser(verb)
        one.add_argument("--suite", default="")
        if verb == "up":
            one.add_argument("name")
    stop = verbs.add_parser("down")
    stop.add_argument("name", nargs="?", default="")
    stop.add_argument("--all", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "image":
            print(ensure_image(options.suite or testhost.default_suite()))
        elif options.verb == "up":
            machine = up(options.name, suite=options.suite)
            print(f"{machine.name} runs {machine.suite}; ansible -i {machine.inventory} all -m ping")
            print(" ".join(machine.ssh()))
        else:
            every = [one.parent.name for one in STATE.glob("*/machine.json")]
            for name in every if options.all else [options.name]:
                down(name)
            if options.all:
                shutil.rmtree(STATE, ignore_errors=True)
    except TestHostError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
