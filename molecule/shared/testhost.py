"""Disposable hosts: real systemd, sshd and apt, booted as containers in seconds.

The image is bootstrapped with mmdebstrap from the package sources of the machine it is built on, so no
image registry is needed: Ubuntu on an Ubuntu machine, Debian on a Debian one. What it holds is what a
provider's minimal cloud image holds: systemd, sshd, python3, sudo; nothing that a Berth role installs.

    testhost.py engine              get a Docker engine running, from Debian's docker.io where there is none
    testhost.py image [--suite S]   build the image if it is not there
    testhost.py up NAME             boot a host and print where its inventory is; --image I boots a kept state
    testhost.py keep NAME IMAGE     keep a host's state as an image that others boot from
    testhost.py engine-stop         stop the engine if `engine` started it
    testhost.py down NAME | --all   remove it with its volumes and state
    testhost.py list | suites       the hosts there are | the suites that can be bootstrapped here
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".cache" / "hosts"
LABEL = "io.berth.testhost"
SUITES = {"debian": ("trixie", "bookworm"), "ubuntu": ("noble", "jammy")}
DEFAULT_SUITE = os.environ.get("BERTH_TEST_SUITE", "")

# Less than what a minimal cloud image brings: a role must not count on more.
PACKAGES = (
    "systemd,systemd-sysv,libpam-systemd,dbus,openssh-server,python3,sudo,ca-certificates,iproute2,procps,"
    "kmod,curl"
)

# The capabilities that systemd, nftables, auditd, Postgres and a nested Docker need beyond Docker's default.
# --privileged would ask for more, and fails on machines without CAP_SYS_RESOURCE.
CAPABILITIES = (
    "SYS_ADMIN",
    "NET_ADMIN",
    "NET_RAW",
    "SYS_PTRACE",
    "SYSLOG",
    "AUDIT_CONTROL",
    "DAC_READ_SEARCH",
    "SYS_NICE",
    "IPC_LOCK",
)


class TestHostError(RuntimeError):
    """Something about the machine keeps a host from booting; the text says what and what to do."""

    __test__ = False


def run(*command: str, check: bool = True, timeout: float = 600, stdin: str | None = None) -> str:
    """Run a command; return its standard output. On failure the error carries what it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, input=stdin, check=False, errors="replace"
    )
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-3000:]
        raise TestHostError(f"`{' '.join(command)[:200]}` failed with {done.returncode}: {said}")
    return done.stdout


@contextlib.contextmanager
def machine_lock(name: str) -> Iterator[None]:
    """One at a time on this machine: two builds of one image would only waste each other's time."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE.parent / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- engine -----------------------------------------------------------------------------------------------


def engine_answers() -> bool:
    """Whether a Docker engine answers on the default socket."""
    return (
        shutil.which("docker") is not None
        and subprocess.run(["docker", "info"], capture_output=True, timeout=60, check=False).returncode == 0
    )


def apt_install(*packages: str) -> None:
    """Install what is missing from the distribution. Needs root."""
    if os.geteuid() != 0:
        raise TestHostError(f"This needs root once: sudo apt-get install {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900, check=False)
        if done.returncode != 0:
            raise TestHostError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-2000:]}")


def ensure_engine() -> None:
    """Get a Docker engine that answers: the running one, the service, or a dockerd of our own."""
    if engine_answers():
        return
    with machine_lock("engine"):
        if engine_answers():
            return
        if shutil.which("dockerd") is None:
            print("Installing Docker's engine from the distribution (docker.io)", flush=True)
            apt_install("docker.io", "iptables")
            if shutil.which("docker") is None:  # Debian 13 splits the client off
                apt_install("docker-cli")
        print("Starting the Docker engine", flush=True)
        if Path("/run/systemd/system").is_dir():
            run("systemctl", "start", "docker")
        else:
            _forget_dead_engine(Path("/var/run/docker.pid"))
            log = STATE.parent / "dockerd.log"
            with log.open("ab") as sink:
                process = subprocess.Popen(
                    ["dockerd"], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
                )
            (STATE.parent / "dockerd.pid").write_text(f"{process.pid}\n")
        deadline = time.monotonic() + 180
        while not engine_answers():
            if time.monotonic() > deadline:
                raise TestHostError(
                    "The Docker engine was started but does not answer; see .cache/dockerd.log or "
                    "`journalctl -u docker`."
                )
            time.sleep(0.3)


def _forget_dead_engine(pidfile: Path) -> None:
    """dockerd does not start while the process of its pid file lives, whatever that number means by now."""
    with contextlib.suppress(OSError, ValueError):
        name = Path(f"/proc/{int(pidfile.read_text())}/comm")
        if not name.exists() or name.read_text().strip() != "dockerd":
            pidfile.unlink()


def stop_engine() -> None:
    """Stop the engine if it is one that ensure_engine started without systemd."""
    pidfile = STATE.parent / "dockerd.pid"
    if not pidfile.exists():
        return
    pid = int(pidfile.read_text())
    with contextlib.suppress(OSError):
        if "dockerd" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, 15)
            for _ in range(100):
                if not Path(f"/proc/{pid}").exists():
                    break
                time.sleep(0.1)
    pidfile.unlink(missing_ok=True)


def stop_engine_if_idle() -> None:
    """Stop our own dockerd where no container is left; an engine that somebody else started stays."""
    if engine_answers() and not run("docker", "ps", "-q", check=False).strip():
        stop_engine()


# --- image ------------------------------------------------------------------------------------------------


def machine_sources() -> list[tuple[str, list[str]]]:
    """The (URI, components) of this machine's distribution archive, in the order apt reads them."""
    found: list[tuple[str, list[str]]] = []
    for path in sorted(Path("/etc/apt").glob("sources.list*/**/*.sources")) + sorted(
        Path("/etc/apt/sources.list.d").glob("*.sources")
    ):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.+)$", stanza))
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
                found += [(uri, fields.get("Components", "").split()) for uri in fields["URIs"].split()]
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))]:
        if path.exists():
            for line in path.read_text().splitlines():
                match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+\S+\s+(.+)", line)
                if match:
                    found.append((match[1], match[2].split()))
    own = [(uri.rstrip("/"), parts) for uri, parts in found if re.search(r"debian|ubuntu", uri)]
    return list({uri: (uri, parts) for uri, parts in own}.values())


def machine_distribution() -> str:
    """`debian` or `ubuntu`: the only two that this machine's archive can bootstrap."""
    release = Path("/etc/os-release").read_text()
    match = re.search(r"(?m)^ID=\"?(\w+)", release)
    return match[1] if match else ""


def default_suite() -> str:
    """The suite to test on where none is named."""
    return DEFAULT_SUITE or suites()[0]


def suites() -> tuple[str, ...]:
    """The suites that can be bootstrapped here, the default first."""
    return SUITES.get(machine_distribution(), SUITES["debian"])


def apt_lines(suite: str) -> list[str]:
    """The sources.list of a host of this suite, from where this machine gets its own packages."""
    sources = machine_sources()
    if not sources:
        raise TestHostError("No Debian or Ubuntu archive in /etc/apt: the image is built from the machine's.")
    if suite in SUITES["ubuntu"]:
        main = next((uri for uri, _ in sources if "security" not in uri), sources[0][0])
        return [f"deb {main} {suite}{part} main universe" for part in ("", "-updates", "-security")]
    lines = []
    for uri, _ in sources:
        if "security" in uri:
            lines.append(f"deb {uri} {suite}-security main")
        else:
            lines += [f"deb {uri} {suite}{part} main" for part in ("", "-updates")]
    return lines


def extra_authorities() -> list[str]:
    """The certificates (PEM) that this machine trusts beyond its distribution's: a company's own CA, say."""
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if not bundle.exists():
        return []
    block = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

    def pems(path: Path) -> dict[str, str]:
        found = block.findall(path.read_text(errors="replace"))
        return {re.sub(r"\s", "", pem): pem for pem in found}

    known: set[str] = set()
    for path in Path("/usr/share/ca-certificates").rglob("*.crt"):
        known |= pems(path).keys()
    return [pem for key, pem in pems(bundle).items() if key not in known]


def recipe(suite: str) -> str:
    """Everything that decides what the image holds; its hash is the image's tag."""
    return json.dumps([suite, PACKAGES, apt_lines(suite), extra_authorities(), 5])


def image_name(suite: str) -> str:
    """The tag of the image for a suite as it would be built today."""
    return f"berth-testhost:{suite}-{hashlib.sha256(recipe(suite).encode()).hexdigest()[:12]}"


def ensure_image(suite: str) -> str:
    """Build the image of a suite where it is missing; return its name."""
    name = image_name(suite)
    with machine_lock(f"image-{suite}"):
        if run("docker", "image", "ls", "-q", name).strip():
            return name
        if shutil.which("mmdebstrap") is None:
            apt_install("mmdebstrap")
        print(f"Bootstrapping a {suite} image with mmdebstrap (15 seconds or so)", flush=True)
        with contextlib.ExitStack() as stack:
            work = STATE.parent / f"image-{suite}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            stack.callback(shutil.rmtree, work, ignore_errors=True)
            tar = work / "root.tar"
            hooks = _image_hooks(work)
            run(
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                '--aptopt=Acquire::Check-Valid-Until "false"',
                f"--include={PACKAGES}",
                *[f"--customize-hook={hook}" for hook in hooks],
                suite,
                str(tar),
                *apt_lines(suite),
                timeout=1200,
            )
            run(
                "docker",
                "import",
                "--change",
                'CMD ["/lib/systemd/systemd"]',
                "--change",
                "ENV container=docker",
                "--change",
                f"LABEL {LABEL}.image={suite}",
                str(tar),
                name,
            )
    return name


def _image_hooks(work: Path) -> list[str]:
    """Shell lines that mmdebstrap runs with the new root in $1."""
    hooks = [
        # Every host gets identities of its own at its first boot.
        'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/machine-id; : > "$1"/etc/machine-id',
        # A booted server has no policy against starting services; a container has none to mount or log in on.
        'rm -f "$1"/usr/sbin/policy-rc.d',
        'chroot "$1" systemctl mask -q getty.target console-getty.service dev-hugepages.mount '
        "sys-fs-fuse-connections.mount systemd-udevd.service systemd-udevd-kernel.socket "
        "systemd-udevd-control.socket systemd-modules-load.service",
        "printf '[Unit]\\nBefore=ssh.service\\n[Service]\\nType=oneshot\\nExecStart=/usr/bin/ssh-keygen -A\\n"
        '[Install]\\nWantedBy=multi-user.target\\n\' > "$1"/etc/systemd/system/ssh-host-keys.service',
        'chroot "$1" systemctl enable -q ssh-host-keys.service ssh.service',
        'printf \'Acquire::Check-Valid-Until "false";\\nAcquire::Languages "none";\\n\' '
        '> "$1"/etc/apt/apt.conf.d/99testhost',
    ]
    for number, pem in enumerate(extra_authorities()):
        path = work / f"machine-{number}.crt"
        path.write_text(pem + "\n")
        hooks.append(f'cp {path} "$1"/usr/local/share/ca-certificates/')
    hooks.append('chroot "$1" update-ca-certificates >/dev/null 2>&1')
    return hooks


# --- hosts ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reached:
    """What is reached over SSH at a port of 127.0.0.1: a container, or a true machine (vm.py)."""

    name: str
    suite: str
    ssh_port: int
    published: Mapping[str, int]
    """Ports of the host (``443``) on this machine's 127.0.0.1."""

    @property
    def folder(self) -> Path:
        """Where its key, known_hosts and inventory are."""
        return STATE / self.name

    @property
    def inventory(self) -> Path:
        """An inventory with this host alone."""
        return self.folder / "inventory.yml"

    def connection(self, user: str = "root") -> dict[str, str | int]:
        """What Ansible needs to reach it over real SSH, with its host key checked."""
        return {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.ssh_port,
            "ansible_user": user,
            "ansible_ssh_private_key_file": str(self.folder / "id_ed25519"),
            "ansible_ssh_common_args": (
                f"-o UserKnownHostsFile={self.folder / 'known_hosts'} -o StrictHostKeyChecking=yes "
                "-o IdentitiesOnly=yes"
            ),
        }

    def ssh(self, *command: str, user: str = "root") -> list[str]:
        """The ssh command line that runs a command there, for subprocess."""
        return [
            "ssh",
            "-i",
            str(self.folder / "id_ed25519"),
            "-p",
            str(self.ssh_port),
            *f"-o UserKnownHostsFile={self.folder / 'known_hosts'} -o IdentitiesOnly=yes".split(),
            "-o",
            "BatchMode=yes",
            f"{user}@127.0.0.1",
            *command,
        ]

    def write(self, host_key: str) -> None:
        """Write its inventory, and its own key (`TYPE BASE64 …`) into known_hosts."""
        kind, key = host_key.split()[:2]
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.ssh_port} {kind} {key}\n")
        hosts: dict[str, Any] = {"all": {"hosts": {self.name: self.connection()}}}
        # JSON is YAML: no library needed to write it.
        self.inventory.write_text(json.dumps(hosts, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class Host(Reached):
    """A running disposable host."""

    @property
    def container(self) -> str:
        """The name Docker knows it by: other checkouts on this machine have hosts of the same names."""
        return f"berth-{self.name}-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]}"

    def sh(self, script: str, *, check: bool = True, timeout: float = 300, stdin: str | None = None) -> str:
        """Run a bash script as root on the host; return what it printed, stripped."""
        return run(
            "docker",
            "exec",
            "-i",
            self.container,
            "bash",
            "-euo",
            "pipefail",
            "-c",
            script,
            check=check,
            timeout=timeout,
            stdin=stdin,
        ).strip()

    def restart(self) -> None:
        """Stop it hard and boot again."""
        self.power_off()
        self.power_on()

    def power_off(self) -> None:
        """Kill everything on it at once."""
        run("docker", "kill", self.container)

    def power_on(self) -> None:
        """Boot it after that."""
        run("docker", "start", self.container)
        _wait_booted(self)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _container_state(container: str) -> str:
    return run("docker", "inspect", "-f", "{{.State.Status}}", container, check=False, timeout=60).strip()


def find(name: str) -> Host | None:
    """The host of this name, running or not; None where there is none."""
    record = STATE / name / "host.json"
    if not record.exists():
        return None
    host = Host(**json.loads(record.read_text()))
    return host if _container_state(host.container) else None


def _making(
    suite: str = "",
    publish: Mapping[str, int] | None = None,
    memory: str = "",
    volumes: Mapping[str, Path] | None = None,
    image: str = "",
) -> str:
    """A digest of what a host is made from and with; the image's name stands for what it holds."""
    suite = suite or default_suite()
    folders = {folder: str(mine) for folder, mine in (volumes or {}).items()}
    whole = [suite, dict(publish or {}), memory, folders, image or image_name(suite)]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def is_made_so(name: str, **options: Any) -> bool:
    """Whether there is a host of this name that `up` with these options would make the same today."""
    ensure_engine()
    host = find(name)
    label = f'{{{{index .Config.Labels "{LABEL}.making"}}}}'
    if host is None:
        return False
    return run("docker", "inspect", "-f", label, host.container).strip() == _making(**options)


def up(
    name: str,
    *,
    suite: str = "",
    publish: Mapping[str, int] | None = None,
    memory: str = "",
    volumes: Mapping[str, Path] | None = None,
    image: str = "",
) -> Host:
    """Boot a host, or come back to the one of this name: same state, same ports.

    ``publish`` maps ports of the host ("443", or "443/udp") to ports of 127.0.0.1; 0 picks a free one.
    ``memory`` limits it, as ``docker run --memory`` does. ``volumes`` maps folders of the host to those of
    this machine that lie there. ``image`` is one that ``keep`` made; without it the host is a bare one.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name):
        raise TestHostError(f"{name!r} is no name for a host: use a-z, 0-9 and -.")
    suite = suite or default_suite()
    if suite not in suites():
        raise TestHostError(f"Suite {suite!r} cannot be bootstrapped here: use {' or '.join(suites())}.")
    ensure_engine()
    existing = find(name)
    if existing and _container_state(existing.container) == "running":
        return existing
    if existing:
        run("docker", "start", existing.container)
        _wait_booted(existing)
        return existing
    making = _making(suite, publish, memory, volumes, image)
    image = image or ensure_image(suite)
    _remove(name)
    ports = {port: wanted or free_port() for port, wanted in (publish or {}).items()}
    host = Host(name=name, suite=suite, ssh_port=free_port(), published=ports)
    shutil.rmtree(host.folder, ignore_errors=True)
    host.folder.mkdir(parents=True, mode=0o700)
    command = [
        "docker",
        "run",
        "--detach",
        "--pull=never",
        "--stop-signal=SIGRTMIN+3",
        f"--name={host.container}",
        f"--hostname={name}",
        f"--label={LABEL}={name}",
        f"--label={LABEL}.checkout={ROOT}",
        f"--label={LABEL}.making={making}",
        "--cgroupns=host",
        "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
        "--tmpfs=/run",
        "--tmpfs=/tmp:exec",
        "--volume=/var/lib/docker",
        "--security-opt=seccomp=unconfined",
        "--security-opt=systempaths=unconfined",
        f"--publish=127.0.0.1:{host.ssh_port}:22",
    ]
    command += [f"--cap-add={capability}" for capability in CAPABILITIES]
    command += [f"--publish=127.0.0.1:{mine}:{port}" for port, mine in ports.items()]
    command += [f"--volume={mine}:{folder}" for folder, mine in (volumes or {}).items()]
    if memory:
        command.append(f"--memory={memory}")
    if "apparmor" in run("docker", "info", "-f", "{{.SecurityOptions}}"):
        command.append("--security-opt=apparmor=unconfined")
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        command.append("--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
    run(*command, image)
    try:
        _wait_booted(host)
        _let_in(host)
    except BaseException:
        run("docker", "rm", "-fv", host.container, check=False)
        raise
    (host.folder / "host.json").write_text(json.dumps(dataclasses.asdict(host)))
    return host


def _wait_booted(host: Host, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    state = ""
    while time.monotonic() < deadline:
        state = run(
            "docker", "exec", host.container, "systemctl", "is-system-running", check=False, timeout=60
        ).strip()
        if state in ("running", "degraded"):
            break
        time.sleep(0.2)
    else:
        logs = run("docker", "logs", "--tail", "20", host.container, check=False)
        raise TestHostError(f"{host.container} did not boot in {seconds:.0f} s (state: {state}).\n{logs}")
    while time.monotonic() < deadline:
        if "SSH-" in host.sh("timeout 1 head -c 4 < /dev/tcp/127.0.0.1/22 || true"):
            return
        time.sleep(0.1)
    raise TestHostError(f"{host.container} booted, but its sshd does not answer.")


def _let_in(host: Host) -> None:
    """A throw-away key for root, and the host's own key in known_hosts before the first connection."""
    key = host.folder / "id_ed25519"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"berth-{host.name}", "-f", str(key))
    host.sh(
        "install -d -m 0700 /root/.ssh && cat >> /root/.ssh/authorized_keys && "
        "chmod 0600 /root/.ssh/authorized_keys",
        stdin=key.with_suffix(".pub").read_text(),
    )
    host.write(host.sh("cat /etc/ssh/ssh_host_ed25519_key.pub"))


def keep(host: Host, image: str, *, boot: bool = True) -> None:
    """Make an image of a host as it is on disk, shut down in good order; the host itself boots again.

    ``boot`` false leaves it off. What such an image boots has the same host keys, machine id and accounts;
    memory and /run are gone.
    """
    run("docker", "stop", "--time", "60", host.container, timeout=120)
    try:
        run("docker", "commit", f"--change=LABEL {LABEL}.kept=yes", host.container, image)
    finally:
        if boot:
            host.power_on()


def down(name: str) -> None:
    """Remove a host with its volumes, keys and state. Nothing there is fine."""
    if shutil.which("docker"):
        _remove(name)
    shutil.rmtree(STATE / name, ignore_errors=True)


def _remove(name: str) -> None:
    """The container of a host, found by its labels, so that one with an older version's name goes too."""
    mine = f"--filter=label={LABEL}={name}", f"--filter=label={LABEL}.checkout={ROOT}"
    found = run("docker", "ps", "-aq", *mine, check=False).split()
    if found:
        run("docker", "rm", "-fv", *found, check=False, timeout=120)


def remove_images() -> None:
    """Remove the images, unless a host still runs from one, be it another checkout's."""
    if run("docker", "ps", "-aq", f"--filter=label={LABEL}", check=False).strip():
        return
    tags = run("docker", "image", "ls", "-q", "berth-testhost", check=False).split()
    if tags:
        run("docker", "image", "rm", "-f", *sorted(set(tags)), check=False)


def names() -> list[str]:
    """The hosts of this checkout, running or not."""
    return sorted(
        run(
            "docker",
            "ps",
            "-a",
            f"--filter=label={LABEL}.checkout={ROOT}",
            "--format",
            f'{{{{.Label "{LABEL}"}}}}',
            check=False,
        ).split()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("engine")
    verbs.add_parser("engine-stop")
    image = verbs.add_parser("image")
    image.add_argument("--suite", default="")
    start = verbs.add_parser("up")
    start.add_argument("name")
    start.add_argument("--suite", default="")
    start.add_argument("--publish", action="append", default=[], metavar="HOSTPORT[:LOCALPORT]")
    start.add_argument("--memory", default="")
    start.add_argument("--image", default="", help="one that keep made")
    kept = verbs.add_parser("keep")
    kept.add_argument("name")
    kept.add_argument("image")
    stop = verbs.add_parser("down")
    stop.add_argument("name", nargs="?")
    stop.add_argument("--all", action="store_true")
    stop.add_argument("--prefix", action="append", default=[], help="with --all: only names that start so")
    stop.add_argument("--images", action="store_true", help="the images too")
    verbs.add_parser("list")
    verbs.add_parser("suites")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "engine":
            ensure_engine()
        elif options.verb == "engine-stop":
            stop_engine()
        elif options.verb == "image":
            ensure_engine()
            print(ensure_image(options.suite or default_suite()))
        elif options.verb == "up":
            ports = {p.partition(":")[0]: int(p.partition(":")[2] or 0) for p in options.publish}
            host = up(
                options.name,
                suite=options.suite,
                publish=ports,
                memory=options.memory,
                image=options.image,
            )
            print(f"{host.container} runs {host.suite}; ansible -i {host.inventory} all -m ping")
            print(" ".join(host.ssh()))
            for port, mine in host.published.items():
                print(f"  port {port} is 127.0.0.1:{mine}")
        elif options.verb == "keep":
            found = find(options.name)
            if found is None:
                raise TestHostError(f"There is no host {options.name!r}: boot one with `up`.")
            keep(found, options.image)
            print(f"{options.image} is the state of {options.name}.")
        elif options.verb == "down":
            if not options.all and not options.name:
                parser.error("name a host, or say --all")
            prefixes = tuple(options.prefix) or ("",)
            for name in names() if options.all else [options.name]:
                if not options.all or name.startswith(prefixes):
                    down(name)
            if options.images:
                remove_images()
        elif options.verb == "list":
            print("\n".join(names()))
        elif options.verb == "suites":
            print(" ".join(suites()))
    except TestHostError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
