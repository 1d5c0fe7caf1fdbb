"""What must hold for `server` beyond its types."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Collection
from typing import Any

from . import names as names
from .files import check_certificate
from .moved import check_config
from .offsite import check_offsite
from .problem import Report, did_you_mean, show
from .schedule import check_schedule


def check_server(report: Report, server: dict[str, Any], inventory_dir: str, given: Collection[str]) -> None:
    """Check `server`; makes the certificates' paths absolute. `given` are the paths of what was written."""
    check_config(report, server["config"], "server.config")
    _system(report, server)
    _admin(report, server["admin"])
    for index, user in enumerate(server["ssh"]["allow_users"]):
        rule = 'write the name of a user, e.g. "backup-puller"'
        names.check_pattern(report, f"server.ssh.allow_users[{index}]", user, names.USER, rule)
    _firewall(report, server["firewall"])
    for index, value in enumerate(server["fail2ban"]["ignore"]):
        names.check_network(report, f"server.fail2ban.ignore[{index}]", value)
    server["extra_ca_certificates"] = [
        check_certificate(report, f"server.extra_ca_certificates[{index}]", value, inventory_dir)
        for index, value in enumerate(server["extra_ca_certificates"])
    ]
    _updates(report, server["updates"])
    _postgresql(report, server["postgresql"])
    _backup(report, server["backup"], server["postgresql"]["settings"])
    check_offsite(report, server["backup"]["offsite"], given, "server.backup.offsite")
    _python(report, server["python"])
    _proxy(report, server["proxy"])


def _system(report: Report, server: dict[str, Any]) -> None:
    hostname = server["hostname"]
    if hostname and not names.is_hostname(hostname):
        report.add(
            "server.hostname", f'{show("", hostname)} is not a host name; write e.g. "web1.example.com"'
        )
    _timezone(report, server["timezone"])
    if not names.LOCALE.fullmatch(server["locale"]):
        report.add(
            "server.locale",
            f'{show("", server["locale"])} is not a UTF-8 locale; write e.g. "C.UTF-8" or "en_US.UTF-8"',
        )
    for index, package in enumerate(server["packages"]):
        check_package(report, f"server.packages[{index}]", package)
    names.check_range(report, "server.swap_mb", server["swap_mb"], 0, 65536, "(MiB; 0 makes none)")
    check_size(report, "server.journal_max", server["journal_max"])


def check_package(report: Report, path: str, value: str) -> None:
    """Report what is not a Debian package's name."""
    names.check_pattern(report, path, value, names.PACKAGE, 'write the name of an apt package, e.g. "libpq5"')


def check_size(report: Report, path: str, value: str) -> None:
    """Report what is not a systemd size with a unit (systemd takes a bare number for bytes)."""
    if value.isdecimal():
        report.add(path, f'{show(path, value)} has no unit; write e.g. "512M" (K, M, G or T)')
    else:
        names.check_pattern(report, path, value, names.SYSTEMD_SIZE, 'write e.g. "512M" (K, M, G or T)')


def _timezone(report: Report, value: str) -> None:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        if not known:  # No tz database here, so nothing can be said.
            return
        # Case and spaces are what people get wrong most.
        by_spelling = {zone.lower(): zone for zone in known}
        guess = by_spelling.get(value.strip().lower().replace(" ", "_"))
        hint = f'; did you mean "{guess}"?' if guess else did_you_mean(value, known)
        report.add(
            "server.timezone",
            f"{show('', value)} is not a time zone" + (hint or '; write e.g. "Europe/Berlin" or "Etc/UTC"'),
        )


def _admin(report: Report, admin: dict[str, Any]) -> None:
    name = admin["name"]
    if name:
        rule = 'write lower-case letters, digits, "-" and "_", e.g. "anna"'
        if (
            names.check_pattern(report, "server.admin.name", name, names.USER, rule)
            and name in names.SYSTEM_NAMES
        ):
            report.add(
                "server.admin.name", f'"{name}" is a system user; write a name of your own, e.g. "anna"'
            )
        if not admin["authorized_keys"] and not report.touches("server.admin.authorized_keys"):
            report.add(
                "server.admin.authorized_keys",
                f'is empty, so "{name}" could not log in; write the line of your .pub file',
            )
    elif admin["authorized_keys"]:
        report.add(
            "server.admin.name", "is empty, but there are authorized_keys; write the name of their user"
        )
    for index, key in enumerate(admin["authorized_keys"]):
        _public_key(report, f"server.admin.authorized_keys[{index}]", key)


def _public_key(report: Report, path: str, value: str) -> None:
    text = value.strip()
    if "PRIVATE KEY" in text:
        report.add(
            path, "is a private key, which must never leave your machine; write the line of the .pub file"
        )
    elif "\n" in text:
        report.add(path, "has several lines; write each key as an entry of its own")
    elif text.startswith("ssh-dss"):
        report.add(path, 'is a DSA key, which OpenSSH refuses; make one with "ssh-keygen -t ed25519"')
    elif text.endswith(".pub") and " " not in text:
        report.add(
            path,
            f"{show(path, text)} is a path; write the line of that file, "
            "or \"{{ lookup('ansible.builtin.file', '…') }}\"",
        )
    elif not names.is_public_key(text):
        report.add(
            path, 'is not a public SSH key; write the line of the .pub file ("ssh-ed25519 AAAA… name")'
        )


def _firewall(report: Report, firewall: dict[str, Any]) -> None:
    networks = {"server.firewall.admin_networks": firewall["admin_networks"]}
    for index, entry in enumerate(firewall["open"]):
        path = f"server.firewall.open[{index}]"
        names.check_range(report, f"{path}.port", entry["port"], 1, 65535, "")
        networks[f"{path}.from"] = entry["from"]
    for path, values in networks.items():
        for index, value in enumerate(values):
            names.check_network(report, f"{path}[{index}]", value)


def _updates(report: Report, updates: dict[str, Any]) -> None:
    reboot = updates["reboot_at"]
    path = "server.updates.reboot_at"
    if reboot and not names.CLOCK.fullmatch(reboot):
        # YAML takes 12:30 without quotes for a number of base 60.
        minutes = int(reboot) if reboot.isdecimal() and len(reboot) < 5 else 24 * 60
        example = f"{minutes // 60:02}:{minutes % 60:02}" if minutes < 24 * 60 else "04:30"
        report.add(path, f'{show(path, reboot)} is not a time of day; write it in quotes, e.g. "{example}"')
    elif reboot and not updates["enabled"]:
        report.add(path, "has no effect while server.updates.enabled is false; remove one of them")


def _postgresql(report: Report, postgresql: dict[str, Any]) -> None:
    version = postgresql["version"]
    if version and not (version.isdecimal() and 13 <= int(version) <= 18):
        report.add(
            "server.postgresql.version",
            f"{show('', version)} is not a major version that Berth knows; "
            'write "13" to "18", or "" for the default',
        )
    for key, value in postgresql["settings"].items():
        path = f"server.postgresql.settings.{key}"
        rule = 'write a setting of postgresql.conf, e.g. "work_mem"'
        names.check_pattern(report, path, key, names.SETTING, rule)
        names.check_line(report, path, value)


def _backup(report: Report, backup: dict[str, Any], settings: dict[str, Any]) -> None:
    for kind in ("full", "incremental", "dump", "drill"):
        # A restore need not be rehearsed.
        if kind != "drill" or backup[kind]:
            check_schedule(report, f"server.backup.{kind}", backup[kind])
    names.check_range(report, "server.backup.retention_days", backup["retention_days"], 1, 3650, "days")
    for key, value in settings.items() if backup["enabled"] else ():
        if names.makes_backups(key, value):
            report.add(
                f"server.postgresql.settings.{key}",
                "is what backups are made by; remove it, or write server.backup.enabled: false",
            )


_ADDRESS = r"https://[^\s\"'{}<>/]+(/[^\s\"'{}<>]*)?"
_PYTHON = {
    "index_url": (_ADDRESS, "an https:// address", "https://packages.example.com/simple"),
    "install_mirror": (_ADDRESS, "an https:// address", "https://mirror.example.com/pythons"),
    "downloads_json": (
        rf"{_ADDRESS}|file:///[^\s\"'{{}}<>]+",
        "an https:// or file:/// address",
        "https://mirror.example.com/pythons.json",
    ),
}


def _python(report: Report, python: dict[str, Any]) -> None:
    for key, (pattern, what, example) in _PYTHON.items():
        value, path = python[key], f"server.python.{key}"
        if re.match(r"[a-z]+://[^/]*@", value):
            # Never repeated: it may be a password.
            report.add(
                path,
                "contains a user or a password, which would end up in logs; leave them out, and where the "
                "index asks for them write index-url into the server's /etc/pip.conf, readable by root alone",
            )
        elif value and not re.fullmatch(pattern, value):
            report.add(path, f'{show(path, value)} is not {what}; write e.g. "{example}"')


def _proxy(report: Report, proxy: dict[str, Any]) -> None:
    if proxy["email"] and not names.EMAIL.fullmatch(proxy["email"]):
        report.add(
            "server.proxy.email", f"{show('', proxy['email'])} is not a mail address; write name@domain"
        )
    authority = proxy["acme_ca"]
    if authority and not re.fullmatch(r"https://[^\s\"'{}<>/]+(/[^\s\"'{}<>]*)?", authority):
        report.add(
            "server.proxy.acme_ca", f"{show('', authority)} is not an https:// address of an ACME directory"
        )
