"""What names, hosts and sizes may look like, and which names are taken on every Debian or Ubuntu server.

Each rule stands here once: the contract, the filters of roles and `berth init` ask for the same.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re

from ..environment import VARIABLE as VARIABLE
from ..paths import APP as APP
from .problem import Report, show, words

UNIT = APP
USER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# 57 characters leave room for "_owner" in PostgreSQL's 63.
DATABASE = re.compile(r"[a-z_][a-z0-9_]{0,56}")
EXTENSION = re.compile(r"[a-z][a-z0-9_-]{0,62}")
SETTING = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+~:-]+)?")
EXTRA = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
# A sign in front of it would be a word of some proxy's.
HEADER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9!#$%&'*+.^_`|~-]*")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SYSTEMD_SIZE = re.compile(r"[1-9][0-9]*(\.[0-9]+)?[KMGT]")
BODY_SIZE = re.compile(r"[1-9][0-9]*(\.[0-9]+)?(KB|MB|GB|KiB|MiB|GiB)")
CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
LOCALE = re.compile(r"(C|[a-z]{2,3}_[A-Z]{2}(@[a-z]+)?)\.(UTF-8|utf8)(@[a-z]+)?")
EMAIL = re.compile(r"[^@\s\"'{}<>]+@[^@\s\"'{}<>]+\.[^@\s\"'{}<>.]+")
_URL_PATH = re.compile(r"(/[A-Za-z0-9._~@:+-]+)+")
# A line as sshd reads it: what it takes for options may have spaces in quotes alone.
_PUBLIC_KEY = re.compile(
    r"""(?:[^\s"#](?:[^\s"]|"(?:\\.|[^"\\])*")*\s+)?"""
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\.com"
    r"|sk-ecdsa-sha2-nistp256@openssh\.com)\s+([A-Za-z0-9+/]+={0,3})(?:\s.*)?"
)
# In seconds.
DAY = 86400
# What systemd and a shell-free environment can carry: no control characters but tab and newline.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")

# Users and groups that Debian, Ubuntu or Berth's packages own, and folders of /run, /srv and /etc/berth.
SYSTEM_NAMES = words(
    """
    acpid adm admin agetty apparmor apport _apt apt audio auditd avahi backup berth bin blkid caddy cdrom
    chrony chronyd clamav cloud-init containerd credentials credstore cron crond crontab cryptsetup cups
    daemon dbus debian dhcpcd dialout dip disk dnsmasq docker exim4 fail2ban faillock fax floppy fsck ftp
    fwupd games gnats grafana group guard haproxy host initctl initramfs input irc kmem kvm landscape libvirt
    list lock log loki lp lvm lxd mail man mdadm memcached messagebus motd mount multipath mysql needrestart
    netdev netns network networkmanager news nfs nftables nginx nobody node-exporter nogroup ntp ntpd ntpsec
    opendkim openvpn operator pcscd pgbackrest pgbouncer plugdev plymouth polkit polkitd pollinate postfix
    postgres postgresql ppp prometheus proxy rabbitmq redis render resolvconf restic root rpc rpcbind rsync
    rsyslog rtkit sasl sasl2 saslauthd sbuild sendsigs services sgx shadow shm smartd snapd snmp src ssh
    sshd ssl-cert staff statd sudo supervisor supervisord sync sys syslog sysstat systemd systemd-journal
    systemd-network systemd-resolve systemd-timesync tape tcpdump tmpfiles tor tss tty ubuntu udev udisks2
    unbound user users utmp uucp uuidd video voice wheel wireguard www www-data xtables
    """
)
# Apps whose units would be taken for systemd's own (serial-getty@, container-getty@, user-runtime-dir@ …).
UNIT_FAMILIES = frozenset(
    {"autovt", "console", "container", "getty", "modprobe", "quotaon", "serial", "systemd"}
)
# Words that PostgreSQL or its pg_hba.conf read as something else than a name.
DATABASE_WORDS = words(
    """
    all current_role current_user none postgres public replication samegroup samerole sameuser
    session_user template0 template1
    """
)
# No public authority gives certificates for these.
PRIVATE_DOMAINS = words(
    """
    example home.arpa internal intranet invalid lan local localdomain localhost onion private test
    """
)


def slug(text: str) -> str:
    """A valid app name close to `text`, or a neutral one."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:31].strip("-")
    name = name.lstrip("-0123456789")
    return name or "my-app"


def makes_backups(setting: str, value: object) -> bool:
    """Whether backups are made by a setting of Postgres, or cannot be made under this value of it."""
    archives = setting in ("archive_mode", "archive_command", "archive_library")
    return archives or (setting == "wal_level" and str(value).strip().lower() == "minimal")


def is_hostname(name: str) -> bool:
    """Whether a server may call itself so, short or fully qualified."""
    return len(name) <= 64 and all(map(LABEL.fullmatch, name.lower().split(".")))


def is_host(name: str) -> bool:
    """Whether it is a host name that clients may ask for, in the one spelling of such names."""
    labels = name.split(".")
    return len(name) <= 253 and all(map(LABEL.fullmatch, labels)) and not labels[-1].isdecimal()


def is_url_path(path: str) -> bool:
    """Whether it is a path of an address, below the root and without detours."""
    return bool(_URL_PATH.fullmatch(path)) and not {".", ".."} & set(path.split("/"))


def is_public_key(line: str) -> bool:
    """Whether it is a line of authorized_keys: a public key, with or without options and a comment."""
    found = _PUBLIC_KEY.fullmatch(line.strip())
    if not found or "\n" in line.strip():
        return False
    try:
        blob = base64.b64decode(found[2], validate=True)
    except (binascii.Error, ValueError):
        return False
    # It repeats its type inside: one that was cut short or mixed up does not.
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + length] == found[1].encode() and len(blob) > 4 + length + 16


def systemd_bytes(size: str) -> int:
    """Bytes of a SYSTEMD_SIZE."""
    return int(float(size[:-1]) * 1024 ** ("KMGT".index(size[-1]) + 1))


def body_bytes(size: str) -> int:
    """Bytes of a BODY_SIZE: MB is a million of them, MiB is 1024 * 1024."""
    number = size.rstrip("BGKMi")
    base = 1024 if "i" in size else 1000
    return int(float(number) * base ** ("KMG".index(size[len(number)]) + 1))


def check_pattern(report: Report, path: str, value: str, pattern: re.Pattern[str], rule: str) -> bool:
    """Report a value that the pattern does not match whole."""
    if pattern.fullmatch(value):
        return True
    report.add(path, f"{show(path, value)} is not valid; {rule}")
    return False


def check_range(report: Report, path: str, value: float, low: float, high: float, unit: str) -> None:
    """Report a number outside of its range."""
    if not low <= value <= high:
        report.add(path, f"{show(path, value)} is out of range; write {low} to {high}{unit and ' '}{unit}")


def check_network(report: Report, path: str, value: str) -> None:
    """Report what is neither a network nor an address."""
    try:
        ipaddress.ip_network(value)
    except ValueError:
        report.add(
            path,
            f'{show(path, value)} is not a network; write e.g. "192.0.2.0/24", "2001:db8::/32" or an address',
        )


def is_line(value: str) -> bool:
    """Whether it is one line, without tabs and control characters."""
    return not ("\n" in value or "\t" in value or CONTROL.search(value))


def check_line(report: Report, path: str, value: str) -> bool:
    """Report control characters in what must be one line."""
    if not is_line(value):
        report.add(path, "contains a line break, a tab or another control character; write it in one line")
        return False
    return True


def check_value(report: Report, path: str, value: str) -> bool:
    """Report what an environment variable cannot carry."""
    if "\r" in value:
        report.add(path, "contains a carriage return (Windows line ends); save it with Unix line ends")
        return False
    if CONTROL.search(value):
        report.add(path, "contains a control character, which no environment variable can carry; remove it")
        return False
    if len(value.encode("utf-8", "replace")) > 120_000:
        report.add(path, "is longer than 120000 bytes, which no environment variable can carry; shorten it")
        return False
    return True


def normal_domain(value: str) -> str:
    """The one spelling of a domain."""
    return value.strip().rstrip(".").lower()


def check_domain(report: Report, path: str, value: str) -> bool:
    """Report what is not a plain host name, and say which part is too much."""
    text = value.strip()
    shown = show(path, value)
    if not text:
        report.add(path, 'is empty; write a host name, e.g. "board.example.com"')
    elif "://" in text:
        host = re.split(r"[/:?#]", text.split("://", 1)[1].rsplit("@", 1)[-1])[0]
        report.add(path, f"{shown} is an address with a scheme; write the host name alone{_eg(host)}")
    elif "*" in text:
        report.add(path, f"{shown} is a wildcard; write each host name that the app answers to")
    elif "/" in text:
        report.add(path, f"{shown} contains a path; write the host name alone{_eg(text.split('/')[0])}")
    elif is_address(text):
        report.add(path, f'{shown} is an IP address; write a host name, e.g. "board.example.com"')
    elif ":" in text:
        report.add(path, f"{shown} contains a port; write the host name alone{_eg(text.split(':')[0])}")
    elif not text.isascii():
        report.add(path, f"{shown} is not ASCII; write it in punycode{_punycode(text)}")
    elif not is_host(normal_domain(text)):
        report.add(
            path,
            f"{shown} is not a host name; write letters, digits and dashes between dots, "
            'e.g. "board.example.com"',
        )
    else:
        return True
    return False


def is_address(text: str) -> bool:
    """Whether it is an IP address; one of version 6 with or without brackets."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _eg(host: str) -> str:
    return f', "{normal_domain(host)}"' if is_host(normal_domain(host)) else ""


def _punycode(text: str) -> str:
    try:
        return f', "{normal_domain(text).encode("idna").decode()}"'
    except UnicodeError:
        return ""


def is_private_domain(domain: str) -> bool:
    """Whether no public authority would give it a certificate."""
    labels = domain.split(".")
    return len(labels) == 1 or labels[-1] in PRIVATE_DOMAINS or ".".join(labels[-2:]) in PRIVATE_DOMAINS
