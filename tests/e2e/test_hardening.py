"""What services can do less on a real host: that it holds, that nothing is broken by it, and that it ends."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from testhost import Host

from tests.support.kit import Kit, Run
from tests.support.wal import archived

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("hardened"), boot("hardened", provisioned=True))


def provision(kit: Kit, *arguments: str, **hardening: bool) -> Run:
    kit.server["hardening"] = hardening
    run = kit.play("playbooks/provision.yml", "--tags", "hardening", *arguments)
    return Run(run.status, " ".join(run.output.split()), run.seconds)


def postgres(kit: Kit) -> str:
    """The unit of the cluster."""
    return kit.host.sh("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")


def exposure(kit: Kit, unit: str) -> float:
    said = kit.host.sh(f"systemd-analyze security --no-pager {unit} 2> /dev/null | tail -n 1")
    return float(re.findall(r"[0-9]+[.][0-9]", said)[-1])


def is_confined(kit: Kit) -> bool:
    """Whether the process that runs is, whatever the files say."""
    process = f"/proc/$(systemctl show --value -p MainPID {postgres(kit)})"
    return kit.host.sh(f"grep NoNewPrivs {process}/status").endswith("1")


def sql(kit: Kit, query: str) -> str:
    return kit.host.sh(f'cd / && runuser -u postgres -- psql -qXAt -c "{query}"')


def test_postgres_is_confined_from_the_first_run_on_and_works(kit: Kit) -> None:
    unit = postgres(kit)
    assert is_confined(kit)
    assert exposure(kit, unit) <= 3
    assert exposure(kit, "caddy.service") <= 1.5
    assert provision(kit).changed == 0
    # The whole server: of the kernel only what is a container's own.
    assert kit.host.sh(
        "sysctl -n net.ipv4.conf.all.accept_redirects net.ipv4.conf.default.send_redirects"
    ).split() == ["0", "0"]
    assert kit.host.sh("systemd-run -q --pipe --wait sh -c 'ulimit -H -c'") == "0"
    assert (
        kit.host.sh("ls /etc/sysctl.d/60-berth-kernel.conf /etc/modprobe.d/60-berth.conf 2>/dev/null || true")
        == ""
    )
    # As it is at work: archiving, settings, files of its own, and the distribution's commands.
    archived(kit.host)
    kit.host.sh("install -d -o postgres /srv/somewhere")
    sql(kit, "create tablespace away location '/srv/somewhere'")
    sql(kit, "create table rows tablespace away as select generate_series(1, 3) as n")
    sql(kit, "copy rows to '/tmp/rows'")
    assert kit.host.sh("cat /tmp/rows").split() == ["1", "2", "3"]
    sql(kit, "alter system set work_mem = '5MB'")
    kit.host.sh(f"rm /var/log/postgresql/*; systemctl reload {unit}")
    kit.host.sh("pg_ctlcluster $(pg_lsclusters -h | cut -d' ' -f1) main restart")
    kit.host.sh("test -s /var/log/postgresql/*.log")
    assert sql(kit, "show work_mem") == "5MB"
    assert sql(kit, "select count(*) from rows") == "3"


def test_it_ends_with_its_switch_and_restarts_nothing_that_serves(kit: Kit) -> None:
    unit = postgres(kit)
    kit.host.sh("mkdir -p /srv/somebody; ln -s /run/somebody/1.sock /srv/somebody/web.sock")
    assert provision(kit, "--check", units=False).changed == 1
    assert exposure(kit, unit) <= 3
    off = provision(kit, units=False)
    assert f"{unit} will be no more confined from the next restart on" in off.output
    assert is_confined(kit)
    assert provision(kit, units=False).changed == 0
    gone = provision(kit, units=False, network=False, coredumps=False)
    assert "The kernel's own settings are back with the next boot" in gone.output
    assert (
        kit.host.sh("ls /etc/sysctl.d/60-berth* /etc/systemd/system.conf.d/60-berth* 2>/dev/null || true")
        == ""
    )
    assert kit.host.sh("systemd-run -q --pipe --wait sh -c 'ulimit -H -c'") != "0"
    kit.host.sh(f"systemctl restart {unit}; test ! -e /etc/systemd/system/{unit}.d")
    assert not is_confined(kit)
    assert exposure(kit, unit) > 9
    assert f"{unit} will be confined from the next restart on" in provision(kit).output
    # It says so for as long as it is so.
    again = provision(kit)
    assert (again.changed, f"sudo systemctl restart {unit}" in again.output) == (0, True)
    # Nobody is served any more.
    kit.host.sh("rm /srv/somebody/web.sock")
    assert provision(kit).changed == 1
    assert is_confined(kit)
    assert sql(kit, "select count(*) from rows") == "3"


def test_commands_as_root_are_noted_and_crontabs_are_roots(kit: Kit) -> None:
    kit.host.sh("apt-get -q -y install --no-install-recommends cron; useradd -m somebody")
    crontab = "echo '0 3 * * * true' | runuser -u somebody -- crontab - 2>&1 || true"
    assert kit.host.sh(crontab) == ""
    assert provision(kit).changed >= 2
    assert provision(kit).changed == 0
    kit.host.sh("sudo true noted")
    assert kit.host.sh("tail -n 2 /var/log/sudo.log").endswith("COMMAND=/usr/bin/true noted")
    assert "not allowed to use this program" in kit.host.sh(crontab)
    assert kit.host.sh("stat -c %A /etc/crontab /etc/cron.d").split() == ["-rw-------", "drwx------"]
    # What was there goes on.
    assert kit.host.sh("tail -n 1 /var/spool/cron/crontabs/somebody") == "0 3 * * * true"
    assert provision(kit, "--check", sudo=False, cron=False).changed >= 1
    assert provision(kit, sudo=False, cron=False).changed >= 1
    kit.host.sh("sudo true forgotten")
    assert "forgotten" not in kit.host.sh("cat /var/log/sudo.log")
    assert kit.host.sh(crontab) == ""
    assert kit.host.sh("stat -c %A /etc/crontab /etc/cron.d").split() == ["-rw-r--r--", "drwxr-xr-x"]
    assert provision(kit, sudo=False, cron=False).changed == 0


def test_a_server_is_looked_at_with_the_scanners_that_are_there(kit: Kit) -> None:
    without = kit.play("playbooks/audit-host.yml")
    assert "Lynis is not installed: berth audit-host --install" in without.output
    assert re.search(r"services that are confined: .*postgresql@", without.output)
    assert re.search(
        r"listens beyond the server itself: .*tcp 22 sshd, tcp 80 \w+, tcp 443 \w+", without.output
    )
    kit.host.sh("printf x >> /usr/share/perl5/Debconf/Log.pm")
    found = kit.play("playbooks/audit-host.yml", "-e", "install=true", succeed=False)
    assert re.search(r"Lynis: [0-9]+ of 100; [0-9]+ findings, [0-9]+ accepted", found.output)
    assert "accepted BANN-7126" in found.output
    assert "/usr/share/perl5/Debconf/Log.pm: not as packaged" in found.output
