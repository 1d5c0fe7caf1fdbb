"""A true machine with a kernel of its own: what containers cannot show. `make vm`, an hour of emulation.

What scanners say is written to docs/security.md with `make vm WRITE=1`.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import testhost
import vm

from tests.support.kit import ROOT, Kit, demo_apps

# Each step takes as long as a machine of another kind would take in all.
pytestmark = pytest.mark.timeout(7200)
PAGE = ROOT / "docs/security.md"
# The content for OpenSCAP that knows Debian 12 and 13 with CIS' profiles is newer than both.
CONTENT_SUITE = "forky"
PROFILE = "xccdf_org.ssgproject.content_profile_cis_level2_server"
FIGURES: dict[str, str] = {}


@pytest.fixture(scope="module")
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    suite = testhost.default_suite()
    machine = vm.up(f"machine-{suite}", suite=suite)
    admin = {"name": "ops", "authorized_keys": [subprocess.check_output(
        ["ssh-keygen", "-y", "-f", str(machine.folder / "id_ed25519")], text=True).strip()]}  # fmt: skip
    kit = Kit(
        tmp_path_factory.mktemp("machine"),
        machine,  # type: ignore[arg-type]  # has what a kit calls of a host
        apps=demo_apps(),
        server={"proxy": {"tls": "internal"}, "admin": admin},
    )
    yield kit
    if not request.config.getoption("keep_host"):
        vm.down(machine.name)
    if os.environ.get("WRITE") == "1":
        write(suite)


def answers(kit: Kit) -> None:
    """Both apps, from outside; in emulation a database may answer later than an app waits for it."""
    for name in ("board", "notes"):
        url = f"https://{name}.localhost:{kit.host.published['443']}/readyz"
        said = subprocess.run(
            ["curl", "-sk", "--retry", "30", "--retry-delay", "5", "--retry-all-errors", "-m", "900",
             "-w", "%{http_code}", "-o", "/dev/null",
             "--resolve", f"{name}.localhost:{kit.host.published['443']}:127.0.0.1", url],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        assert said == "200", f"{name} says {said}"


def play(kit: Kit, playbook: str = "site.yml", *arguments: str) -> int:
    """How many tasks changed something."""
    run = kit.play(playbook, *arguments, timeout=7200)
    assert run.status == 0, run.output[-3000:]
    return run.changed


def test_site_and_again(kit: Kit) -> None:
    assert play(kit) > 0
    answers(kit)
    assert play(kit) == 0


def test_the_kernel_and_what_it_notes(kit: Kit) -> None:
    sh = kit.host.sh
    wanted = {
        "kernel.kptr_restrict": "2", "kernel.yama.ptrace_scope": "1", "kernel.unprivileged_bpf_disabled": "1",
        "kernel.sysrq": "0", "fs.suid_dumpable": "0", "net.ipv4.conf.all.accept_redirects": "0",
    }  # fmt: skip
    assert dict(zip(wanted, sh(f"sysctl -n {' '.join(wanted)}").split(), strict=True)) == wanted
    assert sh("modprobe sctp 2>&1 || echo refused").endswith("refused")
    assert "noexec" in sh("findmnt -no OPTIONS /dev/shm")
    sh("useradd somebody; touch /etc/sudoers.d/x; rm /etc/sudoers.d/x; sleep 2")
    for key, name in (("berth-accounts", "/etc/passwd"), ("berth-root", "/etc/sudoers.d/x")):
        assert name in sh(f"ausearch -i -k {key} 2>/dev/null | grep -F {name} || true")


def test_a_reboot_and_a_power_cut(kit: Kit) -> None:
    assert isinstance(kit.host, vm.Machine)
    for again in (kit.host.restart, kit.host.power_cut):
        again()
        answers(kit)
        assert kit.host.sh("nft list tables | grep -c berth") == "2"
        assert "berth-accounts" in kit.host.sh("auditctl -l")
        assert "noexec" in kit.host.sh("findmnt -no OPTIONS /dev/shm")
        assert kit.host.sh("systemctl --failed --no-legend") == ""
    assert play(kit) == 0


def test_lynis(kit: Kit) -> None:
    run = kit.play("playbooks/audit-host.yml", "-e", "install=true", succeed=None, timeout=7200)
    found = re.search(r"Lynis: ([0-9]+) of 100; ([0-9]+) findings, ([0-9]+) accepted", run.output)
    assert found, run.output[-3000:]
    FIGURES["Lynis"] = f"{found[1]} of 100, {found[2]} findings, {found[3]} accepted"
    print(run.output)
    assert int(found[1]) >= 85
    assert run.status == 0, "something is neither well nor accepted"


def test_cis(kit: Kit, tmp_path: Path) -> None:
    content = scap(tmp_path, testhost.default_suite())
    kit.host.sh("apt-get -q -y install --no-install-recommends openscap-scanner")
    kit.host.sh("cat > /root/content.xml", stdin=content.read_text())
    kit.host.sh(
        f"oscap xccdf eval --profile {PROFILE} --results /root/results.xml /root/content.xml || [ $? = 2 ]"
    )
    results = ET.fromstring(kit.host.sh("cat /root/results.xml"))  # noqa: S314 - our own scanner's
    name = "{http://checklists.nist.gov/xccdf/1.2}"
    said = {rule.attrib["idref"].rpartition("_rule_")[2]: rule.findtext(f"{name}result") or ""
            for rule in results.iter(f"{name}rule-result")}  # fmt: skip
    count = Counter(said.values())
    share = 100 * count["pass"] / (count["pass"] + count["fail"])
    FIGURES["CIS Level 2 server"] = (
        f"{share:.0f} % ({count['pass']} of {count['pass'] + count['fail']} rules)"
    )
    print("\n".join(sorted(rule for rule, result in said.items() if result == "fail")))
    assert share >= 90


def scap(folder: Path, suite: str) -> Path:
    """The content for this suite, fetched with apt's own signatures and lists of its own."""
    archive = next(uri for uri, _ in testhost.machine_sources() if "security" not in uri)
    (folder / "sources.list").write_text(f"deb {archive} {CONTENT_SUITE} main\n")
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    own = [f"-o=Dir::Etc::sourcelist={folder / 'sources.list'}", "-o=Dir::Etc::sourceparts=-",
           f"-o=Dir::State::lists={folder / 'lists'}", f"-o=Dir::Cache={folder / 'cache'}",
           "-o=APT::Sandbox::User=root"]  # fmt: skip
    for words in (["update"], ["download", "ssg-debian"]):
        subprocess.run(["apt-get", "-qq", *own, *words], cwd=folder, check=True)
    subprocess.run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder / "x")], check=True)
    number = {"bookworm": 12, "trixie": 13}[suite]
    return next((folder / "x").rglob(f"ssg-debian{number}-ds.xml"))


def write(suite: str) -> None:
    """Put what was found into the page, on the lines of this suite."""
    today = datetime.datetime.now(tz=datetime.UTC).strftime("%-d %b %Y")
    text = PAGE.read_text()
    for scanner, figure in FIGURES.items():
        row = f"| {scanner} | {suite} | {figure} | {today} |"
        text = re.sub(rf"(?m)^\| {re.escape(scanner)} \| {suite} \|.*$", row, text)
    PAGE.write_text(text)
