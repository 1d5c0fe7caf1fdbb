"""What scanners ask for and a server of Berth lacks on purpose, with the reason; docs/security.md has it."""

from __future__ import annotations

import re

# By test of Lynis, and where one test says several things, by words of what it says.
LYNIS: dict[tuple[str, str], str] = {
    ("AUTH-9230", ""): "nobody logs in by password",
    ("AUTH-9262", ""): "nobody logs in by password",
    ("AUTH-9282", ""): "an account that ends would end logins by key and sudo with it",
    ("AUTH-9286", ""): "an account whose password ends would end logins by key and sudo with it",
    ("AUTH-9328", ""): "sudo would write system files that services cannot read",
    ("BANN-7126", ""): "legal words are yours to write",
    ("BANN-7130", ""): "legal words are yours to write",
    ("BOOT-5122", ""): "a password of the boot loader stops reboots from afar",
    ("BOOT-5264", ""): "what serves is confined; sessions inherit from sshd, and crontabs from cron",
    ("BOOT-5180", ""): "Lynis knows no runlevel where it is systemd that boots",
    ("DBS-1828", ""): "PostgreSQL's settings hold no secret",
    ("DEB-0831", ""): "berth status names what runs on replaced libraries",
    ("DEB-0880", ""): "Berth's jails are files of their own in jail.d",
    ("DEB-0280", ""): "each service has a /tmp of its own already",
    ("DEB-0810", ""): "updates are installed by the clock, and ask nobody",
    ("DEB-0811", ""): "updates are installed by the clock, and ask nobody",
    ("FILE-6310", ""): "how a server's disk is divided is decided before Berth",
    ("FILE-7524", ""): "the folder of crontabs is closed by role hardening, what is in it follows its owner",
    ("HRDN-7222", ""): "some packages of Python are built on the server",
    ("HRDN-7230", ""): "scanners for malware raise false alarms with each update",
    ("KRNL-6000", ""): "what is left out would break containers, VPNs or addresses of IPv6",
    ("LOGG-2154", ""): "where logs are to go besides is yours to choose",
    ("LYNIS", ""): "the distribution's version of Lynis",
    ("NAME-4028", ""): "a server needs no domain of its own",
    ("NAME-4404", ""): "a server needs no domain of its own",
    ("PKGS-7370", ""): "berth audit-host runs debsums when it is asked to",
    ("PKGS-7394", ""): "berth status tells pending updates",
    ("SSH-7408", "AllowTcpForwarding"): "people reach their database by it (server.ssh.forwarding: false)",
    ("SSH-7408", "ClientAliveCountMax"): "a run's connection outlives a moment without network",
    ("SSH-7408", "MaxAuthTries"): "an agent may offer several keys before the right one",
    ("SSH-7408", "MaxSessions"): "a run uses several sessions of one connection",
    ("SSH-7408", "Port"): "another port hides nothing from a scanner of ports",
    ("SSH-7408", "TCPKeepAlive"): "a run's connection that is dead is to end",
    ("USB-1000", ""): "some servers boot from such disks, or are backed up to them",
    ("STRG-1846", ""): "no server has such ports, or else they are there for a reason",
    ("ACCT-9622", ""): "audit rules note what matters; each process would fill the disk",
    ("ACCT-9626", ""): "statistics are no defence",
    ("FINT-4350", ""): "each deploy would be an alarm; debsums checks what packages brought",
    ("TOOL-5002", ""): "Ansible runs elsewhere",
}


def reason(test: str, said: str) -> str:
    """Why it is left so, of a test's id and its words; empty where it is not to be left."""
    for (ident, words), why in LYNIS.items():
        if ident == test and re.search(rf"\b{re.escape(words)}", said):
            return why
    return ""
