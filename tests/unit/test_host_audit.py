"""What is told of a server's scanners: what is to be done apart from what is left so on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.berth.host import deviations
from plugins.modules import host_audit

ROOT = Path(__file__).resolve().parents[2]
REPORT = """# Lynis Report
lynis_version=3.1.4
hardening_index=83
warning[]=FIRE-4512|iptables module(s) loaded, but no rules active|-|-|
suggestion[]=SSH-7408|Consider hardening SSH configuration|MaxSessions (set 10 to 2)|-|
suggestion[]=SSH-7408|Consider hardening SSH configuration|X11Forwarding (set YES to NO)|-|
suggestion[]=BANN-7126|Add a legal banner to /etc/issue, to warn unauthorized users|-|-|
"""
SOCKETS = """\
udp   UNCONN 0 0            127.0.0.53%lo:53    0.0.0.0:*    users:(("systemd-resolve",pid=9,fd=18))
udp   UNCONN 0 0                  0.0.0.0:41641 0.0.0.0:*
tcp   LISTEN 0 128                0.0.0.0:22    0.0.0.0:*    users:(("sshd",pid=7,fd=3))
tcp   LISTEN 0 200              127.0.0.1:5432  0.0.0.0:*    users:(("postgres",pid=8,fd=6))
tcp   LISTEN 0 200                  [::1]:5432     [::]:*    users:(("postgres",pid=8,fd=5))
tcp   LISTEN 0 4096                     *:443         *:*    users:(("caddy",pid=5,fd=9))
tcp   LISTEN 0 128                   [::]:22       [::]:*    users:(("sshd",pid=7,fd=4))
"""


def test_what_lynis_says_is_told_apart_by_what_is_left_on_purpose() -> None:
    index, findings = host_audit.of_lynis(REPORT)
    assert index == 83
    assert [(one["id"], one["kind"], bool(one["accepted"])) for one in findings] == [
        ("FIRE-4512", "warning", False),
        ("SSH-7408", "suggestion", True),
        ("SSH-7408", "suggestion", False),
        ("BANN-7126", "suggestion", True),
    ]
    report, verdict = host_audit.told(index, findings, [], {"ssh": 9.6, "caddy": 1.5}, ["tcp 22 sshd"])
    assert report[0] == "Lynis: 83 of 100; 2 findings, 2 accepted"
    assert any(line.startswith("  accepted BANN-7126: Add a legal banner") for line in report)
    assert "services that are confined: caddy 1.5" in report
    assert "services that may do what their user may: ssh 9.6" in report
    assert report[-1] == "listens beyond the server itself: tcp 22 sshd"
    assert [line.split(":")[0] for line in verdict] == ["FIRE-4512", "SSH-7408"]
    assert "X11Forwarding" in verdict[1]


@pytest.mark.parametrize("changed", [None, [], ["/usr/bin/x"]])
def test_files_that_are_not_as_packaged_are_named(changed: list[str] | None) -> None:
    report, verdict = host_audit.told(90, [], changed, {}, [])
    said = "\n".join(report)
    assert ("--install" in said) == (changed is None)
    assert [line.split(":")[0] for line in verdict] == (changed or [])


def test_without_lynis_it_is_said_how_to_have_it() -> None:
    report, verdict = host_audit.told(-1, [], [], {}, [])
    assert (report[0], verdict) == ("Lynis is not installed: berth audit-host --install", [])


def test_who_listens_beyond_the_server_is_named_once() -> None:
    assert host_audit.listeners(SOCKETS) == ["tcp 22 sshd", "tcp 443 caddy", "udp 41641 the kernel"]


def test_the_docs_name_every_deviation_and_its_reason() -> None:
    page = (ROOT / "docs/security.md").read_text()
    for (test, words), why in deviations.LYNIS.items():
        row = f"| {test}{f' {words}' if words else ''} | {why} |"
        assert row in page, f"docs/security.md lacks the row {row}"
