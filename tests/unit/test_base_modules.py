"""The parts of base's modules that can be judged without a server."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plugins.modules import apt_packages, ca_certificates, host_preflight

DEBIAN = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
)


# --- host_preflight ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (DEBIAN, False),
        ("ID=debian\nPRETTY_NAME='Debian GNU/Linux forky/sid'\n", False),
        ('ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian GNU/Linux 11"\n', True),
        ('ID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n', False),
        ('ID=ubuntu\nVERSION_ID="20.04"\nPRETTY_NAME="Ubuntu 20.04"\n', True),
        ("ID=fedora\nVERSION_ID=41\nPRETTY_NAME='Fedora Linux 41'\n", True),
        ("ID=linuxmint\nID_LIKE=ubuntu\nVERSION_ID=22\nPRETTY_NAME='Linux Mint 22'\n", True),
        ("", True),
    ],
)
def test_only_tested_distributions_pass(text: str, refused: bool) -> None:
    release = host_preflight.parse_os_release(text)
    problem = host_preflight.distribution_problem(release)
    assert bool(problem) is refused
    if refused:
        assert release.get("PRETTY_NAME", "an unknown system") in problem
        assert "Debian 12 or later" in problem


def test_memory_counts_swap_and_disks_are_named() -> None:
    def problems(memory: int, swap: int, free: dict[str, int]) -> list[str]:
        return host_preflight.resource_problems(memory, swap, free, 900, 3000)

    assert problems(900, 0, {"/": 3000}) == []
    assert problems(480, 1024, {"/": 3000}) == []
    (memory,) = problems(899, 0, {"/": 3000})
    assert "899 MB of memory" in memory
    assert "900 MB" in memory
    root, srv = problems(2000, 0, {"/": 2999, "/var": 3000, "/srv": 10})
    assert root.startswith("/ has 2999 MB free")
    assert srv.startswith("/srv has 10 MB free")


@pytest.mark.parametrize(
    ("skew", "said"), [(0, ""), (299, ""), (-7200, "2 hours behind"), (400 * 86400, "400 days ahead of")]
)
def test_clock(skew: int, said: str) -> None:
    now = 1_800_000_000.0
    problem = host_preflight.clock_problem(now + skew, now)
    assert (said in problem) if said else not problem
    assert not host_preflight.clock_problem(now + skew, 0)


def test_memory_limit_is_the_least_of_the_groups_above(tmp_path: Path) -> None:
    inner = tmp_path / "machine" / "box"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{512 * 2**20}\n")
    assert host_preflight.memory_limit_mb("0::/machine/box\n", tmp_path) == 512
    (inner / "memory.max").write_text(f"{256 * 2**20}\n")
    assert host_preflight.memory_limit_mb("0::/machine/box\n", tmp_path) == 256
    assert host_preflight.memory_limit_mb("0::/elsewhere\n", tmp_path) == 0


def test_memory_limit_of_the_first_control_groups(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "docker" / "1"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(str(700 * 2**20))
    assert host_preflight.memory_limit_mb("9:cpu:/docker/1\n4:memory:/docker/1/init.scope\n", tmp_path) == 700


@pytest.mark.parametrize(
    ("container", "filesystem", "refused"),
    [("", "ext4", False), ("", "xfs", False), ("", "btrfs", True), ("", "zfs", True), ("lxc", "ext4", True)],
)
def test_swap_only_where_it_is_safe(container: str, filesystem: str, refused: bool) -> None:
    assert bool(host_preflight.swap_refusal(container, filesystem)) is refused


def test_file_system_is_that_of_the_deepest_mount() -> None:
    mounts = "/dev/a / ext4 rw 0 0\n/dev/b /srv btrfs rw 0 0\n/dev/c /srvdata xfs rw 0 0\n"
    assert host_preflight.file_system("/swapfile", mounts) == "ext4"
    assert host_preflight.file_system("/srv/app", mounts) == "btrfs"
    assert host_preflight.file_system("/srvdata/app", mounts) == "xfs"


def test_time_zone_is_read_from_the_link(tmp_path: Path) -> None:
    zones = tmp_path / "zoneinfo"
    (zones / "Etc").mkdir(parents=True)
    (zones / "UTC").write_text("")
    (zones / "Etc/UTC").symlink_to("../UTC")
    link = tmp_path / "localtime"
    assert host_preflight.timezone_of(link) == ""
    link.symlink_to(zones / "Etc/UTC")
    assert host_preflight.timezone_of(link) == "Etc/UTC"


# --- apt_packages -----------------------------------------------------------------------------------------


def test_only_whole_packages_count_as_installed() -> None:
    status = "installed tree amd64\nconfig-files nginx amd64\nhalf-configured caddy amd64\n"
    assert apt_packages.installed(status) == {"tree", "tree:amd64"}


def test_plan_is_read_from_the_simulation() -> None:
    text = "NOTE: a simulation\nInst libjq1 (1.7 Debian [amd64])\nInst jq (1.7)\nConf libjq1 (1.7)\n"
    assert apt_packages.planned(text) == ["jq", "libjq1"]
    assert apt_packages.planned("0 upgraded, 0 newly installed") == []


def test_lists_are_stale_when_missing_or_older_than_a_source(tmp_path: Path) -> None:
    lists, stamp, source = tmp_path / "lists", tmp_path / "stamp", tmp_path / "a.sources"
    lists.mkdir()
    now = time.time()
    assert apt_packages.lists_age(now, lists, stamp, [source]) == float("inf")
    (lists / "example_dists_x_Packages.lz4").write_text("")
    stamp.touch()
    os.utime(stamp, (now - 100, now - 100))
    assert apt_packages.lists_age(now, lists, stamp, [source]) == pytest.approx(100, abs=1)
    source.touch()
    assert apt_packages.lists_age(now, lists, stamp, [source]) == float("inf")
    os.utime(source, (now - 200, now - 200))
    assert apt_packages.lists_age(now, lists, stamp, [source]) == pytest.approx(100, abs=1)


def test_lock_holder_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert apt_packages.lock_holder(lock) == ""
    lock.touch()
    assert apt_packages.lock_holder(lock) == ""
    hold = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.lockf(lock, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"(pid {holder.pid})" in apt_packages.lock_holder(lock)
        # Looking must not take the lock, nor free it.
        with lock.open("w") as handle, pytest.raises(OSError, match="temporarily unavailable"):
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.communicate("\n")
    assert apt_packages.lock_holder(lock) == ""


def test_error_lines_are_found() -> None:
    error = "W: a warning\nE: Unable to locate package nope\n"
    assert apt_packages.said("Reading package lists...\n", error) == "E: Unable to locate package nope"
    assert apt_packages.said("", "something else") == "something else"


# --- ca_certificates --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two authorities in PEM form."""
    folder = tmp_path_factory.mktemp("ca")
    pems = []
    for name in ("one", "two"):
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ),
                *("-subj", f"/CN={name}", "-days", "2"),
                *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"),
            ],
            check=True,
            capture_output=True,
        )
        pems.append((folder / f"{name}.pem").read_text())
    return pems


def test_bundle_is_split_and_named_by_content(authorities: list[str]) -> None:
    one, two = authorities
    split = ca_certificates.split("our company.pem", f"# a comment\n{one}\ntext between\n{two}{one}")
    assert len(split) == 2
    assert all(name.startswith("our-company-") and name.endswith(".crt") for name in split)
    assert split == ca_certificates.split("our company.pem", two + one)
    assert all(pem.count("BEGIN CERTIFICATE") == 1 for pem in split.values())


@pytest.mark.parametrize(
    ("pem", "sentence"),
    [
        ("", "holds no certificate in PEM form"),
        ("just text", "holds no certificate in PEM form"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "certificate 1 cannot be read"),
        ("-----BEGIN EC " + "PRIVATE KEY-----\nAAAA", "holds a private key"),
    ],
)
def test_what_is_no_certificate_is_refused(pem: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        ca_certificates.split("bad.pem", pem)
    assert str(caught.value).startswith("bad.pem")


def test_store_is_compared_with_what_is_wanted(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "berth"
    store.mkdir()
    (store / "Mozilla.pem").symlink_to("/usr/share/ca-certificates/mozilla/x.crt")
    assert not ca_certificates.stale_links(store, folder, set())
    assert ca_certificates.stale_links(store, folder, {"a.crt"})
    (store / "a.pem").symlink_to(folder / "a.crt")
    assert not ca_certificates.stale_links(store, folder, {"a.crt"})
    assert ca_certificates.stale_links(store, folder, set())
