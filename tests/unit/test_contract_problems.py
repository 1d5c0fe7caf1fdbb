"""Each mistake has its sentence: the path, what is wrong, what to write."""

# ruff: noqa: E501 (a case and its message are one line, to be read as a table)
from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from plugins.filter.contract import contract_errors
from tests.unit.contract_case import INVENTORY, PRIVATE_KEY, ROOT, inventory, problems

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1kXv8k5R5l5r5mZ1b8yq3m0dC6v5m8Yt2QzqB3nW7e anna@laptop"
A_PATH = str(ROOT / "app")

# (change, the one message)
Case = tuple[dict[str, Any], str | re.Pattern[str]]

SHAPES: list[Case] = [
    ({"apps": ...}, 'apps: missing; write your apps as a list in group_vars/all/apps.yml, or "apps: []" for a server without'),
    ({"apps": None}, 'apps: missing; write your apps as a list in group_vars/all/apps.yml, or "apps: []" for a server without'),
    ({"apps": {"board": {}}}, "apps: is a mapping; write a list, each entry beginning with a dash: - name: …"),
    ({"apps": "board"}, 'apps: "board" is not a list; write a list, each entry beginning with a dash: - name: …'),
    ({"apps[2]": "board"}, 'apps[2]: "board" is not a mapping; write a mapping of key: value, e.g. name: …'),
    ({"apps[2]": None}, "apps[2]: is empty; remove it or fill it in"),
    ({"server.docker.settings": "mtu"}, 'server.docker.settings: "mtu" is not a mapping; write a mapping of key: value, e.g. registry-mirrors: …'),
    ({"server.docker.settings": {"dns": None}}, 'server.docker.settings.dns: has no value; write "" for an empty one'),
    ({"server": []}, "server: a list is not a mapping; write a mapping of key: value, e.g. hostname: …"),
    ({"apps[0].domains": ...}, "apps[0].domains: missing; write a list, e.g. [board.example.com, www.board.example.com]"),
    ({"apps[0].name": ...}, 'apps[0].name: missing; write text in quotes, e.g. "board"'),
    ({"apps[0].source": ...}, "apps[0].source: missing; write a mapping of key: value, e.g. path: …"),
    ({"apps[0].source": {}}, "apps[0].source: has neither path nor git; write one of them"),
    ({"apps[0].source.git": "git@h:o/r"}, "apps[0].source: has both path and git; keep one of them"),
    ({"apps[0].heath": {}}, 'apps[0].heath: unknown key; did you mean "health"?'),
    ({"apps[0].health.timout": 3}, 'apps[0].health.timout: unknown key; did you mean "timeout"?'),
    ({"apps[0].health.zzz": 3}, "apps[0].health.zzz: unknown key; known: hold, interval, path, successes, timeout"),
    ({"server.time_zone": "UTC"}, 'server.time_zone: unknown key; did you mean "timezone"?'),
    ({"apps[0].processes": [{"name": "web", "worker": 3}]}, 'apps[0].processes[0].worker: unknown key; did you mean "workers"?'),
    ({"apps[0].domains": "a.example.com"}, 'apps[0].domains: "a.example.com" is not a list; write [a.example.com]'),
    ({"apps[0].domains": 3}, "apps[0].domains: 3 is not a list; write a list, e.g. [board.example.com, www.board.example.com]"),
    ({"apps[0].keep_releases": "five"}, 'apps[0].keep_releases: "five" is not a whole number; write a number, e.g. 5'),
    ({"apps[0].keep_releases": 2.5}, "apps[0].keep_releases: 2.5 is not a whole number; write a number, e.g. 5"),
    ({"apps[0].keep_releases": True}, "apps[0].keep_releases: true is not a whole number; write a number, e.g. 5"),
    ({"apps[0].keep_releases": "٣"}, 'apps[0].keep_releases: "٣" is not a whole number; write a number, e.g. 5'),
    ({"apps[0].health.interval": "nan"}, 'apps[0].health.interval: "nan" is not a number; write a number, e.g. 0.5'),
    ({"apps[0].health.interval": 10**400}, re.compile(r"apps\[0\]\.health\.interval: \d+ is not a number; .*")),
    ({"apps[0].database.enabled": "maybe"}, 'apps[0].database.enabled: "maybe" is neither true nor false; write true or false'),
    ({"apps[0].health.path": True}, 'apps[0].health.path: true is not text; write text in quotes, e.g. "/readyz"'),
    ({"apps[0].health.path": ["/x"]}, 'apps[0].health.path: a list is not text; write text in quotes, e.g. "/readyz"'),
    ({"apps[0].python.version": 3.1}, 'apps[0].python.version: 3.1 is a number; write text in quotes, e.g. "3.12"'),
    ({"apps[0].env": ["A=b"]}, "apps[0].env: a list is not a mapping; write a mapping of key: value, e.g. ENVIRONMENT: …"),
    ({"apps[0].env.A": None}, 'apps[0].env.A: has no value; write "" for an empty one'),
    ({"apps[0].env.A": {"b": 1}}, "apps[0].env.A: a mapping does not fit here; write text, in quotes where it is JSON"),
    ({"apps[0].env": {3: "x"}}, "apps[0].env: the key 3 is not text; write it in quotes"),
    ({"apps[0].secrets": ["SECRET_KEY"]}, "apps[0].secrets[0]: the value is not a mapping; write a mapping of key: value, e.g. name: …"),
    ({"server.proxy.provider": "apache"}, 'server.proxy.provider: "apache" is not known; write caddy or nginx'),
    ({"server.proxy.tls": "letsencrypt"}, 'server.proxy.tls: "letsencrypt" is not known; write acme or internal'),
    ({"apps[0].proxy.tls": "none"}, 'apps[0].proxy.tls: "none" is not known; write "" or acme or internal'),
]  # fmt: skip

SERVER: list[Case] = [
    ({"server.hostname": "my server"}, 'server.hostname: "my server" is not a host name; write e.g. "web1.example.com"'),
    ({"server.timezone": "europe/berlin"}, 'server.timezone: "europe/berlin" is not a time zone; did you mean "Europe/Berlin"?'),
    ({"server.timezone": "Mars/Olympus"}, re.compile(r'server\.timezone: "Mars/Olympus" is not a time zone; .*')),
    ({"server.timezone": "../../etc/passwd"}, re.compile(r"server\.timezone: .* is not a time zone; .*")),
    ({"server.locale": "de_DE"}, 'server.locale: "de_DE" is not a UTF-8 locale; write e.g. "C.UTF-8" or "en_US.UTF-8"'),
    ({"server.packages": ["ht op"]}, 'server.packages[0]: "ht op" is not valid; write the name of an apt package, e.g. "libpq5"'),
    ({"server.swap_mb": -1}, "server.swap_mb: -1 is out of range; write 0 to 65536 (MiB; 0 makes none)"),
    ({"server.journal_max": 500}, 'server.journal_max: "500" has no unit; write e.g. "512M" (K, M, G or T)'),
    ({"server.journal_max": "500MB"}, 'server.journal_max: "500MB" is not valid; write e.g. "512M" (K, M, G or T)'),
    ({"server.admin": {"name": "anna"}}, 'server.admin.authorized_keys: is empty, so "anna" could not log in; write the line of your .pub file'),
    ({"server.admin": {"authorized_keys": [ED25519]}}, "server.admin.name: is empty, but there are authorized_keys; write the name of their user"),
    ({"server.admin": {"name": "root", "authorized_keys": [ED25519]}}, 'server.admin.name: "root" is a system user; write a name of your own, e.g. "anna"'),
    ({"server.admin": {"name": "Anna B", "authorized_keys": [ED25519]}}, 'server.admin.name: "Anna B" is not valid; write lower-case letters, digits, "-" and "_", e.g. "anna"'),
    ({"server.admin": {"name": "board", "authorized_keys": [ED25519]}}, 'apps[0].name: "board" is the name of server.admin already; write another'),
    ({"server.admin": {"name": "anna", "authorized_keys": [f"-----BEGIN OPENSSH {PRIVATE_KEY}-----\nb3Blbn\n"]}}, "server.admin.authorized_keys[0]: is a private key, which must never leave your machine; write the line of the .pub file"),
    ({"server.admin": {"name": "anna", "authorized_keys": ["~/.ssh/id.pub"]}}, "server.admin.authorized_keys[0]: \"~/.ssh/id.pub\" is a path; write the line of that file, or \"{{ lookup('ansible.builtin.file', '…') }}\""),
    ({"server.admin": {"name": "anna", "authorized_keys": [ED25519[:50]]}}, 'server.admin.authorized_keys[0]: is not a public SSH key; write the line of the .pub file ("ssh-ed25519 AAAA… name")'),
    ({"server.admin": {"name": "anna", "authorized_keys": [ED25519.replace("ed25519 ", "rsa ")]}}, 'server.admin.authorized_keys[0]: is not a public SSH key; write the line of the .pub file ("ssh-ed25519 AAAA… name")'),
    ({"server.admin": {"name": "anna", "authorized_keys": [f"{ED25519}\n{ED25519}"]}}, "server.admin.authorized_keys[0]: has several lines; write each key as an entry of its own"),
    ({"server.ssh.allow_users": ["a b"]}, 'server.ssh.allow_users[0]: "a b" is not valid; write the name of a user, e.g. "backup-puller"'),
    ({"server.ssh.kex": "weak"}, 'server.ssh.kex: "weak" is not known; write strong or pq or compatible'),
    ({"server.firewall.open": [{"port": 70000}]}, "server.firewall.open[0].port: 70000 is out of range; write 1 to 65535"),
    ({"server.firewall.open": [{"port": 1, "from": ["here"]}]}, 'server.firewall.open[0].from[0]: "here" is not a network; write e.g. "192.0.2.0/24", "2001:db8::/32" or an address'),
    ({"server.firewall.admin_networks": ["192.0.2.7/24"]}, 'server.firewall.admin_networks[0]: "192.0.2.7/24" is not a network; write e.g. "192.0.2.0/24", "2001:db8::/32" or an address'),
    ({"server.extra_ca_certificates": ["nope.pem"]}, f"server.extra_ca_certificates[0]: \"{INVENTORY}/nope.pem\" does not exist; paths are relative to the inventory's folder"),
    ({"server.extra_ca_certificates": ["hosts.yml"]}, f'server.extra_ca_certificates[0]: "{INVENTORY}/hosts.yml" is not a PEM certificate; it must begin with "-----BEGIN CERTIFICATE-----"'),
    ({"server.extra_ca_certificates": ["group_vars"]}, f'server.extra_ca_certificates[0]: "{INVENTORY}/group_vars" cannot be read: Is a directory'),
    ({"server.updates.reboot_at": 750}, 'server.updates.reboot_at: "750" is not a time of day; write it in quotes, e.g. "12:30"'),
    ({"server.updates.reboot_at": "25:00"}, 'server.updates.reboot_at: "25:00" is not a time of day; write it in quotes, e.g. "04:30"'),
    ({"server.updates": {"enabled": False, "reboot_at": "04:30"}}, "server.updates.reboot_at: has no effect while server.updates.enabled is false; remove one of them"),
    ({"server.postgresql.version": 9}, 'server.postgresql.version: "9" is not a major version that Berth knows; write "13" to "18", or "" for the default'),
    ({"server.postgresql.settings": {"archive_mode": "off"}}, "server.postgresql.settings.archive_mode: is what backups are made by; remove it, or write server.backup.enabled: false"),
    ({"server.postgresql.settings": {"wal_level": "minimal"}}, "server.postgresql.settings.wal_level: is what backups are made by; remove it, or write server.backup.enabled: false"),
    ({"server.backup.full": "0 3 * * 0"}, 'server.backup.full: "0 3 * * 0" is a cron expression; write systemd\'s OnCalendar, e.g. "*-*-* 03:00:00" (every night at three) or "hourly"'),
    ({"server.backup.drill": "nightly"}, 'server.backup.drill: "nightly" is not a schedule; write systemd\'s OnCalendar, e.g. "*-*-* 03:00:00" (every night at three) or "hourly"'),
    ({"server.backup.dump": ""}, 'server.backup.dump: is empty; write systemd\'s OnCalendar, e.g. "*-*-* 03:00:00" (every night at three) or "hourly"'),
    ({"server.backup.retention_days": 0}, "server.backup.retention_days: 0 is out of range; write 1 to 3650 days"),
    ({"server.backup.checks": [{"app": "bord", "query": "select true"}]}, 'server.backup.checks[0].app: there is no app "bord" with a database; did you mean "board"?'),
    ({"server.backup.checks": [{"app": "board", "query": " "}]}, 'server.backup.checks[0].query: is empty; write SQL that answers with true, e.g. "select count(*) > 0 from users"'),
    ({"server.postgresql.settings": {"work mem": "1"}}, 'server.postgresql.settings.work mem: "work mem" is not valid; write a setting of postgresql.conf, e.g. "work_mem"'),
    ({"server.python.index_url": "http://i/simple"}, 'server.python.index_url: "http://i/simple" is not an https:// address; write e.g. "https://packages.example.com/simple"'),
    ({"server.python.index_url": "https://me:pw@i/simple"}, "server.python.index_url: contains a user or a password, which would end up in logs; leave them out, and where the index asks for them write index-url into the server's /etc/pip.conf, readable by root alone"),
    ({"server.python.install_mirror": "file:///x"}, 'server.python.install_mirror: "file:///x" is not an https:// address; write e.g. "https://mirror.example.com/pythons"'),
    ({"server.python.downloads_json": "pythons.json"}, 'server.python.downloads_json: "pythons.json" is not an https:// or file:/// address; write e.g. "https://mirror.example.com/pythons.json"'),
    ({"server.proxy.email": "ops"}, 'server.proxy.email: "ops" is not a mail address; write name@domain'),
    ({"server.proxy.acme_ca": "http://ca"}, 'server.proxy.acme_ca: "http://ca" is not an https:// address of an ACME directory'),
]  # fmt: skip

APPS: list[Case] = [
    ({"apps[0].name": "My Board"}, 'apps[0].name: "My Board" is not a valid name; write at most 31 lower-case letters, digits and dashes, a letter first, e.g. "my-board"'),
    ({"apps[0].name": "1up"}, 'apps[0].name: "1up" is not a valid name; write at most 31 lower-case letters, digits and dashes, a letter first, e.g. "up"'),
    ({"apps[0].name": "a" * 32}, re.compile(r"apps\[0\]\.name: .* is not a valid name; .*")),
    ({"apps[0].name": "board\n"}, re.compile(r'apps\[0\]\.name: "board\?" is not a valid name; .*')),
    ({"apps[0].name": "root"}, 'apps[0].name: "root" is a name that the system uses itself; write another, e.g. "root-app"'),
    ({"apps[0].name": "www-data"}, 'apps[0].name: "www-data" is a name that the system uses itself; write another, e.g. "www-data-app"'),
    ({"apps[0].name": "all"}, 'apps[0].name: "all" is what verbs take for every app; write another, e.g. "all-app"'),
    ({"apps[0].name": "faillock"}, 'apps[0].name: "faillock" is a name that the system uses itself; write another, e.g. "faillock-app"'),
    ({"apps[0].name": "berth-build"}, 'apps[0].name: "berth-build" begins like the users and units of Berth; write another, e.g. "build"'),
    ({"apps[0].name": "berth-build-board"}, 'apps[0].name: "berth-build-board" begins like the users and units of Berth; write another, e.g. "build-board"'),
    ({"apps[0].name": "public"}, 'apps[0].name: "public" is a word of PostgreSQL\'s own; set database.name to another, e.g. "public_app"'),
    ({"apps[0].domains": []}, "apps[0].domains: is empty; write at least one host name, e.g. [board.example.com]"),
    ({"apps[0].domains": ["https://Board.example.com/x?y"]}, 'apps[0].domains[0]: "https://Board.example.com/x?y" is an address with a scheme; write the host name alone, "board.example.com"'),
    ({"apps[0].domains": ["b.example.com:8080"]}, 'apps[0].domains[0]: "b.example.com:8080" contains a port; write the host name alone, "b.example.com"'),
    ({"apps[0].domains": ["b.example.com/x"]}, 'apps[0].domains[0]: "b.example.com/x" contains a path; write the host name alone, "b.example.com"'),
    ({"apps[0].domains": ["*.example.com"]}, 'apps[0].domains[0]: "*.example.com" is a wildcard; write each host name that the app answers to'),
    ({"apps[0].domains": ["203.0.113.4"]}, 'apps[0].domains[0]: "203.0.113.4" is an IP address; write a host name, e.g. "board.example.com"'),
    ({"apps[0].domains": ["2001:db8::1"]}, 'apps[0].domains[0]: "2001:db8::1" is an IP address; write a host name, e.g. "board.example.com"'),
    ({"apps[0].domains": ["bücher.example.com"]}, 'apps[0].domains[0]: "bücher.example.com" is not ASCII; write it in punycode, "xn--bcher-kva.example.com"'),
    ({"apps[0].domains": ["a_b.example.com"]}, 'apps[0].domains[0]: "a_b.example.com" is not a host name; write letters, digits and dashes between dots, e.g. "board.example.com"'),
    ({"apps[0].domains": ["a..example.com"]}, re.compile(r"apps\[0\]\.domains\[0\]: .* is not a host name; .*")),
    ({"apps[0].domains": [""]}, 'apps[0].domains[0]: is empty; write a host name, e.g. "board.example.com"'),
    ({"apps[0].domains": ["x.test"]}, 'apps[0].domains[0]: "x.test" can get no public certificate; write "tls: internal" under server.proxy or apps[0].proxy, or a public domain'),
    ({"apps[0].domains": ["board"]}, re.compile(r'apps\[0\]\.domains\[0\]: "board" can get no public certificate; .*')),
    ({"apps[0].source": {"path": "../nope"}}, f"apps[0].source.path: \"{ROOT}/inventories/nope\" does not exist; paths are relative to the inventory's folder"),
    ({"apps[0].source": {"path": "hosts.yml"}}, f'apps[0].source.path: "{INVENTORY}/hosts.yml" is not a folder; write the folder that holds the project'),
    ({"apps[0].source.subdir": "nope"}, f'apps[0].source.subdir: "nope" is not a folder in {A_PATH}'),
    ({"apps[0].source.subdir": "../x"}, 'apps[0].source.subdir: "../x" leads out of the project; write it without ".."'),
    ({"apps[0].source.version": "main"}, 'apps[0].source.version: has no effect with "path"; remove it, or write "git" instead of "path"'),
    ({"apps[0].source": {"git": "http://h/o/r"}}, "apps[0].source.git: is not encrypted; write an https:// or ssh address"),
    ({"apps[0].source": {"git": "https://tok@h/o/r"}}, 'apps[0].source.git: contains a user or a token, which would end up in logs; write git@host:owner/repository and give the key with "deploy_key"'),
    ({"apps[0].source": {"git": "https://h/o/r", "host_keys": ["h ssh-ed25519 AAAA"]}}, 'apps[0].source.host_keys[0]: works with ssh alone; write "git: git@host:owner/repository"'),
    ({"apps[0].source": {"git": "git@h:o/r", "host_keys": ["ssh-ed25519 AAAA"]}}, 'apps[0].source.host_keys[0]: "ssh-ed25519 AAAA" is not valid; write a line of ssh-keyscan: host, kind and key'),
    ({"apps[0].source": {"git": "owner/repo"}}, "apps[0].source.git: is not the address of a repository; write https://host/owner/repository or git@host:owner/repository"),
    ({"apps[0].source": {"git": "--upload-pack=x"}}, re.compile(r"apps\[0\]\.source\.git: is not the address of a repository; .*")),
    ({"apps[0].source": {"git": "https://h/o/r", "version": "--x"}}, 'apps[0].source.version: "--x" is not a branch, tag or commit; write e.g. "main" or "v1.4.0"'),
    ({"apps[0].source": {"git": "https://h/o/r", "version": 1.1}}, 'apps[0].source.version: 1.1 is a number; write text in quotes, e.g. "v1.4.0"'),
    ({"apps[0].python.version": "2.7"}, 'apps[0].python.version: "2.7" is not a Python version; write e.g. "3.12"'),
    ({"apps[0].python.install": "perhaps"}, re.compile(r"apps\[0\]\.python\.install: .*")),
    ({"apps[0].processes": [{"name": "web", "directory": "../x"}]}, 'apps[0].processes[0].directory: "../x" leads out of the project; write it without ".."'),
    ({"apps[0].processes": [{"name": "w", "command": "x", "directory": "y"}]}, 'apps[0].processes[0].directory: is for web alone, and the others run where web does; write "cd folder && …" into command'),
    ({"apps[0].python.extras": ["a b"]}, 'apps[0].python.extras[0]: "a b" is not valid; write letters, digits and dashes'),
    ({"apps[0].system_packages": ["-y"]}, 'apps[0].system_packages[0]: "-y" is not valid; write the name of an apt package, e.g. "libpq5"'),
    ({"apps[0].health.path": "healthz"}, 'apps[0].health.path: "healthz" does not begin with a slash; write the path alone, e.g. "/healthz"'),
    ({"apps[0].health.path": "/a b"}, 'apps[0].health.path: "/a b" is not a path; write e.g. "/healthz"'),
    ({"apps[0].health.interval": 0}, "apps[0].health.interval: 0.0 is out of range; write 0.1 to 60 seconds"),
    ({"apps[0].keep_releases": 1}, "apps[0].keep_releases: 1 is out of range; write 2 to 100 (the live one and at least one to go back to)"),
    ({"apps[0].proxy.max_body": "10"}, 'apps[0].proxy.max_body: "10" has no unit; write e.g. "10MB" (KB, MB or GB)'),
    ({"apps[0].proxy.max_body": "10 potatoes"}, 'apps[0].proxy.max_body: "10 potatoes" is not valid; write e.g. "10MB" (KB, MB or GB)'),
    ({"apps[0].proxy.upstream_host": "localhost:8000"}, 'apps[0].proxy.upstream_host: "localhost:8000" contains a port; write the host name alone, "localhost"'),
    ({"apps[0].proxy.upstream_host": "a b"}, 'apps[0].proxy.upstream_host: "a b" is not a host name; write letters, digits and dashes between dots, e.g. "board.example.com"'),
    ({"apps[0].proxy.headers": {"X Y": "1"}}, 'apps[0].proxy.headers.X Y: is not a header\'s name; write e.g. "X-Robots-Tag"'),
    ({"apps[0].proxy.headers": {"X": "a\nb"}}, "apps[0].proxy.headers.X: contains a line break, a tab or another control character; write it in one line"),
    ({"apps[0].limits.cpu": "1.5"}, 'apps[0].limits.cpu: "1.5" is not valid; write per cent of one core, e.g. "150%"'),
    ({"apps[0].limits.tasks": 100, "apps[0].processes": [{"name": "web", "workers": 3}]}, "apps[0].limits.tasks: 100 is too little for 3 workers of web, each with up to 48 threads; write 144, or fewer workers"),
    ({"apps[0].limits.build_memory": "2"}, 'apps[0].limits.build_memory: "2" has no unit; write e.g. "512M" (K, M, G or T)'),
    ({"apps[0].database.name": "Board"}, 'apps[0].database.name: "Board" is not valid; write lower-case letters, digits and "_", at most 57, e.g. "board"'),
    ({"apps[0].database.name": "postgres"}, 'apps[0].database.name: "postgres" is a word of PostgreSQL\'s own; write another, e.g. "postgres_app"'),
    ({"apps[0].database.scheme": "postgres://"}, 'apps[0].database.scheme: "postgres://" is not valid; write e.g. "postgresql+psycopg" (without "://")'),
    ({"apps[0].migrations.command": "a\nb"}, "apps[0].migrations.command: contains a line break, a tab or another control character; write it in one line"),
    ({"apps[0].persistent": ["/var"]}, 'apps[0].persistent[0]: "/var" is absolute; write it relative to the project'),
    ({"apps[0].persistent": ["a/../../b"]}, 'apps[0].persistent[0]: "a/../../b" leads out of the project; write it without ".."'),
    ({"apps[0].persistent": ["."]}, 'apps[0].persistent[0]: "." is the project itself; write a folder inside of it'),
    ({"apps[0].persistent": ["a", "a/b"]}, 'apps[0].persistent[1]: "a/b" overlaps with "a"; keep the outer one alone'),
    ({"apps[0].static": [{"url": "/", "path": "s"}]}, 'apps[0].static[0].url: "/" would hide the whole app; write a path below it, e.g. "/static"'),
    ({"apps[0].static": [{"url": "static", "path": "s"}]}, 'apps[0].static[0].url: "static" is not a path; write e.g. "/static"'),
    ({"apps[0].static": [{"url": "/s", "path": "s"}, {"url": "/s/t", "path": "t"}]}, 'apps[0].static[1].url: "/s/t" overlaps with static[0].url ("/s"); write another path'),
    ({"apps[0].static": [{"url": "/s", "path": "a"}], "apps[0].persistent": ["a"]}, 'apps[0].static[0].path: "a" is persistent, and the proxy must not read what the app writes; let the app serve it, or name another folder'),
    ({"apps[0].static": [{"url": "/s", "path": "a"}], "apps[0].scratch": ["a/b"]}, 'apps[0].static[0].path: "a" is scratch, and the proxy must not read what the app writes; let the app serve it, or name another folder'),
    ({"apps[0].static": [{"url": "/s", "path": "s"}], "apps[0].health": {"path": "/s/ok"}}, 'apps[0].health.path: "/s/ok" lies in static[0], so the app would never be asked; write another'),
]  # fmt: skip

PROCESSES: list[Case] = [
    ({"apps[0].processes": [{"name": "web"}, {"name": "web"}]}, 'apps[0].processes[1].name: there is a process "web" already; give this one another name'),
    ({"apps[0].processes": [{"name": "w"}]}, 'apps[0].processes[0].command: missing; write the command to run, e.g. "python -m board.worker"'),
    ({"apps[0].processes": [{"name": "w", "command": "x", "workers": 3}]}, 'apps[0].processes[0].workers: is for web alone; write "instances"'),
    ({"apps[0].processes": [{"name": "w", "command": "x", "app": "a:b"}]}, 'apps[0].processes[0].app: is for web alone; write "command"'),
    ({"apps[0].processes": [{"name": "web", "stop_timeout": 5}]}, 'apps[0].processes[0].stop_timeout: is not for web; write "drain: {requests: 60}" for the app'),
    ({"apps[0].processes": [{"name": "web", "overlap": True}]}, "apps[0].processes[0].overlap: is not for web, whose releases always overlap; remove it"),
    ({"apps[0].processes": [{"name": "w", "command": "x", "stop_timeout": 0}]}, "apps[0].processes[0].stop_timeout: 0 is out of range; write 1 to 86400 seconds"),
    ({"apps[0].processes": [{"name": "web", "instances": 2}]}, 'apps[0].processes[0].instances: is not for web; write "workers"'),
    ({"apps[0].processes": [{"name": "web", "app": "board.main"}]}, 'apps[0].processes[0].app: "board.main" is not module:attribute; write e.g. "board.main:app"'),
    ({"apps[0].processes": [{"name": "web", "app": "a:b", "command": "x {socket}"}]}, "apps[0].processes[0]: has both app and command; keep one of them"),
    ({"apps[0].processes": [{"name": "web", "command": "uvicorn a:b"}]}, 'apps[0].processes[0].command: does not say where to listen; write {fd} for the number of the socket that is open already, e.g. "uvicorn board.main:app --fd {fd}", or {socket} for the path of one to make'),
    ({"apps[0].processes": [{"name": "web", "command": "x {fd} {socket}"}]}, "apps[0].processes[0].command: has both {fd} and {socket}; keep one of them"),
    ({"apps[0].processes": [{"name": "web-relay", "command": "x"}]}, 'apps[0].processes: process "web-relay" has the name of a unit of Berth\'s own; rename it'),
    ({"apps[0].processes": [{"name": "web", "workers": 0}]}, "apps[0].processes[0].workers: 0 is out of range; write 1 to 256"),
    ({"apps[0].processes": [{"name": "web", "memory": 512}]}, 'apps[0].processes[0].memory: "512" has no unit; write e.g. "512M" (K, M, G or T)'),
    ({"apps[0].processes": [{"name": "Mail out", "command": "x"}]}, 'apps[0].processes[0].name: "Mail out" is not valid; write lower-case letters, digits and dashes, a letter first, e.g. "mail-out"'),
    ({"apps[0].processes": [{"name": "w", "command": "x"}, {"name": "w", "command": "y"}]}, 'apps[0].processes: process "w" and process "w" would share the unit "w"; rename one of them'),
    ({"apps[0].processes": [{"name": "w", "command": "x", "instances": 2}, {"name": "w-2", "command": "y"}]}, 'apps[0].processes: process "w-2" and instance 2 of process "w" would share the unit "w-2"; rename one of them'),
    ({"apps[0].processes": [{"name": "w", "command": "x"}], "apps[0].jobs": [{"name": "w", "command": "x", "schedule": "daily"}]}, 'apps[0].jobs: job "w" and process "w" would share the unit "w"; rename one of them'),
    ({"apps[0].jobs": [{"name": "web", "command": "x", "schedule": "daily"}]}, 'apps[0].jobs[0].name: "web" is the name of the web process; give the job another name'),
    ({"apps[0].jobs": [{"name": "j", "command": " ", "schedule": "daily"}]}, 'apps[0].jobs[0].command: is empty; write the command to run, e.g. "python -m board.nightly"'),
    ({"apps[0].jobs": [{"name": "j", "command": "x"}]}, 'apps[0].jobs[0].schedule: missing; write text in quotes, e.g. "*-*-* 03:00:00"'),
    ({"apps[0].jobs": [{"name": "j", "command": "x", "schedule": "0 3 * * *"}]}, 'apps[0].jobs[0].schedule: "0 3 * * *" is a cron expression; write systemd\'s OnCalendar, e.g. "*-*-* 03:00:00" (every night at three) or "hourly"'),
    ({"apps[0].jobs": [{"name": "j", "command": "x", "schedule": 750}]}, 'apps[0].jobs[0].schedule: "750" is a number; write it in quotes, e.g. "*-*-* 12:30:00"'),
    ({"apps[0].jobs": [{"name": "j", "command": "x", "schedule": "every night"}]}, 'apps[0].jobs[0].schedule: "every night" is not a schedule; write systemd\'s OnCalendar, e.g. "*-*-* 03:00:00" (every night at three) or "hourly"'),
    ({"apps[0].jobs": [{"name": "j", "command": "x", "schedule": "$(reboot)"}]}, re.compile(r".*is not a schedule.*")),
    ({"apps[0].env": {"MY-VAR": "x"}}, 'apps[0].env.MY-VAR: "MY-VAR" is not a name for an environment variable; write letters, digits and "_", no digit first'),
    ({"apps[0].env": {"HOME": "/x"}}, "apps[0].env.HOME: HOME is set by Berth, to a folder that the app may write; remove it"),
    ({"apps[0].env": {"BERTH_RELEASE": "1"}}, 'apps[0].env.BERTH_RELEASE: BERTH_RELEASE is one of the names that Berth sets itself ("BERTH_…"); write another'),
    ({"apps[0].env": {"DATABASE_URL": "x"}}, "apps[0].database.variables.url: DATABASE_URL is set by env.DATABASE_URL as well; keep one of them"),
    ({"apps[0].env": {"A": "x"}, "apps[0].secrets": [{"name": "A", "generate": True}]}, "apps[0].secrets[0].name: A is set by env.A as well; keep one of them"),
    ({"apps[0].secrets": [{"name": "A", "generate": True}, {"name": "A", "generate": True}]}, "apps[0].secrets[1].name: A is set by secrets[0].name as well; keep one of them"),
    ({"apps[0].secrets": [{"name": "A", "generate": True, "length": 4}]}, "apps[0].secrets[0].length: the value is out of range; write 16 to 4096 characters"),
    ({"apps[0].env": {"A": {"template": "${db.nam}"}}}, re.compile(r'apps\[0\]\.env\.A: "db\.nam" is nothing to refer to; write one of db\.url, .* or secret\(\'NAME\'\)')),
    ({"apps[0].env": {"A": {"template": "${redis.url}"}}}, 'apps[0].env.A: refers to Redis, which the app does not have; write "redis: {enabled: true}"'),
    ({"apps[0].redis": {"enabled": True}, "apps[0].env": {"A": {"template": "${redis.name}"}}}, re.compile(r'apps\[0\]\.env\.A: "redis\.name" is nothing to refer to; write one of .*redis\.url, .*redis\.db, .* or secret\(\'NAME\'\)')),
    ({"apps[0].redis": {"enabled": True}, "apps[0].env": {"REDIS_URL": "x"}}, "apps[0].redis.variables.url: REDIS_URL is set by env.REDIS_URL as well; keep one of them"),
    ({"apps[0].redis": {"enabled": True, "variables": {"host": "A B"}}}, 'apps[0].redis.variables.host: "A B" is not a name for an environment variable; write letters, digits and "_", no digit first'),
    ({"apps[0].pooler": {"enabled": True}, "apps[0].database": {"enabled": False}}, "apps[0].pooler.enabled: pools connections to a database, and database.enabled is false; remove it"),
    ({"apps[0].pooler": {"enabled": True}, "apps[0].database": {"role": "owner"}}, "apps[0].pooler.enabled: is for the runtime role, and database.role is owner, which goes around the pooler; remove one of them"),
    ({"apps[0].pooler": {"enabled": True}, "apps[0].database": {"name": "pgbouncer"}}, 'apps[0].pooler.enabled: cannot pool a database "pgbouncer", as PgBouncer calls its own console; set database.name to another, or remove the pooler'),
    ({"apps[0].pooler": {"enabled": True}, "apps[0].env": {"A": {"template": "${pooler.url}"}}}, re.compile(r'apps\[0\]\.env\.A: "pooler\.url" is nothing to refer to; .*')),
    ({"apps[0].redis": {"memory": "64M"}}, 'apps[0].redis: does nothing without "enabled: true"; write that, or remove it'),
    ({"apps[0].redis": {"enabled": True, "memory": "64"}}, 'apps[0].redis.memory: "64" has no unit; write e.g. "512M" (K, M, G or T)'),
    ({"apps[0].redis": {"enabled": True, "memory": "1M"}}, 'apps[0].redis.memory: "1M" is too little for Redis; write at least "16M"'),
    ({"apps[0].redis": {"enabled": True, "policy": "lru"}}, re.compile(r'apps\[0\]\.redis\.policy: "lru" is not known; write noeviction or allkeys-lru or .*')),
    ({"apps[0].env": {"A": {"template": "${secret('NO')}"}}}, "apps[0].env.A: refers to the secret NO, which is not declared under secrets"),
    ({"apps[0].migrations.env": {"BERTH_X": "1"}}, 'apps[0].migrations.env.BERTH_X: is not a name to set; write letters, digits and "_", and neither HOME nor BERTH_…'),
    ({"apps[0].build": [" "]}, 'apps[0].build[0]: is empty; write a command, e.g. "npm ci"'),
    ({"apps[0].env": {"A": "x\0y"}}, "apps[0].env.A: contains a control character, which no environment variable can carry; remove it"),
    ({"apps[0].env": {"A": "x\r\ny"}}, "apps[0].env.A: contains a carriage return (Windows line ends); save it with Unix line ends"),
    ({"apps[0].env": {"A": "\udc80"}}, "apps[0].env.A: contains a control character, which no environment variable can carry; remove it"),
    ({"apps[0].env": {"A": "x" * 120_001}}, "apps[0].env.A: is longer than 120000 bytes, which no environment variable can carry; shorten it"),
    ({"apps[0].env": {"SECRET_KEY": "changeme"}}, 'apps[0].env.SECRET_KEY: is a placeholder; remove it, and write "- {name: SECRET_KEY, generate: true}" under secrets'),
]  # fmt: skip

ACROSS: list[Case] = [
    ({"apps[1].domains": ["x.example.com", "BOARD.example.com."]}, 'apps[1].domains[1]: "board.example.com" belongs to app "board" already (apps[0].domains[0]); a domain belongs to one app, once'),
    ({"apps[0].domains": ["a.example.com", "a.example.com"]}, 'apps[0].domains[1]: "a.example.com" belongs to app "board" already (apps[0].domains[0]); a domain belongs to one app, once'),
    ({"apps[1].name": "board"}, 'apps[1].name: "board" is the name of apps[0] already; write another'),
    ({"apps[0].name": "a-b", "apps[1].database": {"name": "a_b"}}, 'apps[1].database.name: database "a_b" is the database of apps[0] already; set database.name of one of them'),
    ({"apps[1].database": {"name": "board_owner"}}, 'apps[1].database.name: database "board_owner" is the owner role of apps[0] already; set database.name of one of them'),
    ({"apps[1].database": {"name": "board_ro"}}, 'apps[1].database.name: database "board_ro" is the read-only role of apps[0] already; set database.name of one of them'),
    ({"apps[0].name": "a", "apps[0].processes": [{"name": "b-web", "command": "x"}], "apps[1].name": "a-b"}, 'apps[1].processes: "web" would share the unit "a-b-web" with apps[0].processes; rename one of them'),
    ({"app": "bord"}, 'app: there is no app "bord" in this inventory; did you mean "board"?'),
    ({"app": ""}, "app: is empty; write one app's name, or leave -e app out for all of them"),
    ({"app": ["board"]}, "app: is not a name; write one app's name, e.g. -e app=board"),
    ({"version": "v1.4.0"}, "version: is meant for one app, and this inventory has board, notes; name it as well: -e app=board, or berth deploy board"),
    ({"force": True}, "force: is meant for one app, and this inventory has board, notes; name it as well: -e app=board, or berth deploy board"),
    ({"force": "yes"}, "force: is meant for one app, and this inventory has board, notes; name it as well: -e app=board, or berth deploy board"),
    ({"aps": []}, 'aps: unknown variable; did you mean "apps"?'),
    ({"Server": {}}, 'Server: unknown variable; did you mean "server"?'),
    ({"colour": "red"}, 'colour: unknown variable; an inventory has server, apps and vault. Name your own variables "x_…"'),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), [*SHAPES, *SERVER, *APPS, *PROCESSES, *ACROSS])
def test_a_mistake_has_its_sentence(changes: dict[str, Any], message: str | re.Pattern[str]) -> None:
    found = problems(changes)
    assert len(found) == 1, found
    if isinstance(message, str):
        assert found == [message]
    else:
        assert message.fullmatch(found[0]), found


@pytest.mark.parametrize(
    "changes",
    [
        {"app": "notes"},
        {"app": "board", "version": "v1.4.0", "force": True},
        {"version": "", "force": "false"},
        {"version": "v1.4.0", "force": True, "apps[1]": ...},
        {"x_mine": {}, "ansible_user": "root", "to": "x", "json": True},
        {"server.admin": {"name": "anna", "authorized_keys": [ED25519]}},
        {"server.admin": {"name": "anna", "authorized_keys": [f'from="10.0.0.0/8" {ED25519}']}},
        {"server.updates.reboot_at": "04:30"},
        {"server.postgresql.version": 17},
        {"server.backup": {"enabled": False}, "server.postgresql.settings": {"archive_mode": "on"}},
        {"server.backup.incremental": "*-*-* 00/6:15", "server.backup.drill": ""},
        {
            "server.proxy": {"acme_ca": "https://ca.internal/acme/directory"},
            "apps[0].domains": ["a.internal"],
        },
        {"apps[0].proxy": {"tls": "internal"}, "apps[0].domains": ["board.localhost"]},
        {"apps[0].database": {"enabled": False}, "apps[0].env": {"DATABASE_URL": "sqlite://"}},
        {"apps[0].redis": {"enabled": False, "memory": "64M"}, "apps[0].env": {"REDIS_URL": "redis://cache"}},
        {"apps[0].redis": {"enabled": True}, "apps[0].env": {"BROKER": {"template": "${redis.url}"}}},
        {"apps[0].redis": {"enabled": True, "memory": "1.5G", "policy": "volatile-ttl"}},
        {"apps[0].database": {"variables": {"url": "", "host": "PGHOST"}}},
        {"apps[0].database": {"extensions": ["uuid-ossp", "citext"], "scheme": "postgresql+asyncpg"}},
        {"apps[0].source": {"git": "git@github.com:you/board.git", "version": "feature/x"}},
        {"apps[0].source": {"git": "ssh://git@host:2222/you/board.git"}},
        {"apps[0].source": {"git": "https://github.com/you/board.git", "version": "v1.0"}},
        {"apps[0].source.path": A_PATH},
        {"apps[0].source.subdir": "board"},
        {"apps[0].processes": [{"name": "web", "command": "uvicorn a:b --uds {socket}"}]},
        {"apps[0].processes": [{"name": "web", "command": "uvicorn a:b --fd {fd}"}]},
        {"apps[0].jobs": [{"name": "j", "command": "x", "schedule": "Mon..Fri *-*-* 08..18:00/15:00"}]},
        {"apps[0].jobs": [{"name": "j", "command": "x", "schedule": "weekly"}]},
        {"apps[0].env": {"API_KEY": "", "PASSWORD_MIN_LENGTH": 8, "TOKEN_URL": "https://a/token"}},
        {"apps[0].proxy.headers": {"X-Frame-Options": ""}},
        {"apps[0].keep_releases": None, "apps[0].env": None, "apps[0].health": None},
    ],
)
def test_what_is_right_stays_unsaid(changes: dict[str, Any]) -> None:
    assert problems(changes) == []


def test_everything_is_said_at_once_in_the_order_of_the_files() -> None:
    found = problems(
        {
            "apps[1].nme": "x",
            "apps[0].keep_releases": "x",
            "apps[0].domains": ["x y"],
            "server.swap_mb": "x",
            "vault.nobody": {"A": "b"},
            "bogus": 1,
        }
    )
    assert [message.split(":")[0] for message in found] == [
        "bogus",
        "server.swap_mb",
        "apps[0].keep_releases",
        "apps[0].domains[0]",
        "apps[1].nme",
        "vault.nobody",
    ]


def test_a_broken_entry_does_not_move_the_others() -> None:
    found = problems({"apps[0]": "broken", "apps[1].keep_releases": "x"})
    assert [message.split(":")[0] for message in found] == ["apps[0]", "apps[1].keep_releases"]


def test_relative_paths_need_an_inventory_folder() -> None:
    found = contract_errors(inventory(), "")
    assert found[0] == (
        'apps[0].source.path: "../../app" is relative, but there is no inventory folder; write an absolute path'
    )


def test_an_empty_source_and_an_unreadable_certificate(tmp_path: Path) -> None:
    assert problems({"apps[0].source.path": str(tmp_path)}) == [
        f'apps[0].source.path: "{tmp_path}" is empty; write the folder that holds the project'
    ]
    body = base64.b64encode(b"\x30\x82" + bytes(60)).decode()
    file = tmp_path / "ca.pem"
    file.write_text(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    assert problems({"server.extra_ca_certificates": [str(file)]}) == []
    file.write_text(f"{file.read_text()}-----BEGIN {PRIVATE_KEY}-----\nAAAA\n-----END {PRIVATE_KEY}-----\n")
    assert problems({"server.extra_ca_certificates": [str(file)]}) == [
        f'server.extra_ca_certificates[0]: "{file}" contains a private key; write a file with the certificate alone'
    ]
    file.write_text("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
    assert "is not a PEM certificate" in problems({"server.extra_ca_certificates": [str(file)]})[0]


def test_schedules_are_checked_without_systemd_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    job = {"name": "j", "command": "x"}
    assert problems({"apps[0].jobs": [{**job, "schedule": "Mon *-*-* 03:00:00"}]}) == []
    for wrong in ("every night", "", "0 3 * * *", "@daily", "a\nb"):
        assert len(problems({"apps[0].jobs": [{**job, "schedule": wrong}]})) == 1
